# SPDX-License-Identifier: Apache-2.0
"""The picture of `bench.decomposable`: quality over training steps, and the ablations as bars. It reads rows only."""

from pathlib import Path

from bench import rows


def draw(results: Path) -> Path:
    """Draw the newest row of each (method, seed, steps, sampling) and give the picture's path."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    newest = {(r["method"], r["seed"], r["steps"], r["sampling"]): r for r in rows.read(results, "decomposable")}
    found = list(newest.values())
    if not found:
        raise FileNotFoundError(f"no rows in {results}; python -m bench.decomposable measures some")
    main = [r for r in found if not r["ablation"] and r["sampling"] in ("", "30 + 10, 0.9")]
    last = max(r["steps"] for r in found)
    bars = [r for r in found if r["steps"] == last and r["method"] != "flow matching" and r not in main]
    bars = [r for r in main if r["method"] == "decomposable" and r["steps"] == last] + bars
    figure, panels = pyplot.subplots(1, 3, figsize=(13, 3.6))
    for panel, key in zip(panels, ("frechet", "spectrum"), strict=False):
        for method in dict.fromkeys(r["method"] for r in main):
            for seed in sorted({r["seed"] for r in main}):
                line = sorted((r["steps"], r[key]) for r in main if (r["method"], r["seed"]) == (method, seed))
                if line:
                    label = method if seed == 0 else None
                    style = {"color": f"C{list(dict.fromkeys(r['method'] for r in main)).index(method)}"}
                    panel.plot(*zip(*line, strict=True), marker="o", label=label, **style)
        panel.set_xlabel("training steps")
        panel.set_title("Frechet distance to data" if key == "frechet" else "error of the log power spectrum")
    panels[0].axhline(found[0]["frechet_of_data"], color="grey", linestyle=":", label="data against data")
    panels[0].legend(fontsize=8)
    labels = [f"{r['method']} {'' if r['ablation'] else r['sampling']} #{r['seed']}" for r in bars]
    panels[2].barh(range(len(bars)), [r["frechet"] for r in bars], color="#4878a8")
    panels[2].set_yticks(range(len(bars)), labels, fontsize=7)
    panels[2].invert_yaxis()
    panels[2].set_title(f"Frechet distance, {last} steps")
    figure.tight_layout()
    path = results / "decomposable.png"
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
    return path
