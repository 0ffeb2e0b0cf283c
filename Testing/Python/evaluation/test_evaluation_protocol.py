"""Truth files, tables, and the loop over many cases: resumable, honest about failures, blind to the truth."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from SphericalRegLib.errors import InputError
from SphericalRegLib.evaluation import registrar
from SphericalRegLib.evaluation.protocol import BatchOptions, batch, evaluate, register_folders
from SphericalRegLib.evaluation.registrar import _same
from SphericalRegLib.evaluation.runs import case_digest, find_cases, peak_memory_mb, register_cases
from SphericalRegLib.evaluation.tables import Table
from SphericalRegLib.evaluation.truth import load_truth
from SphericalRegLib.geometry.camera import Camera
from SphericalRegLib.geometry.views import named_view
from SphericalRegLib.imaging.case import load_case
from SphericalRegLib.imaging.geometry_file import write_geometry
from SphericalRegLib.imaging.starts import Start
from SphericalRegLib.imaging.volume import Volume
from SphericalRegLib.progress import Cancelled

CAMERA = Camera(1000.0, (4.0, 4.0), (32, 32), (15.5, 15.5))


@dataclass(frozen=True)
class Answer:
    pose: np.ndarray
    doubt: str | None = None

    def to_dict(self):
        return {"camera_from_world": self.pose.tolist(), "score": 0.9, "verdict": "uncalibrated", "doubt": self.doubt}


def answer_the_start(case):
    return Answer(case.initial_camera_from_world)


def make_case(folder: Path, offset_mm: float = 3.0) -> Path:
    """A tiny case whose start is off by `offset_mm` along camera x."""
    import SimpleITK as sitk

    folder.mkdir(parents=True)
    hu = np.full((8, 8, 8), -1000.0, np.float32)
    hu[2:6, 2:6, 2:6] = 500.0
    volume = Volume.from_array(hu, np.diag([10.0, 10.0, 10.0, 1.0]), name="cube")
    sitk.WriteImage(volume.to_sitk(), str(folder / "ct.nii.gz"))
    pose = named_view("ap", CAMERA, volume.centre_ras_mm.tolist()).numpy()
    start = pose.copy()
    start[0, 3] += offset_mm
    grey = np.random.default_rng(0).integers(10, 250, (32, 32)).astype(np.uint8)
    Image.fromarray(grey).save(folder / "xray.png")
    write_geometry(folder / "geometry.json", CAMERA, intensity="display", initial_camera_from_world=start)
    truth = {"camera_from_world": pose.tolist(), "fiducials_ras_mm": [[30.0, 30.0, 30.0], [40.0, 50.0, 35.0]]}
    (folder / "truth.json").write_text(json.dumps(truth))
    return folder


@pytest.fixture
def cases(tmp_path):
    return [make_case(tmp_path / "sets" / name, offset) for name, offset in (("a/case_000", 0.5), ("b/case_000", 3.0), ("b/case_001", 20.0))]


# ---- truth


def test_truth_is_read(cases):
    truth = load_truth(cases[0])
    assert truth.camera_from_world.shape == (4, 4) and truth.fiducials.shape == (2, 3)


def test_truth_may_be_rounded_to_four_decimals(cases):
    path = cases[0] / "truth.json"
    turn = np.eye(4)
    turn[:3, :3] = [[0.0632, -0.5455, -0.8357], [-0.7242, 0.551, -0.4145], [0.6866, 0.6314, -0.3603]]  # off a rotation by 1.6e-4
    path.write_text(json.dumps({**json.loads(path.read_text()), "camera_from_world": turn.tolist()}))
    rotation = load_truth(cases[0]).camera_from_world[:3, :3]
    np.testing.assert_allclose(rotation.T @ rotation, np.eye(3), atol=1e-14)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"camera_from_world": None}, "no camera_from_world"),
        ({"fiducials_ras_mm": None}, "no fiducials_ras_mm"),
        ({"camera_from_world": [[1.0, 2.0], [3.0, 4.0]]}, "4 x 4"),
        ({"camera_from_world": np.diag([2.0, 2, 2, 1]).tolist()}, "rigid"),
        ({"fiducials_ras_mm": [[1.0, 2.0]]}, r"\(1, 2\)"),
        ({"fiducials_ras_mm": []}, "finite number|at least one|expected a list"),
        ({"fiducials_ras_mm": [[1.0, 2.0, 3.0], [1.0]]}, "different lengths"),
        ({"fiducials_ras_mm": [[1.0, 2.0, "three"]]}, "finite number"),
        ({"fiducials_ras_mm": [[1.0, 2.0, float("nan")]]}, "finite number"),
    ],
)
def test_unusable_truth_is_named(cases, change, message):
    path = cases[0] / "truth.json"
    content = {k: v for k, v in {**json.loads(path.read_text()), **change}.items() if v is not None}
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match=message) as caught:
        load_truth(cases[0])
    assert "truth.json" in str(caught.value)


def test_missing_truth_is_named(cases):
    (cases[0] / "truth.json").unlink()
    with pytest.raises(InputError, match=r"truth\.json does not exist"):
        load_truth(cases[0])


# ---- tables


def test_tables():
    table = Table(("name", "value", "ok"), (("a|b", 1.23456, True), ("c", float("inf"), False), ("d, e", None, None)))
    assert table.to_csv().splitlines()[1:] == ["a|b,1.23456,True", "c,inf,False", '"d, e",,']
    assert table.to_markdown().splitlines() == [
        "| name | value | ok |", "| --- | ---: | --- |", "| a\\|b | 1.23 | yes |", "| c | failed | no |", "| d, e | - | - |",
    ]  # fmt: skip
    assert table.to_text(1).splitlines() == ["name   value  ok", "a|b      1.2  yes", "c     failed  no", "d, e       -  -"]
    with pytest.raises(ValueError, match="2 values"):
        Table(("one",), ((1, 2),))


# ---- the loop


def test_evaluate_compares_and_writes(cases, tmp_path):
    out = tmp_path / "out"
    result = evaluate(cases, out, answer_the_start, options={"method": "start"})
    assert [r.name for r in result.records] == ["a/case_000", "b/case_000", "b/case_001"]
    np.testing.assert_allclose([e.mtre_3d for e in result.errors], [0.5, 3.0, 20.0])
    np.testing.assert_allclose([e.mtre_3d for e in result.initial], [0.5, 3.0, 20.0])
    assert (result.summary.below_1mm, result.summary.above_10mm) == (pytest.approx(1 / 3), pytest.approx(1 / 3))
    rows = list(csv.reader((out / "cases.csv").open()))
    assert rows[0][:5] == ["case", "(a) mTRE 3D [mm]", "(b) mRPE [mm]", "(c) mRPE x pixel", "(d) mPE 2D [mm]"]
    assert float(rows[2][1]) == pytest.approx(3.0) and rows[2][-1] == ""
    summary = list(csv.reader((out / "summary.csv").open()))
    assert summary[1][0] == "(a) mTRE 3D [mm]" and float(summary[1][4]) == pytest.approx(3.0)
    text = (out / "evaluation.md").read_text()
    assert "reading files and writing results are not" in text and "Peak memory" in text and '"method": "start"' in text
    assert json.loads((out / "evaluation.json").read_text())["mtre_3d"]["p50"] == pytest.approx(3.0)
    assert json.loads((out / "b/case_001/result.json").read_text())["score"] == 0.9


def test_doubtful_results_are_named_and_left_out_of_a_row_of_their_own(cases, tmp_path):
    far = load_case(cases[2]).initial_camera_from_world

    def doubts(case):
        pose = case.initial_camera_from_world
        return Answer(pose, "its score is low" if np.array_equal(pose, far) else None)

    assert evaluate(cases, tmp_path / "sure", answer_the_start).doubts == (None, None, None)
    assert "without doubtful" not in (tmp_path / "sure/summary.csv").read_text()
    result = evaluate(cases, tmp_path / "out", doubts)
    assert result.doubts == (None, None, "its score is low")
    (row,) = [row for row in result.summary_table.rows if "without doubtful" in row[0]]
    assert row[1] == 2 and row[-1] == 0.0
    column = result.cases_table.columns.index("doubt")
    assert [row[column] for row in result.cases_table.rows] == [None, None, "its score is low"]
    table = batch(cases, tmp_path / "batch", doubts)[1]
    assert [row[table.columns.index("doubt")] for row in table.rows] == [None, None, "its score is low"]


def test_the_start_is_where_the_registration_began(tmp_path):
    """Which need not be what the case says: a model's regressor, or a named view, begins elsewhere."""
    case = make_case(tmp_path / "case", 3.0)

    @dataclass(frozen=True)
    class FromElsewhere(Answer):
        def to_dict(self):
            begin = self.pose.copy()
            begin[1, 3] += 4.0
            return {**super().to_dict(), "initial_camera_from_world": begin.tolist()}

    result = evaluate([case], tmp_path / "out", lambda case: FromElsewhere(case.initial_camera_from_world))
    assert result.initial[0].mtre_3d == pytest.approx(5.0)


def test_a_registrar_cannot_reach_the_truth_through_the_case(cases, tmp_path):
    """Whatever truth.json holds, even rubbish, registration is the same."""
    given = []

    def spy(case):
        given.append(repr(sorted(vars(case))) + repr(case.initial_camera_from_world.tolist()))
        return answer_the_start(case)

    register_cases(cases[:1], tmp_path / "one", spy)
    (cases[0] / "truth.json").write_text("no JSON")
    register_cases(cases[:1], tmp_path / "two", spy)
    (cases[0] / "truth.json").unlink()
    register_cases(cases[:1], tmp_path / "three", spy)
    assert len(set(given)) == 1 and "truth" not in given[0]


def test_failed_cases_are_rows_and_are_tried_again(cases, tmp_path):
    attempts = []

    def fragile(case):
        attempts.append(case.path)
        if case.path == cases[1]:
            raise RuntimeError("singular")
        return answer_the_start(case)

    (cases[2] / "xray.png").write_bytes(b"")
    result = evaluate(cases, tmp_path / "out", fragile)
    assert [r.error is None for r in result.records] == [True, False, False]
    assert "RuntimeError: singular" in result.records[1].error and "xray.png" in result.records[2].error
    assert result.summary.failed == 2 and result.errors[1].mtre_3d == np.inf
    assert result.initial[1].mtre_3d == pytest.approx(3.0)
    assert "singular" in (tmp_path / "out/b/case_000/traceback.txt").read_text()
    assert "failed" in result.cases_table.to_markdown()
    attempts.clear()
    again = evaluate(cases, tmp_path / "out", lambda case: attempts.append(case.path) or answer_the_start(case))
    assert attempts == [cases[1]]  # the first is kept, the third cannot be loaded
    assert again.records[1].error is None and again.summary.failed == 1


def test_resume_notices_changed_files_and_options(cases, tmp_path):
    calls = []

    def counting(case):
        calls.append(case.path.name)
        return answer_the_start(case)

    register_cases(cases, tmp_path / "out", counting, options={"seed": 1})
    register_cases(cases, tmp_path / "out", counting, options={"seed": 1})
    assert len(calls) == 3
    geometry = json.loads((cases[0] / "geometry.json").read_text())
    (cases[0] / "geometry.json").write_text(json.dumps({**geometry, "note": "touched"}))
    (cases[1] / "truth.json").write_text("{}")  # not seen, so nothing changes
    register_cases(cases, tmp_path / "out", counting, options={"seed": 1})
    assert len(calls) == 4
    with pytest.raises(InputError, match=r"other options \(seed\)"):
        register_cases(cases, tmp_path / "out", counting, options={"seed": 2})
    register_cases(cases, tmp_path / "out", counting, options={"seed": 2}, recompute=True)
    assert len(calls) == 7


def test_cancelling_keeps_what_is_done(cases, tmp_path):
    reports = []

    def stop(report):
        reports.append(report)
        if report.done == 2:
            raise Cancelled

    with pytest.raises(Cancelled):
        register_cases(cases, tmp_path / "out", answer_the_start, progress=stop)
    assert "left" in reports[1].message
    done = [p.parent.name for p in sorted((tmp_path / "out").rglob("result.json"))]
    assert done == ["case_000", "case_000"]


def test_whatever_registration_sees_decides_whether_a_result_is_kept(tmp_path):
    """Also what case.json places elsewhere, and the slices of a DICOM folder."""
    case = make_case(tmp_path / "cases" / "case")
    (tmp_path / "else").mkdir()
    (tmp_path / "ct").mkdir()
    for name in ("xray.png", "geometry.json"):
        (case / name).rename(tmp_path / "else" / name)
    (case / "ct.nii.gz").unlink()
    (tmp_path / "ct" / "slice.dcm").write_bytes(b"one")
    named = {"ct": "../../ct", "xray": "../../else/xray.png", "geometry": "../../else/geometry.json"}
    (case / "case.json").write_text(json.dumps(named))
    digests = [case_digest(case, {})]
    for path in (tmp_path / "else" / "xray.png", tmp_path / "else" / "geometry.json", tmp_path / "ct" / "slice.dcm", case / "truth.json"):
        path.write_bytes(path.read_bytes() + b" ")
        digests.append(case_digest(case, {}))
    assert len(set(digests)) == 4 and digests[-1] == digests[-2]


def test_what_an_earlier_run_left_goes_before_a_registration(cases, tmp_path):
    out = tmp_path / "out"
    folder = out / "case_000"
    register_cases(cases[:1], out, answer_the_start)
    for name in ("ct_to_xray.tfm", "overlay_2.png", "report.html", "mine.txt"):
        (folder / name).write_text("old")

    def fail(case):
        raise RuntimeError("no luck")

    register_cases(cases[:1], out, fail, recompute=True)
    assert sorted(path.name for path in folder.iterdir()) == ["mine.txt", "record.json", "traceback.txt"]
    register_cases(cases[:1], out, answer_the_start)
    assert sorted(path.name for path in folder.iterdir()) == ["mine.txt", "record.json", "result.json"]


def test_results_never_lie_among_a_cases_own_files(cases):
    other = make_case(cases[0].parents[1] / "other" / "case_000")
    for out in (cases[1].parent, other.parent):  # sets have the same names
        with pytest.raises(InputError, match=r"is a case folder \(it holds geometry.json\)"):
            register_cases(cases[1:2], out, answer_the_start)
    assert not (cases[1] / "record.json").exists() and not (other / "record.json").exists()
    bare = cases[0].parents[1] / "bare" / "case_000"
    bare.mkdir(parents=True)
    (bare / "xray.nrrd").write_text("raw")  # whose geometry is still to be written
    register_cases(cases[1:2], bare.parent, answer_the_start)
    assert (bare / "xray.nrrd").read_text() == "raw"


def test_a_ct_is_made_ready_again_where_only_its_labels_differ():
    hu = np.full((4, 4, 4), 100.0, np.float32)
    hu[0] = -1000.0
    labels = np.zeros((4, 4, 4), np.uint8)
    labels[1:3, 1:3, 1:3] = 1
    one, other = (Volume.from_array(hu, np.eye(4), labels=labels == value) for value in (1, 0))
    bare = Volume.from_array(hu, np.eye(4))
    assert _same(one, Volume.from_array(hu.copy(), np.eye(4), labels=labels == 1))
    assert not _same(one, other) and not _same(one, bare) and not _same(bare, one)


def test_batch_needs_no_truth(cases, tmp_path):
    for case in cases:
        (case / "truth.json").unlink()
    records, table = batch(cases, tmp_path / "out", answer_the_start)
    assert all(r.error is None and r.seconds >= 0 for r in records)
    assert table.rows[0][:3] == ("a/case_000", "uncalibrated", 0.9)
    assert (tmp_path / "out/batch.csv").exists() and (tmp_path / "out/batch.md").exists()


def test_evaluate_without_any_truth_is_refused_before_work(cases, tmp_path):
    for case in cases:
        (case / "truth.json").unlink()
    with pytest.raises(InputError, match="does not exist"):
        evaluate(cases, tmp_path / "out", lambda case: pytest.fail("registered"))
    assert not (tmp_path / "out").exists()


def test_one_missing_truth_is_one_row(cases, tmp_path):
    (cases[0] / "truth.json").unlink()
    result = evaluate(cases, tmp_path / "out", answer_the_start)
    assert "truth.json does not exist" in result.cases_table.rows[0][-1]
    assert result.summary.failed == 1 and result.initial[0] is None


def test_a_writer_of_ones_own(cases, tmp_path):
    def write(result, case, folder):
        (folder / "result.json").write_text(json.dumps(result.to_dict()))
        (folder / "picture.png").write_bytes(b"x")

    evaluate(cases[:1], tmp_path / "out", answer_the_start, write=write)
    assert (tmp_path / "out/case_000/picture.png").exists()


@pytest.fixture
def asked(monkeypatch):
    """The starts that registrations are asked for, in the place of the registrations."""
    starts = []

    def register(_pyramid, _views, start, **_):
        starts.append(start)
        return Answer(np.eye(4))

    monkeypatch.setattr(registrar, "register", register)
    monkeypatch.setattr(registrar, "prepare", lambda *_: None)
    return starts


def test_folders_are_registered_from_what_is_said_else_from_what_each_says(cases, tmp_path, asked):
    matrix = np.array(json.loads((cases[0] / "truth.json").read_text())["camera_from_world"])
    for number, start in enumerate((None, "ap", "views", matrix, Start("pa", 180.0, 0.0))):
        for then in (batch, evaluate):
            out = tmp_path / f"{number} {then.__name__}"
            done = register_folders(cases[:1], out, BatchOptions(start, pictures=False), then=then)
            assert done.records[0].error is None
            kept = json.loads((out / "run.json").read_text())["options"]["initial"]
            assert kept == (start if start is None or isinstance(start, str) else matrix.tolist() if start is matrix else vars(start))
    own, named, views, given, angles = asked[::2]
    np.testing.assert_array_equal(own, load_case(cases[0]).initial_camera_from_world)
    assert (named, views, given is matrix) == ("ap", None, True)
    np.testing.assert_allclose(angles, matrix, atol=1e-9)


def test_a_start_that_no_case_can_begin_from_is_refused_before_the_first(cases, tmp_path, asked):
    for start, message in (("scene", "'scene'; expected one of ap"), ("regressor", "there is no model"), (np.diag([2.0, 2, 2, 1]), "not rigid")):
        with pytest.raises(InputError, match=message):
            register_folders(cases, tmp_path / "out", BatchOptions(start), then=batch)
    assert not (tmp_path / "out").exists() and asked == []


def test_finding_cases(cases, tmp_path):
    sets = tmp_path / "sets"
    assert find_cases([sets / "b", cases[0]]) == [cases[1], cases[2], cases[0]]
    shutil.copytree(cases[0], sets / "b" / ".case_002.partial")
    assert find_cases([sets / "b"]) == cases[1:]
    (tmp_path / "empty").mkdir()
    for wrong, message in ((tmp_path / "none", "missing"), (tmp_path / "empty", "no case"), (cases[0] / "xray.png", "a file")):
        with pytest.raises(InputError, match=message):
            find_cases([wrong])
    with pytest.raises(InputError, match="no case was given"):
        find_cases([])


def test_unusable_runs_are_refused(cases, tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="is a file"):
        register_cases(cases, tmp_path / "file", answer_the_start)
    with pytest.raises(InputError, match="given twice"):
        register_cases([cases[0], cases[0]], tmp_path / "out", answer_the_start)
    with pytest.raises(InputError, match="no case"):
        register_cases([], tmp_path / "out", answer_the_start)


def test_peak_memory_is_of_this_process():
    peak = peak_memory_mb()
    assert peak is None or 20 < peak < 200_000
