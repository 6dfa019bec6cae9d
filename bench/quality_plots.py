# SPDX-License-Identifier: Apache-2.0
"""Tables and plots from the rows of `bench.quality`. Measures nothing."""

import json
from pathlib import Path

COLORS = {
    "published": "C3", "respaced": "C0", "matched": "C2", "fewer steps": "k", "bilinear": "C1", "unaligned": "C4",
}  # fmt: skip
MEASURES = {
    "distance": "distance to the full-resolution run",
    "frechet": "Frechet distance to data",
    "spectrum": "mean |log| error of the spectrum",
}


def read(results: Path) -> list[dict]:
    """All rows; of several for one setting the newest counts."""
    newest = {}
    for line in (results / "quality.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        setting = ("oracle", "mu", "solver", "steps", "kind", "coarse", "delta", "stages", "fewer", "basis")
        newest[json.dumps([row.get(key) for key in setting])] = row
    return list(newest.values())


Case = tuple[str, float, str, int]


def case_of(row: dict) -> Case:
    return row["oracle"], row["mu"], row["solver"], row["steps"]


def of(rows: list[dict], case: Case, **facts) -> list[dict]:
    chosen = [row for row in rows if case_of(row) == case]
    return [row for row in chosen if all(row.get(key) == value for key, value in facts.items())]


def plot(results: Path):
    from matplotlib.figure import Figure

    rows = read(results)
    for case in sorted({case_of(row) for row in rows}):
        equal = [row for row in of(rows, case, sweep=None) if not row["kind"].endswith("levels")]
        full = next(row for row in equal if row["kind"] == "full")
        figure = Figure(figsize=(13, 3.8), layout="constrained")
        for index, (measure, label) in enumerate(MEASURES.items()):
            axes = figure.add_subplot(1, 3, index + 1)
            if full[measure] is None:
                continue
            for kind, color in COLORS.items():
                line = sorted((row["token_step_ratio"], row[measure]) for row in equal if row["kind"] == kind)
                if line:
                    axes.plot(*zip(*line, strict=True), ".-", color=color, label=kind)
            if measure != "distance":
                axes.axhline(full[measure], color="0.7", label="full resolution")
            axes.set(xlabel="fewer token-steps, times", ylabel=label, yscale="log")
        axes.legend()
        oracle, mu, solver, steps = case
        figure.suptitle(f"{oracle}, shift {mu}, {solver}, {steps} steps, {full['samples']} samples")
        if solver == "euler" and len(equal) > 30:
            figure.savefig(results / f"quality_{oracle}.png", dpi=110)
        tolerance(of(rows, case, sweep="tolerance"), results, case)
    (results / "quality.md").write_text(tables(rows), encoding="utf-8")


def tolerance(rows: list[dict], results: Path, case):
    """Quality against cost for tolerance and number of stages: the paper's figure 4(a)."""
    from matplotlib.figure import Figure

    if not rows:
        return
    figure = Figure(figsize=(13, 3.8), layout="constrained")
    for index, (measure, label) in enumerate(MEASURES.items()):
        axes = figure.add_subplot(1, 3, index + 1)
        if rows[0][measure] is None:
            continue
        for kind, color in COLORS.items():
            for stages, style in ((2, ".-"), (3, "^--"), (4, "s:")):
                chosen = [row for row in rows if row["kind"] == kind and row["stages"] == stages]
                line = sorted((row["token_step_ratio"], row[measure]) for row in chosen)
                if line:
                    axes.plot(
                        *zip(*line, strict=True), style, color=color, markersize=4, label=f"{kind}, {stages} stages"
                    )
        axes.set(xlabel="fewer token-steps, times", ylabel=label, yscale="log")
    axes.legend(fontsize=7)
    figure.suptitle(f"{case[0]}, {case[2]}, {case[3]} steps: tolerances 0.001 to 0.1")
    figure.savefig(results / f"tolerance_{case[0]}.png", dpi=110)


def tables(rows: list[dict]) -> str:
    """One table per case: distance and Frechet distance at equal token-steps."""
    text = ["# Growing runs at equal token-steps", "", "Made by `python -m bench.quality plot` from quality.jsonl."]
    kinds = ("published", "respaced", "matched", "bilinear", "unaligned", "published levels", "respaced levels")
    for case in sorted({case_of(row) for row in rows}):
        equal = of(rows, case, sweep=None)
        full = next(row for row in equal if row["kind"] == "full")
        text += ["", f"## {case[0]}, shift mu = {case[1]}, {case[2]}, {case[3]} steps, {full['samples']} samples", ""]
        name = "spectrum" if full["frechet"] is None else "frechet"
        label = MEASURES[name]
        text += [f"Full resolution: {label} {full[name]:.3f}. Entries: {label}, {MEASURES['distance']}.", ""]
        present = [kind for kind in kinds if any(row["kind"] == kind for row in equal)]
        text += [
            "| fewer token-steps | " + " | ".join([*present, "fewer steps"]) + " |",
            "|---" * (len(present) + 2) + "|",
        ]
        for coarse in sorted({row["coarse"][0] for row in equal if row.get("coarse")}):
            here = {row["kind"]: row for row in equal if row.get("coarse") == [coarse]}
            ratio = here["published"]["token_step_ratio"]
            fewer = min(
                (row for row in equal if row["kind"] == "fewer steps"), key=lambda r: abs(r["token_step_ratio"] - ratio)
            )
            entries = [f"{here[k][name]:.3f}, {here[k]['distance']:.3f}" if k in here else "" for k in present]
            entries.append(f"{fewer[name]:.3f}, {fewer['distance']:.3f} ({fewer['fewer']})")
            text.append(f"| {ratio:.2f}x, {coarse} coarse | " + " | ".join(entries) + " |")
    return "\n".join(text) + "\n"
