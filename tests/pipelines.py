# SPDX-License-Identifier: Apache-2.0
"""Tiny pipelines with random weights by name, and one call of them: `run(family("flux"))`."""

import functools
from collections.abc import Callable
from dataclasses import replace

import editing_pipelines as editing
import further_pipelines as further
import picture_pipelines as pictures
import torch
import video_pipelines as videos
from pipeline_parts import Family
from torch import Tensor

FAMILIES: dict[str, Callable[[], Family]] = {
    make.__name__: make
    for make in (
        pictures.flux,
        pictures.flux_schnell,
        pictures.flux2,
        pictures.flux2_klein,
        editing.flux2_klein_reference,
        editing.flux2_klein_kv,
        pictures.zimage,
        editing.zimage_omni,
        pictures.qwen,
        editing.qwen_edit,
        editing.qwen_layered,
        pictures.sd3,
        pictures.krea2,
        pictures.ideogram4,
        pictures.flux_kontext,
        pictures.flux_img2img,
        pictures.flux_inpaint,
        pictures.flux_fill,
        videos.wan,
        videos.wan_i2v,
        videos.wan22,
        videos.wan_ti2v,
        videos.wan_ti2v_picture,
        videos.hunyuan,
        videos.hunyuan_i2v,
        videos.hunyuan_i2v_replace,
        videos.hunyuan15,
        videos.hunyuan15_i2v,
        videos.ltx,
        videos.ltx_i2v,
        further.chroma,
        further.ovis,
        further.longcat,
        further.lumina2,
        further.auraflow,
        further.cogview4,
        further.sana,
        further.skyreels,
        further.wan_vace,
        pictures.sdxl,
    )
}


@functools.cache
def built(name: str) -> Family:
    return FAMILIES[name]()


def family(name: str) -> Family:
    """A family by name. Models are shared between tests, the scheduler is fresh and no attribute is left over."""
    made = built(name)
    made.pipe.set_progress_bar_config(disable=True)
    made.pipe.scheduler = type(made.scheduler).from_config(made.scheduler.config)
    return replace(made, call=dict(made.call))


def run(family: Family, steps: int = 6, seed: int = 0, **call) -> Tensor:
    """Latents of one call of the pipeline."""
    arguments = {"num_inference_steps": steps, "output_type": "latent", "return_dict": False} | family.call | call
    if "latents" not in arguments:
        arguments.setdefault("generator", torch.Generator().manual_seed(seed))
    with torch.no_grad():
        return family.pipe(**arguments)[0]
