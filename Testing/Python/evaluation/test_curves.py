"""Trained models side by side, from their cards alone."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
import method_cases

from SphericalRegLib.errors import InputError
from SphericalRegLib.evaluation.benchmark_methods import MethodsOptions
from SphericalRegLib.evaluation.curves import capture_curves, changing, training_curves
from SphericalRegLib.geometry.camera import Camera
from SphericalRegLib.models.checkpoint import Model, save_model
from SphericalRegLib.models.encoder import EncoderConfig, SphericalEncoder
from SphericalRegLib.visualization.trainings import EFFORTS, Training, capture_figure, training_figure

CAMERA = Camera(1020.0, (260 / 32, 260 / 32), (32, 32), (15.5, 15.5))


def model(path: Path, minutes: float, *errors: float, **more: float) -> Path:
    torch.manual_seed(0)
    encoder = SphericalEncoder(EncoderConfig(method_cases.TRUNK, elements=2))
    known = {"mtre_75_mm": 30.0, "in_plane_mm": 4.0, "cosine": 0.5, **more}
    count = len(errors)
    curve = [{"seconds": 60 * minutes * (i + 1) / count, "iterations": 10 * (i + 1), "mtre_mm": error, **known} for i, error in enumerate(errors)]
    card = {"anatomy": "phantom", "seconds": 60 * minutes, "iterations": 10 * count, "curve": curve}
    save_model(Model(encoder, None, CAMERA, card), path)
    return path


def test_the_last_validation_of_each_in_the_order_given(tmp_path: Path) -> None:
    late = model(tmp_path / "ten.safetensors", 10.0, 40.0, 20.0, 9.0, regressor_mtre_mm=7.0, regressor_deg=1.5)
    early = model(tmp_path / "two.safetensors", 2.0, 40.0, 30.0)
    done = training_curves([late, early])
    table = done.table()
    rows = [dict(zip(table.columns, row)) for row in table.rows]
    shown = [(row["model"], row["minutes"], row["steps"], row["after LM, median [mm]"]) for row in rows]
    assert shown == [("ten", 10, 30, 9.0), ("two", 2, 20, 30.0)]
    assert (rows[0]["regressor [deg]"], rows[0]["regressor, median [mm]"]) == (1.5, 7.0) and rows[1]["regressor [deg]"] is None
    written = done.write(tmp_path / "out")
    assert sorted(path.name for path in written) == ["curves.csv", "curves.md", "curves.png"]
    assert all(path.stat().st_size > 0 for path in written)


def test_a_network_that_is_not_at_work_is_not_drawn() -> None:
    mtre, regressor = [48.0, 48.0, 20.0, 10.0], [20.0, 9.0, 9.0, 9.0]
    curve = [{"seconds": 60.0 * i, "mtre_mm": a, "regressor_mtre_mm": b} for i, (a, b) in enumerate(zip(mtre, regressor))]
    drawn = changing(curve)
    assert [point.get("mtre_mm") for point in drawn] == [None, 48.0, 20.0, 10.0]
    assert [point.get("regressor_mtre_mm") for point in drawn] == [20.0, 9.0, None, None]
    assert all("in_plane_mm" not in point for point in drawn) and curve[0]["mtre_mm"] == 48.0
    assert changing(curve[:1]) == curve[:1] and changing([]) == []


def test_trainings_of_unlike_machines_are_compared_by_steps() -> None:
    curve = [{"seconds": 60.0 * i, "iterations": 100 * i, "mtre_mm": 10.0 / i} for i in (1, 2, 3)]
    for name, title, lengths in (("minutes", "minutes of training", [1, 2, 3]), ("steps", "steps of training", [100, 200, 300])):
        (axes,) = training_figure([Training("a", curve)], ["mtre_mm"], effort=EFFORTS[name]).axes
        assert axes.get_xlabel() == title and axes.lines[0].get_xdata().tolist() == lengths


def test_registrations_with_each_model_from_the_same_starts(tmp_path: Path) -> None:
    cases = method_cases.cases(tmp_path / "cases")
    made = training_curves([model(tmp_path / f"{name}.safetensors", minutes, 9.0) for name, minutes in (("long", 30.0), ("short", 2.0))]).models
    options = MethodsOptions(("spherical LM",), ((1.0, 2.0), (3.0, 6.0)))
    done = capture_curves(made, cases, tmp_path / "out", options)
    table = done.table()
    rows = [dict(zip(table.columns, row)) for row in table.rows]
    assert [(row["model"], row["minutes"], row["start [deg/mm]"], row["cases"]) for row in rows] == [
        *(("long", 30, "1/2", 2), ("long", 30, "3/6", 2)),
        *(("short", 2, "1/2", 2), ("short", 2, "3/6", 2)),
    ]
    assert [row["steps"] for row in rows] == [10] * 4
    assert {row["method"] for row in rows} == {"spherical LM"} and rows[0]["start, median [mm]"] == rows[2]["start, median [mm]"]
    written = done.write(tmp_path / "out")
    assert sorted(path.name for path in written) == ["capture.csv", "capture.md", "capture.png"]
    journal = (tmp_path / "out" / "registrations.jsonl").read_text(encoding="utf-8")
    assert capture_curves(made, cases, tmp_path / "out", options).table() == table
    assert (tmp_path / "out" / "registrations.jsonl").read_text(encoding="utf-8") == journal, "nothing is done twice"
    with pytest.raises(InputError, match="no model and NCC LM use no model"):
        capture_curves(made, cases, tmp_path / "out", MethodsOptions(("full", "no model", "NCC LM")))


def test_shares_over_training_time_are_drawn(tmp_path: Path) -> None:
    lines = {"1 deg / 2 mm": [(2.0, 0.5), (30.0, 1.0)], "3 deg / 6 mm": [(2.0, 0.0), (30.0, 0.75)]}
    figure = capture_figure({"full": lines, "spherical LM": lines})
    left, right = figure.axes
    assert [axes.get_title(loc="left") for axes in (left, right)] == ["full", "spherical LM"]
    assert [line.get_ydata().tolist() for line in left.lines] == [[50, 100], [0, 75]] and left.get_xscale() == "log"
    assert [text.get_text() for text in figure.legends[0].get_texts()] == list(lines)
    assert len({line.get_color() for axes in figure.axes for line in axes.lines}) == 2, "a spread has one colour in all panels"
    more = capture_figure({"spherical LM": {"3 deg / 6 mm": [(2.0, 0.5)]}, "full": {"no initial pose": [(2.0, 1.0)], "3 deg / 6 mm": [(2.0, 1.0)]}})
    assert [text.get_text() for text in more.legends[0].get_texts()] == ["no initial pose", "3 deg / 6 mm"]
    assert more.axes[0].lines[0].get_color() == more.axes[1].lines[1].get_color() != more.axes[1].lines[0].get_color()
    assert [axes.get_xlabel() for axes in capture_figure({"full": lines}, effort=EFFORTS["steps"]).axes] == ["steps of training"]
    with pytest.raises(InputError, match="no share"):
        capture_figure({"full": {"1 deg / 2 mm": []}})


def test_what_cannot_be_compared_is_said(tmp_path: Path) -> None:
    never = model(tmp_path / "never.safetensors", 1.0)
    with pytest.raises(InputError, match="never validated"):
        training_curves([never])
    (tmp_path / "other").mkdir()
    with pytest.raises(InputError, match="two models are called m"):
        training_curves([model(tmp_path / folder / "m.safetensors", 1.0, 5.0) for folder in (".", "other")])
    with pytest.raises(InputError, match="does not exist"):
        training_curves([tmp_path / "none.safetensors"])
