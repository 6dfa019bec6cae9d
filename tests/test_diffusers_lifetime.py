# SPDX-License-Identifier: Apache-2.0
"""Whose a handle is: pipelines that share a denoiser, copies and files of one, denoisers that are replaced, pipelines
that are gone."""

import copy
import gc
import io
import weakref

import pytest
import torch
from bits import assert_same_bits

diffusers = pytest.importorskip("diffusers", reason="needs the extra [diffusers]")

from applied import METHODS, STEPS, Stop, each  # noqa: E402
from coarse_loop import distance  # noqa: E402
from picture_pipelines import flux, flux_transformer  # noqa: E402
from pipelines import family, run  # noqa: E402

from spectral_kernels.adapters.diffusers.models import MODELS  # noqa: E402


def made_anew():
    made = flux(layers=(1, 2))
    made.pipe.set_progress_bar_config(disable=True)
    return made


@each
def test_another_pipeline_with_the_same_transformer_is_left_alone(method):
    made = family("flux")
    other = copy.copy(made)
    other.pipe = diffusers.FluxPipeline(**{**made.pipe.components, "scheduler": copy.deepcopy(made.pipe.scheduler)})
    other.pipe.set_progress_bar_config(disable=True)
    plain = run(other, STEPS)

    def fail(pipe, index, timestep, tensors):
        if index == 2:
            raise Stop
        return tensors

    with METHODS[method](made.pipe):
        assert_same_bits(run(other, STEPS), plain)
        fast = run(made, STEPS)
        assert_same_bits(run(other, STEPS), plain)
        with pytest.raises(Stop):
            run(made, STEPS, callback_on_step_end=fail)
        assert_same_bits(run(other, STEPS), plain)
        with METHODS[method](other.pipe):
            assert_same_bits(run(other, STEPS), fast)
            assert_same_bits(run(made, STEPS), fast)
        assert_same_bits(run(made, STEPS), fast)
        assert_same_bits(run(other, STEPS), plain)


@each
def test_one_handle_serves_all_pipelines_around_the_same_components(method):
    made = made_anew()
    other = copy.copy(made)
    other.pipe = diffusers.FluxPipeline.from_pipe(made.pipe)  # the same scheduler too
    other.pipe.set_progress_bar_config(disable=True)
    plain = run(made, STEPS)
    with METHODS[method](made.pipe):
        fast = run(made, STEPS)
        assert_same_bits(run(other, STEPS), fast)
        with pytest.raises(ValueError, match=r"FluxTransformer2DModel is \w+ already; .* a scheduler of its own"):
            METHODS[method](other.pipe)
        assert_same_bits(run(other, STEPS), fast)
        other.pipe.scheduler = copy.deepcopy(made.pipe.scheduler)
        assert_same_bits(run(other, STEPS), plain)
        with METHODS[method](other.pipe):
            assert_same_bits(run(other, STEPS), fast)
    assert "progress_bar" not in vars(other.pipe) and not made.pipe.transformer._forward_pre_hooks


@each
def test_a_pipeline_is_not_kept_alive(method):
    made = flux()
    handle = METHODS[method](made.pipe)
    made.pipe.set_progress_bar_config(disable=True)
    run(made, 4)
    alive = weakref.ref(made.pipe)
    del made, handle
    gc.collect()
    assert alive() is None


@each
def test_a_shared_denoiser_outlives_the_pipeline(method):
    made = made_anew()
    plain = run(made, STEPS)
    handle = METHODS[method](made.pipe)
    run(made, STEPS)
    scheduler = copy.deepcopy(made.pipe.scheduler)
    made.pipe = diffusers.FluxPipeline(**{**made.pipe.components, "scheduler": scheduler})
    made.pipe.set_progress_bar_config(disable=True)
    gc.collect()
    assert_same_bits(run(made, STEPS), plain)
    handle.remove()
    assert_same_bits(run(made, STEPS), plain)
    assert not made.pipe.transformer._forward_pre_hooks and not made.pipe.transformer._forward_hooks


@each
def test_copies_are_plain_and_leave_the_original_accelerated(method):
    made = made_anew()
    plain = run(made, STEPS)
    handle = METHODS[method](made.pipe)
    fast = run(made, STEPS)
    twin = copy.copy(made)
    twin.pipe = copy.deepcopy(made.pipe)
    assert_same_bits(run(twin, STEPS), plain)
    assert_same_bits(run(made, STEPS), fast)
    copied = twin.pipe
    # A copy of the denoiser through a file, in a pipeline of its own.
    file = io.BytesIO()
    torch.save(made.pipe.transformer, file)
    file.seek(0)
    scheduler = copy.deepcopy(made.pipe.scheduler)
    read = torch.load(file, weights_only=False)
    twin.pipe = diffusers.FluxPipeline(**{**made.pipe.components, "scheduler": scheduler, "transformer": read})
    twin.pipe.set_progress_bar_config(disable=True)
    handle.remove()
    del made.pipe
    gc.collect()
    assert_same_bits(run(twin, STEPS), plain)
    with METHODS[method](twin.pipe):
        assert_same_bits(run(twin, STEPS), fast)
    twin.pipe = copied  # it needs nothing of the original
    assert_same_bits(run(twin, STEPS), plain)


class Wrapper(torch.nn.Module):
    """What libraries put around a model."""

    def __init__(self, module):
        super().__init__()
        self.module = module

    def __getattr__(self, name):
        return super().__getattr__(name) if name == "module" else getattr(self.module, name)

    def forward(self, *args, **kwargs):
        return self.module(*args, **kwargs)


@each
def test_a_denoiser_that_was_replaced_is_noticed(method):
    made = made_anew()
    handle = METHODS[method](made.pipe)
    fast, own = run(made, STEPS), made.pipe.transformer
    made.pipe.transformer = flux_transformer(layers=(1, 2))
    with pytest.raises(ValueError, match=r"FluxPipeline.transformer is not the one .* remove\(\) the handle"):
        run(made, STEPS)
    made.pipe.transformer = Wrapper(own)
    assert_same_bits(run(made, STEPS), fast)
    handle.remove()
    made.pipe.transformer = flux_transformer(layers=(1, 2))
    run(made, STEPS)


@each
def test_a_handle_that_is_removed_in_the_middle_of_a_run(method):
    made = made_anew()
    plain = run(made, STEPS)
    handle = METHODS[method](made.pipe)

    def remove(pipe, step, timestep, tensors):
        if step == 1:  # coarse, and after the warm-up
            handle.remove()
        return tensors

    assert bool(run(made, STEPS, callback_on_step_end=remove).isfinite().all())
    assert_same_bits(run(made, STEPS), plain)
    handle.remove()
    with METHODS[method](made.pipe) as again:
        handle.remove()  # of no concern to the new one
        assert distance(run(made, STEPS), plain) > 1e-3
    assert again is not handle
    assert_same_bits(run(made, STEPS), plain)


def test_applied_in_the_middle_of_a_run_it_begins_with_the_next():
    made = made_anew()
    plain, handles = run(made, STEPS), []

    def apply(pipe, step, timestep, tensors):
        if step == 1:
            handles.append(METHODS["both"](pipe))
        return tensors

    assert_same_bits(run(made, STEPS, callback_on_step_end=apply), plain)
    assert distance(run(made, STEPS), plain) > 1e-3
    handles[0].remove()


@each
def test_a_row_of_one_s_own(method, monkeypatch):
    class Own(diffusers.FluxTransformer2DModel):
        """A denoiser like a known one."""

    made = made_anew()
    with METHODS[method](made.pipe):
        fast = run(made, STEPS)
    made.pipe.transformer.__class__ = Own
    with pytest.raises(ValueError, match=r'about Own; .*MODELS\["Own"\] = MODELS\["FluxTransformer2DModel"\]'):
        METHODS[method](made.pipe)
    monkeypatch.setitem(MODELS, "Own", MODELS["FluxTransformer2DModel"])
    with METHODS[method](made.pipe):
        assert_same_bits(run(made, STEPS), fast)


@each
def test_a_cache_of_diffusers_beside_it_is_refused(method):
    made = made_anew()
    with METHODS[method](made.pipe):
        fast = run(made, STEPS)
        made.pipe.transformer.enable_cache(diffusers.FirstBlockCacheConfig(threshold=0.1))
        with pytest.raises(ValueError, match=r"has a cache of diffusers enabled.*disable_cache\(\)"):
            run(made, STEPS)
        made.pipe.transformer.disable_cache()
        assert_same_bits(run(made, STEPS), fast)
