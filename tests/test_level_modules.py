# SPDX-License-Identifier: Apache-2.0
"""The modules around a transformer that make it one of levels: packing, growth from a pretrained model, gradients."""

import re

import pytest
import torch
from bits import assert_same_bits

from bench.decomposable import LevelTransformer
from spectral_kernels import laplacian_pyramid
from spectral_kernels.flow import decomposable as dfm
from spectral_kernels.flow import level_modules


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
    for wrong in ([levels[0], levels[1].expand(2, -1, -1, -1)], [levels[0], levels[1][0]]):
        with pytest.raises(ValueError, match="one batch"):
            level_modules.pack_levels(wrong, (2, 4))
    for patches, message in [((2, 2), "same grid"), ((3, 6), "same grid"), ((2,), "one number per level")]:
        with pytest.raises(ValueError, match=message):
            level_modules.pack_levels(levels, patches)
    for patches in ((0, 2), (2, 4.0)):
        with pytest.raises(ValueError, match="whole and at least 1"):
            level_modules.pack_levels(levels, patches)
    with pytest.raises(ValueError, match="one number per level"):
        level_modules.pack_levels([], ())
    for shape in ((1, 6, 5), (1, 7, 20)):
        with pytest.raises(ValueError, match=r"are \[6, 6\] tokens of 20 numbers, got " + re.escape(str(shape[1:]))):
            level_modules.unpack_levels(torch.zeros(shape), [z.shape for z in levels], (2, 4))
    with pytest.raises(ValueError, match="unpack_levels: patches must hold one number per level"):
        level_modules.unpack_levels(torch.zeros(1, 6, 20), [z.shape for z in levels], (2,))


def test_level_times_want_one_time_per_level():
    module = level_modules.LevelTimes(level_modules.TimeEmbedding(8), 2, 8)
    assert module(torch.zeros(3, 2)).shape == (3, 8)
    with pytest.raises(ValueError, match=r"\[B, 2\], got \(3,\)"):
        module(torch.zeros(3))


def test_embedding_wants_the_numbers_of_all_levels():
    with pytest.raises(ValueError, match=r"\[4, 16\], got 16"):
        level_modules.LevelEmbedding([4, 16], 8)(torch.zeros(1, 3, 16))


def small_dit(levels, seed=1):
    """The transformer of the study with weights that are not at their beginning: gates are open."""
    torch.manual_seed(seed)
    model = LevelTransformer(levels)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return model


DIT_LEVELS = [(3, 1, 8, 8), (3, 1, 16, 16)]


def test_a_small_dit_grows_from_one_level():
    coarse, fine = (torch.randn(shape) for shape in DIT_LEVELS)
    model, times = small_dit([coarse]), torch.rand(3, 2)
    with torch.no_grad():
        (before,) = model([coarse], times[:, :1])
        width = model.place.shape[-1]
        model.embed = level_modules.LevelEmbedding([4, 16], width, model.embed.levels[0])
        model.times = level_modules.LevelTimes(model.times.first, 2, width)
        model.heads = level_modules.LevelHeads(width, [4, 16], model.heads.levels[0])
        model.patches = [2, 4]
        for detail, later in ((fine, times), (10 * fine, times.flip(0))):
            after, zero = model([coarse, detail], torch.stack([times[:, 0], later[:, 1]], 1))
            assert_same_bits(after, before)
            assert (zero == 0).all()
    # The new head learns at once, what leads to it once the head is not zero.
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    new = [model.heads.levels[1], model.embed.levels[1], model.times.others[0].second]
    for learning in ((True, False, False), (True, True, True)):
        optimizer.zero_grad()
        (model([coarse, fine], times)[1] - 1).square().mean().backward()
        assert tuple(bool(part.weight.grad.any()) for part in new) == learning
        optimizer.step()


def test_gradients_reach_what_lives_and_nothing_else():
    levels = [torch.randn(shape) for shape in DIT_LEVELS]
    model = small_dit(levels)
    times, both = torch.tensor([[0.3, 1.0], [0.2, 0.6], [0.5, 1.0]]), torch.ones(3, 2, dtype=torch.bool)
    only = torch.tensor([[True, False]] * 3)
    dfm.training_loss(model, levels, 4, times, both).backward()
    assert all(bool(p.grad.any()) and bool(p.grad.isfinite().all()) for p in model.parameters())
    model.zero_grad(set_to_none=False)
    dfm.training_loss(model, levels, 4, torch.where(only, times, 1.0), only).backward()
    silent = [model.heads.levels[1].weight, model.heads.levels[1].bias, model.embed.levels[1].weight]
    assert not any(bool(p.grad.any()) for p in silent)
    assert all(bool(p.grad.any()) for p in (model.heads.levels[0].weight, model.embed.levels[0].weight, model.place))


def test_a_small_dit_learns_two_levels():
    torch.manual_seed(0)
    levels = laplacian_pyramid(torch.randn(8, 1, 16, 16), 2)
    model = LevelTransformer(levels)
    optimizer, losses = torch.optim.Adam(model.parameters(), lr=2e-3), []
    times, mask = dfm.training_times(8, 2, stage_probs=(0.5, 0.5), generator=torch.Generator().manual_seed(0))
    for _ in range(25):
        loss = dfm.training_loss(model, levels, 9, times, mask)  # the same noise each time: it can be learned by heart
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


def compiled(function):
    """Traced forwards and backwards as one graph; what runs is PyTorch's own kernels."""
    return torch.compile(function, fullgraph=True, backend="aot_eager")


def test_training_compiles_whole():
    levels = [torch.randn(shape) for shape in DIT_LEVELS]
    model, times = small_dit(levels), torch.tensor([[0.3, 1.0], [0.2, 0.6], [0.5, 1.0]])
    mask = times < 1
    found = []
    for call in (dfm.training_loss, compiled(dfm.training_loss)):
        model.zero_grad()
        loss = call(model, levels, 4, times, mask)
        loss.backward()
        found.append([loss.detach(), *(p.grad for p in model.parameters())])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(b, a, rtol=1e-4, atol=1e-5)


def tiny_flux(**channels):
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(1)
    return diffusers.FluxTransformer2DModel(
        patch_size=1, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=8, pooled_projection_dim=8, guidance_embeds=True, axes_dims_rope=(4, 6, 6),
        **{"in_channels": 16, **channels},
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
    again = compiled(grown)(levels, TIMES, None, **conditions)
    torch.testing.assert_close(again[0], coarse, rtol=1e-5, atol=1e-5)
    assert (again[1] == 0).all()
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


def test_a_refused_growth_leaves_the_model_as_it_was():
    # FLUX.1 Fill: conditions beside the state, so that what it takes is more than what it gives.
    fill = tiny_flux(in_channels=48, out_channels=16)
    with pytest.raises(ValueError, match="head gives 16 numbers, but the coarse level has 48"):
        level_modules.grow(fill, (48, 64))
    assert not any(isinstance(part, level_modules.LevelEmbedding | level_modules.LevelTimes) for part in fill.modules())
    for features in ((), (16, 0), (16, 4.5)):
        with pytest.raises(ValueError, match="features must be one whole number per level"):
            level_modules.grow(fill, features)
    grown = level_modules.grow(tiny_flux(), (16, 64))
    with pytest.raises(ValueError, match="FluxTransformer2DModel has levels already"):
        level_modules.grow(grown, (16, 64))


def test_growth_leaves_pretrained_parts_in_their_dtype():
    flux = tiny_flux()
    flux.x_embedder.bfloat16()
    grown = level_modules.grow(flux, (16, 64))
    assert {p.dtype for p in grown.time_text_embed.first.parameters()} == {torch.float32}
    assert {p.dtype for p in grown.time_text_embed.others.parameters()} == {torch.bfloat16}
