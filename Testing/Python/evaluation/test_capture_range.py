"""Starts about a truth, outcomes on disk, joining two cases."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from SphericalRegLib.errors import InputError
from SphericalRegLib.evaluation.capture_range import StartSpread, capture_range, joined_case, read_relation
from SphericalRegLib.evaluation.truth import Truth
from SphericalRegLib.geometry.camera import Camera
from SphericalRegLib.imaging.case import Case, View
from SphericalRegLib.imaging.radiograph import Radiograph
from SphericalRegLib.imaging.volume import Volume
from SphericalRegLib.progress import Cancelled

TRUE_POSE = np.array([[1.0, 0, 0, 5], [0, 0, -1, 7], [0, 1, 0, 700], [0, 0, 0, 1]])


@dataclass(frozen=True)
class Found:
    pose: np.ndarray

    def to_dict(self) -> dict[str, Any]:
        return {"camera_from_world": self.pose.tolist(), "score": 0.5}


def a_case(name: str = "a", hu: float = 0.0) -> Case:
    camera = Camera(1000.0, (1.0, 1.0), (32, 32), (15.5, 15.5))
    radiograph = Radiograph(np.zeros((32, 32), np.float32), np.ones((32, 32), bool), camera, name=f"{name}.png")
    volume = Volume(np.full((4, 4, 4), hu, np.float32), np.diag([10.0, 10, 10, 1]))
    return Case(Path(name), volume, (View(radiograph, np.eye(4)),))


TRUTH = Truth(TRUE_POSE, np.random.default_rng(0).uniform(-20, 20, (30, 3)))


def moved(millimetres: float) -> np.ndarray:
    pose = TRUE_POSE.copy()
    pose[0, 3] += millimetres
    return pose


def test_starts_have_the_spread_asked_for_and_do_not_depend_on_their_number() -> None:
    spread = StartSpread(400, sigma_deg=5.0, sigma_mm=8.0, seed=1)
    centre = np.zeros(3)
    starts = np.array([spread.draw(index, TRUE_POSE, centre) for index in range(400)])
    shift = np.einsum("ji,bj->bi", TRUE_POSE[:3, :3], starts[:, :3, 3] - TRUE_POSE[:3, 3])
    np.testing.assert_allclose(shift.std(axis=0), 8.0, rtol=0.15)
    angle = np.arccos((np.einsum("bij,ij->b", starts[:, :3, :3], TRUE_POSE[:3, :3]) - 1) / 2)
    assert np.sqrt((angle**2).mean() / 3) == pytest.approx(np.deg2rad(5.0), rel=0.15)
    np.testing.assert_array_equal(starts[7], StartSpread(8, 5.0, 8.0, 1).draw(7, TRUE_POSE, centre))


def test_outcomes_are_summed_up_and_a_failed_start_counts(tmp_path: Path) -> None:
    ends = [moved(0.0), moved(0.5), moved(3.0)]

    def registrar(case: Case, start: np.ndarray, index: int) -> Found:
        if index == 3:
            raise RuntimeError("no luck")
        return Found(ends[index])

    result = capture_range(a_case(), TRUTH, registrar, StartSpread(4), tmp_path)
    assert [o.end.in_plane for o in result.outcomes[:3]] == pytest.approx([0.0, 0.5, 3.0], rel=1e-3)
    assert result.outcomes[3].error == "RuntimeError: no luck" and result.outcomes[3].end.mtre_3d == np.inf
    row = dict(zip(result.table.columns, result.table.rows[0]))
    assert row["metric"] == "in-plane [mm]" and row["< 1 mm [%]"] == 50 and row["> 10 mm [%]"] == 25 and row["failed"] == 1
    assert "10 deg and 10 mm" in (tmp_path / "summary.md").read_text()


def test_a_stopped_run_goes_on(tmp_path: Path) -> None:
    seen: list[int] = []

    def registrar(case: Case, start: np.ndarray, index: int) -> Found:
        if index == 2 and 2 not in seen:
            seen.append(2)
            raise Cancelled
        seen.append(index)
        return Found(moved(index))

    with pytest.raises(Cancelled):
        capture_range(a_case(), TRUTH, registrar, StartSpread(4), tmp_path)
    file = tmp_path / "starts.jsonl"
    file.write_text(file.read_text() + '{"index": 2, "sta')  # the machine went down while writing
    result = capture_range(a_case(), TRUTH, registrar, StartSpread(4), tmp_path)
    assert seen == [0, 1, 2, 2, 3]
    assert [o.index for o in result.outcomes] == [0, 1, 2, 3]
    assert len(file.read_text().splitlines()) == 5 and all(json.loads(line) for line in file.read_text().splitlines())
    again = capture_range(a_case(), TRUTH, registrar, StartSpread(5), tmp_path)
    assert seen == [0, 1, 2, 2, 3, 4] and again.outcomes[:4] == result.outcomes


def test_another_experiment_in_the_folder_is_refused(tmp_path: Path) -> None:
    def registrar(case: Case, start: np.ndarray, index: int) -> Found:
        return Found(TRUE_POSE)

    capture_range(a_case(), TRUTH, registrar, StartSpread(1), tmp_path)
    with pytest.raises(InputError, match="sigma_mm"):
        capture_range(a_case(), TRUTH, registrar, StartSpread(1, sigma_mm=5.0), tmp_path)
    other = a_case()
    other.views[0].radiograph.image[0, 0] += 1.0
    for case, truth in ((other, TRUTH), (a_case(), Truth(moved(1.0), TRUTH.fiducials))):
        with pytest.raises(InputError, match="content"):
            capture_range(case, truth, registrar, StartSpread(1), tmp_path)
    capture_range(a_case(), TRUTH, registrar, StartSpread(1, sigma_mm=5.0), tmp_path, recompute=True)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="is a file"):
        capture_range(a_case(), TRUTH, registrar, StartSpread(1), tmp_path / "file")


def test_two_cases_of_one_ct_are_joined() -> None:
    relation = np.diag([1.0, -1.0, -1.0, 1.0])
    both = joined_case([a_case("a"), a_case("b")], relation)
    assert [view.radiograph.name for view in both.views] == ["a.png", "b.png"]
    np.testing.assert_array_equal(both.views[1].camera_from_camera1, relation)
    with pytest.raises(InputError, match="differ"):
        joined_case([a_case(), a_case("b", hu=1.0)], relation)
    with pytest.raises(InputError, match="two with one X-ray"):
        joined_case([a_case()], relation)
    with pytest.raises(InputError, match="camera2_from_camera1"):
        joined_case([a_case(), a_case("b")], np.diag([2.0, 2.0, 2.0, 1.0]))


def test_relation_files(tmp_path: Path) -> None:
    matrix = np.diag([1.0, -1.0, -1.0, 1.0])
    bare, keyed, bad = tmp_path / "bare.json", tmp_path / "keyed.json", tmp_path / "bad.json"
    bare.write_text(json.dumps(matrix.tolist()))
    keyed.write_text(json.dumps({"camera2_from_camera1": matrix.tolist()}))
    np.testing.assert_array_equal(read_relation(bare), matrix)
    np.testing.assert_array_equal(read_relation(keyed), matrix)
    for content, message in (("{", "not JSON"), ('{"a": 1}', "not a matrix"), ("[[1, 2], [3]]", "not a matrix"), ("[[1, 2], [3, 4]]", "shape")):
        bad.write_text(content)
        with pytest.raises(InputError, match=message):
            read_relation(bad)
    with pytest.raises(InputError, match="cannot be read"):
        read_relation(tmp_path / "missing.json")


def test_spreads_that_cannot_be() -> None:
    with pytest.raises(InputError, match="at least one"):
        StartSpread(0)
    with pytest.raises(InputError, match="finite"):
        StartSpread(sigma_deg=float("nan"))
