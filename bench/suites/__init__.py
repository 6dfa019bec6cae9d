# SPDX-License-Identifier: Apache-2.0
"""One file per suite. A suite is a module here, named in SUITES, with

TESTS                   test files that must pass before anything is timed
cases(device, tiny)     yields `bench.case.Case`; `tiny` asks for sizes that run in milliseconds, for a rehearsal
tunables(device, tiny)  optional: yields `bench.case.Tunable`, the launch settings that `bench.tune` measures
"""

import importlib
from types import ModuleType

SUITES = ("expand", "forecast")


def load(name: str) -> ModuleType:
    if name not in SUITES:
        raise ValueError(f"bench: there is no suite {name!r}; there are {', '.join(SUITES)}")
    return importlib.import_module(f"bench.suites.{name}")
