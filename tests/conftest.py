# SPDX-License-Identifier: Apache-2.0
"""What every test runs under: Triton's interpreter where no GPU is, poisoned memory, fixed seeds."""

import os

import pytest
import torch
from hypothesis import settings

# Before anything imports Triton, which reads it once.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

from poison import poisoned_memory

# No deadline: the interpreter's speed says nothing. In CI every run draws the same examples, so that a failure belongs
# to the change and not to the day; on a developer's machine they vary.
settings.register_profile("default", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "default")


def pytest_collection_modifyitems(items):
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="needs a GPU, and torch.cuda.is_available() is False here"))


@pytest.fixture(autouse=True, scope="session")
def _poison():
    with poisoned_memory():
        yield


@pytest.fixture(autouse=True)
def _seed():
    """Each test draws the same numbers alone, in any order and in any worker process."""
    torch.manual_seed(0)
