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
    marks, methods = sorted({r["steps"] for r in main}), list(dict.fromkeys(r["method"] for r in main))
    figure, panels = pyplot.subplots(1, 4, figsize=(17, 4.2), layout="constrained")
    for panel, key in zip(panels, ("frechet", "spectrum"), strict=False):
        for i, method in enumerate(methods):
            for seed in sorted({r["seed"] for r in main if r["method"] == method}):
                line = sorted((r["steps"], r[key]) for r in main if (r["method"], r["seed"]) == (method, seed))
                panel.plot(*zip(*line, strict=True), "o-", label=None if seed else method, color=f"C{i}")
        panel.set_xscale("log", base=2)
        panel.set_yscale("log")
        panel.set_xticks(marks, marks)
        panel.set_xlabel("training steps, at equal compute")
        panel.set_title("Frechet distance to data" if key == "frechet" else "error of the log power spectrum")
    panels[0].axhline(found[0]["frechet_of_data"], color="grey", linestyle=":", label="data against data")
    panels[0].legend(fontsize=8)

    def bars(panel, chosen, label, title):
        """One bar per row; the default configuration's seeds come first, in another colour."""
        chosen = sorted(chosen, key=lambda r: r not in main)
        colors = ["C1" if r in main else "#4878a8" for r in chosen]
        panel.barh(range(len(chosen)), [r["frechet"] for r in chosen], color=colors)
        panel.set_yticks(range(len(chosen)), [label(r) for r in chosen])
        panel.invert_yaxis()
        panel.set_title(title)

    ours = [r for r in found if r["method"] == "decomposable"]
    ablations = [r for r in found if r["ablation"]]
    if ablations:
        steps = ablations[0]["steps"]
        bars(
            panels[2],
            ablations + [r for r in ours if r["steps"] == steps],
            lambda r: r["method"] if r["ablation"] else f"decomposable, seed {r['seed']}",
            f"Frechet distance, training, {steps} steps",
        )
    else:
        panels[2].remove()
    sampled = [r for r in ours if r["steps"] == marks[-1] and r["seed"] == 0]
    bars(panels[3], sampled, lambda r: r["sampling"], f"Frechet distance, sampling, {marks[-1]} steps")
    path = results / "decomposable.png"
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
    return path
