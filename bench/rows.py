# SPDX-License-Identifier: Apache-2.0
"""Rows of results: JSON lines that are appended and never edited."""

import datetime
import hashlib
import json
import os
import re
import subprocess
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from spectral_kernels import info

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "bench" / "results"


def git(*arguments: str) -> str | None:
    """What git says in this checkout, None without git."""
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=RESULTS.parent, capture_output=True, text=True, check=True, timeout=60
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def changes() -> str:
    """Uncommitted changes to anything but results; empty for a clean checkout."""
    return git("status", "--porcelain", "--", ":/", ":(exclude,top)bench/results") or ""


def sources() -> str:
    """A digest of all that is measured, for a copy of the checkout without git."""
    files = (path for room in ("spectral_kernels", "bench", "bindings", "tests") for path in (ROOT / room).rglob("*"))
    digest = hashlib.sha256()
    for path in sorted(path for path in files if path.suffix in (".py", ".c", ".h", ".cpp", ".inl", ".json")):
        digest.update(f"{path.relative_to(ROOT)}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def state_key() -> str:
    """Names the state of the sources: the commit, and a digest of what is changed on top of it."""
    commit = git("rev-parse", "--short=12", "HEAD")
    if commit is None:
        return f"sources-{sources()}"
    changed = changes()
    if not changed:
        return commit
    difference = (git("diff", "HEAD") or "") + changed
    return f"{commit}-{hashlib.sha256(difference.encode()).hexdigest()[:8]}"


def circumstances(device: str) -> dict[str, Any]:
    """The part of a row that says where and with what it was measured. A copy without git says its digest instead."""
    commit = git("rev-parse", "HEAD")
    return {
        "commit": commit,
        **({"sources": sources()} if commit is None else {"dirty": bool(changes())}),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "device": info.gpus()[torch.cuda.current_device()] if device == "cuda" else info.cpu(),
        "cpu": info.cpu(),
        "cores": info.cores(),
        "threads": torch.get_num_threads(),
        # Processes that wanted a core over the last minute: above `cores`, times tell more of neighbours than of code.
        "load": round(os.getloadavg()[0], 1),
        "versions": {name: version for name, version in info.versions().items() if version},
    }


def append(row: dict[str, Any], file: str, results: Path = RESULTS) -> None:
    """One line at the end of `results/FILE.jsonl`, on disk when this returns."""
    results.mkdir(parents=True, exist_ok=True)
    with (results / f"{file}.jsonl").open("a") as stream:
        stream.write(json.dumps(row) + "\n")


def read(results: Path = RESULTS, file: str = "*") -> Iterator[dict[str, Any]]:
    """All rows, oldest first within each file."""
    for path in sorted(results.glob(f"{file}.jsonl")):
        for line in path.read_text().splitlines():
            yield json.loads(line)


def filled(text: str, makers: Mapping[str, Callable[..., Iterable[str]]]) -> str:
    """The text with its tables, between `<!-- rows: NAME ARGUMENTS -->` and `<!-- end -->`, made anew.

    makers[NAME](*ARGUMENTS) gives the lines, from rows that are never edited; so a test can ask for them again.
    """

    def made(match: re.Match) -> str:
        name, *arguments = match[1].split()
        return "\n".join([f"<!-- rows: {match[1]} -->", *makers[name](*arguments), "<!-- end -->"])

    return re.sub(r"<!-- rows: ([^>]+?) -->.*?<!-- end -->", made, text, flags=re.DOTALL)
