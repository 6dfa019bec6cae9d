# SPDX-License-Identifier: Apache-2.0
"""What the adapters know about diffusers' schedulers."""

from typing import Any

# A step of these is linear in the state and the prediction, with coefficients from the log-SNR alone: only then do
# full-resolution coordinates reproduce the coarse run. Options that would break it are checked below.
LINEAR = ("FlowMatchEulerDiscreteScheduler", "UniPCMultistepScheduler", "DPMSolverMultistepScheduler")

# Where multi-step solvers keep what they remember.
HISTORY = ("model_outputs", "timestep_list", "lower_order_nums", "last_sample", "this_order")


def check(op: str, scheduler: Any, schedule: str) -> None:
    """Raise where a scheduler cannot do what a schedule needs."""
    name, config = type(scheduler).__name__, scheduler.config
    flow = name.startswith("FlowMatch") or (
        config.get("prediction_type") == "flow_prediction" and config.get("use_flow_sigmas", False)
    )
    if not flow:
        raise ValueError(
            f"{op}: {name} with prediction_type = {config.get('prediction_type')!r} does not follow a flow; "
            "progressive resolution needs velocities (flow matching). Forecasting works with any: apply_forecast"
        )
    if config.get("invert_sigmas", False):
        raise ValueError(f"{op}: {name} with invert_sigmas counts noise backwards, which is not supported")
    if schedule == "matched":
        return
    if name not in LINEAR:
        raise ValueError(
            f'{op}: "{schedule}" needs one of {", ".join(LINEAR)}, got {name}; schedule="matched" works with any solver'
        )
    stochastic = config.get("stochastic_sampling", False) or str(config.get("algorithm_type")).startswith("sde")
    if stochastic:
        raise ValueError(
            f'{op}: {name} is stochastic, and its fresh noise has no place in the "{schedule}" schedule; use '
            'schedule="matched" or a deterministic solver'
        )
    if config.get("algorithm_type", "dpmsolver++") != "dpmsolver++" or not config.get("predict_x0", True):
        raise ValueError(
            f'{op}: "{schedule}" needs a solver in terms of the clean prediction (dpmsolver++, predict_x0), got {name} '
            f'with {config.get("algorithm_type", "predict_x0=False")}; use schedule="matched"'
        )


def history(scheduler: Any) -> dict[str, Any]:
    """A copy of what a multi-step solver remembers."""
    kept = {name: getattr(scheduler, name) for name in HISTORY if hasattr(scheduler, name)}
    return {name: list(value) if isinstance(value, list) else value for name, value in kept.items()}


def restore(scheduler: Any, kept: dict[str, Any]) -> None:
    """Put a remembered state back."""
    for name, value in kept.items():
        setattr(scheduler, name, list(value) if isinstance(value, list) else value)
