"""Backbones and ablation: every variant is trained and judged once, and a later run goes on."""

from __future__ import annotations

import re
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
import method_cases

from SphericalRegLib.errors import InputError
from SphericalRegLib.evaluation.benchmark_ablation import TRAININGS, VARIANTS, AblationOptions, run_ablation, trained_by
from SphericalRegLib.evaluation.benchmark_backbones import DEFAULT_BACKBONES, BackboneOptions, minutes_to, run_backbone_benchmark
from SphericalRegLib.geometry.camera import Camera
from SphericalRegLib.models.encoder import EncoderConfig
from SphericalRegLib.models.regressor import RegressorConfig
from SphericalRegLib.progress import Cancelled, Progress
from SphericalRegLib.registration.options import RegistrationOptions, Stage
from SphericalRegLib.simulation.cases import SimulationOptions, flat_panel
from SphericalRegLib.simulation.difficulty import difficulty
from SphericalRegLib.training.options import TrainingOptions
from SphericalRegLib.training.trainer import Trainer
from SphericalRegLib.training.validation import ValidationOptions
from SphericalRegLib.visualization.shares import error_figure
from SphericalRegLib.visualization.trainings import Training, training_figure

CAMERA = Camera(1020.0, (260 / 32, 260 / 32), (32, 32), (15.5, 15.5))
TRAINING = TrainingOptions(
    iterations=2,
    batch=2,
    poses=replace(TrainingOptions().poses, primary_deg=10, secondary_deg=10, in_plane_deg=5, in_plane_mm=5, depth_mm=20),
    encoder=EncoderConfig(method_cases.TRUNK, elements=2),
    regressor=RegressorConfig(method_cases.TRUNK, components=2),
    validation=ValidationOptions(times=2, xrays=2, iterations=2),
)
BACKBONES = BackboneOptions(("tiny", "resnet10t"), TRAINING, criterion_mm=1e4, regressor_criterion_mm=1e-6)
ABLATION = AblationOptions(
    ("base", "cosine", "through LM", "anchored LM", "gauss-newton", "no model"),
    replace(TRAINING, regressor=None),
    SimulationOptions(level=difficulty("clean"), camera=flat_panel(64, 64, width_mm=260.0), fiducials=20),
    cases=2,
    spreads=((3.0, 4.0),),
    intensity=RegistrationOptions((Stage(32, iterations=2),), multi_start=None),
)


def never(*_):
    raise AssertionError("nothing was left to train")


def test_backbones_are_trained_once_and_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(step: Progress) -> None:
        if step.stage.startswith("resnet10t") and step.done:
            raise Cancelled

    with pytest.raises(Cancelled):
        run_backbone_benchmark(method_cases.VOLUME(), CAMERA, tmp_path, BACKBONES, progress=stop)
    assert {path.name for path in tmp_path.iterdir()} == {"tiny.safetensors", "tiny.json", "resnet10t.state"}
    stages: set[str] = set()
    done = run_backbone_benchmark(method_cases.VOLUME(), CAMERA, tmp_path, BACKBONES, progress=lambda step: stages.add(step.stage))
    assert stages == {"resnet10t (2 of 2): training", "resnet10t (2 of 2): validation"}
    table = done.table()
    rows = [dict(zip(table.columns, row)) for row in table.rows]
    assert [row["backbone"] for row in rows] == ["tiny", "resnet10t"]
    assert rows[1]["parameters [M]"] > rows[0]["parameters [M]"]
    assert all(row["min to 10000 mm"] > 0 and row["regressor: min to 1e-06 mm"] is None for row in rows)
    assert {path.name for path in done.write(tmp_path)} == {"backbones.md", "backbones.csv", "backbones.png"}
    monkeypatch.setattr(Trainer, "step", never)
    assert run_backbone_benchmark(method_cases.VOLUME(), CAMERA, tmp_path, BACKBONES).table().rows == table.rows
    with pytest.raises(InputError, match="another seed"):
        changed = replace(BACKBONES, training=replace(TRAINING, seed=5))
        run_backbone_benchmark(method_cases.VOLUME(), CAMERA, tmp_path, changed)


def test_the_backbones_by_default_are_those_of_the_results() -> None:
    document = (Path(__file__).parents[3] / "docs" / "results.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\S+)", document.split("## Backbones")[1].split("\n## ")[0], re.MULTILINE)
    assert rows[1:] == list(DEFAULT_BACKBONES)
    BackboneOptions()  # each of them can be had


def test_ablation_trains_judges_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(step: Progress) -> None:
        if step.stage == "judge" and step.done == 3:
            raise Cancelled

    with pytest.raises(Cancelled):
        run_ablation(method_cases.VOLUME(), CAMERA, tmp_path, ABLATION, progress=stop)
    assert sorted(path.name for path in (tmp_path / "models").glob("*.safetensors")) == [
        "base.safetensors",
        "cosine.safetensors",
        "through_LM.safetensors",
    ]
    assert len((tmp_path / "outcomes.jsonl").read_text().splitlines()) == 1 + 3
    monkeypatch.setattr(Trainer, "step", never)
    done = run_ablation(method_cases.VOLUME(), CAMERA, tmp_path, ABLATION)
    assert len(done.outcomes) == 6 * 2
    assert len({outcome.start for outcome in done.outcomes}) == 2  # all variants begin at the same poses
    table = done.table()
    rows = {row[0]: dict(zip(table.columns, row)) for row in table.rows}
    assert rows["no model"]["search, median [mm]"] is None
    assert rows["gauss-newton"]["gradient cosine"] == rows["base"]["gradient cosine"]
    assert all(np.isfinite(row["+ intensity, median [mm]"]) for row in rows.values())
    unmoved = [outcome for outcome in done.outcomes if outcome.variant == "no model"]
    assert all(outcome.searched == outcome.start and outcome.search_seconds == 0 for outcome in unmoved)
    assert {path.name for path in done.write(tmp_path)} == {"ablation.md", "ablation.csv", "ablation.png"}
    # fewer or more variants share what is done
    assert len(run_ablation(method_cases.VOLUME(), CAMERA, tmp_path, replace(ABLATION, variants=("cosine", "base"))).outcomes) == 4
    with pytest.raises(InputError, match="seed"):
        run_ablation(method_cases.VOLUME(), CAMERA, tmp_path, replace(ABLATION, seed=4))


@pytest.mark.parametrize("name", TRAININGS)
def test_each_variant_changes_one_thing_and_can_be_trained(name) -> None:
    options = TRAININGS[name](replace(TRAINING, regressor=None, validation=ValidationOptions(times=0)))
    changed = [key for key in ("encoder", "loss", "poses", "look", "batch", "seed") if getattr(options, key) != getattr(TRAINING, key)]
    in_another_space = options.encoder.embedding != "so4"  # where poses have no place: gradient matching takes the anchor's
    assert len(changed) == (name != "base") + in_another_space
    assert np.isfinite(Trainer([method_cases.VOLUME()], CAMERA, options).step()["loss"])


def test_whose_encoder_a_variant_uses() -> None:
    assert [trained_by(name) for name in ("base", "cosine", "anchored LM", "sgd", "no model")] == ["base", "cosine", "base", "base", None]
    assert {"lbfgs", "gauss-newton", "K = 1", "K = 64"} <= set(VARIANTS)


def test_refusals() -> None:
    with pytest.raises(InputError, match="no_such_net"):
        BackboneOptions(("no_such_net",))
    with pytest.raises(InputError, match="none twice"):
        BackboneOptions(("tiny", "tiny"))
    with pytest.raises(InputError, match="validated"):
        BackboneOptions(("tiny",), replace(TRAINING, validation=ValidationOptions(times=0)))
    with pytest.raises(InputError, match="gradient alone"):
        AblationOptions(("everything",))
    with pytest.raises(InputError, match="at least one"):
        AblationOptions(cases=0)
    for figure in (lambda: training_figure([], []), lambda: training_figure([Training("a", [])], ["mtre_mm"]), lambda: error_figure({})):
        with pytest.raises(InputError):
            figure()


def test_time_to_a_criterion_and_figures() -> None:
    curve = [{"seconds": 60.0, "mtre_mm": 9.0}, {"seconds": 120.0, "mtre_mm": 4.0}, {"seconds": 180.0, "mtre_mm": 6.0}]
    assert minutes_to(curve, "mtre_mm", 5.0) == 2.0 and minutes_to(curve, "mtre_mm", 1.0) is None and minutes_to(curve, "other", 1.0) is None
    trainings = [Training("a", curve, 2.0), Training("b", curve, None)]
    assert len(training_figure(trainings, ["mtre_mm"], 5.0).axes) == 2
    assert len(training_figure(trainings, ["mtre_mm"]).axes) == 1
    assert len(error_figure({"x": {"a": [1.0, np.inf], "b": [0.5]}, "y": {"a": [2.0]}}).axes) == 2
