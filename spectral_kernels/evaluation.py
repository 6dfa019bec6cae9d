# SPDX-License-Identifier: Apache-2.0
"""Which steps of a run are evaluated; the features of the others are forecast."""

import itertools
import math
from collections.abc import Sequence


def evaluation_steps(
    num_steps: int,
    window: float = 2,
    warmup: int = 5,
    flex: float = 0.75,
    *,
    steps: Sequence[int] | None = None,
    budget: int | None = None,
) -> list[int]:
    """The steps at which the network runs, ascending.

    The first `warmup` steps always; then a step is evaluated when (skipped in a row + 1) is a multiple of
    floor(window), and after each such evaluation `window` grows by `flex`. Spectrum's schedules of 14 and 10
    evaluations of 50 are (2, 5, 0.75) and (2, 5, 3.0); flex = 0 gives the fixed schedules of FORA, ToCa and TaylorSeer.

    Parameters
    ----------
    num_steps : steps of the run, `>= 1`.
    window, warmup, flex : the schedule; `window >= 1`, `warmup >= 1` (the first step has nothing to be forecast from),
        `flex >= 0`.
    steps : an explicit list instead: checked (ascending, from 0, below num_steps) and returned.
    budget : number of evaluations wanted: the smallest flex, in thousandths, that needs no more; `flex` is not used
        then.

    Raises
    ------
    ValueError
        Values outside these ranges, or a budget that no flex reaches (too small for the warm-up, or more than flex = 0
        gives).

    Source: Spectrum, appendix B.1 and table 6.
    """
    if num_steps < 1:
        raise ValueError(f"evaluation_steps: num_steps must be at least 1, got {num_steps}")
    if steps is not None:
        listed = [int(s) for s in steps]
        ascending = all(a < b for a, b in itertools.pairwise(listed))
        if not listed or listed != list(steps) or not ascending or listed[0] != 0 or listed[-1] >= num_steps:
            raise ValueError(
                "evaluation_steps: steps must be whole, ascend without duplicates, begin with 0 and stay below "
                f"num_steps = {num_steps}, "
                f"got {list(steps)}"
            )
        return listed
    if window < 1 or warmup < 1 or not 0 <= flex < math.inf:
        raise ValueError(
            f"evaluation_steps: needs window >= 1, warmup >= 1 and flex >= 0, got window = {window}, warmup = "
            f"{warmup}, flex = {flex}"
        )
    if budget is None:
        return _schedule(num_steps, window, warmup, flex)
    most = len(_schedule(num_steps, window, warmup, 0.0))
    # A window beyond the run evaluates nothing more: every larger flex gives the same list.
    low, high = 0, 1000 * num_steps
    least = len(_schedule(num_steps, window, warmup, high / 1000))
    if not least <= budget <= most:
        raise ValueError(
            f"evaluation_steps: {num_steps} steps with window = {window} and warmup = {warmup} take {least} to "
            f"{most} evaluations, got "
            f"budget = {budget}; change window or warmup"
        )
    # A larger flex never moves an evaluation to an earlier step, so the count falls with flex.
    while low < high:
        middle = (low + high) // 2
        if len(_schedule(num_steps, window, warmup, middle / 1000)) <= budget:
            high = middle
        else:
            low = middle + 1
    return _schedule(num_steps, window, warmup, low / 1000)


def with_beginnings(steps: Sequence[int], begins: Sequence[int], rewarm: int, num_steps: int) -> list[int]:
    """The same steps, and `rewarm` evaluations more where a history begins anew: the schedule itself runs on over it.

    A history that begins empty needs one evaluation; with rewarm = 0 it is up to the caller whether it is empty.
    """
    more = (range(begin, min(begin + rewarm, num_steps)) for begin in begins)
    return sorted({*steps, *itertools.chain.from_iterable(more)})


def _schedule(num_steps: int, window: float, warmup: int, flex: float) -> list[int]:
    steps, skipped = [], 0
    for step in range(num_steps):
        if step < warmup:
            steps.append(step)
        elif (skipped + 1) % math.floor(window) == 0:
            steps.append(step)
            skipped, window = 0, round(window + flex, 3)
        else:
            skipped += 1
    return steps
