"""How much of a training lies behind, and when it is enough."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from trainer_phantom import OPTIONS, WATCHED

from SphericalRegLib.training.clock import Clock, why_stop


@pytest.mark.parametrize(
    ("errors", "options", "stops"),
    [
        ([5.0, 1.9], {"stop_below_mm": 2.0}, 2),
        ([5.0, 4.0, 4.5, 4.2, 4.1], {"patience": 2}, 4),
        ([5.0, 4.0, 3.0, 2.5, 2.4, 2.3], {"patience": 2, "stop_below_mm": 1.0}, None),
        ([1.0, 4.0, 4.5], {"patience": 2}, None),  # before half of the training nothing is over
    ],
)
def test_early_stop(errors, options, stops) -> None:
    given = replace(OPTIONS, regressor=None, validation=replace(WATCHED, times=6), **options)
    first = next((count for count in range(len(errors) + 1) if why_stop(errors[:count], given, begins=0.0)), None)
    assert first == stops


def test_half_is_counted_from_the_encoders_turn() -> None:
    given = replace(OPTIONS, validation=replace(WATCHED, times=8), patience=1)
    errors = [1.0, 2.0, 3.0]
    assert not why_stop(errors, given, begins=0.0) and "did not fall for 1 validations" in why_stop(errors, given, begins=0.5)


def test_steps_are_counted_where_they_are_given() -> None:
    assert Clock(replace(OPTIONS, iterations=8)).share_done(2, 1e9) == 0.25
    by_time = Clock(replace(OPTIONS, iterations=None, minutes=2.0))
    assert [by_time.share_done(0, seconds) for seconds in (0.0, 30.0, 120.0, 150.0)] == [0.0, 0.25, 1.0, 1.0]


@pytest.mark.parametrize("minutes", [1.0, 5.0, 20.0])
def test_other_minutes_change_the_pace_of_what_is_left(minutes: float) -> None:
    resumed = Clock(replace(OPTIONS, iterations=None, minutes=minutes), share=0.6, seconds=240.0)
    assert resumed.share_done(7, 240.0) == (0.6 if minutes > 4 else 1.0)
    assert resumed.share_done(7, 60 * minutes) == pytest.approx(1.0)
    if minutes > 4:
        assert resumed.share_done(7, (240 + 60 * minutes) / 2) == pytest.approx(0.8)
