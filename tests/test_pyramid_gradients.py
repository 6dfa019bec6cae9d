# SPDX-License-Identifier: Apache-2.0
"""What PyTorch makes of pyramids: gradients, vmap, graphs, and the rules of custom ops."""

import pytest
import torch
from torch._dynamo.testing import CompileCounter

from spectral_kernels import dispatch, laplacian_pyramid, laplacian_reconstruct, layouts, noise_levels
from spectral_kernels.dispatch import pyramid as ops
from tests.bits import assert_same_bits
from tests.test_pyramid import DTYPES, RESAMPLES


# Odd sides; halves; halves of one side alone; blocks that do not divide, or a ratio that is no number.
@pytest.mark.parametrize("sizes", [3, [(3, 4), (6, 8)], [(3, 8), (6, 8)], [(1, 3), (2, 3)], [(3, 2), (7, 5)]], ids=str)
@pytest.mark.parametrize("resample", RESAMPLES)
def test_gradients(resample, sizes):
    size = (7, 9) if isinstance(sizes, int) else sizes[-1]
    x = torch.randn(1, 2, *size, dtype=torch.float64, requires_grad=True)
    levels = [level.detach().requires_grad_() for level in laplacian_pyramid(x, sizes, resample)]
    for check in (torch.autograd.gradcheck, torch.autograd.gradgradcheck):
        assert check(lambda x: tuple(laplacian_pyramid(x, sizes, resample)), x)
        assert check(lambda *levels: laplacian_reconstruct(levels, resample), levels)


@pytest.mark.parametrize("basis", ["dct", "haar"])
def test_gradients_of_orthonormal_pyramids(basis):
    x = torch.randn(1, 2, 4, 8, dtype=torch.float64, requires_grad=True)
    levels = [level.detach().requires_grad_() for level in laplacian_pyramid(x, 2, basis=basis)]
    assert torch.autograd.gradcheck(lambda x: tuple(laplacian_pyramid(x, 2, basis=basis)), x)
    assert torch.autograd.gradcheck(lambda *levels: laplacian_reconstruct(levels, basis=basis), levels)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("resample", ["area", "bilinear"])
def test_gradients_have_the_type_of_the_image(resample, dtype):
    x = torch.randn(2, 9, 12).to(getattr(torch, dtype)).requires_grad_()
    (laplacian_reconstruct(laplacian_pyramid(x, 3, resample), resample).float() * 2).sum().backward()
    assert x.grad is not None and x.grad.dtype == x.dtype
    # What was taken apart and put together again: the identity, up to the roundings of a few sums.
    torch.testing.assert_close(x.grad.float(), torch.full((2, 9, 12), 2.0), rtol=8 * torch.finfo(x.dtype).eps, atol=0)


def test_autocast_changes_no_gradient():
    """Where a size is no half, interpolation's transpose is a matrix product, which autocast would take to bfloat16."""
    x = torch.randn(2, 11, 7)

    def loss(x):
        return sum((level**3).sum() for level in laplacian_pyramid(x, [(5, 4), (11, 7)], "bilinear"))

    leaf = x.clone().requires_grad_()
    (expected,) = torch.autograd.grad(loss(leaf), leaf)
    with torch.autocast("cpu", torch.bfloat16):
        (found,) = torch.autograd.grad(loss(leaf), leaf)
        mapped = torch.func.grad(loss)(x)
    assert_same_bits(found, expected)
    assert_same_bits(mapped, expected)


@pytest.mark.parametrize("resample", RESAMPLES)
def test_vmap(resample, monkeypatch):
    x = torch.randn(3, 2, 4, 8, 6)
    calls, add_up = [], ops._add_up
    monkeypatch.setattr(ops, "_add_up", lambda *given: calls.append(1) or add_up(*given))

    def both(x):
        levels = laplacian_pyramid(x, 2, resample)
        return *levels, laplacian_reconstruct(levels, resample)

    with dispatch.backend("torch"):
        mapped = torch.func.vmap(both, in_dims=2)(x)
        assert len(calls) == 2  # a level down and one up, not a loop over them
        for i in range(4):
            for found, wanted in zip(mapped, both(x[:, :, i]), strict=True):
                assert_same_bits(found[i], wanted)


@pytest.mark.parametrize("resample", RESAMPLES)
def test_one_graph_for_all_sizes(resample):
    counter = CompileCounter()

    @torch.compile(fullgraph=True, dynamic=True, backend=counter)
    def compiled(x):
        return laplacian_reconstruct(laplacian_pyramid(x, 3, resample), resample)

    for shape in [(2, 3, 8, 12), (3, 2, 16, 20), (4, 5, 13, 30)]:
        x = torch.randn(shape)
        assert_same_bits(compiled(x), laplacian_reconstruct(laplacian_pyramid(x, 3, resample), resample))
    assert counter.frame_count == 1


def test_gradients_of_noising():
    levels = [torch.randn(2, 2, 4, 4, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    times, mask = torch.tensor([[0.2, 1.0], [0.5, 0.3]]), torch.tensor([[True, False], [True, True]])

    def noised(*levels):
        out = noise_levels(levels, times, 3, mask=mask, layouts=[layouts.Tokens(4, 4), layouts.Patches(4, 4)])
        return tuple(out.noisy + out.velocities)

    assert torch.autograd.gradcheck(noised, levels)


def test_custom_ops_keep_torch_s_rules():
    x = torch.randn(2, 2, 6, 5, requires_grad=True)
    for resample in ("area", "bilinear"):
        torch.library.opcheck(ops.split.default, (x, [3, 3], resample))
        coarse, detail = (y.detach().requires_grad_() for y in ops.split(x, [3, 3], resample))
        torch.library.opcheck(ops.merge.default, (coarse, detail, resample, False))
    torch.library.opcheck(ops.merge.default, (x.detach().clone().requires_grad_(), x, "none", True))
    times = torch.full((2, 1), 0.5, dtype=torch.float64)
    torch.library.opcheck(ops.noise_levels.default, ([x], times, None, None, 3, 0, "planes"))


def test_times_that_cannot_be_seen_are_nan_out_of_range():
    times = torch.tensor([[0.5, 1.5], [-0.1, 1.0]])
    compiled = torch.compile(lambda x, times: noise_levels([x, x], times, 1), fullgraph=True, backend="eager")
    for s, level in enumerate(compiled(torch.ones(2, 1, 4, 4), times).noisy):
        assert level.isnan().flatten(1).all(1).tolist() == [s == 1, s == 0]
        assert int(level.isnan().sum()) == 16


@pytest.mark.parametrize("resample", RESAMPLES)
def test_compiles_whole(resample):
    counter = CompileCounter()

    @torch.compile(fullgraph=True, backend=counter)
    def compiled(x):
        levels = laplacian_pyramid(x, 3, resample)
        return laplacian_reconstruct(levels, resample), noise_levels(levels, [[0.5, 0.7, 1.0]] * 2, 5).noisy[2]

    x = torch.randn(2, 3, 8, 12)
    again, noisy = compiled(x)
    assert counter.frame_count == 1
    levels = laplacian_pyramid(x, 3, resample)
    assert_same_bits(again, laplacian_reconstruct(levels, resample))
    assert_same_bits(noisy, noise_levels(levels, [[0.5, 0.7, 1.0]] * 2, 5).noisy[2])
