# SPDX-License-Identifier: Apache-2.0
"""Whole denoising loops of full-size architectures: plain, progressive, forecast, both, and diffusers' own caches.

Built from their published configurations with random weights in bfloat16: speed does not depend on what the weights
are, quality does, so nothing here says anything about pictures. Prompt embeddings are random, the autoencoder is left
out. `--tiny` rehearses the same code with a few channels.
"""

import argparse
import contextlib
import importlib
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from bench import rows
from spectral_kernels.adapters.diffusers import (
    ForecastConfig,
    ProgressiveConfig,
    apply_acceleration,
    apply_forecast,
    apply_progressive,
)
from spectral_kernels.adapters.diffusers.states import States
from spectral_kernels.forecaster import Forecaster

# Its names are made at run time, which type checkers cannot follow.
diffusers: Any = importlib.import_module("diffusers")

DYNAMIC = {"use_dynamic_shifting": True, "base_shift": 0.5, "max_shift": 1.15}


@dataclass(frozen=True)
class Subject:
    """A pipeline to be built: the denoiser's configuration, its tiny twin, and the arguments of a call.

    `published` are speed-ups by variant, of the progressive and of the forecasting method, for `published_steps` steps,
    on other people's machines.
    """

    pipeline: str
    denoiser: str
    config: dict
    tiny: dict
    scheduler: Callable[[], Any]
    embeds: Callable[[dict], dict]
    call: dict
    tiny_call: dict
    missing: tuple[str, ...] = ("text_encoder", "tokenizer")
    autoencoder: Callable[[], Any] = lambda: None
    published: dict[str, float] = field(default_factory=dict)
    published_steps: int = 50


def sizes(**options: Any) -> dict:
    return {"num_inference_steps": 50, **options}


def statistics_of_latents() -> Any:
    """FLUX.2 normalises its latents by numbers that its autoencoder holds; the rest of this one is never run."""
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4}
    return diffusers.AutoencoderKLFlux2(block_out_channels=(4,) * 4, layers_per_block=1, norm_num_groups=2, **blocks)


def normal(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.bfloat16)


SUBJECTS = {
    # FLUX.1 dev, 12 B parameters.
    "flux": Subject(
        "FluxPipeline",
        "FluxTransformer2DModel",
        {"guidance_embeds": True},
        {"num_layers": 1, "num_single_layers": 2, "attention_head_dim": 16, "num_attention_heads": 2,
         "joint_attention_dim": 32, "pooled_projection_dim": 32, "axes_dims_rope": (4, 4, 8)},
        lambda: diffusers.FlowMatchEulerDiscreteScheduler(**DYNAMIC, shift=3.0),
        lambda c: {"prompt_embeds": normal(1, 512, c.get("joint_attention_dim", 4096)),
                   "pooled_prompt_embeds": normal(1, c.get("pooled_projection_dim", 768))},
        sizes(height=1024, width=1024),
        {"height": 128, "width": 96},
        ("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2"),
        published={"progressive 0.01": 1.32, "progressive 0.05": 1.63, "forecast 14": 3.47, "forecast 10": 4.79},
    ),
    # FLUX.2 klein, 4 B.
    "klein": Subject(
        "Flux2KleinPipeline",
        "Flux2Transformer2DModel",
        {"num_layers": 5, "num_single_layers": 20, "num_attention_heads": 24, "joint_attention_dim": 7680,
         "guidance_embeds": False},
        {"num_layers": 1, "num_single_layers": 2, "attention_head_dim": 16, "num_attention_heads": 2,
         "joint_attention_dim": 32, "axes_dims_rope": (4, 4, 4, 4)},
        lambda: diffusers.FlowMatchEulerDiscreteScheduler(**DYNAMIC, shift=3.0),
        lambda c: {"prompt_embeds": normal(1, 512, c.get("joint_attention_dim", 7680)), "guidance_scale": 1.0},
        sizes(height=1024, width=1024),
        {"height": 128, "width": 96},
        autoencoder=statistics_of_latents,
        published={"progressive 0.05": 1.77, "progressive 0.1": 1.93},  # of FLUX.2 dev
        published_steps=30,
    ),
    # Z-Image, 6 B.
    "zimage": Subject(
        "ZImagePipeline",
        "ZImageTransformer2DModel",
        {},
        {"dim": 32, "n_layers": 2, "n_refiner_layers": 1, "n_heads": 2, "n_kv_heads": 2, "cap_feat_dim": 16,
         "axes_dims": [4, 4, 8], "axes_lens": [1024, 64, 64]},
        lambda: diffusers.FlowMatchEulerDiscreteScheduler(shift=6.0),
        lambda c: {"prompt_embeds": [normal(128, c.get("cap_feat_dim", 2560))], "guidance_scale": 0.0},
        sizes(height=1024, width=1024),
        {"height": 128, "width": 96},
        published={"progressive 0.01": 1.53, "progressive 0.05": 2.03},
    ),
    # Wan 2.1, 1.3 B, 81 frames with guidance.
    "wan": Subject(
        "WanPipeline",
        "WanTransformer3DModel",
        {"num_attention_heads": 12, "ffn_dim": 8960, "num_layers": 30},
        {"num_attention_heads": 2, "attention_head_dim": 12, "ffn_dim": 32, "num_layers": 2, "text_dim": 32},
        lambda: diffusers.UniPCMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=5.0
        ),
        lambda c: {"prompt_embeds": normal(1, 512, c.get("text_dim", 4096)),
                   "negative_prompt_embeds": normal(1, 512, c.get("text_dim", 4096))},
        sizes(height=480, width=832, num_frames=81),
        {"height": 64, "width": 96, "num_frames": 9},
        published={"progressive 0.01": 1.65, "progressive 0.05": 2.32, "progressive 0.1": 2.78},
    ),
    # Qwen-Image, 20 B.
    "qwen": Subject(
        "QwenImagePipeline",
        "QwenImageTransformer2DModel",
        {},
        {"num_layers": 2, "attention_head_dim": 16, "num_attention_heads": 2, "joint_attention_dim": 16,
         "axes_dims_rope": (4, 4, 8)},
        lambda: diffusers.FlowMatchEulerDiscreteScheduler(
            use_dynamic_shifting=True, base_shift=0.5, max_shift=0.9, max_image_seq_len=8192, shift_terminal=0.02
        ),
        lambda c: {"prompt_embeds": normal(1, 256, c.get("joint_attention_dim", 3584)),
                   "prompt_embeds_mask": torch.ones(1, 256, dtype=torch.long), "true_cfg_scale": 1.0},
        sizes(height=1024, width=1024),
        {"height": 128, "width": 96},
        published={"progressive 0.05": 1.29, "progressive 0.1": 1.27},
        published_steps=30,
    ),
}  # fmt: skip


def denoiser_of(subject: Subject, device: str, tiny: bool) -> Any:
    """The denoiser with random weights in bfloat16; on the device "meta", its shapes alone."""
    config = {**subject.config, **(subject.tiny if tiny else {})}
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device(device):
            return getattr(diffusers, subject.denoiser)(**config).to(torch.bfloat16).eval()
    finally:
        torch.set_default_dtype(before)


def build(subject: Subject, device: str, tiny: bool, tiny_call: bool | None = None) -> tuple[Any, dict]:
    """The pipeline and the arguments of its call, which is as small as the denoiser unless said otherwise."""
    config = {**subject.config, **(subject.tiny if tiny else {})}
    denoiser = denoiser_of(subject, device, tiny)
    vae = subject.autoencoder()
    vae = vae if vae is None else vae.to(device, torch.bfloat16)
    pipe = getattr(diffusers, subject.pipeline)(
        transformer=denoiser, scheduler=subject.scheduler(), vae=vae, **dict.fromkeys(subject.missing)
    )
    pipe.set_progress_bar_config(disable=True)
    torch.manual_seed(0)
    moved = {key: _to(value, device) for key, value in subject.embeds(config).items()}
    smaller = tiny if tiny_call is None else tiny_call
    call = {**subject.call, **(subject.tiny_call if smaller else {}), **moved}
    return pipe, {**call, "output_type": "latent", "return_dict": False}


def _to(value: Any, device: str) -> Any:
    if isinstance(value, list):
        return [one.to(device) for one in value]
    return value.to(device) if isinstance(value, torch.Tensor) else value


@contextlib.contextmanager
def taylorseer(pipe: Any) -> Iterator[None]:
    """diffusers' TaylorSeer, an evaluation every 4 steps after 3: 14 evaluations of 50."""
    pipe.transformer.enable_cache(diffusers.TaylorSeerCacheConfig(cache_interval=4, disable_cache_before_step=3))
    try:
        yield
    finally:
        pipe.transformer.disable_cache()


@contextlib.contextmanager
def first_block(pipe: Any) -> Iterator[None]:
    """diffusers' first-block cache at its default threshold; on random weights its decisions mean little."""
    pipe.transformer.enable_cache(diffusers.FirstBlockCacheConfig())
    try:
        yield
    finally:
        pipe.transformer.disable_cache()


TEN = ForecastConfig(flex=3.0)
VARIANTS: dict[str, Callable[[Any], Any]] = {
    "plain": lambda pipe: contextlib.nullcontext(),
    "progressive 0.01": lambda pipe: apply_progressive(pipe, ProgressiveConfig(delta=0.01)),
    "progressive 0.05": lambda pipe: apply_progressive(pipe, ProgressiveConfig(delta=0.05)),
    "progressive 0.1": lambda pipe: apply_progressive(pipe, ProgressiveConfig(delta=0.1)),
    "forecast 14": lambda pipe: apply_forecast(pipe),
    "forecast 14 moments": lambda pipe: apply_forecast(pipe, ForecastConfig(storage="moments")),
    "forecast 14 int8": lambda pipe: apply_forecast(pipe, ForecastConfig(encoding="int8", max_features=8)),
    "forecast 10": lambda pipe: apply_forecast(pipe, TEN),
    "progressive 0.05, forecast 14": lambda pipe: apply_acceleration(pipe),
    "progressive 0.05, forecast 10": lambda pipe: apply_acceleration(pipe, forecast=TEN),
    "diffusers TaylorSeer": taylorseer,
    "diffusers FirstBlockCache": first_block,
}


# What is measured in one call of this file: a few minutes on a GPU, always beside the plain run.
GROUPS = {
    "progressive": ("progressive 0.01", "progressive 0.05", "progressive 0.1"),
    "forecast": ("progressive 0.05", *(name for name in VARIANTS if "forecast" in name)),
    "caches": ("forecast 14", "diffusers TaylorSeer", "diffusers FirstBlockCache"),
}


class OwnTime:
    """The time inside our ops of one run: between events on a GPU, by the clock on a CPU."""

    METHODS = (
        *((States, name) for name in ("coarse", "told", "embedded", "lifted")),
        *((Forecaster, name) for name in ("update", "predict")),
    )

    def __init__(self, device: str):
        self.cuda, self.spans, self.kept = device == "cuda", [], []

    def _timed(self, function):
        def call(*args, **kwargs):
            start = self._mark()
            result = function(*args, **kwargs)
            self.spans.append((start, self._mark()))
            return result

        return call

    def _mark(self):
        if not self.cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def __enter__(self):
        self.kept = [(owner, name, getattr(owner, name)) for owner, name in self.METHODS]
        for owner, name, function in self.kept:
            setattr(owner, name, self._timed(function))
        return self

    def __exit__(self, *_):
        for owner, name, function in self.kept:
            setattr(owner, name, function)

    @property
    def seconds(self) -> float:
        if not self.cuda:
            return sum(end - start for start, end in self.spans)
        torch.cuda.synchronize()
        return sum(start.elapsed_time(end) for start, end in self.spans) / 1e3


def seconds_of(pipe: Any, call: dict, device: str) -> float:
    if device == "cuda":
        torch.cuda.synchronize()
    begun = time.perf_counter()
    with torch.no_grad():
        pipe(**call, generator=torch.Generator(device).manual_seed(0))
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - begun


def measure(
    name: str, device: str, tiny: bool, repeats: int, results: Path, variants: Sequence[str] = tuple(VARIANTS)
) -> list[dict]:
    """One row per variant, each beside the plain runs around it."""
    subject = SUBJECTS[name]
    pipe, call = build(subject, device, tiny)
    parameters = sum(parameter.numel() for parameter in pipe.transformer.parameters())
    found, plain = [], None
    short = {**call, "num_inference_steps": min(8, call["num_inference_steps"])}
    for variant in dict.fromkeys(("plain", *variants)):
        row: dict[str, Any] = {"suite": "e2e", "model": name, "variant": variant, "parameters": parameters}
        row |= {"tiny": tiny, "call": {k: v for k, v in call.items() if isinstance(v, int | float)}}
        try:
            with VARIANTS[variant](pipe) as handle:
                seconds_of(pipe, short, device)  # the first run compiles kernels and fills caches
                if device == "cuda":
                    torch.cuda.reset_peak_memory_stats()
                with OwnTime(device) as own:
                    samples = [seconds_of(pipe, call, device) for _ in range(repeats)]
                row["seconds"] = statistics.median(samples)
                row["own_share"] = own.seconds / sum(samples)
                if device == "cuda":
                    row["peak_bytes"] = torch.cuda.max_memory_allocated()
                if handle is not None:
                    row["summary"] = str(handle.summary())
        except (ValueError, TypeError, AttributeError) as error:
            row["error"] = f"{type(error).__name__}: {error}"[:300]
        if variant == "plain":
            plain = row
        if plain is not None and "seconds" in row and "seconds" in plain:
            row["speed_up"] = plain["seconds"] / row["seconds"]
            if variant in subject.published and call["num_inference_steps"] == subject.published_steps:
                row["published"] = subject.published[variant]
            singles = [one.get("speed_up") for one in found if one["variant"] in variant.split(", ")]
            if len(singles) == 2 and all(singles):
                row["of_product"] = row["speed_up"] / (singles[0] * singles[1])
            if "peak_bytes" in row:
                row["extra_bytes"] = row["peak_bytes"] - plain["peak_bytes"]
        rows.append(row | rows.circumstances(device), "e2e", results)
        found.append(row)
        print(_line(row), flush=True)
    return found


def _line(row: dict) -> str:
    if "error" in row:
        return f"{row['model']:7} {row['variant']:32} {row['error']}"
    extra = f"{row['extra_bytes'] / 2**20:9.0f} MiB more" if "extra_bytes" in row else ""
    published = f"   published {row['published']:.2f}x" if "published" in row else ""
    product = f"   {row['of_product']:.2f} of the product of both" if "of_product" in row else ""
    return (
        f"{row['model']:7} {row['variant']:32} {row['seconds']:9.3f} s {row.get('speed_up', 1):6.2f}x   "
        f"our ops {100 * row['own_share']:6.2f} %{extra}{published}{product}"
    )


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.e2e", description="Denoising loops of full-size models.")
    parser.add_argument("--model", choices=SUBJECTS, action="append", help="default: all")
    parser.add_argument("--group", choices=GROUPS, help="only these variants, and the plain run")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tiny", action="store_true", help="a few channels and small pictures, to rehearse")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--steps", type=int, help="denoising steps in place of 50")
    parser.add_argument("--results", type=Path, default=rows.RESULTS, help="folder of the rows")
    arguments = parser.parse_args(argv)
    if arguments.device == "cpu" and not arguments.tiny:
        parser.error("full-size models need a GPU; --tiny rehearses on a CPU")
    for subject in SUBJECTS.values():
        if arguments.steps:
            subject.call["num_inference_steps"] = arguments.steps
        elif arguments.group == "progressive":
            subject.call["num_inference_steps"] = subject.published_steps
    diffusers.utils.logging.set_verbosity_error()
    failed = False
    for name in arguments.model or SUBJECTS:
        variants = GROUPS[arguments.group] if arguments.group else VARIANTS
        found = measure(name, arguments.device, arguments.tiny, arguments.repeats, arguments.results, tuple(variants))
        # Other people's caches may not know a model; ours must.
        failed |= any("error" in row for row in found if not row["variant"].startswith("diffusers"))
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
