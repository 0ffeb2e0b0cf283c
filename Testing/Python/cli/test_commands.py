"""The commands from end to end, on a small CT: what they write, what they print, how they go on after an interruption."""

from __future__ import annotations

import csv
import json
import shutil
import sys
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from PIL import Image
from typer.testing import CliRunner, Result

from SphericalRegLib.cli import load
from SphericalRegLib.cli.register import in_words, with_hint
from SphericalRegLib.errors import InputError
from SphericalRegLib.evaluation.panel import panel_rows
from SphericalRegLib.geometry.camera import Camera
from SphericalRegLib.imaging.attenuation import AttenuationModel, attenuation
from SphericalRegLib.imaging.case import Case, View, load_case
from SphericalRegLib.imaging.geometry_values import GeometryValues, Sourced, told, with_defaults
from SphericalRegLib.imaging.radiograph import Radiograph
from SphericalRegLib.imaging.transforms import read_transform
from SphericalRegLib.imaging.volume import Volume
from SphericalRegLib.registration.result import Hypothesis, RegistrationResult
from SphericalRegLib.rendering.projector import Projector


def run(*arguments: object) -> Result:
    return CliRunner().invoke(load(), [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cases")
    done = run("simulate", "sample:pelvis", "-o", folder, "-n", 2, "--size", 96, "--level", "clean", "--device", "cpu", "--seed", 3, "--json", "-q")
    assert done.exit_code == 0, done.stderr
    assert [Path(path).name for path in json.loads(done.stdout)["cases"]] == ["case_000", "case_001"]
    assert json.loads(done.stdout)["out"] == str(folder)
    return folder


def test_register_writes_a_result_and_prints_it(cases: Path, tmp_path: Path) -> None:
    done = run("register", cases / "case_000", "-o", tmp_path / "out", "--device", "cpu", "--json")
    assert done.exit_code == 0, done.stderr
    printed = json.loads(done.stdout)
    result = RegistrationResult.from_dict(json.loads((tmp_path / "out" / "result.json").read_text(encoding="utf-8")))
    np.testing.assert_allclose(printed["camera_from_world"], result.camera_from_world)
    assert result.verdict == "uncalibrated"
    assert result.predicted_target_error_mm is None
    np.testing.assert_allclose(
        read_transform(tmp_path / "out" / "ct_to_xray.tfm"), result.world_from_camera_reference @ result.camera_from_world, atol=1e-9
    )
    assert "refine" in done.stderr
    for name in ("drr.nrrd", "overlay.png", "difference.png", "convergence.png", "report.html"):
        assert (tmp_path / "out" / name).stat().st_size > 0
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_register_renders_the_chosen_label_alone(cases: Path, tmp_path: Path) -> None:
    case = shutil.copytree(cases / "case_000", tmp_path / "case")
    ct = (cases / "case_000" / json.loads((case / "case.json").read_text(encoding="utf-8"))["ct"]).resolve()
    volume = Volume.read(ct)
    labels = np.where(volume.hu > 200, 1 + (np.arange(volume.shape[0]) > volume.shape[0] // 2)[:, None, None], 0).astype(np.uint8)
    sitk.WriteImage(replace(volume, labels=labels).labels_to_sitk(), str(case / "labels.nii.gz"))
    (case / "case.json").write_text(json.dumps({"ct": str(ct)}), encoding="utf-8")
    done = run("register", case, "-o", tmp_path / "out", "--label", 1, "--device", "cpu", "--json", "-q")
    assert done.exit_code == 0, done.stderr
    drr = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "out" / "drr.nrrd"))).squeeze()
    pose = torch.tensor(json.loads(done.stdout)["camera_from_world"], dtype=torch.float64)[None]
    camera = load_case(case).views[0].radiograph.camera
    bone, whole = (Projector(attenuation(load_case(case).volume, labels=chosen), camera).project(pose)[0].numpy() for chosen in ((1,), None))
    assert np.abs(drr - bone).mean() < 0.02 * bone.mean()
    assert bone.mean() < 0.5 * whole.mean()
    refused = run("register", case, "-o", tmp_path / "none", "--label", 7, "--device", "cpu", "-q")
    assert refused.exit_code == 2 and "no voxel with the labels [7]; it has [1, 2]" in refused.stderr and not (tmp_path / "none").exists()


def test_an_x_ray_is_tried_the_other_way_round_and_another_frame(cases: Path, tmp_path: Path) -> None:
    case = shutil.copytree(cases / "case_000", tmp_path / "case")
    named = json.loads((case / "case.json").read_text(encoding="utf-8"))["ct"]
    (case / "case.json").write_text(json.dumps({"ct": str((cases / "case_000" / named).resolve())}), encoding="utf-8")
    stored = sitk.GetArrayFromImage(sitk.ReadImage(str(case / "xray.png")))
    (case / "xray.png").unlink()
    sitk.WriteImage(sitk.GetImageFromArray(np.stack([stored * 0 + 7, stored[:, ::-1]])), str(case / "xray.nrrd"))
    poses = []
    for of, options in ((cases / "case_000", ()), (case, ("--mirrored", "--frame", 1))):
        done = run("register", of, "-o", tmp_path / "out", *options, "--device", "cpu", "--json", "-q")
        assert done.exit_code == 0, done.stderr
        poses.append(json.loads(done.stdout)["camera_from_world"])
    np.testing.assert_array_equal(*poses)
    kept = json.loads((tmp_path / "out" / "result.json").read_text(encoding="utf-8"))["options"]
    assert (kept["mirrored"], kept["frame"]) == (True, 1)
    shown = panel_rows([case], tmp_path / "out")[0]  # as it was registered, not as the case says
    assert np.corrcoef(shown.xray.ravel(), shown.drr.ravel())[0, 1] > 0.8
    described = run("inspect", case, "--mirrored", "--frame", 1, "-p", tmp_path / "setup.png")
    assert described.exit_code == 0 and "command line" in described.stdout, described.stderr


def test_a_doubtful_result_says_so_first_and_what_to_try() -> None:
    def case(mirrored: GeometryValues) -> Case:
        known = with_defaults(mirrored, (8, 8), Sourced("counts", "user"))
        return Case(Path("case"), volume(), (View(Radiograph(np.ones((8, 8)), np.ones((8, 8)), camera, known=known), np.eye(4)),))

    camera, pose = Camera(1000.0, (1.0, 1.0), (8, 8), (3.5, 3.5)), np.eye(4)
    sure = RegistrationResult(pose, np.eye(6), np.zeros(3), 0.2, (), (), pose, pose)
    doubtful = replace(sure, doubt="its similarity is low", notes=("a note",))
    words = in_words(doubtful, Path("out")).splitlines()
    assert words[0] == "DOUBTFUL: its similarity is low" and words[1].startswith("score 0.200") and words[2] == "note: a note"
    assert in_words(sure, Path("out")).startswith("score")
    assert "--mirrored" in with_hint(doubtful, case(GeometryValues())).notes[-1]
    assert with_hint(doubtful, case(told(mirrored=False))).notes == ("a note",)  # somebody knows
    assert with_hint(sure, case(GeometryValues())).notes == ()


def volume() -> Volume:
    return Volume(np.zeros((4, 4, 4), np.float32), np.eye(4))


def test_the_truth_never_reaches_a_registration(cases: Path, tmp_path: Path) -> None:
    opened: set[str] = set()
    watching = True

    def watch(event: str, arguments: tuple[object, ...]) -> None:
        if watching and event == "open":
            opened.add(Path(str(arguments[0])).name)

    sys.addaudithook(watch)  # sees every file that Python opens, by whatever function
    words = ("batch", cases / "case_000", "-o", tmp_path / "out", "--device", "cpu", "-q")
    assert run(*words, "--no-pictures").exit_code == 0
    watching = False
    assert "geometry.json" in opened
    assert "truth.json" not in opened
    before = (tmp_path / "out" / "case_000" / "result.json").read_bytes()
    assert run(*words).exit_code == 0
    assert {"report.html", "overlay.png"} <= {path.name for path in (tmp_path / "out" / "case_000").iterdir()}, "pictures are made of what was kept"
    assert (tmp_path / "out" / "case_000" / "result.json").read_bytes() == before


def test_evaluate_registers_compares_and_goes_on(cases: Path, tmp_path: Path) -> None:
    done = run("evaluate", cases, "-o", tmp_path, "--device", "cpu", "-q", "--json")
    assert done.exit_code == 0, done.stderr
    printed = json.loads(done.stdout)
    assert len(printed["cases"]) == 2
    assert max(case["errors"]["mtre_3d"] for case in printed["cases"]) < 2.0
    with (tmp_path / "cases.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))
    assert rows[0][1] == "(a) mTRE 3D [mm]"
    assert len(rows) == 3
    before = (tmp_path / "case_000" / "result.json").stat().st_mtime_ns
    again = run("evaluate", cases, "-o", tmp_path, "--device", "cpu", "-q")
    assert "(a) mTRE 3D [mm]" in again.stdout
    assert (tmp_path / "case_000" / "result.json").stat().st_mtime_ns == before
    other = run("evaluate", cases, "-o", tmp_path, "--device", "cpu", "-q", "--seed", 1)
    assert other.exit_code == 2
    assert "seed" in other.stderr


def test_a_failed_case_is_a_row_and_an_exit_code(cases: Path, tmp_path: Path) -> None:
    broken = tmp_path / "cases" / "broken"
    broken.mkdir(parents=True)
    (broken / "geometry.json").write_text("{}", encoding="utf-8")
    done = run("batch", broken, "-o", tmp_path / "out", "--device", "cpu", "-q")
    assert done.exit_code == 1
    assert "no CT" in done.stdout


def test_an_interrupted_registration_leaves_nothing(cases: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("SphericalRegLib.visualization.output.write_report", interrupted)
    done = run("register", cases / "case_000", "-o", tmp_path / "out", "--device", "cpu", "-q")
    assert done.exit_code == 130
    assert done.stderr.splitlines() == ["interrupted: no half-written file was left behind"]
    assert list(tmp_path.iterdir()) == []


def test_the_same_seed_gives_the_same_pose(cases: Path, tmp_path: Path) -> None:
    poses = []
    for name in ("a", "b"):
        run("batch", cases / "case_001", "-o", tmp_path / name, "--no-pictures", "--device", "cpu", "-q", "--seed", 5)
        poses.append(json.loads((tmp_path / name / "case_001" / "result.json").read_text(encoding="utf-8"))["camera_from_world"])
    np.testing.assert_array_equal(*poses)


def test_a_panel_of_registered_cases(cases: Path, tmp_path: Path) -> None:
    for case in sorted(cases.glob("case_*")):  # results as if registration had found the start and stopped
        geometry = json.loads((case / "geometry.json").read_text(encoding="utf-8"))
        write_result(tmp_path / "out" / case.name, geometry["initial_camera_from_world"])
    done = run("panel", cases, "--results", tmp_path / "out", "-o", tmp_path / "panel.png", "--device", "cpu", "-q", "--json")
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["out"] == str(tmp_path / "panel.png") and "case_001" in json.loads(done.stdout)["rows"][1]
    with Image.open(tmp_path / "panel.png") as picture:
        both = picture.size
    one = run("panel", cases / "case_001", "--results", tmp_path / "out" / "case_001", "-o", tmp_path / "one.png", "--device", "cpu", "-q")
    assert one.exit_code == 0, one.stderr
    with Image.open(tmp_path / "one.png") as picture:
        assert picture.size[0] == both[0] and picture.size[1] < both[1]
    (tmp_path / "out" / "case_000" / "result.json").unlink()
    for words, said in (
        (("panel", cases, "--results", tmp_path / "out", "-o", tmp_path / "x.png"), "no result of the case case_000"),
        (("panel", cases, "--results", tmp_path / "out", "-o", tmp_path / "x.pdf"), ".png"),
    ):
        refused = run(*words, "--device", "cpu", "-q")
        assert refused.exit_code == 2 and said in refused.stderr


def write_result(folder: Path, pose: list[list[float]], **options: object) -> None:
    at, hypotheses = np.array(pose), (Hypothesis(np.array(pose), 0.5),)
    result = RegistrationResult(at, np.eye(6), np.zeros(3), 0.5, hypotheses, (), at, np.linalg.inv(at), options=options)
    folder.mkdir(parents=True)
    (folder / "result.json").write_text(json.dumps(result.to_dict()), encoding="utf-8")


def test_a_panel_shows_what_was_registered(cases: Path, tmp_path: Path) -> None:
    case = cases / "case_000"
    pose = json.loads((case / "geometry.json").read_text(encoding="utf-8"))["initial_camera_from_world"]
    model = AttenuationModel(energy_kev=40.0, bone_only=True)
    write_result(tmp_path / "bone", pose, attenuation=json.loads(json.dumps(asdict(model))))
    loaded = load_case(case)
    projector = Projector(attenuation(loaded.volume, model), loaded.views[0].radiograph.camera)
    bone = projector.project(torch.tensor(pose, dtype=torch.float64)[None])[0].numpy()
    np.testing.assert_allclose(panel_rows([case], tmp_path / "bone")[0].drr, bone, atol=1e-3 * bone.max())
    write_result(tmp_path / "odd", pose, attenuation={"colour": "blue"})
    with pytest.raises(InputError, match="attenuation that this version does not know: colour"):
        panel_rows([case], tmp_path / "odd")


def test_methods_from_the_same_starts(cases: Path, tmp_path: Path) -> None:
    options = ("--method", "NCC LM", "--method", "no model", "--spread", "1/2", "--device", "cpu", "-q", "--json")
    done = run("benchmark", "methods", cases, "-o", tmp_path / "out", *options)
    assert done.exit_code == 0, done.stderr
    rows = json.loads(done.stdout)["rows"]
    assert json.loads(done.stdout)["out"] == str(tmp_path / "out")
    assert [(row["start [deg/mm]"], row["method"], row["cases"]) for row in rows] == [("1/2", "NCC LM", 2), ("1/2", "no model", 2)]
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"methods.csv", "methods.md", "methods.png", "registrations.jsonl"}


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--spread", "5"), "--spread is '5', expected degrees and mm as in 15/30"),
        (("--method", "full"), "full needs a model of the CT, but there is none"),
        (("--method", "magic"), "expected some of full, no model"),
    ],
)
def test_methods_that_cannot_be_compared_are_refused(cases: Path, tmp_path: Path, options: tuple[str, ...], says: str) -> None:
    done = run("benchmark", "methods", cases, "-o", tmp_path / "out", *options, "--device", "cpu")
    assert done.exit_code == 2 and says in done.stderr
    assert not (tmp_path / "out").exists()
