# SPDX-License-Identifier: Apache-2.0
"""Pictures and tables from rows: `python -m bench.plot`. It reads rows and never measures.

`--document` makes the tables of README.md anew, each from the rows of the suite, the commit and the cases that it
names.
"""

import argparse
import sys
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from bench import rows, suites

Row = dict[str, Any]
KEY = ("device", "suite", "case", "provider", "mode")
DOCUMENT = rows.ROOT / "README.md"


def newest(found: Iterable[Row]) -> list[Row]:
    """The last row of every (device, suite, case, provider, mode), in the order of their first appearance."""
    last: dict[tuple, Row] = {}
    for row in found:
        if all(key in row for key in KEY):  # studies and tuning have rows of their own kind
            last[tuple(row[k] for k in KEY)] = row
    return list(last.values())


def table(found: Sequence[Row], device: str, suite: str) -> str:
    """Markdown: a line per provider and mode, a column per case, median milliseconds."""
    found = [row for row in found if row["device"] == device and row["suite"] == suite]
    cases = list(dict.fromkeys(row["case"] for row in found))
    lines = [f"| ms (median) | {' | '.join(cases)} |", f"|---|{'---:|' * len(cases)}"]
    for name, mode in dict.fromkeys((row["provider"], row["mode"]) for row in found):
        cells = {row["case"]: row for row in found if (row["provider"], row["mode"]) == (name, mode)}
        label = name if mode == "eager" else f"{name}, {mode}"
        lines.append(f"| {label} | {' | '.join(_cell(cells.get(case)) for case in cases)} |")
    newest_row = max(found, key=lambda row: row["date"])
    versions = newest_row["versions"]
    lines += ["", f"{device}, {newest_row['threads']} threads, torch {versions['torch']}, {newest_row['date'][:10]}."]
    return "\n".join(lines) + "\n"


def _cell(row: Row | None) -> str:
    return "" if row is None else f"{row['ms'][1]:.3g}"


def document(text: str, found: Sequence[Row]) -> str:
    """The text with its tables made anew."""

    def of_commit(suite: str, commit: str, *cases: str) -> list[str]:
        mine = [row for row in found if row.get("suite") == suite and (row["commit"] or "").startswith(commit)]
        mine = newest(row for row in mine if not cases or row["case"] in cases)
        if not mine:
            raise ValueError(f"bench.plot: no rows of {suite} at {commit}; name a commit that has some")
        return ["", *table(mine, mine[-1]["device"], suite).splitlines(), ""]

    return rows.filled(text, {suite: partial(of_commit, suite) for suite in suites.SUITES})


def draw(found: Sequence[Row], device: str, suite: str, path: Path) -> None:
    """A panel per case: median as a bar, 20th to 80th percentile as a whisker."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    found = [row for row in found if row["device"] == device and row["suite"] == suite]
    cases = list(dict.fromkeys(row["case"] for row in found))
    figure, panels = pyplot.subplots(
        1, len(cases), figsize=(2.2 + 3.0 * len(cases), 1.5 + 0.3 * len(found) / len(cases)), squeeze=False
    )
    for panel, case in zip(panels[0], cases, strict=True):
        mine = [row for row in found if row["case"] == case]
        medians = [row["ms"][1] for row in mine]
        whiskers = [[row["ms"][1] - row["ms"][0] for row in mine], [row["ms"][2] - row["ms"][1] for row in mine]]
        labels = [row["provider"] + ("" if row["mode"] == "eager" else f", {row['mode']}") for row in mine]
        panel.barh(range(len(mine)), medians, xerr=whiskers, color="#4878a8", ecolor="#202020", capsize=2)
        panel.set_yticks(range(len(mine)), labels, fontsize=8)
        panel.invert_yaxis()
        panel.set_xscale("log")
        panel.set_xlabel("ms")
        panel.set_title(f"{case} {mine[0]['dtype']}", fontsize=9)
    figure.suptitle(f"{suite} on {device}", fontsize=10)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.plot", description="Draw rows.")
    parser.add_argument("--results", type=Path, default=rows.RESULTS, help="folder of the rows")
    parser.add_argument("--out", type=Path, default=Path("build/plots"), help="folder of the pictures")
    parser.add_argument("--table", action="store_true", help="print Markdown tables instead of drawing")
    parser.add_argument("--document", action="store_true", help="make the tables of README.md anew instead")
    arguments = parser.parse_args(argv)
    everything = list(rows.read(arguments.results))
    if arguments.document:
        DOCUMENT.write_text(document(DOCUMENT.read_text(encoding="utf-8"), everything), encoding="utf-8")
        return 0
    found = newest(everything)
    if not found:
        print(f"bench.plot: no rows in {arguments.results}; python -m bench.run measures some", file=sys.stderr)
        return 1
    for device, suite in dict.fromkeys((row["device"], row["suite"]) for row in found):
        if arguments.table:
            print(f"{suite}\n\n{table(found, device, suite)}")
            continue
        arguments.out.mkdir(parents=True, exist_ok=True)
        path = arguments.out / f"{suite}-{''.join(c if c.isalnum() else '-' for c in device)}.png"
        draw(found, device, suite, path)
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
