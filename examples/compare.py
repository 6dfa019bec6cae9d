# SPDX-License-Identifier: Apache-2.0
"""One prompt through a pipeline as it is, and accelerated: pictures side by side with their times.

    python examples/compare.py flux /path/to/FLUX.1-dev --prompt "a lighthouse at dusk" --out lighthouse.png
    python examples/compare.py wan /path/to/Wan2.1-T2V-1.3B-Diffusers --progressive 0.05
    python examples/compare.py zimage /path/to/Z-Image --forecast --schedule respaced
    python examples/compare.py flux --random-weights

The checkpoint is a folder on your disk, in diffusers' format. With --random-weights a tiny model of the same classes
takes its place: the picture is noise, the code is the same.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw

from spectral_kernels.adapters.diffusers import ForecastConfig, ProgressiveConfig, apply_forecast, apply_progressive

# What each family is called with; the checkpoint knows its own scheduler.
CALLS = {
    "flux": {"num_inference_steps": 50, "height": 1024, "width": 1024, "guidance_scale": 3.5},
    "zimage": {"num_inference_steps": 50, "height": 1024, "width": 1024, "guidance_scale": 4.0},
    "wan": {"num_inference_steps": 50, "height": 480, "width": 832, "num_frames": 81, "guidance_scale": 5.0},
}


def load(checkpoint: Path, device: str) -> Any:
    """The pipeline of a folder on disk, whatever its class."""
    from diffusers import DiffusionPipeline

    pipe = DiffusionPipeline.from_pretrained(checkpoint, torch_dtype=torch.bfloat16, local_files_only=True)
    return pipe.to(device)


def timed(pipe: Any, call: dict, seed: int, device: str) -> tuple[Image.Image, float]:
    """The picture, or the first frame, of one call, and its seconds."""
    # The first call compiles kernels and fills caches: a short one of its own, so that the time is that of the rest.
    pipe(**call | {"num_inference_steps": min(8, call["num_inference_steps"])})
    if device == "cuda":
        torch.cuda.synchronize()
    begun = time.perf_counter()
    output = pipe(**call, generator=torch.Generator(device).manual_seed(seed), output_type="pil")
    if device == "cuda":
        torch.cuda.synchronize()
    seconds = time.perf_counter() - begun
    picture = output.images[0] if hasattr(output, "images") else output.frames[0][0]
    return picture, seconds


def side_by_side(pictures: Sequence[Image.Image], captions: Sequence[str]) -> Image.Image:
    width, height = pictures[0].size
    sheet = Image.new("RGB", (width * len(pictures), height + 16), "white")
    draw = ImageDraw.Draw(sheet)
    for i, (picture, caption) in enumerate(zip(pictures, captions, strict=True)):
        sheet.paste(picture, (i * width, 16))
        draw.text((i * width + 2, 2), caption, fill="black")
    return sheet


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="A picture as it is, and accelerated.")
    parser.add_argument("family", choices=CALLS)
    parser.add_argument("checkpoint", type=Path, nargs="?", help="folder of a checkpoint in diffusers' format")
    parser.add_argument("--random-weights", action="store_true", help="a tiny model instead of a checkpoint")
    parser.add_argument("--prompt", default="a lighthouse on a cliff at dusk, photograph")
    parser.add_argument("--progressive", type=float, default=0.05, metavar="DELTA", help="0 leaves it out")
    parser.add_argument("--schedule", choices=("published", "respaced", "matched"), default="respaced")
    parser.add_argument("--forecast", action="store_true", help="forecast features as well")
    parser.add_argument("--steps", type=int, help="denoising steps")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, default=Path("compare.png"))
    arguments = parser.parse_args(argv)
    if arguments.random_weights == (arguments.checkpoint is not None):
        parser.error("give the folder of a checkpoint, or --random-weights")
    if arguments.random_weights:
        from tiny import tiny_pipeline

        pipe, call = tiny_pipeline(arguments.family)
        pipe.to(arguments.device)
    else:
        pipe, call = load(arguments.checkpoint, arguments.device), dict(CALLS[arguments.family])
        call["prompt"] = arguments.prompt
    if arguments.steps:
        call["num_inference_steps"] = arguments.steps

    before, seconds = timed(pipe, call, arguments.seed, arguments.device)
    handles: list[Any] = []
    if arguments.progressive:
        config = ProgressiveConfig(delta=arguments.progressive, schedule=arguments.schedule)
        handles.append(apply_progressive(pipe, config))
    if arguments.forecast:
        handles.append(apply_forecast(pipe, ForecastConfig()))
    after, faster = timed(pipe, call, arguments.seed, arguments.device)
    for handle in handles:
        print(handle.summary())
        handle.remove()
    captions = [f"as it is: {seconds:.1f} s", f"accelerated: {faster:.1f} s, {seconds / faster:.2f}x"]
    side_by_side([before, after], captions).save(arguments.out)
    print(*captions, f"saved to {arguments.out}", sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
