# SPDX-License-Identifier: Apache-2.0
"""The README's Python examples run as they stand, and its make commands exist."""

import re
from pathlib import Path
from types import ModuleType

import pytest

import spectral_kernels as sk

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
EXAMPLES = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


@pytest.mark.parametrize("example", EXAMPLES, ids=range(len(EXAMPLES)))
def test_example_runs(example):
    exec(compile(example, "README.md", "exec"), {"__name__": "readme"})


def test_there_is_an_example():
    assert EXAMPLES


def test_make_commands_exist():
    named = set(re.findall(r"^    make (\w+)", README, re.MULTILINE))
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert {"demo", "test", "lint", "bench", "gpu"} <= named <= targets


def test_every_public_name_is_explained():
    explained = set(re.findall(r"`(\w+)`", README))
    public = {name for name in vars(sk) if not name.startswith("_") and not isinstance(vars(sk)[name], ModuleType)}
    assert public - explained == set()


PAGES = [path.relative_to(ROOT) for folder in (".", "docs", "bench") for path in sorted((ROOT / folder).glob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_links_lead_somewhere(page):
    links = re.findall(r"\]\((?!https?:)([^)#]+)", (ROOT / page).read_text())
    assert links or page != Path("README.md")
    for link in links:
        assert (ROOT / page).parent.joinpath(link).exists(), link


def test_files_named_exist():
    for path in re.findall(r"`((?:tests|reference|bench|spectral_kernels|bindings)/[\w./]*)`", README):
        assert (ROOT / path).exists(), path
