# SPDX-License-Identifier: Apache-2.0
"""Pictures of the forecast study from its rows: `python -m bench.forecast_plot [FOLDER]`. Reads, never measures.

Laid beside the Spectrum paper: ridge (its figure 5), degree (figure 6), fixed against adaptive schedules (table 3), the
error of the state along the run (table 5).
"""

import argparse
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from bench.forecast_study import RESULTS

Row = dict[str, Any]
SAMPLERS = ("crops", "patches")


def read(path: Path = RESULTS) -> list[Row]:
    """The newest row of every run."""
    found: dict[str, Row] = {}
    for line in path.read_text().splitlines():
        row = json.loads(line)
        key = (
            "data",
            "sweep",
            "forecaster",
            "schedule",
            "nfe",
            "options",
            "rho",
            "degree",
            "count",
            "order",
            "distance",
        )
        found[json.dumps([row.get(k) for k in key])] = row
    return list(found.values())


def runs(rows: list[Row], data: str, forecaster: str, schedule: str) -> list[Row]:
    """The comparison of forecasters, one of them under one schedule."""
    wanted = {"data": data, "sweep": "forecasters", "forecaster": forecaster, "schedule": schedule}
    return [row for row in rows if all(row.get(key) == value for key, value in wanted.items())]


def curve(panel, rows: Iterable[Row], value: Callable[[Row], float], label: str, **style) -> None:
    points = sorted((row["nfe"], value(row)) for row in rows)
    if points:
        panel.plot(*zip(*points, strict=True), marker="o", markersize=3, linewidth=1.2, label=label, **style)


def draw(rows: list[Row], folder: Path) -> list[Path]:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    def figure(name: str, panels: int, height: float = 3.2):
        made, axes = pyplot.subplots(1, panels, figsize=(3.6 * panels, height), squeeze=False)
        return made, list(axes[0]), folder / f"forecast_{name}.png"

    def finish(made, path: Path) -> Path:
        made.tight_layout()
        made.savefig(path, dpi=100)
        pyplot.close(made)
        return path

    smooth = sorted({row["data"] for row in rows if row["data"].startswith("analytic")})
    names = list(dict.fromkeys(row["forecaster"] for row in rows if row.get("sweep") == "forecasters"))
    written = []

    made, panels, path = figure("analytic", len(smooth))
    for panel, data in zip(panels, smooth, strict=True):
        for name in names:
            mine = [
                r for r in rows if r["data"] == data and r.get("sweep") == "forecasters" and r["forecaster"] == name
            ]
            curve(panel, [r for r in mine if r["schedule"] == "adaptive"], lambda r: r["feature_error"], name)
        panel.set(title=data, xlabel="evaluations of 50", yscale="log")
    panels[0].set_ylabel("error of skipped steps, adaptive")
    panels[-1].legend(fontsize=6)
    written.append(finish(made, path))

    made, panels, path = figure("samplers", 2 * len(SAMPLERS))
    for i, data in enumerate(SAMPLERS):
        for panel, schedule in zip(panels[2 * i : 2 * i + 2], ("adaptive", "fixed"), strict=True):
            for name in names:
                mine = [
                    r for r in rows if r["data"] == data and r.get("sweep") == "forecasters" and r["forecaster"] == name
                ]
                curve(panel, [r for r in mine if r["schedule"] == schedule], lambda r: r["feature_error"], name)
            panel.set(title=f"{data}, {schedule}", xlabel="evaluations of 50", yscale="log")
    panels[0].set_ylabel("error of skipped steps")
    panels[-1].legend(fontsize=6)
    written.append(finish(made, path))

    made, panels, path = figure("psnr", len(SAMPLERS))
    for panel, data in zip(panels, SAMPLERS, strict=True):
        mine = [r for r in rows if r["data"] == data]
        for name in names:
            curve(panel, runs(rows, data, name, "adaptive"), lambda r: r["psnr"], name)
        fewer = [r for r in mine if r["sweep"] == "fewer steps"]
        curve(panel, fewer, lambda r: r["psnr"], "fewer steps", color="black", linestyle="--")
        panel.set(title=f"{data}, adaptive", xlabel="evaluations of 50", ylabel="PSNR to 50 steps, dB")
    panels[-1].legend(fontsize=6)
    written.append(finish(made, path))

    for sweep, figure_number in (("ridge", 5), ("degree", 6)):
        kinds = ["analytic rho=1.5", "analytic rho=2 noise=0.1", *SAMPLERS]
        made, panels, path = figure(sweep, len(kinds))
        for panel, data in zip(panels, kinds, strict=True):
            mine = [r for r in rows if r["data"] == data and r.get("sweep") == sweep and r["options"]["blend"] == 1.0]
            for value in dict.fromkeys(r["options"][sweep] for r in mine):
                chosen = [r for r in mine if r["options"][sweep] == value]
                curve(panel, chosen, lambda r: r["feature_error"], f"{sweep} {value:g}")
            panel.set(title=data, xlabel="evaluations of 50", yscale="log")
        panels[0].set_ylabel(f"error of skipped steps (beside figure {figure_number})")
        panels[-1].legend(fontsize=6)
        written.append(finish(made, path))

    made, panels, path = figure("state", len(SAMPLERS))
    for panel, data in zip(panels, SAMPLERS, strict=True):
        for name in names:
            for row in runs(rows, data, name, "adaptive"):
                if row["nfe"] == 14:
                    steps, errors = zip(*sorted((int(i), e) for i, e in row["rmse"].items()), strict=True)
                    panel.plot(steps, errors, marker="o", markersize=3, label=name)
        panel.set(title=f"{data}, 14 evaluations", xlabel="step", ylabel="RMSE of the state", yscale="log")
    panels[-1].legend(fontsize=6)
    written.append(finish(made, path))
    return written


def tables(rows: list[Row]) -> str:
    """Markdown: error of skipped steps at 10 and 14 evaluations, adaptive | fixed."""
    kinds = [*sorted({r["data"] for r in rows if r["data"].startswith("analytic")}), *SAMPLERS]
    lines = []
    for nfe in (10, 14):
        lines += [f"| {nfe} evaluations, adaptive / fixed | {' | '.join(kinds)} |", f"|---|{'---:|' * len(kinds)}"]
        for name in dict.fromkeys(r["forecaster"] for r in rows if r.get("sweep") == "forecasters"):
            cells = []
            for data in kinds:
                both = [runs(rows, data, name, schedule) for schedule in ("adaptive", "fixed")]
                cells.append(" / ".join(f"{r['feature_error']:.3f}" for each in both for r in each if r["nfe"] == nfe))
            lines.append(f"| {name} | {' | '.join(cells)} |")
        lines.append("")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.forecast_plot", description="Tables and pictures of rows.")
    parser.add_argument("folder", type=Path, nargs="?", default=RESULTS.parent, help="of the pictures")
    folder = parser.parse_args().folder
    found = read()
    print(tables(found))
    folder.mkdir(parents=True, exist_ok=True)
    for path in draw(found, folder):
        print(path)


if __name__ == "__main__":
    main()
