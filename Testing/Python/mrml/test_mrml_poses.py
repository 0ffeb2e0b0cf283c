"""The transform's direction and RAS against LPS, proven by rendering from what was saved."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from SphericalRegLib.errors import InputError
from SphericalRegLib.geometry.camera import Camera
from SphericalRegLib.geometry.se3 import se3_exp
from SphericalRegLib.geometry.views import c_arm_view
from SphericalRegLib.imaging.attenuation import attenuation
from SphericalRegLib.imaging.transforms import read_transform, write_transform
from SphericalRegLib.imaging.volume import Volume
from SphericalRegLib.mrml.detector import PlacedCamera, placed_camera, set_image
from SphericalRegLib.mrml.matrices import from_vtk, node_from_voxel, scene_from_node, to_vtk
from SphericalRegLib.mrml.poses import move_ct, pose_of
from SphericalRegLib.mrml.session import ResultNodes, write_outcome
from SphericalRegLib.mrml.volumes import volume_from_node, volume_to_node
from SphericalRegLib.rendering.projector import Projector


def drr(volume: Volume, camera: Camera, camera_from_world: np.ndarray) -> np.ndarray:
    return Projector(attenuation(volume), camera).project(torch.from_numpy(np.asarray(camera_from_world))[None])[0].numpy()


@pytest.fixture(scope="module")
def pose(ct: Volume, camera: Camera) -> np.ndarray:
    """camera_from_world, off all axes."""
    return c_arm_view(25.0, -12.0, camera, ct.centre_ras_mm).numpy()


@pytest.fixture(scope="module")
def reference(ct: Volume, camera: Camera) -> np.ndarray:
    """world_from_camera_reference: the camera elsewhere in the scene, turned and shifted."""
    start = c_arm_view(-15.0, 8.0, camera, ct.centre_ras_mm).numpy()
    return se3_exp(torch.tensor([0.2, -0.1, 0.4, 30.0, -50.0, 20.0], dtype=torch.float64)).numpy() @ np.linalg.inv(start)


@pytest.mark.parametrize("suffix", [".tfm", ".h5"])
def test_a_saved_transform_shows_the_registered_scene(
    slicer: ModuleType, new_scene: Callable[[], Any], tmp_path: Path, ct: Volume, camera: Camera, pose: np.ndarray, reference: np.ndarray, suffix: str
) -> None:
    """Saved by Slicer's own storage node, loaded into a fresh scene, applied and hardened: the camera at the reference sees the X-ray."""
    scene = new_scene()
    node, transform = volume_to_node(scene, ct), scene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "CT to X-ray")
    move_ct(node, transform, reference @ pose)
    storage = slicer.vtkMRMLTransformStorageNode()
    path = tmp_path / f"ct_to_xray{suffix}"
    storage.SetFileName(str(path))
    assert storage.WriteData(transform)

    fresh = new_scene()
    loaded = fresh.AddNewNodeByClass("vtkMRMLLinearTransformNode")
    reading = slicer.vtkMRMLTransformStorageNode()
    reading.SetFileName(str(path))
    assert reading.ReadData(loaded)
    moved = volume_to_node(fresh, ct)
    moved.SetAndObserveTransformNodeID(loaded.GetID())
    assert moved.HardenTransform()

    expected = drr(ct, camera, pose)
    seen = drr(volume_from_node(moved), camera, np.linalg.inv(reference))
    assert np.abs(seen - expected).max() < 1e-3 * expected.max()
    assert np.abs(drr(ct, camera, np.linalg.inv(reference)) - expected).max() > 0.2 * expected.max(), "the poses are too alike to prove anything"
    assert read_transform(path) == pytest.approx(reference @ pose, abs=1e-4)


def test_what_we_write_is_what_slicer_reads(slicer: ModuleType, scene: Any, tmp_path: Path, pose: np.ndarray, reference: np.ndarray) -> None:
    path = tmp_path / "ct_to_xray.tfm"
    write_transform(path, reference @ pose)
    node = scene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
    storage = slicer.vtkMRMLTransformStorageNode()
    storage.SetFileName(str(path))
    assert storage.ReadData(node)
    matrix = to_vtk(np.eye(4))
    node.GetMatrixTransformToParent(matrix)
    assert from_vtk(matrix) == pytest.approx(reference @ pose, abs=1e-9)


def test_a_landmark_of_the_ct_lies_on_its_feature_in_the_drr_node(
    scene: Any, ct: Volume, camera: Camera, pose: np.ndarray, reference: np.ndarray
) -> None:
    """The ray in the scene from the source through the moved landmark meets the DRR node in the pixel that shows the landmark."""
    voxel = np.array([25, 21, 9, 1.0])
    ball = Volume(np.full(ct.shape, -1000, np.float32), ct.world_from_voxel)
    ball.hu[25, 21, 9] = 3000
    node, transform = volume_to_node(scene, ball, "ball"), scene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
    move_ct(node, transform, reference @ pose)
    image = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "DRR")
    placed = PlacedCamera(camera, reference)
    rendered = drr(ball, camera, pose_of(node, reference))
    set_image(image, rendered, placed)

    landmark = (scene_from_node(node) @ ball.world_from_voxel @ voxel)[:3]
    pixel_from_scene = np.linalg.inv(node_from_voxel(image))
    source, towards = pixel_from_scene @ [*placed.source, 1], pixel_from_scene @ [*landmark, 1]
    hit = source + (towards - source) * source[2] / (source[2] - towards[2])
    weight = rendered / rendered.sum()
    rows, columns = np.indices(rendered.shape)
    assert (float((weight * columns).sum()), float((weight * rows).sum())) == pytest.approx(hit[:2].tolist(), abs=0.3)


def test_parents_of_the_ct_keep_their_meaning(scene: Any, ct: Volume, pose: np.ndarray, reference: np.ndarray) -> None:
    parent = scene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "patient")
    before = se3_exp(torch.tensor([0.3, 0.1, -0.2, 11.0, -7.0, 5.0], dtype=torch.float64)).numpy()
    parent.SetMatrixTransformToParent(to_vtk(before))
    node, transform = volume_to_node(scene, ct), scene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "result")
    node.SetAndObserveTransformNodeID(parent.GetID())
    assert pose_of(node, reference) == pytest.approx(np.linalg.inv(reference) @ before)
    for _ in range(2):  # a second registration moves the same transform
        move_ct(node, transform, reference @ pose)
        assert scene_from_node(node) == pytest.approx(reference @ pose)
        assert node.GetParentTransformNode() is transform
        assert transform.GetParentTransformNode() is parent
    assert volume_from_node(node).world_from_voxel == pytest.approx(ct.world_from_voxel)


def test_a_result_transform_above_the_ct_is_refused(scene: Any, ct: Volume) -> None:
    parent, above = (scene.AddNewNodeByClass("vtkMRMLLinearTransformNode", name) for name in ("below", "above"))
    parent.SetAndObserveTransformNodeID(above.GetID())
    node = volume_to_node(scene, ct)
    node.SetAndObserveTransformNodeID(parent.GetID())
    with pytest.raises(InputError, match="'above' stands above"):
        move_ct(node, above, np.eye(4))


def test_a_warped_ct_is_refused(slicer: ModuleType, scene: Any, ct: Volume) -> None:
    warp = scene.AddNewNodeByClass("vtkMRMLGridTransformNode", "breathing")
    warp.SetAndObserveTransformToParent(slicer.vtkOrientedGridTransform())
    node, transform = volume_to_node(scene, ct), scene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
    node.SetAndObserveTransformNodeID(warp.GetID())
    with pytest.raises(InputError, match=r"'breathing'.*not linear.*Harden transform"):
        move_ct(node, transform, np.eye(4))
    assert node.GetParentTransformNode() is warp


def test_the_camera_goes_where_its_image_goes(scene: Any, camera: Camera, reference: np.ndarray) -> None:
    image = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "X-ray")
    assert placed_camera(image) is None
    set_image(image, np.zeros((camera.rows, camera.columns), np.float32), PlacedCamera(camera, reference))
    there = placed_camera(image)
    assert there is not None
    assert there.camera == camera
    assert there.world_from_camera == pytest.approx(reference)
    table = scene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "table")
    shift = se3_exp(torch.tensor([0.0, 0.5, 0.1, 0.0, 200.0, -30.0], dtype=torch.float64)).numpy()
    table.SetMatrixTransformToParent(to_vtk(shift))
    image.SetAndObserveTransformNodeID(table.GetID())
    moved = placed_camera(image)
    assert moved is not None
    assert moved.world_from_camera == pytest.approx(shift @ reference)
    table.SetMatrixTransformToParent(to_vtk(np.diag([2.0, 1, 1, 1])))
    with pytest.raises(InputError, match="scaled"):
        placed_camera(image)


def test_detector_corners_are_the_image_corners(camera: Camera, reference: np.ndarray) -> None:
    placed = PlacedCamera(camera, reference)
    columns, rows = camera.size_px
    pixels = np.array([[-0.5, -0.5, 0, 1], [columns - 0.5, -0.5, 0, 1], [columns - 0.5, rows - 0.5, 0, 1], [-0.5, rows - 0.5, 0, 1]])
    assert placed.detector_corners() == pytest.approx((pixels @ placed.world_from_pixel.T)[:, :3])
    assert np.linalg.det(camera.camera_from_pixel()) > 0
    small = placed.resized(32)
    assert small.camera.size_px == (32, 27)
    assert small.detector_corners() == pytest.approx(placed.detector_corners(), abs=1e-9)


def test_what_could_not_be_written_is_refused_before_anything_is_made(slicer: ModuleType, scene: Any, ct: Volume, camera: Camera) -> None:
    """A CT that is warped, and a transform above the CT's parent: the images that hang under it stay there, too."""
    warp = scene.AddNewNodeByClass("vtkMRMLGridTransformNode", "breathing")
    above, parent = (scene.AddNewNodeByClass("vtkMRMLLinearTransformNode", name) for name in ("above", "below"))
    warp.SetAndObserveTransformToParent(slicer.vtkOrientedGridTransform())
    parent.SetAndObserveTransformNodeID(above.GetID())
    node, xray = volume_to_node(scene, ct), scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "X-ray")
    given = ResultNodes(above, None, scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "DRR"))
    given.drr.SetAndObserveTransformNodeID(above.GetID())
    before = scene.GetNumberOfNodes()
    outcome: Any = SimpleNamespace(result=None)
    for above_it, nodes, words in ((warp, None, "'breathing'.*not linear"), (parent, given, "'above' stands above")):
        node.SetAndObserveTransformNodeID(above_it.GetID())
        with pytest.raises(InputError, match=words):
            write_outcome(scene, outcome, node, xray, nodes)
        assert scene.GetNumberOfNodes() == before
        assert given.drr.GetParentTransformNode() is above
        assert node.GetParentTransformNode() is above_it
