# SPDX-License-Identifier: Apache-2.0
"""Tables and plots from the rows of `bench.quality`. Measures nothing."""

import json
import math
from collections import defaultdict
from pathlib import Path
from typing import Any

from bench.rows import filled

DOCUMENT = Path(__file__).parents[1] / "docs" / "schedules.md"
COLORS = {
    "published": "C3", "respaced": "C0", "matched": "C2", "fewer steps": "k", "bilinear": "C1", "unaligned": "C4",
}  # fmt: skip
MEASURES = {
    "distance": "distance to the full-resolution run",
    "frechet": "Frechet distance to data",
    "spectrum": "mean absolute log error of the spectrum",
}
KINDS = (
    "published", "respaced", "matched", "fewer steps", "fresh noise", "bilinear", "unaligned",
    "published levels", "respaced levels",
)  # fmt: skip
ORACLES = {"gaussian": "Gaussian field", "posterior": "crops", "patches": "patches", "network": "network"}
SETTING = ("oracle", "mu", "solver", "steps", "kind", "coarse", "delta", "stages", "fewer", "basis", "twin", "sweep")
Case = tuple[str, float, str, int]


class Point:
    """One setting: its facts, and each measure at every seed."""

    def __init__(self, rows: list[dict[str, Any]]):
        self.facts, self.seeds = rows[0], {row.get("seed"): row for row in rows}

    def __getitem__(self, key: str) -> Any:
        return self.facts.get(key)

    def values(self, measure: str) -> list[float]:
        return [row[measure] for row in self.seeds.values() if row.get(measure) is not None]

    def mean(self, measure: str) -> float:
        """NaN where it was not measured."""
        values = self.values(measure)
        return sum(values) / len(values) if values else math.nan

    def error(self, measure: str) -> float:
        return standard_error(self.values(measure))

    def text(self, measure: str) -> str:
        """Mean and standard error over seeds."""
        spread = f" ± {self.error(measure):.3f}" if len(self.values(measure)) > 1 else ""
        return f"{self.mean(measure):.3f}{spread}"


def standard_error(values: list[float]) -> float:
    n = len(values)
    mean = sum(values) / max(n, 1)
    return math.sqrt(sum((v - mean) ** 2 for v in values) / (n - 1) / n) if n > 1 else 0.0


def read(results: Path) -> tuple[list[Point], list[dict[str, Any]]]:
    """Runs, and the rows about proposition 1; of several rows for one setting and seed the newest counts."""
    newest, bounds = {}, {}
    for line in (results / "quality.jsonl").read_text(encoding="utf-8").splitlines():
        row = {"seed": 1, "basis": "dct", "twin": "own"} | json.loads(line)  # as the first rows were, which do not say
        if row["kind"] == "bound":
            bounds[row["oracle"], row["delta"]] = row
        else:
            newest[json.dumps([row.get(key) for key in SETTING]), row.get("seed")] = row
    points = defaultdict(list)
    for (setting, _), row in newest.items():
        points[setting].append(row)
    return [Point(rows) for rows in points.values()], list(bounds.values())


def case_of(point: Point) -> Case:
    return point["oracle"], point["mu"], point["solver"], point["steps"]


def of(points: list[Point], case: Case, **facts) -> list[Point]:
    return [p for p in points if case_of(p) == case and all(p[key] == value for key, value in facts.items())]


def cases(points: list[Point]) -> list[Case]:
    order = list(ORACLES)
    return sorted({case_of(p) for p in points}, key=lambda c: (order.index(c[0]), c[1], -c[3], c[2]))


def quality_of(case: Case) -> str:
    """A Gaussian field is its spectrum."""
    return "spectrum" if case[0] == "gaussian" else "frechet"


def table(head: list[str], rows: list[list[str]]) -> list[str]:
    return [f"| {' | '.join(head)} |", "|---" * len(head) + "|", *(f"| {' | '.join(row)} |" for row in rows)]


def at_equal_cost(points: list[Point], case: Case) -> list[tuple[float, int, dict[str, Point]]]:
    """Token-step ratio, coarse steps, and the point of every kind there; of fewer steps the nearest in cost."""
    equal = of(points, case, sweep=None)
    fewer = [p for p in equal if p["kind"] == "fewer steps"]
    found = []
    for coarse in sorted({p["coarse"][0] for p in equal if p["coarse"]}):
        here = {p["kind"]: p for p in equal if p["coarse"] == [coarse]}
        ratio = here["published"]["token_step_ratio"]
        if fewer:
            here["fewer steps"] = min(fewer, key=lambda p: abs(p["token_step_ratio"] - ratio))
        found.append((ratio, coarse, here))
    return found


def full(points: list[Point], case: Case) -> Point:
    return of(points, case, kind="full")[0]


def plot(results: Path):
    points, bounds = read(results)
    for case in cases(points):
        if case[2] == "euler" and len(of(points, case, sweep=None)) > 12:
            equal = [p for p in of(points, case, sweep=None) if p["kind"] in COLORS]
            lines = {kind: [p for p in equal if p["kind"] == kind] for kind in COLORS}
            draw(results / f"quality_{case[0]}.png", case, full(points, case), lines)
        swept = of(points, case, sweep="tolerance", basis="dct")
        if swept:
            lines = {
                f"{kind}, {stages} stages": [p for p in swept if p["kind"] == kind and p["stages"] == stages]
                for kind in COLORS
                for stages in (2, 3, 4)
            }
            draw(results / f"tolerance_{case[0]}.png", case, full(points, case), lines)
    (results / "quality.md").write_text(tables(points), encoding="utf-8")
    DOCUMENT.write_text(document(DOCUMENT.read_text(encoding="utf-8"), points, bounds), encoding="utf-8")


def draw(path: Path, case: Case, reference: Point, lines: dict[str, list[Point]]):
    """Every measure against cost, bars one standard error over seeds: the paper's figure 4(a)."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 3.8), layout="constrained")
    styles = {"2": ".-", "3": "^--", "4": "s:"}
    for index, (measure, label) in enumerate(MEASURES.items()):
        axes = figure.add_subplot(1, 3, index + 1)
        for name, points in lines.items():
            kind, _, stages = name.partition(", ")
            line = sorted((p["token_step_ratio"], p.mean(measure), p.error(measure)) for p in points if p[measure])
            if line:
                x, y, error = zip(*line, strict=True)
                style = styles[stages[:1] or "2"]
                axes.errorbar(x, y, error, fmt=style, color=COLORS[kind], markersize=4, linewidth=1, label=name)
        if measure != "distance" and reference[measure]:
            axes.axhline(reference.mean(measure), color="0.7", label="full resolution")
        axes.set(xlabel="fewer token-steps, times", ylabel=label, yscale="log")
    axes.legend(fontsize=7)
    oracle, mu, solver, steps = case
    samples = f"{len(reference.seeds)} seeds of {reference['samples']} samples"
    figure.suptitle(f"{ORACLES[oracle]}, shift {mu}, {solver}, {steps} steps, {samples}")
    figure.savefig(path, dpi=90)


def tables(points: list[Point]) -> str:
    """Quality and distance at equal token-steps for every case, then the sweeps over tolerance."""
    text = ["# Growing runs at equal token-steps", "", "Made by `python -m bench.quality plot` from quality.jsonl:"]
    text += ["mean over seeds of the noise ± its standard error."]
    for case in cases(points):
        reference, here = full(points, case), at_equal_cost(points, case)
        name = f"{ORACLES[case[0]]}, shift mu = {case[1]}, {case[2]}, {case[3]} steps"
        text += ["", f"## {name}, {len(reference.seeds)} seeds of {reference['samples']} samples"]
        for measure in (quality_of(case), "distance") if here else ():
            label = MEASURES[measure][0].upper() + MEASURES[measure][1:]
            at_full = f"; full resolution {reference.text(measure)}" if measure != "distance" else ""
            text += ["", f"{label}{at_full}:", ""]
            present = [kind for kind in KINDS if any(kind in entry for _, _, entry in here)]
            rows = []
            for ratio, coarse, entry in here:
                cells = [entry[kind].text(measure) if kind in entry else "" for kind in present]
                if "fewer steps" in entry:
                    cells[present.index("fewer steps")] += f" ({entry['fewer steps']['fewer']})"
                rows.append([f"{ratio:.2f}x, {coarse} coarse", *cells])
            text += table(["fewer token-steps", *present], rows)
        swept = of(points, case, sweep="tolerance")
        if swept:
            text += ["", "By tolerance (fewer token-steps; quality; distance):", ""]
            text += sweep(swept, quality_of(case))
    return "\n".join(text) + "\n"


def sweep(points: list[Point], measure: str) -> list[str]:
    columns = sorted({column_of(p) for p in points}, key=lambda c: (c[1] != "dct", c[1], c[2], KINDS.index(c[0])))
    rows = []
    for stages in sorted({p["stages"] for p in points}):
        for delta in sorted({p["delta"] for p in points}):
            here = {column_of(p): p for p in points if p["stages"] == stages and p["delta"] == delta}
            cells = [
                f"{here[c]['token_step_ratio']:.2f}x; {here[c].mean(measure):.3f}; {here[c].mean('distance'):.3f}"
                if c in here
                else ""
                for c in columns
            ]
            rows.append([f"{stages} stages, {delta}", *cells])
    names = [kind if basis == "dct" else f"{kind}, {basis}{twin}" for kind, basis, twin in columns]
    return table(["", *names], rows)


def column_of(point: Point) -> tuple[str, str, str]:
    return point["kind"], point["basis"], " on the cosine twin" if point["twin"] == "dct" else ""


def document(text: str, points: list[Point], bounds: list[dict[str, Any]]) -> str:
    """The text with its tables made anew."""
    makers = {
        "summary": lambda: summary(points),
        "contests": lambda: contests(points),
        "solvers": lambda: solvers(points),
        "bound": lambda: bound(bounds),
        "bases": lambda: bases(points),
    }
    return filled(text, makers)


def main_case(points: list[Point], oracle: str) -> Case | None:
    """Euler with most steps at the oracle's usual shift."""
    mu = 1.15 if oracle == "gaussian" else 0.7
    found = [case for case in cases(points) if case[0] == oracle and case[1] == mu and case[2] == "euler"]
    return max(found, key=lambda c: c[3]) if found else None


def summary(points: list[Point]) -> list[str]:
    """Every oracle at 1.7 times fewer token-steps."""
    kinds, rows = KINDS[:7], []
    for oracle, name in ORACLES.items():
        case = main_case(points, oracle)
        if case is None:
            continue
        ratio, _, here = min(at_equal_cost(points, case), key=lambda entry: abs(entry[0] - 1.72))
        for measure in ("distance", quality_of(case)):
            reference = f" (full: {full(points, case).text(measure)})" if measure != "distance" else ""
            cells = [here[k].text(measure) if k in here else "" for k in kinds]
            rows.append([f"{name}, {ratio:.2f}x: {MEASURES[measure]}{reference}", *cells])
    return table(["", *kinds], rows)


PAIRS = (
    ("respaced", "published"), ("respaced", "matched"), ("respaced", "fewer steps"), ("matched", "fewer steps"),
    ("published", "fewer steps"),
)  # fmt: skip


def contests(points: list[Point]) -> list[str]:
    """In how many cases one is nearer than another, over all oracles, shifts, solvers and costs. The difference is
    taken seed by seed; less than two standard errors of it is a tie, and a single seed decides nothing."""
    rows = []
    for oracle, name in ORACLES.items():
        mine = [case for case in cases(points) if case[0] == oracle]
        for measure in ("distance", "quality"):
            cells = []
            for first, second in PAIRS:
                count = {"better": 0, "tie": 0, "worse": 0}
                for case in mine:
                    for _, _, here in at_equal_cost(points, case):
                        key = quality_of(case) if measure == "quality" else measure
                        result = contest(here[first], here[second], key) if {first, second} <= here.keys() else None
                        if result is not None:
                            count[result] += 1
                cells.append(f"{count['better']} / {count['tie']} / {count['worse']}")
            if any(cell != "0 / 0 / 0" for cell in cells):
                rows.append([f"{name}: {measure}", *cells])
    return table(["better / tie / worse", *(f"{a} against {b}" for a, b in PAIRS)], rows)


def contest(a: Point, b: Point, measure: str) -> str | None:
    seeds = [seed for seed in a.seeds if seed in b.seeds]
    if len(seeds) < 2:
        return None
    gaps = [a.seeds[s][measure] - b.seeds[s][measure] for s in seeds]
    mean = sum(gaps) / len(gaps)
    if abs(mean) <= 2 * standard_error(gaps):
        return "tie"
    return "better" if mean < 0 else "worse"


def solvers(points: list[Point]) -> list[str]:
    """Quality by solver at the cost nearest to 1.72."""
    rows = []
    for case in cases(points):
        here = at_equal_cost(points, case)
        if case[1] != (1.15 if case[0] == "gaussian" else 0.7) or not here:
            continue
        ratio, _, entry = min(here, key=lambda e: abs(e[0] - 1.72))
        measure = quality_of(case)
        cells = [entry[kind].text(measure) if kind in entry else "" for kind in KINDS[:4]]
        rows.append([f"{ORACLES[case[0]]}, {case[2]}, {case[3]} steps, {ratio:.2f}x",
                     full(points, case).text(measure), *cells])  # fmt: skip
    return table(["", "full", *KINDS[:4]], rows)


def bound(rows: list[dict[str, Any]]) -> list[str]:
    """Proposition 1: measured error over tolerance."""
    deltas = sorted({row["delta"] for row in rows})
    made = []
    for oracle, name in ORACLES.items():
        mine = {row["delta"]: row for row in rows if row["oracle"] == oracle}
        if mine:
            made.append([name, *(f"{mine[d]['error'] / mine[d]['expected']:.2f}" for d in deltas)])
    return table(["error / expected at delta =", *map(str, deltas)], made)


def bases(points: list[Point]) -> list[str]:
    """The ablation of the transform: respaced, two and three stages, the seeds that all transforms have."""
    case = main_case(points, "posterior")
    swept = [] if case is None else [p for p in of(points, case, sweep="tolerance") if p["kind"] == "respaced"]
    deltas = sorted({p["delta"] for p in swept if p["basis"] != "dct"})
    swept = [p for p in swept if p["delta"] in deltas and p["stages"] in (2, 3)]
    shared = set.intersection(*(set(p.seeds) for p in swept)) if swept else set()
    swept = [Point([row for seed, row in p.seeds.items() if seed in shared]) for p in swept]
    columns = sorted({column_of(p) for p in swept}, key=lambda c: (c[1] != "dct", c[2], c[1]))
    rows = []
    for stages in (2, 3):
        for delta in deltas:
            here = {column_of(p): p for p in swept if p["stages"] == stages and p["delta"] == delta}
            cells = [f"{here[c].text('frechet')}; {here[c].mean('distance'):.2f}" if c in here else "" for c in columns]
            ratio = next(iter(here.values()))["token_step_ratio"]
            rows.append([f"{stages} stages, delta {delta}, {ratio:.2f}x", *cells])
    return table(["Frechet distance; distance", *(f"{basis}{twin}" for _, basis, twin in columns)], rows)
