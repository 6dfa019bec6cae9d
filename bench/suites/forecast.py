# SPDX-License-Identifier: Apache-2.0
"""The weighted sum at the sizes of real models, against the forms in use and against a copy of as many bytes; and a
whole call of a denoiser at a step that is forecast, against the least it could do."""

import copy
import importlib.util
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench import forecast_peers as peers
from bench.case import Case, Provider, Tunable
from spectral_kernels import chebyshev_forecast, chebyshev_weights, evaluation_steps, forecast

TESTS = ["tests/test_forecast_weights.py", "tests/test_forecast.py"]

STEPS = evaluation_steps(50)

# name, features, (tokens, width), targets; FLUX.1 at 1024 px
SIZES = [
    ("flux-k4", 4, (4096, 3072), 1),
    ("flux-k8", 8, (4096, 3072), 1),
    ("flux-k14", 14, (4096, 3072), 1),
    ("flux-k8-g4", 8, (4096, 3072), 4),
    # nothing to compute: the way to the kernel and back
    ("call-k4", 4, (16, 16), 1),
    ("call-k14", 14, (16, 16), 1),
]
TINY = [("tiny", 3, (5, 7), 1), ("tiny-g2", 4, (8, 16), 2)]


def cases(device: str, tiny: bool = False) -> Iterator[Case]:
    for name, count, shape, targets in TINY if tiny else SIZES:
        yield _case(name, count, shape, targets, device)
    if importlib.util.find_spec("diffusers"):
        yield _skipped_step(device, tiny)


def _case(name: str, count: int, shape: tuple[int, int], targets: int, device: str) -> Case:
    features = make(count, shape, device)
    goals = [STEPS[count - 1] + 1 + g for g in range(targets)]
    weights = chebyshev_weights(STEPS[:count], goals if targets > 1 else goals[0], 50)
    size = shape[0] * shape[1]
    return Case(
        name=name,
        op="forecast",
        shape=(count, *shape),
        dtype="bfloat16",
        bytes=(count + targets) * size * 2,
        flops=2 * count * targets * size,
        expected=lambda: expected(features, weights),
        providers=_providers(features, weights, goals),
        facts={"features": count, "targets": targets},
    )


def make(count: int, shape: tuple[int, int], device: str) -> list[Tensor]:
    """A slowly moving feature: neighbours are alike, as in a denoiser."""
    generator = torch.Generator().manual_seed(count)
    base, drift = torch.randn(2, *shape, generator=generator).unbind(0)
    return [(base + 0.02 * step * drift).to(device, torch.bfloat16) for step in STEPS[:count]]


def expected(features: list[Tensor], weights: Tensor) -> np.ndarray:
    rows = weights.double().reshape(-1, len(features)).tolist()
    sums = []
    for row in rows:
        total = torch.zeros(features[0].shape, dtype=torch.float64)
        for w, h in zip(row, features, strict=True):
            total += w * h.cpu().double()
        sums.append(total)
    return torch.stack(sums).reshape(*weights.shape[:-1], *features[0].shape).numpy()


def _providers(features: list[Tensor], weights: Tensor, goals: list[int]) -> list[Provider]:
    # bfloat16 rounds the result by 2^-9; the peers round inside as well: coefficients, products, times.
    near, loose = 2.0**-8, 0.1
    count, device, size = len(features), features[0].device, features[0].numel()
    steps, values = STEPS[:count], weights.tolist()
    single = weights.ndim == 1

    def each(run: Callable[[Any, int], Tensor]) -> Callable[[], Tensor]:
        """Once per target: what a form that knows one target has to do."""
        if single:
            return lambda: run(values, goals[0])
        return lambda: torch.stack([run(row, goal) for row, goal in zip(values, goals, strict=True)])

    target = goals[0] if single else goals
    history = torch.stack([h.reshape(-1) for h in features])
    ring = history.float()
    shape = features[0].shape
    at_step = {"steps": steps, "num_steps": 50}
    out = features[0].new_empty((*weights.shape[:-1], *shape))
    found = [
        Provider("forecast", lambda: forecast(features, weights), near),
        # A new result of this size on a CPU may be memory that the system hands out page by page, for as long again.
        Provider("forecast, out= given", lambda: forecast(features, weights, out=out), near),
        Provider("weights and forecast", lambda: forecast(features, chebyshev_weights(steps, target, 50)), near),
        Provider("chain", each(lambda row, goal: peers.chain(features, row)), near),
        Provider("chain, in place", each(lambda row, goal: peers.chain_in_place(features, row)), near),
        Provider("chain, bfloat16", each(lambda row, goal: peers.chain_in_dtype(features, row)), loose),
        Provider("stack and matmul", lambda: peers.stacked(features, weights.to(device)), loose, graph=False),
        Provider(
            "official form",
            each(lambda row, goal: peers.official(history, target=goal, **at_step).view(shape)),
            loose,
            graph=False,
        ),
        Provider(
            "sglang form",
            each(lambda row, goal: peers.sglang(ring, torch.bfloat16, target=goal, **at_step).view(shape)),
            loose,
            graph=False,
        ),
    ]
    # A copy that moves as many bytes as the case must: half of them read, half written.
    source = torch.zeros((count + len(goals)) * size // 2, dtype=torch.bfloat16, device=device)
    copied = torch.empty_like(source)
    found.append(Provider("copy (floor)", lambda: copied.copy_(source), tolerance=None))
    if device.type == "cuda":
        x = torch.tensor(steps, dtype=torch.float64, device=device)
        goal = torch.tensor(target, dtype=torch.float64, device=device)
        found.append(Provider("times on the device", lambda: chebyshev_forecast(features, x, goal, 50), near))
        on_device = weights.to(device)
        found.append(Provider("weights on the device", lambda: forecast(features, on_device), near))
    return found


class LastBlock(torch.nn.Module):
    """All the blocks of the least call: the weighted sum, with its weights known."""

    def __init__(self, answer: Callable[[], Tensor]):
        super().__init__()
        self.__dict__["answer"] = answer

    def forward(self, hidden_states: Tensor, encoder_hidden_states: Tensor, **_: Any) -> tuple[Tensor, Tensor]:
        return encoder_hidden_states, self.__dict__["answer"]()


def _skipped_step(device: str, tiny: bool) -> Case:
    """One skipped call of FLUX.1's class under `apply_forecast`, beside the sum and the layers around the blocks alone.

    On a GPU at full width, on a CPU at a third of it. The blocks never run, so two of them are as good as 57.
    """
    from diffusers.models.transformers.transformer_flux import FluxTransformer2DModel

    from spectral_kernels.adapters.diffusers import ForecastConfig, apply_forecast

    cuda = device == "cuda"
    heads, side, text, dtype = (24, 64, 512, torch.bfloat16) if cuda else (8, 32, 128, torch.float32)
    size, side, text = ((16, (4, 6, 6)), 4, 3) if tiny else ((128, (16, 56, 56)), side, text)
    config: dict[str, Any] = {
        "num_layers": 1,
        "num_single_layers": 1,
        "num_attention_heads": heads,
        "joint_attention_dim": 1024,
    }
    torch.manual_seed(0)
    with torch.device(device):
        made = FluxTransformer2DModel(**config, attention_head_dim=size[0], axes_dims_rope=size[1])
        model = torch.nn.Module.to(made, dtype).eval().requires_grad_(False)
        rows = torch.cartesian_prod(torch.zeros(1), torch.arange(float(side)), torch.arange(float(side)))
        inputs = {
            "hidden_states": torch.randn(1, side * side, 64, dtype=dtype),
            "encoder_hidden_states": torch.randn(1, text, 1024, dtype=dtype),
            "pooled_projections": torch.randn(1, 768, dtype=dtype),
            "timestep": torch.full([1], 0.5, dtype=dtype),
            "img_ids": rows,
            "txt_ids": torch.zeros(text, 3),
        }
    # A step cannot be called twice, so the run is as long as any measurement; the first steps make the history.
    count, clock = 8, {"step": 0}
    bare = copy.deepcopy(model)
    handle = apply_forecast(
        model, ForecastConfig(steps=range(count)), step_index=lambda: clock["step"], num_steps=1 << 20
    )

    def step() -> Tensor:
        answer = model(**inputs, return_dict=False)[0]
        clock["step"] += 1
        return answer

    for _ in range(count):
        step()
    (branch,) = handle.denoisers[0].branches.values()
    assert branch.forecaster is not None
    features = branch.forecaster.state_dict()["features"]
    weights = branch.forecaster.weights(count)
    bare.transformer_blocks = torch.nn.ModuleList()
    bare.single_transformer_blocks = torch.nn.ModuleList([LastBlock(lambda: forecast(features, weights))])

    def least() -> Tensor:
        return bare(**inputs, return_dict=False)[0]

    if not torch.equal(step(), least()):
        raise ArithmeticError("a skipped step and its parts are not the same")
    return Case(
        name="skipped step",
        op="apply_forecast",
        shape=tuple(features[0].shape),
        dtype=str(dtype).removeprefix("torch."),
        bytes=(count + 1) * features[0].numel() * features[0].element_size(),
        flops=0,  # not known: layers of the model are among them
        expected=lambda: np.zeros(0),
        # Each call is another step, so there is no one answer; that they agree at one step was seen above.
        providers=[
            Provider("skipped step", step, tolerance=None, graph=False),
            Provider("forecast and the layers around", least, tolerance=None, graph=False),
            Provider("forecast", lambda: forecast(features, weights), tolerance=None),
        ],
        facts={"features": count, "targets": 1},
    )


def tunables(device: str, tiny: bool = False) -> Iterator[Tunable]:
    """Block and warps of the Triton kernel (on a CPU: of the interpreter, as a rehearsal)."""
    from spectral_kernels.kernels import forecast as kernels

    shape = (8, 64) if tiny else (4096, 3072)
    features = [h.reshape(-1) for h in make(8, shape, device)]
    weights = chebyshev_weights(STEPS[:8], STEPS[7] + 1, 50)[None]
    out = torch.empty(1, features[0].numel(), dtype=torch.bfloat16, device=device)

    def answer(setting: kernels.Launch) -> Tensor:
        kernels.forecast(features, [], weights, out, setting)
        return out

    yield Tunable(
        name="flux-k8",
        op="forecast",
        shape=(8, *shape),
        dtype="bfloat16",
        current=kernels.LAUNCH,
        candidates=[kernels.Launch(b, w) for b in (512, 1024, 2048, 4096) for w in (2, 4, 8, 16)],
        answer=answer,
    )
