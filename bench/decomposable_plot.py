# SPDX-License-Identifier: Apache-2.0
"""The picture of `bench.decomposable`, and the tables of docs/decomposable.md. Reads rows, measures nothing."""

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from bench import rows
from bench.quality_plots import standard_error, table

DOCUMENT = Path(__file__).parents[1] / "docs" / "decomposable.md"
DEFAULT = ("decomposable", "30 + 10, 0.9")
NAMES = {
    "flow matching": "plain flow matching",
    "cascaded": "cascaded, 80 % + 20 % of the steps",
    "pyramidal": "in the manner of Pyramidal Flow",
    "decomposable": "decomposable flow matching",
    "pyramidal, even times": "in the manner of Pyramidal Flow, even training times",
    "location 0": "location 0 in place of 1.5",
    "without masking": "levels that have not begun are not hidden from the model",
    "tied times": "one time for both levels",
    "haar": "orthonormal Haar bands",
    "dct": "DCT resampling",
    "dct basis": "orthonormal DCT bands",
}
Row = dict[str, Any]


def measured(results: Path, width: int) -> list[Row]:
    """The newest row of each measurement with models of one width. The first rows do not name theirs, which was 128."""
    found = [r for r in rows.read(results, "decomposable") if r.get("width", 128) == width]
    return list({(r["method"], r["seed"], r["steps"], r["sampling"]): r for r in found}.values())


def text(values: Iterable[float]) -> str:
    """Mean over seeds and its standard error; a lone seed as it is."""
    values = list(values)
    mean = f"{sum(values) / len(values):.3f}"
    return mean if len(values) == 1 else f"{mean} ± {standard_error(values):.3f}"


def grouped(found: list[Row], *keys: str) -> dict[tuple, list[Row]]:
    groups = defaultdict(list)
    for row in found:
        groups[tuple(row[key] for key in keys)].append(row)
    return dict(groups)


def usual(found: list[Row]) -> list[Row]:
    """The four methods, sampled as they are meant."""
    return [r for r in found if not r["ablation"] and r["sampling"] in ("", DEFAULT[1])]


def methods(found: list[Row]) -> list[str]:
    """Quality of each method at every count of steps."""
    groups = grouped(usual(found), "method", "steps")
    marks = sorted({steps for _, steps in groups})
    lines = []
    for method in [name for name in NAMES if (name, marks[-1]) in groups]:
        here = [groups[method, steps] for steps in marks]
        cells = [text(r["frechet"] for r in group) for group in here]
        lines.append([NAMES[method], str(len(here[-1])), *cells, text(r["spectrum"] for r in here[-1])])
    head = [f"{steps} steps" for steps in marks]
    return table(["Frechet distance after", "seeds", *head, f"error of the spectrum, {marks[-1]} steps"], lines)


def sampling(found: list[Row]) -> list[str]:
    """The trained two-level model, its 40 steps spent in other ways."""
    last = max(r["steps"] for r in found)
    ours = [r for r in found if (r["method"], r["steps"]) == (DEFAULT[0], last)]
    lines = [
        [how, text(r["frechet"] for r in group), text(r["spectrum"] for r in group)]
        for (how,), group in sorted(grouped(ours, "sampling").items(), key=lambda item: item[0][0].split(", ")[::-1])
    ]
    return table([f"steps of the levels, threshold ({last} training steps)", "Frechet distance", "spectrum"], lines)


def ablations(found: list[Row]) -> list[str]:
    """Every ablation, and what it costs against the method it changes, seed by seed."""
    groups = grouped([r for r in found if r["ablation"]], "method", "steps")
    lines = []
    for (name, steps), group in groups.items():
        base = name.split(",")[0] if "," in name else DEFAULT[0]
        bases = {r["seed"]: r for r in usual(found) if (r["method"], r["steps"]) == (base, steps)}
        pairs = [r["frechet"] - bases[r["seed"]]["frechet"] for r in group if r["seed"] in bases]
        lines.append([NAMES.get(name, name), str(len(group)), text(r["frechet"] for r in group), text(pairs)])
    steps = max((steps for _, steps in groups), default=0)
    before = [r for r in usual(found) if (r["method"], r["steps"]) == (DEFAULT[0], steps)]
    first = ["p0 = 0.9, location 1.5, masks, area", str(len(before)), text(r["frechet"] for r in before), ""]
    return table([f"{steps} steps", "seeds", "Frechet distance", "more than without the change"], [first, *lines])


def document(given: str, results: Path) -> str:
    """The text with its tables made anew; their argument is the width of the models."""
    makers = {maker.__name__: maker for maker in (methods, sampling, ablations)}

    def of(maker):
        return lambda width: maker(measured(results, int(width)))

    return rows.filled(given, {name: of(maker) for name, maker in makers.items()})


def draw(results: Path, width: int) -> Path:
    """Quality over training steps, and the ablations as bars with a dot per seed; gives the picture's path."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    found = measured(results, width)
    if not found:
        raise FileNotFoundError(f"no rows in {results}; python -m bench.decomposable measures some")
    main = usual(found)
    marks = sorted({r["steps"] for r in main})
    figure, panels = pyplot.subplots(1, 4, figsize=(17, 4.2), layout="constrained")
    for panel, key in zip(panels, ("frechet", "spectrum"), strict=False):
        for i, ((method,), group) in enumerate(grouped(main, "method").items()):
            for seed in sorted({r["seed"] for r in group}):
                line = sorted((r["steps"], r[key]) for r in group if r["seed"] == seed)
                panel.plot(*zip(*line, strict=True), "o-", label=None if seed else method, color=f"C{i}")
        panel.set_xscale("log", base=2)
        panel.set_yscale("log")
        panel.set_xticks(marks, marks)
        panel.set_xlabel("training steps, at equal compute")
        panel.set_title("Frechet distance to data" if key == "frechet" else "error of the log power spectrum")
    panels[0].axhline(found[0]["frechet_of_data"], color="grey", linestyle=":", label="data against data")
    panels[0].legend(fontsize=8)

    def bars(panel, groups: dict[str, list[Row]], title: str):
        for i, (label, group) in enumerate(groups.items()):
            values = [r["frechet"] for r in group]
            panel.barh(i, sum(values) / len(values), color="C1" if label == DEFAULT[0] else "#4878a8", alpha=0.6)
            panel.plot(values, [i] * len(values), "k.", markersize=4)
        panel.set_yticks(range(len(groups)), list(groups))
        panel.invert_yaxis()
        panel.set_title(title)

    changed = [r for r in found if r["ablation"]]
    if changed:
        steps = changed[0]["steps"]
        base = [r for r in main if (r["method"], r["steps"]) == (DEFAULT[0], steps)]
        groups = {name: group for (name,), group in grouped([*base, *changed], "method").items()}
        bars(panels[2], groups, f"Frechet distance, training, {steps} steps")
    else:
        panels[2].remove()
    ours = [r for r in found if (r["method"], r["steps"]) == (DEFAULT[0], marks[-1])]
    groups = {DEFAULT[0] if how == DEFAULT[1] else how: group for (how,), group in grouped(ours, "sampling").items()}
    bars(panels[3], groups, f"Frechet distance, sampling, {marks[-1]} steps")
    path = results / "decomposable.png"
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
    return path
