# SPDX-License-Identifier: Apache-2.0
"""Forecast weights: bits against the reference, values against least squares, and every error."""

import numpy as np
import pytest
import torch
from bits import assert_same_bits
from hypothesis import given, settings
from hypothesis import strategies as st

from reference import forecast as reference
from spectral_kernels import weights as made
from spectral_kernels.evaluation import evaluation_steps

PUBLISHED = evaluation_steps(50)  # the paper's 14 evaluations of 50
SIGMAS = np.linspace(1, 0, 51) ** 0.7
SIGMAS = SIGMAS / (1 + 0.5 * (1 - SIGMAS))  # a bent axis: neighbouring gaps all differ

MAKERS = {
    "chebyshev": (made.chebyshev_weights, reference.chebyshev_weights, {}),
    "chebyshev fit alone": (
        made.chebyshev_weights,
        reference.chebyshev_weights,
        {"blend": 1.0, "degree": 7, "ridge": 3.0},
    ),
    "moments": (made.moment_weights, reference.moment_weights, {"blend": 0.75}),
    "taylor 1": (made.taylor_weights, reference.taylor_weights, {}),
    "taylor 3": (made.taylor_weights, reference.taylor_weights, {"order": 3}),
    "hermite": (made.hermite_weights, reference.hermite_weights, {"order": 4, "scale": 0.7}),
    "linear": (made.linear_weights, reference.linear_weights, {}),
    "reuse": (made.reuse_weights, reference.reuse_weights, {}),
}


@pytest.mark.parametrize("sigmas", [None, SIGMAS], ids=["steps", "sigmas"])
@pytest.mark.parametrize("count", [1, 2, 3, 5, 14])  # below, at and above the number of basis functions and orders
@pytest.mark.parametrize("name", MAKERS)
def test_same_bits_as_the_reference(name, count, sigmas):
    maker, definition, options = MAKERS[name]
    steps = PUBLISHED[:count]
    targets = [steps[-1], steps[-1] + 1, 50]
    rows = maker(steps, targets, 50, sigmas=sigmas, **options)
    for row, target in zip(rows, targets, strict=True):
        assert_same_bits(row, definition(steps, target, 50, sigmas=sigmas, **options))
        assert_same_bits(maker(steps, target, 50, sigmas=sigmas, **options), row)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_chebyshev_solves_the_augmented_least_squares(data):
    """Ridge regression is plain least squares with sqrt(ridge) I below Phi and zeros below H.

    Bound: both solve P <= 7 unknowns in float64; the condition number of the normal equations is at most
    (K + ridge) / ridge < 2e4 here, so 1e-12 before rounding leaves the float32 rounding of weights below 4 in size.
    """
    num_steps = data.draw(st.integers(8, 100))
    steps = sorted(data.draw(st.sets(st.integers(0, num_steps - 1), min_size=1, max_size=30)))
    target = data.draw(st.integers(steps[-1], num_steps))
    degree, ridge = data.draw(st.integers(0, 6)), data.draw(st.floats(2e-3, 10))
    phi = np.polynomial.chebyshev.chebvander(2 * np.array([*steps, target]) / num_steps - 1, degree)
    left = np.vstack([phi[:-1], np.sqrt(ridge) * np.eye(degree + 1)])
    right = np.vstack([np.eye(len(steps)), np.zeros((degree + 1, len(steps)))])
    expected = phi[-1] @ np.linalg.lstsq(left, right, rcond=None)[0]
    rows = [reference.chebyshev_row(float(s), num_steps, degree) for s in steps]
    goal = reference.chebyshev_row(float(target), num_steps, degree)
    exact = np.array(rows) @ reference.ridge_coefficients(rows, goal, ridge)
    scale = np.abs(expected).max()
    assert np.abs(exact - expected).max() <= 1e-12 * max(scale, 1)
    actual = made.chebyshev_weights(steps, target, num_steps, degree=degree, ridge=ridge, blend=1.0).numpy()
    assert np.abs(actual - expected).max() <= 2.0**-24 * scale + 1e-12 * max(scale, 1)


@pytest.mark.parametrize("target", [5, [5, 6]])
@pytest.mark.parametrize("maker", [made.chebyshev_weights, made.moment_weights])
def test_weights_belong_to_the_caller(maker, target):
    """They are kept for the next call with the same numbers; what a caller does to them stays with the caller."""
    weights = maker([0, 1, 3], target, 50)
    expected = weights.clone()
    weights.zero_()
    assert_same_bits(maker([0, 1, 3], target, 50), expected)


def test_ridge_zero_interpolates():
    """With degree + 1 steps and ridge 0 the fit passes through every feature: the forecast at the last step is it."""
    weights = made.chebyshev_weights([0, 3, 7, 12, 20], 20, 50, ridge=0.0, blend=1.0)
    np.testing.assert_allclose(weights, [0, 0, 0, 0, 1], atol=1e-9)


def test_num_steps_sets_the_axis():
    """The same steps of a shorter run are another fit: nothing is fixed at 50."""
    a, b = (made.chebyshev_weights([0, 1, 2, 3], 6, n) for n in (20, 50))
    assert np.abs((a - b).numpy()).max() > 1e-3


@pytest.mark.parametrize("order", [1, 2, 3])
def test_taylor_and_line_continue_polynomials(order):
    """A forecaster of order m continues a polynomial of degree 1 exactly, whatever the gaps between the steps."""
    steps = [0, 1, 2, 4, 9]
    h = 3.0 - 0.5 * np.array(steps)
    for weights in (made.taylor_weights(steps, 17, 50, order=order), made.linear_weights(steps, 17, 50)):
        assert abs(weights.double().numpy() @ h - (3.0 - 0.5 * 17)) < 1e-5
    even = [0, 3, 6, 9, 12]  # even gaps: the last second difference is that of a parabola, taken one gap late
    square = np.array(even) ** 2.0
    weights = made.taylor_weights(even, 13, 50, order=2).double().numpy()
    assert abs(weights @ square - (144 + (144 - 81) / 3 + 0.5 * 2)) < 1e-4


def test_float_steps_and_integer_tensors_are_the_same_times():
    a = made.chebyshev_weights([0, 2, 4], 6, 50)
    assert_same_bits(made.chebyshev_weights(torch.tensor([0, 2, 4]), torch.tensor(6), 50), a)
    assert_same_bits(made.chebyshev_weights([0.0, 2.0, 4.0], 6.0, 50), a)


@pytest.mark.parametrize(
    ("steps", "target", "num_steps", "options", "message"),
    [
        ([], 1, 50, {}, "no steps"),
        ([0, 1], [], 50, {}, "no target"),
        ([0, 0], 1, 50, {}, "without duplicates"),
        ([3, 1], 4, 50, {}, "ascend"),
        ([0, 5], 4, 50, {}, "before the last evaluated step 5"),
        ([0, 5], 51, 50, {}, "beyond num_steps = 50"),
        ([-1, 5], 6, 50, {}, r"lie in \[0, 50\]"),
        ([0, 1], 2, 0, {}, "num_steps must be at least 1"),
        ([0, 1], 2, 50, {"degree": -1}, "degree"),
        ([0, 1], 2, 50, {"ridge": -0.1}, "ridge"),
        ([0, 1], 2, 50, {"ridge": float("nan")}, "ridge"),
        ([0, 1], 2, 50, {"ridge": 0.0}, "singular.*larger ridge"),
        ([0, 1], 2, 50, {"blend": 1.01}, "blend"),
        ([0, 1], 2, 50, {"blend": float("nan")}, "blend"),
        ([0, 1], 2, 50, {"sigmas": [1.0, 0.5, 0.0]}, "num_steps [+] 1"),
        ([0, 1], 2, 2, {"sigmas": [1.0, 1.0, 0.0]}, "strictly falling"),
        ([0.5, 1], 2, 2, {"sigmas": [1.0, 0.5, 0.0]}, "whole"),
    ],
)
def test_errors(steps, target, num_steps, options, message):
    with pytest.raises(ValueError, match=message):
        made.chebyshev_weights(steps, target, num_steps, **options)


def test_errors_of_the_expansions():
    with pytest.raises(ValueError, match="order"):
        made.taylor_weights([0, 1], 2, 50, order=-1)
    with pytest.raises(ValueError, match="order"):
        made.hermite_weights([0, 1], 2, 50, order=-1)
    with pytest.raises(ValueError, match="scale"):
        made.hermite_weights([0, 1], 2, 50, scale=0.0)


# ---------------------------------------------------------------- evaluation steps


@pytest.mark.parametrize(
    ("window", "warmup", "flex", "evaluations"),
    [
        *[(4, 1, 0, 13), (4, 3, 0, 14), (4, 5, 0, 16), (2, 5, 0.75, 14), (6, 1, 0, 9)],
        *[(6, 3, 0, 10), (6, 5, 0, 12), (2, 5, 3.0, 10), (8, 5, 0, 10)],
    ],
)
def test_table_6_of_the_paper(window, warmup, flex, evaluations):
    steps = evaluation_steps(50, window, warmup, flex)
    assert len(steps) == evaluations
    assert steps == reference.evaluation_steps(50, window, warmup, flex)


def test_published_lists():
    assert evaluation_steps(50) == [0, 1, 2, 3, 4, 6, 8, 11, 15, 20, 25, 31, 38, 46]
    assert evaluation_steps(50, flex=3.0) == [0, 1, 2, 3, 4, 6, 11, 19, 30, 44]


@settings(max_examples=80, deadline=None)
@given(st.integers(1, 120), st.floats(1, 9), st.integers(1, 9), st.data())
def test_a_budget_is_met_by_the_smallest_flex(num_steps, window, warmup, data):
    most = len(reference.evaluation_steps(num_steps, window, warmup, 0.0))
    least = len(reference.evaluation_steps(num_steps, window, warmup, float(num_steps)))
    budget = data.draw(st.integers(least, most))
    steps = evaluation_steps(num_steps, window, warmup, budget=budget)
    assert len(steps) <= budget
    counts = [len(reference.evaluation_steps(num_steps, window, warmup, f / 50)) for f in range(200)]
    assert counts == sorted(counts, reverse=True)
    assert len(steps) >= max([c for c in counts if c <= budget], default=0)


def test_budget_of_14_is_the_papers_count():
    assert len(evaluation_steps(50, budget=14)) == 14
    with pytest.raises(ValueError, match="take 6 to 27 evaluations"):
        evaluation_steps(50, budget=40)
    with pytest.raises(ValueError, match="budget = 3"):
        evaluation_steps(50, budget=3)


def test_an_explicit_list_is_checked():
    assert evaluation_steps(10, steps=[0, 4, 9]) == [0, 4, 9]
    for steps in ([], [1, 2], [0, 2, 2], [0, 10], [0, 3, 1], [0, 1.5]):
        with pytest.raises(ValueError, match="steps must"):
            evaluation_steps(10, steps=steps)


@pytest.mark.parametrize("options", [{"num_steps": 0}, {"window": 0.5}, {"warmup": 0}, {"flex": -1.0}])
def test_schedule_errors(options):
    with pytest.raises(ValueError, match="evaluation_steps"):
        evaluation_steps(**{"num_steps": 50, **options})
