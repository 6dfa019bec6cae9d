# SPDX-License-Identifier: Apache-2.0
"""The study of histories that meet a transition: its runs are the adapter's and spend what they say."""

import pytest
import torch

pytest.importorskip("diffusers", reason="needs the extra [diffusers]")

from bench import forecast_transition as study
from spectral_kernels.adapters.diffusers import ForecastConfig
from spectral_kernels.flow import full_resolution, initial_noise


def linear_subject():
    module = study.Split(lambda z, t: z * (1 - t))
    return study.Subject("linear", module, module, ["blocks"], initial_noise((2, 1, 16, 12), 1), 0.7)


def test_tokens_are_patches_row_by_row():
    planes = torch.arange(2 * 3 * 4 * 6.0).reshape(2, 3, 4, 6)
    tokens = study.to_tokens(planes)
    assert tokens.shape == (2, 6, 12)
    assert tokens[0, 4].tolist() == planes[0, :, 2:4, 2:4].flatten().tolist()
    assert torch.equal(study.to_planes(tokens, 4, 6), planes)


def test_all_evaluated_is_the_run_without_forecasts():
    subject = linear_subject()
    plan = subject.plan("published", 0.5, 2)
    expected, steps = subject.run(plan, None)
    assert torch.equal(expected, full_resolution(lambda z, t: z * (1 - t), plan, subject.noise))
    found, evaluated = subject.run(plan, ForecastConfig(steps=range(50)))
    assert evaluated == steps == list(range(50)) and torch.equal(found, expected)


def test_transitions_come_where_they_are_asked_for():
    # Levels that are spread anew after the first transition fall to the second one's level later.
    for schedule, last in (("published", 25), ("respaced", 29), ("matched", 25)):
        plan = linear_subject().plan(schedule, 0.5, 3)
        assert [stage.first_step for stage in plan.stages] == [0, 12, last]


def test_every_configuration_spends_what_it_says():
    found = list(study.configurations([25], 14))
    assert {(config.transition, config.rewarm) for config in found} == {
        *((name, rewarm) for name in ("reset", "expand") for rewarm in (1, 2, 3, 4)),
        ("expand", 0),
    }
    subject = linear_subject()
    plan = subject.plan("respaced", 0.5, 2)
    for config in found[::4]:
        result, steps = subject.run(plan, config)
        assert len(steps) == 14 and bool(result.isfinite().all())
        assert set(range(25, 25 + config.rewarm)) <= set(steps)


def test_known_rows_are_not_measured_again(monkeypatch):
    monkeypatch.setattr(study, "STAGES", (2,))
    monkeypatch.setattr(study, "EVALUATIONS", (14,))
    monkeypatch.setattr(study, "SHARES", (0.5,))
    monkeypatch.setattr(study, "SCHEDULES", ("published",))
    rows = list(study.study(linear_subject()))
    assert len(rows) == 9 and all(row["samples"] == 2 and row["distance"] > 0 for row in rows)
    rest = list(study.study(linear_subject(), {study.key(row) for row in rows[1:]}))
    assert rest == rows[:1]
