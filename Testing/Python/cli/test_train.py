"""`sphericalreg train`, and what is done with a model afterwards: small networks, a small CT, a few steps."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import SimpleITK as sitk
from typer.testing import CliRunner, Result

from SphericalRegLib.cli import load
from SphericalRegLib.models.checkpoint import load_model
from SphericalRegLib.training.trainer import Trainer


def _sibling(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


bad = _sibling("bad_inputs")
SMALL = ("--image-size", 32, "--batch", 2, "--validations", 1, "--device", "cpu", "-q")


def run(*arguments: object) -> Result:
    return CliRunner().invoke(load(), [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bad.good_case(tmp_path_factory.mktemp("train"))


@pytest.fixture(scope="module")
def model(case: Path) -> Path:
    out = case.parent / "model.safetensors"
    words = ("train", case / "ct.nii.gz", "-o", out, "--iterations", 3, "--view", "ap", "--view", "pa", "--camera", case, "--depth-mm", 20, *SMALL)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["sphericalreg", *map(str, words)])  # as a shell starts it: the model's card has the command
        done = run(*words)
    assert done.exit_code == 0, done.stderr
    assert "next: sphericalreg register" in done.stdout
    return out


def test_the_card_says_where_the_model_comes_from(case: Path, model: Path) -> None:
    loaded = load_model(model)
    card = loaded.card
    assert card["command"].startswith("sphericalreg train ") and "--iterations 3 --view ap --view pa" in card["command"]
    assert card["iterations"] == 3 and card["seed"] == 0
    assert card["training"]["poses"]["views"] == ["ap", "pa"] and card["training"]["poses"]["depth_mm"] == 20
    assert card["cts"][0]["name"] and card["anatomy"]
    assert {"sphericalreg", "torch", "timm"} <= set(card["versions"])
    assert {"DRR off", "loss"} <= set(card["figures"])
    # 32 px of 6 mm is the case's own geometry
    assert loaded.camera.to_dict()["pixel_spacing_mm"] == [6.0, 6.0] and loaded.camera.sdd_mm == 1000.0
    assert sorted(path.name for path in case.parent.iterdir()) == ["case", "model.json", "model.safetensors"]


def test_curves_of_a_model_and_registrations_with_it(case: Path, model: Path, tmp_path: Path) -> None:
    out, registered = tmp_path / "out", ("--case", case, "--method", "spherical LM", "--spread", "1/2", "--device", "cpu", "-q", "--json")
    alone = run("benchmark", "curves", model, "-o", out, "--json")
    assert alone.exit_code == 0, alone.stderr
    assert [row["model"] for row in json.loads(alone.stdout)["rows"]] == ["model"]
    done = run("benchmark", "curves", model, "-o", out, *registered)
    assert done.exit_code == 0, done.stderr
    assert [(row["start [deg/mm]"], row["method"], row["cases"]) for row in json.loads(done.stdout)["rows"]] == [("1/2", "spherical LM", 1)]
    assert {path.suffix for path in out.glob("curves.*")} == {path.suffix for path in out.glob("capture.*")} == {".csv", ".md", ".png"}
    refused = run("benchmark", "curves", model, "-o", out, "--case", case, "--method", "NCC LM")
    assert refused.exit_code == 2 and "NCC LM uses no model" in refused.stderr
    refused = run("benchmark", "curves", model, "-o", out, "--spread", "1/2")
    assert refused.exit_code == 2 and "no --case says which X-rays" in refused.stderr


def test_a_model_registers_without_an_initial_pose(case: Path, model: Path, tmp_path: Path) -> None:
    done = run("register", case, "-o", tmp_path / "out", "--model", model, "--device", "cpu", "-q", "--json")
    assert done.exit_code == 0, done.stderr
    printed = json.loads(done.stdout)
    assert [stage["name"] for stage in printed["stages"]][:2] == ["regressor", "spherical LM"]
    assert "regressor" in printed["notes"][0] and all("closer search" in note for note in printed["notes"][1:])
    assert printed["model"]["file"] == "model.safetensors" and len(printed["model"]["sha256"]) == 64
    assert "spherical LM" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("command", ["batch", "evaluate"])
def test_many_cases_with_a_model(case: Path, model: Path, tmp_path: Path, command: str) -> None:
    words = (command, case, "-o", tmp_path / "out", "--model", model, "--initial", "regressor", "--device", "cpu", "-q", "--no-pictures")
    done = run(*words)
    assert done.exit_code == 0, done.stderr
    options = json.loads((tmp_path / "out" / "run.json").read_text(encoding="utf-8"))["options"]
    assert options["model"]["file"] == "model.safetensors" and len(options["model"]["sha256"]) == 64 and options["initial"] == "regressor"
    result = json.loads((tmp_path / "out" / "case" / "result.json").read_text(encoding="utf-8"))
    assert result["stages"][0]["name"] == "regressor"
    without = run(*words[:4], "--device", "cpu", "-q", "--no-pictures")
    assert without.exit_code == 2 and "model" in without.stderr


def test_poses_about_a_pose_that_is_known_roughly(case: Path, tmp_path: Path) -> None:
    pose = [[1.0, 0.0, 0.0, 5.0], [0.0, 0.0, -1.0, 0.0], [0.0, 1.0, 0.0, 800.0], [0.0, 0.0, 0.0, 1.0]]
    (tmp_path / "pose.json").write_text(json.dumps({"camera_from_world": pose}))
    given = ("train", case / "ct.nii.gz", "--iterations", 2, "--about", tmp_path / "pose.json", *SMALL)
    done = run(*given, "-o", tmp_path / "m")
    assert done.exit_code == 0, done.stderr
    kept = load_model(tmp_path / "m.safetensors").card["training"]["poses"]["about"]
    np.testing.assert_allclose(kept, pose, atol=1e-6)
    refused = run(*given, "-o", tmp_path / "n", "--view", "ap")
    assert refused.exit_code == 2 and "--about" in str(refused.exception) + refused.stderr


def test_a_part_of_the_ct(case: Path, tmp_path: Path) -> None:
    out, ct = tmp_path / "model.safetensors", case / "ct.nii.gz"
    image = sitk.ReadImage(str(ct))
    labels = sitk.Cast(image > 300, sitk.sitkUInt8) * 5
    sitk.WriteImage(labels, str(tmp_path / "labels.nrrd"))
    words = ("train", ct, "-o", out, "--iterations", 2, *SMALL)
    for wrong in (("--label", 5), ("--labels", tmp_path / "labels.nrrd"), (ct, "--labels", tmp_path / "labels.nrrd", "--label", 5)):
        refused = run(*words, *wrong)
        assert refused.exit_code == 2 and "give both with one CT" in refused.stderr
    assert "no voxel with the labels" in run(*words, "--labels", tmp_path / "labels.nrrd", "--label", 6).stderr
    done = run(*words, "--labels", tmp_path / "labels.nrrd", "--label", 5)
    assert done.exit_code == 0, done.stderr
    assert load_model(out).card["training"]["labels"] == [5]


def test_a_program_s_files_are_named_without_their_folders() -> None:
    from SphericalRegLib.cli.train import _without_folders

    here = str(Path(__file__))
    assert _without_folders(here, True) == Path(__file__).name
    assert [_without_folders(word, True) for word in ("12.5", "sample:pelvis")] == ["12.5", "sample:pelvis"]
    assert _without_folders(here, False) == here


def test_a_base_brings_its_networks(case: Path, model: Path, tmp_path: Path) -> None:
    out = tmp_path / "tuned.safetensors"
    done = run("train", case / "ct.nii.gz", "-o", out, "--iterations", 1, "--base", model, "--batch", 2, "--validations", 0, "--device", "cpu", "-q")
    assert done.exit_code == 0, done.stderr
    tuned, base = load_model(out), load_model(model)
    assert tuned.card["base"] == "model.safetensors" and tuned.camera == base.camera and tuned.encoder.config == base.encoder.config
    refused = run("train", case / "ct.nii.gz", "-o", out, "--base", model, "--backbone", "tiny", "-q")
    assert refused.exit_code == 2 and "--backbone" in refused.stderr


def test_ctrl_c_saves_the_state_and_resume_goes_on(case: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "model.safetensors"
    words = ("train", case / "ct.nii.gz", "-o", out, "--iterations", 4, *SMALL)
    whole = run("train", case / "ct.nii.gz", "-o", tmp_path / "whole.safetensors", "--iterations", 4, *SMALL)
    assert whole.exit_code == 0, whole.stderr
    step = Trainer.step

    def interrupted(self: Trainer, *alive):
        if self.count.iteration == 1:
            os.kill(os.getpid(), signal.SIGINT)  # its half-done step is done again by the resumed training
        return step(self, *alive)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "step", interrupted)
        stopped = run(*words)
    assert stopped.exit_code == 130
    assert "--resume goes on" in stopped.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.state", "whole.json", "whole.safetensors"]
    other = run(*words, "--resume", "--seed", 7)
    assert other.exit_code == 2 and "another seed" in other.stderr
    done = run(*words, "--resume")
    assert done.exit_code == 0, done.stderr
    assert not (tmp_path / "model.state").exists()
    resumed, expected = (load_model(path).encoder.state_dict() for path in (out, tmp_path / "whole"))
    assert all(value.equal(expected[name]) for name, value in resumed.items())


class Second:
    """The second of two processes, as Fabric would have launched it."""

    rank, size, device = 1, 2, "cpu"

    def from_first(self, value: object) -> object:
        return value

    def average_gradients(self, parameters: object) -> None:
        return None


def test_another_process_ends_with_the_first_and_says_nothing(case: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from SphericalRegLib.progress import Cancelled
    from SphericalRegLib.training import parallel

    def press(self: Trainer, alive: object) -> None:
        raise Cancelled  # as the first says that it was told to

    monkeypatch.setattr(parallel, "launch", lambda *_: Second())
    monkeypatch.setattr(Trainer, "step", press)
    done = run("train", case / "ct.nii.gz", "-o", tmp_path / "m.safetensors", "--iterations", 3, "--camera", case, "--devices", 2, *SMALL)
    assert done.exit_code == 0, (done.stderr, done.exception)  # Fabric kills the others where one fails
    assert done.stdout == "" and list(tmp_path.iterdir()) == []
