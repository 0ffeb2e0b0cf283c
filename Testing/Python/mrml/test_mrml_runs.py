"""Fluoroscopy runs: sequences, slices, and poses frame by frame."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from SphericalRegLib.errors import InputError
from SphericalRegLib.geometry.camera import Camera
from SphericalRegLib.geometry.se3 import se3_exp
from SphericalRegLib.geometry.views import c_arm_view
from SphericalRegLib.imaging.attenuation import attenuation
from SphericalRegLib.imaging.geometry_file import parse_geometry
from SphericalRegLib.imaging.geometry_values import describe_origins, from_camera
from SphericalRegLib.imaging.volume import Volume
from SphericalRegLib.mrml.detector import placed_camera
from SphericalRegLib.mrml.frames import browser_of, run_of, stored_frame
from SphericalRegLib.mrml.geometry_attribute import keep_geometry, kept_geometry
from SphericalRegLib.mrml.poses import pose_of
from SphericalRegLib.mrml.provenance import result_of
from SphericalRegLib.mrml.run_session import read_run, register_run, remove_run, write_run
from SphericalRegLib.mrml.tables import POSE_COLUMNS
from SphericalRegLib.mrml.volumes import volume_to_node
from SphericalRegLib.mrml.voxels import set_voxels, voxels
from SphericalRegLib.progress import Progress
from SphericalRegLib.registration.options import MultiStart, RegistrationOptions, Stage
from SphericalRegLib.rendering.projector import Projector

QUICK = RegistrationOptions(
    stages=(Stage(48, iterations=10, hypotheses=3), Stage(96, iterations=10)), multi_start=None, wide_start=MultiStart(80, 0, 5.0, 12.0, image_px=40)
)


@pytest.fixture(scope="module")
def poses(ct: Volume, camera: Camera) -> np.ndarray:
    """camera_from_world (3, 4, 4): the CT moves a little from frame to frame."""
    start = c_arm_view(3.0, -2.0, camera, ct.centre_ras_mm, base="ap").numpy()
    steps = torch.tensor([[0, 0, 0, 0, 0, 0], [0.03, 0, 0.02, 2.0, -1, 0], [0.06, 0.01, 0.05, 4, -2, 1]], dtype=torch.float64)
    return np.stack([start @ around(step, ct.centre_ras_mm) for step in se3_exp(steps).numpy()])


def around(step: np.ndarray, centre: np.ndarray) -> np.ndarray:
    shift = np.eye(4)
    shift[:3, 3] = centre
    return shift @ step @ np.linalg.inv(shift)


@pytest.fixture(scope="module")
def images(ct: Volume, camera: Camera, poses: np.ndarray) -> np.ndarray:
    lines = Projector(attenuation(ct), camera).project(torch.from_numpy(poses)).numpy()
    return (60000 * np.exp(-lines)).astype(np.uint16)


@pytest.fixture
def run(slicer: ModuleType, scene: Any, images: np.ndarray) -> Any:
    """The proxy of a sequence of three frames at 0, 0.5 and 1 s, as the DICOM module makes it."""
    sequence = scene.AddNewNodeByClass("vtkMRMLSequenceNode", "fluoroscopy")
    sequence.SetIndexName("time")
    sequence.SetIndexUnit("s")
    for number, image in enumerate(images):
        frame = slicer.vtkMRMLScalarVolumeNode()
        frame.SetName("fluoroscopy")
        set_voxels(frame, image[None], np.diag([-2.5, -2.2, 1, 1]))
        sequence.SetDataNodeAtValue(frame, str(0.5 * number))
    browser = scene.AddNewNodeByClass("vtkMRMLSequenceBrowserNode", "browser")
    browser.AddSynchronizedSequenceNode(sequence)
    browser.SetSelectedItemNumber(0)  # the scene's sequence logic makes the proxy
    return browser.GetProxyNode(sequence)


@pytest.fixture
def slices(scene: Any, images: np.ndarray) -> Any:
    node = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "slices")
    set_voxels(node, images, np.diag([-2.5, -2.2, 1, 1]))
    return node


def test_a_run_is_recognised(scene: Any, run: Any, slices: Any, images: np.ndarray) -> None:
    there, volume = run_of(run), run_of(slices)
    assert there is not None
    assert volume is not None
    assert (there.count, there.index_values, there.index_title, there.selected()) == (3, ("0.0", "0.5", "1.0"), "time [s]", 0)
    assert (volume.count, volume.index_values, volume.index_title, volume.selected()) == (3, ("0", "1", "2"), "frame", None)
    for node in (run, slices):
        assert np.array_equal(stored_frame(node, 2).grey, images[2])
        with pytest.raises(InputError, match="no frame 3; expected 0 to 2"):
            stored_frame(node, 3)
    there.browser.SetSelectedItemNumber(1)
    assert np.array_equal(stored_frame(run, None).grey, images[1])
    single = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "one")
    set_voxels(single, images[:1], np.eye(4))
    assert run_of(single) is None


def test_the_geometry_of_a_run_outlasts_its_frames(run: Any) -> None:
    """A proxy takes over the attributes of each frame that it shows."""
    keep_geometry(run, parse_geometry({"sdd_mm": 1020}))
    browser_of(run)[0].SetSelectedItemNumber(2)  # type: ignore[index]
    assert describe_origins(kept_geometry(run))["sdd_mm"].value == 1020.0


@pytest.mark.parametrize("kind", ["run", "slices"])
def test_every_frame_gets_its_pose(
    request: pytest.FixtureRequest, scene: Any, ct: Volume, camera: Camera, poses: np.ndarray, images: np.ndarray, kind: str
) -> None:
    xray, node = request.getfixturevalue(kind), volume_to_node(scene, ct, "CT")
    said: list[Progress] = []
    asked = read_run(node, xray, geometry=from_camera(camera), initial="ap", options=QUICK, device="cpu")
    found = register_run(asked, said.append)
    assert said[-1].stage.startswith("frame 3 of 3, ")
    assert all(0 <= report.done <= report.total for report in said)
    nodes = write_run(scene, found, node, xray)
    assert (run_of(xray).sequence is None) == (nodes.browser is not (browser_of(xray) or (None,))[0])  # type: ignore[union-attr]
    for number in (2, 0, 1):
        nodes.browser.SetSelectedItemNumber(number)
        assert nodes.selected() == number
        placed, result = placed_camera(nodes.shown.xray), result_of(nodes.shown.transform)
        assert placed is not None
        assert result is not None
        pose = pose_of(node, placed.world_from_camera)
        assert pose == pytest.approx(result.camera_from_world, abs=1e-6)
        corners = ct.box_corners_ras()
        shown, true = (camera.project(corners @ matrix[:3, :3].T + matrix[:3, 3]) for matrix in (pose, poses[number]))
        assert np.abs(shown - true).max() < 1.0
        lines, image = -np.log(images[number] / 60000), voxels(nodes.shown.xray)[0]
        assert np.corrcoef(lines.ravel(), image.ravel())[0, 1] > 0.999
        assert np.corrcoef(lines.ravel(), voxels(nodes.shown.drr)[0].ravel())[0, 1] > 0.99
    table = nodes.table.GetTable()
    assert table.GetNumberOfRows() == 3
    titles = [table.GetColumnName(column) for column in range(table.GetNumberOfColumns())]
    assert titles == ["frame", *(["time [s]"] if kind == "run" else []), "verdict", "score", "doubt", "seconds", "error", *POSE_COLUMNS]
    row = [table.GetValueByName(2, title).ToDouble() for title in POSE_COLUMNS]
    assert row == pytest.approx(found[2].outcome.result.camera_from_world[:3].ravel().tolist())  # type: ignore[union-attr]

    again = write_run(scene, found, node, xray, nodes.shown, nodes.table)  # a second registration fills the same nodes
    assert again.sequences == nodes.sequences
    assert again.browser is nodes.browser
    assert [sequence.GetNumberOfDataNodes() for sequence in again.sequences] == [3, 3, 3]
    remove_run(scene, again)
    assert browser_of(nodes.shown.transform) is None
    assert scene.GetNumberOfNodesByClass("vtkMRMLSequenceNode") == (1 if kind == "run" else 0)
    assert scene.GetNumberOfNodesByClass("vtkMRMLSequenceBrowserNode") == (1 if kind == "run" else 0)


def test_a_pose_changed_by_hand_stays_with_its_frame(scene: Any, ct: Volume, camera: Camera, run: Any) -> None:
    node = volume_to_node(scene, ct, "CT")
    found = register_run(read_run(node, run, geometry=from_camera(camera), initial="ap", options=QUICK, device="cpu"))
    nodes = write_run(scene, found, node, run)
    nodes.browser.SetSelectedItemNumber(1)
    pose = nodes.sequences[0].GetNthDataNode(1)
    before = pose.GetMatrixTransformToParent().GetElement(0, 3)
    matrix = nodes.shown.transform.GetMatrixTransformToParent()
    matrix.SetElement(0, 3, before + 4)
    nodes.shown.transform.SetMatrixTransformToParent(matrix)
    for number, shift in ((0, 0), (2, 0), (1, 4)):
        nodes.browser.SetSelectedItemNumber(number)
        here = nodes.shown.transform.GetMatrixTransformToParent().GetElement(0, 3)
        first = found[number].outcome.result  # type: ignore[union-attr]
        assert here == pytest.approx((first.world_from_camera_reference @ first.camera_from_world)[0, 3] + shift)


def test_a_frame_that_fails_is_told_and_passed_over(scene: Any, ct: Volume, camera: Camera, slices: Any) -> None:
    """In the middle, and at the beginning; items of the run's own browser are the other frames."""
    voxels(slices)[1] = 0
    node = volume_to_node(scene, ct, "CT")
    found = register_run(read_run(node, slices, geometry=from_camera(camera), initial="ap", options=QUICK, device="cpu"))
    assert [frame.outcome is None for frame in found] == [False, True, False]
    assert found[1].error
    for failed, frames in ((1, found), (0, (found[1], found[0], found[2]))):
        nodes = write_run(scene, frames, node, slices)
        for item, number in enumerate(number for number in range(3) if number != failed):
            nodes.browser.SetSelectedItemNumber(item)
            shown = result_of(nodes.shown.transform)
            assert nodes.selected() == number
            assert shown is not None
            assert shown.camera_from_world == pytest.approx(frames[number].outcome.result.camera_from_world)  # type: ignore[union-attr]
        assert nodes.sequences[0].GetNumberOfDataNodes() == 2
        assert nodes.table.GetTable().GetValueByName(failed, "error").ToString() == found[1].error


def test_what_is_no_run_is_refused(scene: Any, ct: Volume, camera: Camera, images: np.ndarray, slices: Any) -> None:
    node = volume_to_node(scene, ct, "CT")
    single = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "one")
    set_voxels(single, images[:1], np.eye(4))
    with pytest.raises(InputError, match="single image"):
        read_run(node, single, geometry=from_camera(camera))
    voxels(slices)[:] = 0
    with pytest.raises(InputError):
        register_run(read_run(node, slices, geometry=from_camera(camera), initial="ap", options=QUICK, device="cpu"))
