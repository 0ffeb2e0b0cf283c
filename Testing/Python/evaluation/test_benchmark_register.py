"""Seconds of registrations whose stages differ: some X-rays bring on searches that others do without."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from SphericalRegLib.evaluation import benchmark_register
from SphericalRegLib.evaluation.metrics import PoseErrors


def result(*stages: tuple[str, float]):
    records = [SimpleNamespace(name=name, seconds=seconds) for name, seconds in stages]
    return SimpleNamespace(stages=records, seconds=sum(seconds for _, seconds in stages), camera_from_world=None)


def test_a_stage_that_came_again_counts_for_both_times_and_one_that_did_not_come_for_none(monkeypatch: pytest.MonkeyPatch) -> None:
    errors = PoseErrors(*[0.5] * 8)
    monkeypatch.setattr(benchmark_register, "load_truth", lambda path: SimpleNamespace(camera_from_world=None, fiducials=None))
    monkeypatch.setattr(benchmark_register, "pose_errors", lambda *_: errors)
    view = SimpleNamespace(radiograph=SimpleNamespace(camera=None))
    case = SimpleNamespace(path=None, views=[view], volume=SimpleNamespace(centre_ras_mm=None))
    warm_up = result(("search", 1.0), ("refine", 1.0), ("search", 1.0), ("refine", 1.0))
    measured = [result(("search", 1.0), ("refine", 2.0)), result(("search", 3.0), ("refine", 4.0), ("search", 5.0), ("regressor", 1.0))] * 2
    timing = benchmark_register._timing("pelvis", "ap", 0.1, [case] * 4, [warm_up, *measured])
    assert timing.stages == {"search": 4.5, "refine": 3.0, "regressor": 0.5}
