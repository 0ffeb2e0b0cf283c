"""The demo, with and without a model, on the phantom in a sample CT's place."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
import method_cases

from SphericalRegLib.errors import InputError
from SphericalRegLib.evaluation import demo
from SphericalRegLib.geometry.views import named_view
from SphericalRegLib.models import shipped
from SphericalRegLib.models.checkpoint import load_model, save_model
from SphericalRegLib.models.encoder import EncoderConfig
from SphericalRegLib.models.regressor import PoseRegressor, RegressorConfig
from SphericalRegLib.progress import Progress
from SphericalRegLib.registration.options import MultiStart, RegistrationOptions, Stage
from SphericalRegLib.registration.pipeline import register
from SphericalRegLib.simulation.cases import flat_panel
from SphericalRegLib.training.options import TrainingOptions
from SphericalRegLib.training.validation import ValidationOptions


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "sample_volume", lambda name: method_cases.VOLUME())
    search = MultiStart(poses=60, finalists=20, rotation_deg=10.0, translation_mm=20.0, image_px=40, finalist_px=48)
    quick = RegistrationOptions((Stage(48, iterations=8, hypotheses=4), Stage(64, iterations=8)), wide_start=search)
    monkeypatch.setattr(demo, "register", partial(register, options=quick))
    monkeypatch.setattr(demo, "flat_panel", lambda *size: flat_panel(*(size or (96, 96)), width_mm=260.0))


def test_with_a_model_each_x_ray_is_registered_twice(small, tmp_path: Path) -> None:
    model = method_cases.model()
    centre = torch.as_tensor(method_cases.VOLUME().centre_ras_mm)
    torch.manual_seed(0)
    regressor = PoseRegressor(RegressorConfig(method_cases.TRUNK, components=2), named_view("ap", model.camera, centre), centre).eval()
    save_model(replace(model, regressor=regressor), tmp_path / "m")
    stages: list[str] = []

    def note(step: Progress) -> None:
        stages.append(step.stage)

    done = demo.run_demo(tmp_path / "out", ["pelvis"], level="clean", models={"pelvis": tmp_path / "m.safetensors"}, progress=note)
    assert [case.name for case in done.cases] == ["pelvis", "pelvis, model"]
    assert [case.start for case in done.cases] == ["ap", "none"]
    assert done.cases[0].result.stages[0].name == "search"
    assert done.cases[1].result.stages[0].name == "regressor"
    assert done.cases[0].errors.in_plane < 2.0
    assert {"pelvis: search", "pelvis, model: regressor", "pelvis, model: spherical LM"} <= set(stages)
    for folder in ("pelvis", "pelvis-model"):
        assert (tmp_path / "out" / folder / "report.html").is_file()
        assert f"{folder}/report.html" in done.index.read_text(encoding="utf-8")
    assert [row[0] for row in done.table().rows] == ["pelvis", "pelvis, model"]


def test_the_model_is_trained_once(small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def options(**given) -> TrainingOptions:
        small_networks = {"encoder": EncoderConfig(method_cases.TRUNK, elements=2), "regressor": RegressorConfig(method_cases.TRUNK, components=2)}
        return TrainingOptions(iterations=2, batch=2, validation=ValidationOptions(times=0), **small_networks, **given)

    monkeypatch.setattr(demo, "TrainingOptions", options)
    path = demo.train_demo_model(tmp_path, "pelvis", 0.5, seed=3)
    assert path == tmp_path / "models" / "pelvis.safetensors"
    assert load_model(path).card["command"] == "sphericalreg demo --train --minutes 0.5 --seed 3"
    before = path.stat().st_mtime_ns
    assert demo.train_demo_model(tmp_path, "pelvis", 0.5, seed=3) == path and path.stat().st_mtime_ns == before
    with pytest.raises(InputError, match="was trained with another"):
        demo.train_demo_model(tmp_path, "pelvis", 0.5, seed=4)


def test_a_shipped_model_needs_weights_and_card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def resource(name: str) -> Path:
        if not (tmp_path / name).exists():
            raise FileNotFoundError(name)
        return tmp_path / name

    monkeypatch.setattr(shipped, "resource_path", resource)
    assert shipped.shipped_model("pelvis") is None
    (tmp_path / "Models").mkdir()
    (tmp_path / "Models" / "pelvis.safetensors").write_text("x")
    assert shipped.shipped_model("pelvis") is None
    (tmp_path / "Models" / "pelvis.json").write_text(json.dumps({}))
    assert shipped.shipped_model("pelvis") == tmp_path / "Models" / "pelvis.safetensors"


def test_a_model_that_comes_along_is_whole() -> None:
    """Skipped as long as none does."""
    path = shipped.shipped_model("pelvis")
    if path is None:
        pytest.skip("no model of the pelvis comes with this checkout")
    card = load_model(path).card
    assert card["command"].startswith("sphericalreg ") and card["cts"][0]["name"] == "pelvis"
