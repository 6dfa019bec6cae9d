# SPDX-License-Identifier: Apache-2.0
"""Decomposable flow matching: the law of training times, masks, sampling schedules, previews."""

import math
import re
from pathlib import Path

import pytest
import torch
from bits import assert_same_bits
from scipy import stats

from spectral_kernels import laplacian_pyramid, laplacian_reconstruct, noise_levels
from spectral_kernels.flow import decomposable as dfm


def times_of(levels=3, count=40_000, **options):
    return dfm.training_times(count, levels, generator=torch.Generator().manual_seed(5), **options)


@pytest.mark.parametrize(("previous", "location", "scale"), [(1.5, 0.0, 1.0), (0.5, -0.7, 1.6)])
def test_training_times_follow_their_laws(previous, location, scale):
    law = {"previous_location": previous, "location": location, "scale": scale}
    times, mask = times_of(stage_probs=(0.5, 0.3, 0.2), **law)
    stage = mask.sum(1) - 1
    assert_close = [abs((stage == k).float().mean().item() - p) for k, p in enumerate((0.5, 0.3, 0.2))]
    assert max(assert_close) < 4 * math.sqrt(0.25 / 40_000)  # four deviations of a share
    for k in range(3):
        for s in range(k + 1):
            normal = torch.logit(1 - times[stage == k, s])  # 1 - t is logit-normal, the paper's clock
            test = stats.kstest(normal.numpy(), stats.norm(location if s == k else previous, scale).cdf)
            assert test.pvalue > 1e-3, (k, s)
    both = torch.logit(times[stage == 2]).T
    assert (torch.corrcoef(both) - torch.eye(3)).abs().max() < 5 / math.sqrt(both.shape[1])  # levels are independent
    assert (times[~mask] == 1).all()
    assert (mask[:, 1:] <= mask[:, :-1]).all()  # no level lives before the one below it


def test_training_times_of_two_levels_are_the_paper_s():
    times, mask = times_of(2)
    assert abs(mask[:, 1].double().mean() - 0.1) < 0.006  # four deviations
    assert times.dtype == torch.float64
    again, _ = times_of(2)
    assert_same_bits(again, times)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"levels": 0}, "levels must be an int of at least 1"),
        ({"count": 0}, "batch must be an int"),
        ({"levels": 2, "stage_probs": (0.9, 0.2)}, "sum 1"),
        ({"levels": 2, "stage_probs": (1.5, -0.5)}, "probabilities"),
        ({"levels": 2, "stage_probs": (1.0,)}, "one number per level"),
        ({"levels": 2, "stage_probs": 0.9}, r"one number per level \(2\), got 0.9"),
        ({"levels": 2, "stage_probs": (math.nan, 1.0)}, "probabilities"),
        ({"scale": 0.0}, "scale must be above 0"),
        ({"scale": math.nan}, "scale must be above 0"),
        ({"previous_location": math.inf}, "must be finite, got 0.0 and inf"),
        ({"levels": 2, "stage_probs": ("a", "b")}, "probabilities.*'a'"),
        ({"location": "a"}, "location must be a number, got 'a'"),
        ({"scale": None}, "scale must be a number, got None"),
    ],
)
def test_training_times_refuse(options, message):
    with pytest.raises((ValueError, TypeError), match=f"training_times: .*{message}"):
        times_of(**options)


@pytest.mark.parametrize(
    ("levels", "steps", "threshold"),
    [
        (1, (40,), 0.9),
        (2, (30, 10), 0.9),  # the paper's
        (2, (3, 1), 1.0),  # a cascade
        (2, (1, 29), 1e-12),  # a stage that hardly moves, and one step
        (3, (5, 4, 3), 0.7),
        (3, (7, 1, 13), (0.999999, 0.1)),  # a coarse level that nearly arrives before the next has moved
        (4, (1, 1, 1, 1), (0.5, 0.9, 1.0)),
    ],
)
def test_every_level_goes_from_noise_to_data(levels, steps, threshold):
    times = dfm.sampling_times(levels, steps=steps, threshold=threshold)
    assert times.shape == (sum(steps) + 1, levels)
    assert (times[0] == 1).all() and (times[-1] == 0).all()
    assert (times[1:] <= times[:-1]).all()
    assert (times[:, :-1] <= times[:, 1:]).all()  # coarse first
    thresholds = [*threshold] if isinstance(threshold, tuple) else [threshold] * (levels - 1)
    for s, reach in enumerate(thresholds):
        end = sum(steps[: s + 1])
        assert times[end, s] == pytest.approx(1 - reach, abs=1e-15)  # its threshold where its stage ends
        assert times[end, s + 1] == 1 and times[end + 1, s + 1] < 1  # where the next begins
    assert dfm.stage_ends(times) == [sum(steps[: s + 1]) for s in range(levels)]


@pytest.mark.parametrize(
    ("levels", "options", "message"),
    [
        (2, {"steps": (30,)}, "one number per level"),
        (2, {"steps": (30, 0)}, "at least 1 step"),
        (2, {"steps": (30.0, 10)}, "at least 1 step"),
        (2, {"steps": 40}, "one number per level"),
        (2, {"threshold": 0.0}, r"\(0, 1\], got 0"),
        (2, {"threshold": 1.1}, r"\(0, 1\]"),
        (2, {"threshold": -0.5}, r"\(0, 1\]"),
        (2, {"threshold": math.nan}, r"\(0, 1\]"),
        (3, {"steps": (1, 1, 1), "threshold": (0.5, 1.5)}, r"\(0, 1\]"),
        (3, {"steps": (30, 10)}, r"one number per level \(3\)"),
        (1, {"steps": (4,), "threshold": -1}, r"\(0, 1\]"),
        (3, {"steps": (1, 1, 1), "threshold": (0.5,)}, "2 of them"),
        (0, {"steps": ()}, "levels must be an int"),
        (2, {"threshold": None}, "threshold must be a number or 1 of them, got None"),
        (2, {"threshold": "0.9"}, "threshold must be a number or 1 of them, got '0.9'"),
        (3, {"steps": (1, 1, 1), "threshold": (0.5, True)}, "threshold must be a number or 2 of them"),
    ],
)
def test_sampling_times_refuse(levels, options, message):
    with pytest.raises((ValueError, TypeError), match=f"sampling_times: .*{message}"):
        dfm.sampling_times(levels, **options)


def test_times_print_and_plot():
    times = dfm.sampling_times(2, steps=(2, 1), threshold=0.75)
    assert dfm.times_table(times).splitlines() == [
        "step  level 0  level 1",
        "   0   1.0000   1.0000",
        "   1   0.6250     -   ",
        "   2   0.2500     -     stage 0 over",
        "   3   0.0000   0.0000  stage 1 over",
    ]
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    axes = dfm.plot_times(times)
    assert [list(line.get_ydata()) for line in axes.lines[:2]] == times.T.tolist()
    matplotlib.pyplot.close(axes.figure)
    for show in (dfm.times_table, dfm.plot_times, dfm.stage_ends):
        with pytest.raises(ValueError, match=rf"{show.__name__}: times must have the shape \(steps \+ 1, levels\)"):
            show(times[:, 0])


def test_training_times_print_and_plot():
    times = torch.tensor([[0.1, 1.0], [0.2, 1.0], [0.3, 1.0], [0.4, 0.6]])
    mask = torch.tensor([[True, False], [True, False], [True, False], [True, True]])
    assert dfm.training_times_table(times, mask).splitlines() == [
        "level  lives    t: 25 %  50 %  75 %",
        "    0  100.0%   0.175  0.250  0.325",
        "    1   25.0%   0.600  0.600  0.600",
    ]
    assert dfm.training_times_table(times[:3], mask[:3]).splitlines()[2] == "    1    0.0%"
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    axes = dfm.plot_training_times(times, mask)
    # A stepped outline has two points per bin at its height: half of their sum is the count.
    counts = [patch.get_xy()[:, 1].sum() / 2 for patch in axes.patches]
    assert counts == [4, 1]
    matplotlib.pyplot.close(axes.figure)
    for show in (dfm.training_times_table, dfm.plot_training_times):
        with pytest.raises(ValueError, match=f"{show.__name__}: mask must be bool"):
            show(times, mask[:, :1])


def test_loss_is_the_masked_mean_of_squares():
    outputs = [torch.zeros(2, 1, 2, 2), torch.zeros(2, 1, 4, 4)]
    velocities = [torch.full((2, 1, 2, 2), 2.0), torch.full((2, 1, 4, 4), 3.0)]
    mask = torch.tensor([[True, False], [True, True]])
    assert dfm.decomposable_loss(outputs, velocities, mask) == (4 + 4 + 9) / 2
    assert dfm.decomposable_loss(outputs, velocities, mask, weights=(1.0, 2.0)) == (4 + 4 + 18) / 2
    velocities[1][0] = torch.nan  # what does not count may hold anything
    for output in outputs:
        output.requires_grad_()
    loss = dfm.decomposable_loss(outputs, velocities, mask)
    assert loss == (4 + 4 + 9) / 2
    loss.backward()
    for output, error in zip(outputs, (2.0, 3.0), strict=True):  # d/do of mean (o - v)^2, halved by the mean over two
        assert output.grad is not None
        expected = torch.full_like(output, -error / output[0].numel())
        if error == 3.0:
            expected[0] = 0
        assert_same_bits(output.grad, expected)
    with pytest.raises(ValueError, match="same levels"):
        dfm.decomposable_loss(outputs[:1], velocities, mask)
    with pytest.raises(ValueError, match="level 1 must have one shape"):
        dfm.decomposable_loss([outputs[0], outputs[0]], velocities, mask)
    with pytest.raises(ValueError, match="mask must be bool"):
        dfm.decomposable_loss(outputs, velocities, mask.float())


class Known:
    """The exact velocity towards known levels: v = (z - X) / t. Remembers what it was shown."""

    def __init__(self, levels):
        self.levels, self.seen = levels, []

    def __call__(self, levels, times, mask):
        self.seen.append((levels, times, mask))
        across = (slice(None), None, None, None)
        return [(z - x) / times[:, s][across].float() for s, (z, x) in enumerate(zip(levels, self.levels, strict=True))]


@pytest.mark.parametrize(
    ("resample", "basis"), [("area", None), ("bilinear", None), ("dct", None), ("area", "dct"), ("area", "haar")]
)
def test_sampling_reaches_the_image_with_previews_on_the_way(resample, basis):
    image = torch.randn(2, 3, 16, 24)
    levels = laplacian_pyramid(image, 3, resample, basis=basis)
    model, previews = Known(levels), []
    times = dfm.sampling_times(3, steps=(4, 3, 3), threshold=1.0)  # each level is done when its stage is
    noise = dfm.initial_levels([level.shape for level in levels], 3)
    found = dfm.sample(model, noise, times, resample=resample, basis=basis, callback=previews.append)
    torch.testing.assert_close(found, image, rtol=0, atol=3e-5)
    assert [(p.stage, p.steps) for p in previews] == [(0, 4), (1, 7), (2, 10)]
    for k, preview in enumerate(previews):
        partial = laplacian_reconstruct(levels[: k + 1], resample, basis=basis)
        torch.testing.assert_close(preview.image, partial, rtol=0, atol=3e-5)
    assert_same_bits(previews[-1].image, found)
    for i, (shown, now, mask) in enumerate(model.seen):
        assert mask.tolist() == [[i + 1 > 0, i >= 4, i >= 7]] * 2
        assert_same_bits(now, times[i].expand(2, -1).contiguous())
        assert all(bool((shown[s] == 0).all()) for s in range(3) if not mask[0, s])


def test_previews_are_partial_sums_of_what_flows():
    levels = laplacian_pyramid(torch.randn(2, 1, 8, 8), 3)
    noise = dfm.initial_levels([level.shape for level in levels], 3)
    times = dfm.sampling_times(3, steps=(5, 4, 3), threshold=0.7)
    previews = []
    dfm.sample(Known(levels), noise, times, callback=previews.append)
    for k, preview in enumerate(previews):  # towards known levels every path is straight
        now = times[preview.steps].tolist()
        mixed = [(1 - t) * x + t * e for t, x, e in zip(now, levels, noise, strict=True)]
        partial = laplacian_reconstruct(mixed[: k + 1])
        assert preview.image.shape == levels[k].shape
        torch.testing.assert_close(preview.image, partial, rtol=0, atol=1e-5)
    assert [p.steps for p in previews] == [5, 9, 12]


def test_sampling_times_are_not_rounded_to_float32():
    assert dfm.sampling_times(1, steps=(7,))[:, 0].tolist() == [1 - k / 7 for k in range(8)]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_sampling_stays_in_the_type_of_its_noise(dtype):
    noise = dfm.initial_levels([(1, 1, 2, 2), (1, 1, 4, 4)], 3, dtype=dtype)
    seen, previews = [], []

    def model(levels, times, mask):
        seen.extend(z.dtype for z in levels)
        return (z.float() for z in levels)  # another type, and no list

    found = dfm.sample(model, noise, dfm.sampling_times(2, steps=(2, 2)), callback=previews.append)
    assert {*seen, found.dtype, *(p.image.dtype for p in previews)} == {dtype}


def test_sampling_refuses():
    levels = [torch.zeros(1, 1, 2, 2), torch.zeros(1, 1, 4, 4)]
    times = dfm.sampling_times(2, steps=(2, 2))
    for wrong, message in [
        (times[:, :1], r"shape \(steps \+ 1, 2\), got \(5, 1\)"),
        (times[0], "shape"),
        (times[:1], "shape"),
        (times[[0, 2, 1, 3, 4]], "never rise"),
        (times[:-1], "end at 0"),
        (times[1:], "begin at 1"),
    ]:
        with pytest.raises(ValueError, match=message):
            dfm.sample(Known(levels), levels, wrong)
    with pytest.raises(ValueError, match="velocity like each level"):
        dfm.sample(lambda z, t, m: z[:1], levels, times)

    def never(*_):
        raise AssertionError("what can be refused is refused before the first step")

    for wrong, options, error, message in [
        (levels[::-1], {}, ValueError, "sample: the levels do not belong together"),
        ([levels[0], levels[1].expand(2, -1, -1, -1)], {}, ValueError, "do not belong together"),
        ([levels[1], torch.zeros(1, 1, 5, 5)], {}, ValueError, "blocks of 2"),
        (levels, {"basis": "haar"}, ValueError, r"must be \(1, 3, 2, 2\)"),
        (levels, {"resample": "nearest"}, ValueError, "resample must be one of"),
        (levels, {"basis": "fft"}, ValueError, "basis must be"),
        (levels[0], {}, TypeError, "list of at least one level"),
        ([], {}, TypeError, "list of at least one level"),
    ]:
        with pytest.raises(error, match=message):
            dfm.sample(never, wrong, times, **options)


def test_training_loss_shows_and_counts_only_what_lives():
    levels = laplacian_pyramid(torch.randn(4, 1, 8, 8), 2)
    times, mask = dfm.training_times(4, 2, stage_probs=(0.5, 0.5), generator=torch.Generator().manual_seed(0))
    assert 0 < mask[:, 1].sum() < 4
    shown = []

    def model(noisy, times, mask):
        shown.extend(noisy)
        return [torch.zeros_like(z) for z in noisy]

    loss = dfm.training_loss(model, levels, 9, times, mask)
    noisy, velocities = noise_levels(levels, times, 9, mask=mask)
    for a, b in zip(shown, noisy, strict=True):
        assert_same_bits(a, b)
    assert (shown[1][~mask[:, 1]] == 0).all()
    assert loss == dfm.decomposable_loss([torch.zeros_like(z) for z in levels], velocities, mask)


def test_training_loss_does_not_depend_on_what_is_masked():
    levels = laplacian_pyramid(torch.randn(4, 1, 8, 8), 2)
    times, mask = dfm.training_times(4, 2, stage_probs=(0.5, 0.5), generator=torch.Generator().manual_seed(0))
    assert 0 < mask[:, 1].sum() < 4

    def model(noisy, times, mask):  # every level's answer depends on all of a sample
        seen = sum(z.flatten(1).sum(1) for z in noisy)[:, None, None, None]
        return [z + seen for z in noisy]

    loss = dfm.training_loss(model, levels, 9, times, mask)
    live = mask[:, 1, None, None, None]
    assert_same_bits(dfm.training_loss(model, [levels[0], torch.where(live, levels[1], 7.0)], 9, times, mask), loss)
    assert dfm.training_loss(model, [levels[0], torch.where(live, 7.0, levels[1])], 9, times, mask) != loss


def test_training_loss_refuses():
    levels = laplacian_pyramid(torch.randn(4, 1, 8, 8), 2)
    times, mask = dfm.training_times(4, 2)
    for given, t, m, error, message in [
        (levels, times[:, :1], mask, ValueError, r"times must have the shape \(samples, levels\) = \(4, 2\)"),
        (levels, times[:2], mask, ValueError, "times must have the shape"),
        (levels, times[:, 0], mask, ValueError, "times must have the shape"),
        (levels, 1000 * times, mask, ValueError, r"must lie in \[0, 1\]"),
        (levels, times, mask[:, :1], ValueError, "mask must be bool"),
        (levels[1], times, mask, TypeError, "list of at least one"),
        ([levels[0][:2], levels[1]], times, mask, ValueError, "one batch"),
    ]:
        with pytest.raises(error, match=message):
            dfm.training_loss(lambda z, *_: z, given, 1, t, m)


def test_the_example_of_the_docs_runs():
    (example,) = re.findall(
        r"```python\n(.*?)```", (Path(__file__).parents[1] / "docs/decomposable.md").read_text(), re.DOTALL
    )
    found = {}
    exec(compile(example, "docs/decomposable.md", "exec"), found)
    assert [tuple(p.image.shape) for p in found["previews"]] == [(2, 3, 16, 16), (2, 3, 32, 32)]
    assert found["pictures"].shape == (2, 3, 32, 32) and bool(found["loss"].isfinite())
    assert all(bool(part.weight.grad.isfinite().all()) for part in found["model"].heads.levels)
