"""What is wrong with an input is said in one sentence, before any long work: exit code 2, no traceback, nothing left behind."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import SimpleITK as sitk
from PIL import Image
from typer.testing import CliRunner

from SphericalRegLib.cli import load
from SphericalRegLib.errors import InputError


def _sibling(name: str) -> ModuleType:
    """A helper module beside this file (tests are not packages)."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


bad = _sibling("bad_inputs")
dicom = _sibling("bad_dicom")
Bad = bad.Bad


def dicom_series(change: str):
    """The case's CT as a DICOM series with something wrong."""

    def spoil(case: Path) -> None:
        (case / "ct.nii.gz").unlink()
        hu, positions = bad.body(), [6.0 * k for k in range(24)]
        if change == "empty":
            (case / "ct").mkdir()
            return
        if change == "text":
            (case / "ct").mkdir()
            (case / "ct" / "notes.txt").write_text("not DICOM", encoding="utf-8")
            return
        if change == "gap":
            hu, positions = np.delete(hu, 9, axis=0), positions[:9] + positions[10:]
        dicom.write_series(case / "ct", hu, positions)
        if change == "two":
            dicom.write_series(case / "ct", hu, positions, series="1.2.3.5")
        if change == "sizes":
            dicom.write_series(case / "ct", hu[:, :-2], [p + 3.0 for p in positions], prefix="smaller")

    return spoil


def dicom_xray(kind: str = "XA", drop: tuple[str, ...] = (), **tags):
    """The case's X-ray as DICOM without a geometry.json; tags that are dropped are missing."""

    def spoil(case: Path) -> None:
        (case / "xray.png").unlink()
        (case / "geometry.json").unlink()
        known = {"DistanceSourceToDetector": 1000.0, "ImagerPixelSpacing": [6.0, 6.0], **tags}
        dicom.write_dicom(case / "xray.dcm", bad.xray(), kind, **{k: v for k, v in known.items() if k not in drop})

    return spoil


def labels(array: np.ndarray):
    return lambda case: sitk.WriteImage(sitk.GetImageFromArray(array), str(case / "labels.nrrd"))


def mask(pixels: np.ndarray):
    return lambda case: Image.fromarray(pixels).save(case / "mask.png")


def away(case: Path) -> None:
    """A start behind which the CT lies: the camera looks the other way."""
    pose = np.diag([1.0, -1.0, -1.0, 1.0])
    pose[2, 3] = -5000.0
    bad.geometry(initial_camera_from_world=pose.tolist())(case)


def aside(case: Path) -> None:
    pose = np.eye(4)
    pose[:3, 3] = (900.0, 0.0, 700.0)
    bad.geometry(initial_camera_from_world=pose.tolist())(case)


def from_file(name: str) -> tuple[str, ...]:
    return ("--initial", "{folder}/" + name)


def beside_out():
    """What an interrupted training leaves, but that it is text."""
    return bad.beside("out.state", "this is no state")


def foreign_model(case: Path) -> None:
    bad.beside("m.safetensors", "x")(case)
    bad.beside("m.json", '{"format": "other/9"}')(case)


def a_model(case: Path) -> None:
    from SphericalRegLib.geometry.camera import Camera
    from SphericalRegLib.models.checkpoint import Model, save_model
    from SphericalRegLib.models.encoder import EncoderConfig, SphericalEncoder
    from SphericalRegLib.models.trunk import TrunkConfig

    encoder = SphericalEncoder(EncoderConfig(TrunkConfig(image_size=32, width=32, blocks=0), elements=2))
    save_model(Model(encoder, None, Camera(1000.0, (6.0, 6.0), (32, 32), (15.5, 15.5))), case.parent / "m.safetensors")


LANDSCAPE = "landscape {case} --model {folder}/m.safetensors -o {out} --device cpu --quiet"
EVALUATE = "evaluate {case} -o {out} --device cpu --quiet"
SIMULATE = "simulate {folder}/ct.nii.gz -o {out} --device cpu --quiet"
TRAIN = "train {case}/ct.nii.gz -o {out}.safetensors --iterations 1 --image-size 32 --device cpu --quiet"
SHEAR = [[1, 0.2, 0, 0], [0, 1, 0, 0], [0, 0, 1, 800], [0, 0, 0, 1]]
MIRROR = np.diag([-1.0, 1, 1, 1]).tolist()

CASES = [
    # the case folder
    Bad("no such case", "does not exist", command="register {case}x -o {out}"),
    Bad("a case that is a file", "file", command="register {case}/geometry.json -o {out}"),
    Bad("no CT", "no CT", bad.gone("ct.nii.gz")),
    Bad("two CTs", "several files", bad.also(bad.ct(bad.body(), name="ct.nrrd"), bad.ct(bad.body(), name="ct.mha"))),
    Bad("no X-ray", "no X-ray", bad.gone("xray.png")),
    Bad("no geometry", "geometry.json", bad.gone("geometry.json")),
    Bad("case.json that leads nowhere", "does not exist", bad.text("case.json", '{"ct": "../elsewhere.nii.gz"}')),
    Bad("case.json that is no JSON", "line 1", bad.text("case.json", "{ct: 1}")),
    Bad("case.json with a number for a path", "case.json", bad.text("case.json", '{"ct": 7}')),
    # the CT
    Bad("empty CT", "empty", bad.text("ct.nii.gz", "")),
    Bad("truncated CT", "ct.nii.gz", bad.cut("ct.nii.gz", 0.5)),
    Bad("CT whose voxels end early", "ct.nii.gz", bad.ct_bytes(lambda data: data[: len(data) // 2])),
    Bad("text named .nii.gz", "ct.nii.gz", bad.text("ct.nii.gz", "this is no image")),
    Bad("CT with NaN", "NaN", bad.ct(lambda hu: np.where(hu > 100, np.nan, hu).astype(np.float32))),
    Bad("CT with infinity", "ct.nii.gz", bad.ct(lambda hu: np.where(hu > 100, np.inf, hu).astype(np.float32))),
    Bad("CT in 2D", "ct.nii.gz", bad.ct(bad.body((24, 28)))),
    Bad("CT in 4D", "ct.nii.gz", bad.ct(np.stack([bad.body()] * 2), spacing=(5.0, 5.0, 6.0, 1.0))),
    Bad("CT of one slice", "at least two voxels", bad.ct(bad.body((1, 28, 20)))),
    Bad("CT in colour", "ct.nrrd", bad.ct(np.stack([bad.body()] * 3, axis=-1), name="ct.nrrd", vector=True)),
    Bad("CT with zero spacing", "ct.nii.gz", bad.ct_bytes(lambda data: bad.header(80, [0, 0, 0])(bad.header(252, [0, 0], "<i2")(data)))),
    Bad("CT with a singular affine", "ct.nii.gz", bad.ct_bytes(lambda d: bad.header(280, [0] * 12)(bad.header(252, [0, 1], "<i2")(d)))),
    Bad("CT with NaN in its affine", "ct.nii.gz", bad.ct_bytes(lambda d: bad.header(280, [np.nan] * 12)(bad.header(252, [0, 1], "<i2")(d)))),
    Bad("CT scaled to 0...1", "Hounsfield", bad.ct(lambda hu: ((hu + 1000) / 2000).astype(np.float32))),
    Bad("CT beyond any HU", "Hounsfield", bad.ct(lambda hu: hu.astype(np.float32) * 1000)),
    Bad("CT of air", "ct.nii.gz", bad.ct(lambda hu: np.full_like(hu, -1000))),
    Bad("labels that are fractions", "labels.nrrd", labels((bad.body() / 1000).astype(np.float32))),
    Bad("DICOM folder without files", "ct", dicom_series("empty")),
    Bad("DICOM folder without DICOM", "ct", dicom_series("text")),
    Bad("DICOM series with a missing slice", "slice", dicom_series("gap")),
    Bad("DICOM folder with two series", "series", dicom_series("two")),
    Bad("DICOM slices of two sizes", "ct", dicom_series("sizes")),
    # the X-ray
    Bad("empty X-ray", "empty", bad.text("xray.png", "")),
    Bad("truncated X-ray", "xray.png", bad.cut("xray.png", 0.6)),
    Bad("text named .png", "xray.png", bad.text("xray.png", "this is no image")),
    Bad("X-ray in colour", "xray.png", bad.xray_as(np.random.default_rng(0).integers(0, 255, (32, 32, 3), dtype=np.uint8))),
    Bad("constant X-ray", "xray.png", bad.xray_as(np.full((32, 32), 7, np.uint8))),
    Bad("X-ray of another size than its geometry", "32", bad.xray_as(lambda pixels: pixels[:, :30])),
    Bad("X-ray in 3D", "xray.npy", bad.xray_npy(np.zeros((32, 32, 7), np.float32))),
    Bad("X-ray of NaN", "xray.npy", bad.xray_npy(np.full((32, 32), np.nan, np.float32))),
    Bad("X-ray of text", "xray.npy", bad.xray_npy(np.full((32, 32), "a"))),
    Bad("pickled X-ray", "xray.npy", bad.xray_npy(np.array([{"a": 1}], dtype=object), pickled=True)),
    Bad("X-ray of four pixels", "xray.npy", bad.also(bad.xray_npy(np.eye(2, dtype=np.float32)), bad.geometry(size_px=[2, 2]))),
    Bad("mask of another size", "mask", mask(np.full((8, 8), 255, np.uint8))),
    Bad("mask that leaves nothing", "mask", mask(np.zeros((32, 32), np.uint8))),
    Bad("DICOM X-ray without SID", "sdd_mm", dicom_xray(drop=("DistanceSourceToDetector",))),
    Bad("DICOM X-ray with SID 0.000", "sdd_mm", dicom_xray(DistanceSourceToDetector=0.0)),
    Bad("DICOM X-ray without spacing", "pixel_spacing_mm", dicom_xray(drop=("ImagerPixelSpacing",))),
    Bad("DICOM X-ray with spacing 0.000", "pixel_spacing_mm", dicom_xray(ImagerPixelSpacing=[0.0, 0.0])),
    Bad("DICOM CT slice as X-ray", "xray.dcm", dicom_xray("CT")),
    Bad("truncated DICOM X-ray", "xray.dcm", bad.also(dicom_xray(), bad.cut("xray.dcm", 0.5))),
    # the geometry
    Bad("empty geometry", "empty", bad.text("geometry.json", "")),
    Bad("geometry that is no JSON", "line 1", bad.text("geometry.json", "{'sdd_mm': 1000}")),
    Bad("geometry that is a list", "geometry.json", bad.text("geometry.json", "[1000]")),
    Bad("geometry without SDD", "sdd_mm", bad.geometry(sdd_mm=None)),
    Bad("SDD as text", "sdd_mm", bad.geometry(sdd_mm="1000 mm")),
    Bad("negative SDD", "sdd_mm", bad.geometry(sdd_mm=-1000)),
    Bad("SDD that is not a number", "sdd_mm", bad.geometry(sdd_mm=float("nan"))),
    Bad("SDD that is true", "sdd_mm", bad.geometry(sdd_mm=True)),
    Bad("zero pixel spacing", "pixel_spacing_mm", bad.geometry(pixel_spacing_mm=[0, 0])),
    Bad("three pixel spacings", "pixel_spacing_mm", bad.geometry(pixel_spacing_mm=[6, 6, 6])),
    Bad("size in fractions", "size_px", bad.geometry(size_px=[32.5, 32])),
    Bad("principal point as text", "principal_point_px", bad.geometry(principal_point_px=["a", "b"])),
    Bad("unknown intensity", "intensity", bad.geometry(intensity="bright")),
    Bad("mirrored as text", "mirrored", bad.geometry(mirrored="yes")),
    Bad("initial pose that shears", "initial_camera_from_world", bad.geometry(initial_camera_from_world=SHEAR)),
    Bad("initial pose that mirrors", "initial_camera_from_world", bad.geometry(initial_camera_from_world=MIRROR)),
    Bad("initial pose of 3 x 4", "initial_camera_from_world", bad.geometry(initial_camera_from_world=np.eye(4)[:3].tolist())),
    Bad("initial pose that looks away", "X-ray", away),
    Bad("X-ray that misses the CT", "X-ray", aside),
    Bad("second view without its place", "camera2_from_camera1", bad.second_view(bad.GEOMETRY)),
    Bad("second view that is not rigid", "camera2_from_camera1", bad.second_view({**bad.GEOMETRY, "camera2_from_camera1": SHEAR})),
    # the command line
    Bad("unknown view", "--initial", options=("--initial", "oblique")),
    Bad("start from a missing file", "--initial", options=from_file("pose.tfm")),
    Bad("start from a damaged .tfm", "pose.tfm", bad.beside("pose.tfm", "#Insight Transform File V1.0\n"), options=from_file("pose.tfm")),
    Bad("start from a damaged .h5", "pose.h5", bad.beside("pose.h5", "HDF"), options=from_file("pose.h5")),
    Bad("start from a 2D transform", "pose.tfm", bad.transform("pose.tfm", sitk.AffineTransform(2)), options=from_file("pose.tfm")),
    Bad("start that scales", "pose.tfm", bad.transform("pose.tfm", sitk.ScaleTransform(3, (2, 2, 2))), options=from_file("pose.tfm")),
    Bad("start from the CT's place", "result.json", bad.transform("ct_to_xray.tfm", sitk.AffineTransform(3)), options=from_file("ct_to_xray.tfm")),
    Bad("start from JSON without a pose", "camera_from_world", bad.beside("pose.json", "{}"), options=from_file("pose.json")),
    Bad("start from another kind of file", "pose.docx", bad.beside("pose.docx", "1 0 0"), options=from_file("pose.docx")),
    Bad("no such device", "--device", options=("--device", "gpu")),
    Bad("output that is a file", "file", bad.beside("file", "x"), command="register {case} -o {folder}/file"),
    Bad("output below a file", "file", bad.beside("file", "x"), command="register {case} -o {folder}/file/deeper"),
    # many cases
    Bad("evaluation without truth", "truth", bad.gone("truth.json"), command=EVALUATE),
    Bad("truth that is not rigid", "truth", bad.text("truth.json", f'{{"camera_from_world": {SHEAR}, "fiducials_ras_mm": [[0,0,0]]}}'), EVALUATE),
    Bad("fiducials in 2D", "fiducials", bad.text("truth.json", f'{{"camera_from_world": {bad.IDENTITY}, "fiducials_ras_mm": [[0,0]]}}'), EVALUATE),
    Bad("truth without fiducials", "fiducials", bad.text("truth.json", f'{{"camera_from_world": {bad.IDENTITY}}}'), EVALUATE),
    Bad("no cases in a folder", "no case", lambda case: (case.parent / "none").mkdir(), command="batch {folder}/none -o {out}"),
    Bad("cases that are missing", "missing", command="batch {folder}/none -o {out}"),
    Bad("the same case twice", "twice", command="batch {case} {case} -o {out} --device cpu --quiet"),
    # looking
    Bad("inspecting nothing", "does not exist", command="inspect {case}x"),
    Bad("inspecting an empty file", "empty", bad.text("xray.png", ""), command="inspect {case}/xray.png"),
    Bad("inspecting geometry that is no JSON", "line 1", bad.text("geometry.json", "{"), command="inspect {case}/geometry.json"),
    Bad("inspecting a damaged CT", "ct.nii.gz", bad.cut("ct.nii.gz", 0.5), command="inspect {case}/ct.nii.gz"),
    Bad("a drawing of a CT alone", "--picture draws the set-up of a case", command="inspect {case}/ct.nii.gz --picture {folder}/x.png"),
    Bad("a drawing in a format that is none", ".png", command="inspect {case} --picture {folder}/x.jpg"),
    Bad("a drawing below a file", "is a file", command="inspect {case} --picture {case}/ct.nii.gz/x.png"),
    Bad("a drawing and none", "--no-picture", command="inspect {case} --no-picture --picture {folder}/x.png"),
    # training
    Bad("training on a missing CT", "does not exist", command=TRAIN.replace("{case}", "{folder}/none")),
    Bad("training on text", "ct.nii.gz", bad.text("ct.nii.gz", "this is no image"), TRAIN),
    Bad("training on air", "ct.nii.gz", bad.ct(lambda hu: np.full_like(hu, -1000)), TRAIN),
    Bad("training for an unknown view", "pa", command=TRAIN, options=("--view", "top")),
    Bad("training with an unknown backbone", "no_such_net", command=TRAIN, options=("--backbone", "no_such_net")),
    Bad("training at a size that is no multiple of 8", "multiple of 8", command=TRAIN, options=("--image-size", "50")),
    Bad("training into a pickle", ".safetensors", command="train {case}/ct.nii.gz -o {out}/model.pt"),
    Bad("training with nobody's camera", "does not exist", command=TRAIN, options=("--camera", "{folder}/none")),
    Bad("resuming nothing", "no unfinished training", command=TRAIN, options=("--resume",)),
    Bad("an unfinished training in the way", "unfinished", beside_out(), TRAIN),
    Bad("resuming what is no state", "not the state", beside_out(), TRAIN, ("--resume",)),
    Bad("training from a base that is missing", "does not exist", command=TRAIN, options=("--base", "{folder}/none")),
    # models
    Bad("a model that is missing", "does not exist", options=("--model", "{folder}/none.safetensors")),
    Bad("a model without its card", "card", bad.beside("m.safetensors", "x"), options=("--model", "{folder}/m.safetensors")),
    Bad("a model of another format", "other/9", foreign_model, options=("--model", "{folder}/m.safetensors")),
    Bad("the regressor of no model", "there is no model", command="register {case} -o {out} --initial regressor"),
    Bad("evaluation with a missing model", "does not exist", command=EVALUATE, options=("--model", "{folder}/none.safetensors")),
    Bad("landscape without a truth", "truth.json", bad.also(bad.gone("truth.json"), a_model), LANDSCAPE),
    Bad("landscape of an unknown similarity", "patch_gradient_ncc", a_model, LANDSCAPE, ("--similarity", "mi")),
    Bad("landscape without a model", "does not exist", command=LANDSCAPE),
    # simulation
    Bad("simulation of a missing CT", "does not exist", command=SIMULATE),
    Bad("simulation of an unknown sample", "thorax", command="simulate sample:knee -o {out}"),
    Bad("simulation of an unknown difficulty", "realistic", command="simulate {case}/ct.nii.gz -o {out} --level brutal"),
    Bad("simulation of an unknown view", "pa", command="simulate {case}/ct.nii.gz -o {out} --view top"),
    Bad("simulation without bone", "bone", bad.ct(lambda hu: np.minimum(hu, 40)), command="simulate {case}/ct.nii.gz -o {out} --device cpu -q"),
]


def test_there_are_many_kinds() -> None:
    assert len(CASES) >= 40
    assert len({case.name for case in CASES}) == len(CASES)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    bad.good_case(tmp_path)
    return tmp_path


def arguments(kind, folder: Path) -> list[str]:
    words = [*kind.command.split(), *kind.options]
    return [word.format(case=folder / "case", out=folder / "out", folder=folder) for word in words]


def content(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


@pytest.mark.parametrize("kind", CASES, ids=[case.name.replace(" ", "_") for case in CASES])
def test_bad_input_is_named(kind, folder: Path) -> None:
    kind.spoil(folder / "case")
    before = content(folder)
    done = CliRunner().invoke(load(), arguments(kind, folder))
    assert done.exit_code == 2, f"{done.stdout}{done.stderr}{done.exception!r}"
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("error: ")
    assert kind.says in lines[0]
    assert content(folder) == before


def test_inspect_describes_a_case_whose_geometry_is_still_to_be_written(folder: Path) -> None:
    (folder / "case" / "geometry.json").unlink()
    done = CliRunner().invoke(load(), ["inspect", str(folder / "case")])
    assert done.exit_code == 2
    assert "ct.nii.gz" in done.stdout
    for said in (done.stdout, done.stderr):
        assert "sdd_mm" in said
        assert "pixel_spacing_mm" in said
    assert done.stderr.count("\n") == 1


def test_inspect_draws_a_start_that_cannot_be_used(folder: Path) -> None:
    """It is what one has to see; the command ends as a registration from there does."""
    away(folder / "case")
    done = CliRunner().invoke(load(), ["inspect", str(folder / "case"), "--picture", str(folder / "x.PNG")])
    assert done.exit_code == 2
    for said in (done.stdout, done.stderr):
        assert "behind the X-ray source" in said
    with Image.open(folder / "x.PNG") as picture:
        assert picture.format == "PNG"


def test_a_start_of_the_case_is_looked_at_where_it_is_used_before_long_work(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def long_work(*_: object) -> None:
        raise InputError("the CT is prepared")

    monkeypatch.setattr("SphericalRegLib.registration.pipeline.prepare", long_work)
    monkeypatch.setattr("SphericalRegLib.evaluation.registrar.prepare", long_work)
    aside(folder / "case")
    words = [str(folder / "case"), "-o", str(folder / "out"), "--device", "cpu", "-q"]
    assert "beside the X-ray" in CliRunner().invoke(load(), ["register", *words]).stderr
    assert "the CT is prepared" in CliRunner().invoke(load(), ["register", *words, "--initial", "ap"]).stderr
    assert "beside the X-ray" in CliRunner().invoke(load(), ["batch", *words]).stdout
    assert "the CT is prepared" in CliRunner().invoke(load(), ["batch", *words[:2], str(folder / "other"), *words[3:], "--initial", "ap"]).stdout


def test_the_good_case_is_good(folder: Path) -> None:
    """Else the tests above could fail for another reason than theirs."""
    from SphericalRegLib.imaging.case import load_case

    case = load_case(folder / "case")
    assert case.volume.shape == (20, 28, 24)
    assert case.views[0].radiograph.mask.any()


@pytest.mark.parametrize("name", ["geometry without SDD", "no such device"])
def test_the_real_process_says_the_same(name: str, folder: Path) -> None:
    kind = next(case for case in CASES if case.name == name)
    kind.spoil(folder / "case")
    done = subprocess.run([sys.executable, "-m", "SphericalRegLib", *arguments(kind, folder)], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("error: ")
    assert not (folder / "out").exists()
