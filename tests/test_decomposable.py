# SPDX-License-Identifier: Apache-2.0
"""Decomposable flow matching: the law of training times, masks, sampling schedules, previews, the modules' growth."""

import math

import pytest
import torch
from bits import assert_same_bits
from scipy import stats

from spectral_kernels import laplacian_pyramid, laplacian_reconstruct, noise_levels
from spectral_kernels.flow import decomposable as dfm
from spectral_kernels.flow import level_modules


def times_of(levels=3, count=40_000, **options):
    return dfm.training_times(count, levels, generator=torch.Generator().manual_seed(5), **options)


def test_training_times_follow_their_laws():
    times, mask = times_of(stage_probs=(0.5, 0.3, 0.2), previous_location=1.5)
    stage = mask.sum(1) - 1
    assert_close = [abs((stage == k).float().mean().item() - p) for k, p in enumerate((0.5, 0.3, 0.2))]
    assert max(assert_close) < 4 * math.sqrt(0.25 / 40_000)  # four deviations of a share
    for k in range(3):
        for s in range(k + 1):
            normal = torch.logit(1 - times[stage == k, s])  # 1 - t is logit-normal, the paper's clock
            test = stats.kstest(normal.numpy(), "norm", args=(0.0 if s == k else 1.5, 1.0))
            assert test.pvalue > 1e-3, (k, s)
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
        ({"scale": 0.0}, "scale must be above 0"),
    ],
)
def test_training_times_refuse(options, message):
    with pytest.raises(ValueError, match=message):
        times_of(**options)


@pytest.mark.parametrize(
    ("levels", "steps", "threshold"),
    [(1, (40,), 0.9), (2, (30, 10), 0.9), (2, (3, 1), 1.0), (3, (5, 4, 3), 0.7), (4, (1, 1, 1, 1), (0.5, 0.9, 1.0))],
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
        (1, {"steps": (4,), "threshold": -1}, r"\(0, 1\]"),
        (3, {"steps": (1, 1, 1), "threshold": (0.5,)}, "2 of them"),
        (0, {"steps": ()}, "levels must be an int"),
    ],
)
def test_sampling_times_refuse(levels, options, message):
    with pytest.raises(ValueError, match=message):
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


def test_loss_is_the_masked_mean_of_squares():
    outputs = [torch.zeros(2, 1, 2, 2), torch.zeros(2, 1, 4, 4)]
    velocities = [torch.full((2, 1, 2, 2), 2.0), torch.full((2, 1, 4, 4), 3.0)]
    mask = torch.tensor([[True, False], [True, True]])
    assert dfm.decomposable_loss(outputs, velocities, mask) == (4 + 4 + 9) / 2
    assert dfm.decomposable_loss(outputs, velocities, mask, weights=(1.0, 2.0)) == (4 + 4 + 18) / 2
    outputs[1][0] = torch.nan  # what does not count may hold anything
    outputs[0].requires_grad_()
    loss = dfm.decomposable_loss(outputs, velocities, mask)
    assert loss == (4 + 4 + 9) / 2
    loss.backward()
    assert outputs[0].grad is not None and bool(outputs[0].grad.isfinite().all())
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


@pytest.mark.parametrize(("resample", "basis"), [("area", None), ("dct", None), ("area", "dct")])
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


def test_sampling_refuses():
    levels = [torch.zeros(1, 1, 2, 2), torch.zeros(1, 1, 4, 4)]
    times = dfm.sampling_times(2, steps=(2, 2))
    for wrong, message in [
        (times[:, :1], "shape"),
        (times.flip(0), "never rise"),
        (times[:-1], "end at 0"),
        (times[1:], "begin at 1"),
    ]:
        with pytest.raises(ValueError, match=message):
            dfm.sample(Known(levels), levels, wrong)
    with pytest.raises(ValueError, match="velocity like each level"):
        dfm.sample(lambda z, t, m: z[:1], levels, times)


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


# ---------------------------------------------------------------- modules


@pytest.mark.parametrize("channels_first", [True, False])
def test_levels_pack_into_tokens_and_back(channels_first):
    levels = [torch.randn(2, 3, 4, 6), torch.randn(2, 2, 16, 24)]
    tokens = level_modules.pack_levels(levels, (1, 4), channels_first=channels_first)
    assert tokens.shape == (2, 24, 3 + 32)
    again = level_modules.unpack_levels(tokens, [z.shape for z in levels], (1, 4), channels_first=channels_first)
    for a, b in zip(again, levels, strict=True):
        assert_same_bits(a, b)
    patch = levels[1][1, :, 4:8, 8:12]  # row 1, column 2 of the grid of 4 x 6 tokens
    inside = patch if channels_first else patch.permute(1, 2, 0)
    assert_same_bits(tokens[1, 6 + 2, 3:].contiguous(), inside.flatten().contiguous())


def test_packing_refuses():
    levels = [torch.zeros(1, 1, 4, 6), torch.zeros(1, 1, 8, 12)]
    for patches, message in [((2, 2), "same grid"), ((3, 6), "same grid"), ((2,), "one number per level")]:
        with pytest.raises(ValueError, match=message):
            level_modules.pack_levels(levels, patches)
    with pytest.raises(ValueError, match="20 numbers, got 5"):
        level_modules.unpack_levels(torch.zeros(1, 6, 5), [z.shape for z in levels], (2, 4))


def test_level_times_want_one_time_per_level():
    module = level_modules.LevelTimes(level_modules.TimeEmbedding(8), 2, 8)
    assert module(torch.zeros(3, 2)).shape == (3, 8)
    with pytest.raises(ValueError, match=r"\[B, 2\], got \(3,\)"):
        module(torch.zeros(3))


def tiny_flux():
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(1)
    return diffusers.FluxTransformer2DModel(
        patch_size=1, in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=8, pooled_projection_dim=8, guidance_embeds=True, axes_dims_rope=(4, 6, 6),
    ).eval()  # fmt: skip


def tiny_z_image():
    diffusers = pytest.importorskip("diffusers")
    if not hasattr(diffusers, "ZImageTransformer2DModel"):
        pytest.skip("this diffusers has no Z-Image")
    torch.manual_seed(1)
    return diffusers.ZImageTransformer2DModel(
        in_channels=4, dim=32, n_layers=1, n_refiner_layers=1, n_heads=2, n_kv_heads=2, cap_feat_dim=8,
        axes_dims=[4, 6, 6], axes_lens=[64, 64, 64],
    ).eval()  # fmt: skip


LEVELS = [(2, 4, 8, 12), (2, 4, 16, 24)]  # a grid of 4 x 6 tokens with patches 2 and 4
TIMES = torch.tensor([[0.3, 0.7], [0.2, 1.0]])


def trains(model, levels, **conditions):
    """The new level's parts get gradients: growth begins at zero and does not stay there."""
    loss = sum(v.square().mean() + v.mean() for v in model(levels, TIMES, None, **conditions))
    loss.backward()
    parts = [m for m in model.modules() if isinstance(m, level_modules.LevelHeads)]
    assert parts and all(float(m.levels[1].bias.grad.abs().sum()) > 0 for m in parts)


def test_grown_flux_answers_as_before():
    flux, levels = tiny_flux(), [torch.randn(shape) for shape in LEVELS]
    conditions = {
        "encoder_hidden_states": torch.randn(2, 3, 8),
        "pooled_projections": torch.randn(2, 8),
        "txt_ids": torch.zeros(3, 3),
        "guidance": torch.full((2,), 3.5),
    }
    ids = torch.cat([torch.zeros(24, 1), torch.cartesian_prod(torch.arange(4.0), torch.arange(6.0))], 1)
    with torch.no_grad():
        tokens = level_modules.pack_levels(levels[:1], (2,))
        before = flux(hidden_states=tokens, timestep=TIMES[:, 0], img_ids=ids, return_dict=False, **conditions)[0]
        grown = level_modules.FluxLevels(level_modules.grow(flux, (16, 64)), (2, 4))
        coarse, fine = grown(levels, TIMES, None, **conditions)
    assert_same_bits(coarse, level_modules.unpack_levels(before, LEVELS[:1], (2,))[0])
    assert (fine == 0).all()
    trains(grown, levels, **conditions)


def test_grown_z_image_answers_as_before():
    z_image, levels = tiny_z_image(), [torch.randn(shape) for shape in LEVELS]
    caption = [torch.randn(5, 8), torch.randn(5, 8)]
    with torch.no_grad():
        before = z_image(list(levels[0].unsqueeze(2)), 1 - TIMES[:, 0], caption, return_dict=False)[0]
        grown = level_modules.ZImageLevels(level_modules.grow(z_image, (16, 64)), (2, 4))
        coarse, fine = grown(levels, TIMES, None, cap_feats=caption)
    assert_same_bits(coarse, -torch.stack(list(before)).squeeze(2))
    assert (fine == 0).all()
    trains(grown, levels, cap_feats=caption)


def test_growth_refuses():
    with pytest.raises(TypeError, match="neither FLUX's nor Z-Image's parts"):
        level_modules.grow(torch.nn.Linear(2, 2), (2, 2))
    with pytest.raises(ValueError, match="takes 16 numbers, but the coarse level has 8"):
        level_modules.grow(tiny_flux(), (8, 64))
    with pytest.raises(ValueError, match="cut into 4 pixels"):
        level_modules.grow(tiny_z_image(), (16, 65))
