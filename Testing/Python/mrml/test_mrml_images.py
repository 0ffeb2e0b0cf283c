"""CT, X-ray and result nodes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from SphericalRegLib.errors import InputError
from SphericalRegLib.geometry.camera import Camera
from SphericalRegLib.imaging.geometry_file import parse_geometry
from SphericalRegLib.imaging.geometry_values import GeometryValues, Sourced, assumed, describe_origins, with_defaults
from SphericalRegLib.imaging.starts import Start
from SphericalRegLib.imaging.volume import Volume
from SphericalRegLib.mrml.detector import PlacedCamera, is_mirrored, placed_camera, set_image
from SphericalRegLib.mrml.geometry_attribute import keep_geometry, kept_geometry
from SphericalRegLib.mrml.labelling import with_parts
from SphericalRegLib.mrml.matrices import to_vtk
from SphericalRegLib.mrml.provenance import (
    DETECTOR,
    MOVED,
    RESULT,
    belong,
    describe,
    mark_moved,
    may_hold,
    moved_since,
    pair_of,
    result_of,
    transform_of,
)
from SphericalRegLib.mrml.volumes import labels_to_node, volume_from_node, volume_to_node
from SphericalRegLib.mrml.voxels import set_voxels, voxels
from SphericalRegLib.mrml.xrays import node_geometry, radiograph_from_node, radiograph_to_node, stored_image
from SphericalRegLib.registration.result import Hypothesis, RegistrationResult, StageRecord


def test_a_ct_goes_to_a_node_and_back(scene: Any, ct: Volume) -> None:
    node = volume_to_node(scene, ct)
    assert voxels(node).dtype == np.int16
    back = volume_from_node(node)
    assert np.array_equal(back.hu, ct.hu)
    assert back.world_from_voxel == pytest.approx(ct.world_from_voxel)
    assert back.centre_ras_mm == pytest.approx(ct.centre_ras_mm)
    back.hu[:] = 5  # a copy: the node keeps its own
    assert voxels(node).max() == 2500


def test_the_ct_is_the_one_that_slicer_loads_from_a_file(slicer: ModuleType, scene: Any, tmp_path: Path, ct: Volume) -> None:
    ct.write(tmp_path / "ct.nii.gz")
    logic = slicer.vtkSlicerVolumesLogic()
    logic.SetMRMLScene(scene)
    node = logic.AddArchetypeVolume(str(tmp_path / "ct.nii.gz"), "ct", 0)
    by_slicer, by_us = volume_from_node(node), Volume.read(tmp_path / "ct.nii.gz")
    apart = np.linalg.norm(by_us.box_corners_ras()[:, None] - by_slicer.box_corners_ras(), axis=2)
    assert apart.min(axis=1).max() < 1e-3
    probe = by_us.world_from_voxel @ [25, 21, 9, 1]
    i, j, k = np.rint((by_slicer.voxel_from_world @ probe)[:3]).astype(int)
    assert by_slicer.hu[i, j, k] == by_us.hu[25, 21, 9] == 2500


def test_labels_lie_where_the_scene_shows_them(scene: Any, ct: Volume) -> None:
    labels = np.zeros(ct.shape, np.uint8)
    labels[20:23, 8:11, 4:22] = 7
    labelled = Volume(ct.hu, ct.world_from_voxel, labels=labels, name="phantom")
    node, map_node = volume_to_node(scene, labelled), labels_to_node(scene, labelled)

    def placed() -> Any:
        return with_parts(volume_from_node(node), node, map_node, None)[0].labels

    assert np.array_equal(placed(), labels)
    shift = scene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
    step = np.eye(4)
    step[:3, 3] = ct.world_from_voxel[:3, 0]  # one voxel along i
    shift.SetMatrixTransformToParent(to_vtk(step))
    node.SetAndObserveTransformNodeID(shift.GetID())
    assert np.array_equal(placed()[:-1], labels[1:])
    map_node.SetAndObserveTransformNodeID(shift.GetID())
    assert np.array_equal(placed(), labels)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (None, "holds no image"),
        (np.zeros((4, 5, 6, 3), np.uint8), "3 values a voxel"),
        (np.full((4, 5, 6), 60000, np.uint16), "Hounsfield"),
    ],
)
def test_what_is_no_ct_is_refused(scene: Any, values: np.ndarray | None, said: str) -> None:
    node = scene.AddNewNodeByClass("vtkMRMLVectorVolumeNode" if values is not None and values.ndim == 4 else "vtkMRMLScalarVolumeNode", "wrong")
    if values is not None:
        set_voxels(node, values, np.eye(4))
    with pytest.raises(InputError, match=said):
        volume_from_node(node)


@pytest.fixture
def xray_node(scene: Any) -> Any:
    """A display image as Slicer loads one from a file: rows downward, no place in the patient."""
    rng = np.random.default_rng(3)
    image = (200 - 120 * np.exp(-((np.indices((40, 50)) - [[[12]], [[33]]]) ** 2).sum(0) / 60) + rng.normal(0, 2, (40, 50))).astype(np.uint8)
    node = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "fluoroscopy")
    set_voxels(node, image[None], np.diag([-0.5, -0.6, 1, 1]))
    return node


def test_an_xray_node_becomes_a_radiograph(xray_node: Any) -> None:
    radiograph = radiograph_from_node(xray_node, parse_geometry({"sdd_mm": 1000}), collimator=False)
    assert radiograph.camera == Camera(1000, (0.5, 0.6), (50, 40), (24.5, 19.5))
    assert radiograph.intensity == "display"
    assert np.unravel_index(radiograph.image.argmax(), radiograph.image.shape) == pytest.approx((12, 33), abs=1)  # the dark spot is the dense one


def test_a_mirrored_xray_is_unmirrored_and_says_so(scene: Any, xray_node: Any) -> None:
    given = parse_geometry({"sdd_mm": 1000, "mirrored": True, "principal_point_px": [20, 18]})
    radiograph = radiograph_from_node(xray_node, given, collimator=False)
    assert radiograph.camera.principal_point_px == (29.0, 18.0)
    assert np.unravel_index(radiograph.image.argmax(), radiograph.image.shape) == pytest.approx((12, 49 - 33), abs=1)
    assert is_mirrored(radiograph_to_node(scene, radiograph, np.eye(4)))


def test_spacing_of_one_is_no_spacing(scene: Any, xray_node: Any) -> None:
    xray_node.SetSpacing(1, 1, 1)
    assert node_geometry(xray_node).pixel_spacing_mm is None
    with pytest.raises(InputError, match="has no pixel spacing"):
        radiograph_from_node(xray_node, parse_geometry({"sdd_mm": 1000}))


@pytest.mark.parametrize(
    ("name", "told"),
    [("x.tif", False), ("x.TIFF", False), ("x.jpg", False), ("x.png", False), ("x.nrrd", True), ("x.nii.gz", True), ("IM0001", True), (None, True)],
)
def test_the_resolution_of_a_picture_is_no_spacing(slicer: ModuleType, scene: Any, xray_node: Any, name: str | None, told: bool) -> None:
    """72 dpi, which ITK reads as 0.3528 mm: the command line does not take it for the detector's, either."""
    storage = scene.AddNewNodeByClass("vtkMRMLVolumeArchetypeStorageNode")
    if name is not None:
        storage.SetFileName(f"/folder.tif/{name}")
    xray_node.SetAndObserveStorageNodeID(storage.GetID())
    assert (node_geometry(xray_node).pixel_spacing_mm is not None) == told


def test_dicom_tells_its_spacing_in_its_header(xray_node: Any) -> None:
    xray_node.SetAttribute("DICOM.instanceUIDs", "1.2.3")
    assert node_geometry(xray_node).pixel_spacing_mm is None


def test_a_mask_node_excludes(scene: Any, xray_node: Any) -> None:
    mask = scene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", "mask")
    keep = np.zeros((1, 40, 50), np.uint8)
    keep[0, 5:30, 10:45] = 1
    set_voxels(mask, keep, np.eye(4))
    radiograph = radiograph_from_node(xray_node, parse_geometry({"sdd_mm": 1000}), mask=mask, collimator=False)
    assert np.array_equal(radiograph.mask, keep[0] > 0)


def test_the_geometry_of_a_header_is_kept_without_what_no_file_can_say(xray_node: Any) -> None:
    """C-arm angles and sides are read from the header again; what was only assumed is assumed again."""
    header = GeometryValues(
        sdd_mm=Sourced(1020.0, "DistanceSourceToDetector (0018,1110)"),
        start=Sourced(Start("pa", 30, -12.5), "PositionerPrimaryAngle (0018,1510)"),
        image_axes=Sourced(("L", "F"), "PatientOrientation (0020,0020)"),
        initial_camera_from_world=Sourced(np.eye(4), "user"),
    )
    keep_geometry(xray_node, with_defaults(header, (50, 40), assumed("counts", "16-bit file")))
    kept = describe_origins(kept_geometry(xray_node))
    assert set(kept) == {"sdd_mm", "size_px", "initial_camera_from_world"}
    assert kept["sdd_mm"] == header.sdd_mm


def test_what_could_not_be_read_back_is_not_kept(xray_node: Any) -> None:
    lengths = {"sdd_mm": 98.0, "sod_mm": 5.0, "pixel_spacing_mm": (0.3, 0.2)}
    keep_geometry(xray_node, GeometryValues(**{name: Sourced(value, "a script") for name, value in lengths.items()}))  # type: ignore[arg-type]
    assert set(describe_origins(kept_geometry(xray_node))) == {"pixel_spacing_mm"}


def test_frames_must_be_chosen(scene: Any) -> None:
    node = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "run")
    run = np.arange(3 * 12 * 10, dtype=np.uint8).reshape(3, 12, 10)
    set_voxels(node, run, np.eye(4))
    with pytest.raises(InputError, match="3 slices"):
        stored_image(node)
    with pytest.raises(InputError, match=r"no frame 3.*0 to 2"):
        stored_image(node, 3)
    assert np.array_equal(stored_image(node, 2).grey, run[2])


def test_colours_are_refused_unless_they_are_grey(scene: Any) -> None:
    node = scene.AddNewNodeByClass("vtkMRMLVectorVolumeNode", "screenshot")
    grey = np.repeat(np.arange(120, dtype=np.uint8).reshape(1, 12, 10, 1), 3, axis=3)
    set_voxels(node, grey, np.eye(4))
    assert np.array_equal(stored_image(node).grey, grey[0, ..., 0])
    grey[0, 3, 4, 1] += 9
    set_voxels(node, grey, np.eye(4))
    with pytest.raises(InputError, match="coloured"):
        stored_image(node)


def test_an_image_must_have_its_cameras_size(scene: Any, camera: Camera) -> None:
    node = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode")
    with pytest.raises(InputError, match="80 x 96 pixels; expected the camera's 96 x 80"):
        set_image(node, np.zeros((96, 80), np.float32), PlacedCamera(camera, np.eye(4)))


def result() -> RegistrationResult:
    pose = np.eye(4)
    pose[:3, 3] = (1, 2, 700)
    stage = StageRecord("refine 80 px", "gradient_ncc", ((80, 60),), 4, 3, 0.5, 0.8, (3.0, 2.0), (pose,))
    return RegistrationResult(
        camera_from_world=pose,
        covariance=np.diag([1e-6] * 3 + [0.1] * 3),
        centre_ras_mm=np.zeros(3),
        score=0.8,
        hypotheses=(Hypothesis(pose, 0.8),),
        stages=(stage,),
        initial_camera_from_world=pose,
        world_from_camera_reference=np.linalg.inv(pose),
    )


def test_provenance_survives_the_scene_file(new_scene: Callable[[], Any], tmp_path: Path, ct: Volume, camera: Camera) -> None:
    scene = new_scene()
    node = volume_to_node(scene, ct)
    transform = scene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "CT to X-ray")
    describe(transform, "transform", result(), node, node)
    scene.SetURL(str(tmp_path / "scene.mrml"))
    assert scene.Commit()
    fresh = new_scene()
    fresh.SetURL(str(tmp_path / "scene.mrml"))
    fresh.Import()
    loaded = fresh.GetFirstNodeByName("CT to X-ray")
    there = result_of(loaded)
    assert there is not None
    assert there.camera_from_world == pytest.approx(result().camera_from_world)
    assert there.stages[0].name == "refine 80 px"
    assert transform_of(there) == pytest.approx(np.eye(4))
    assert "phantom to phantom" in loaded.GetDescription()
    assert result_of(fresh.AddNewNodeByClass("vtkMRMLLinearTransformNode")) is None


def test_a_node_knows_whose_it_is(new_scene: Callable[[], Any], tmp_path: Path) -> None:
    """By reference: names change, and two nodes may share one."""
    scene = new_scene()
    ct, xray, other, detector = (scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", name) for name in ("CT", "X-ray", "X-ray", "on the detector"))
    transform = scene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "transform")
    assert pair_of(transform) == (None, None) and may_hold(transform, ct, xray)
    transform.SetAttribute(RESULT, "of a scene that knows no pairs")
    assert not may_hold(transform, ct, xray)
    belong(detector, DETECTOR, ct, xray)
    belong(transform, "transform", ct, detector)
    assert pair_of(transform) == (ct, xray), "the X-ray that was loaded"
    assert transform.GetAttribute("SphericalReg.XRay") == "X-ray"
    assert may_hold(transform, ct, xray) and may_hold(transform, ct, detector)
    assert not any(may_hold(transform, *pair) for pair in ((ct, other), (other, xray)))
    scene.SetURL(str(tmp_path / "scene.mrml"))
    assert scene.Commit()
    fresh = new_scene()
    fresh.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "was there before")  # the IDs of what is read change
    fresh.SetURL(str(tmp_path / "scene.mrml"))
    fresh.Import()
    loaded = fresh.GetFirstNodeByName("transform")
    assert pair_of(loaded) == (fresh.GetFirstNodeByName("CT"), fresh.GetFirstNodeByName("on the detector").GetNodeReference("SphericalReg.XRay"))
    scene.RemoveNode(xray)
    assert pair_of(transform) == (ct, None) and not may_hold(transform, ct, other)
    belong(transform, "transform", ct, xray)
    assert pair_of(transform) == (ct, None), "of what was removed the name alone"


@pytest.mark.parametrize(("way", "angle_deg"), [((3.0, 0.0, 4.0), 0.0), ((0.0, 0.0, 0.0), 30.0), ((0.0, 2.0, 0.0), 179.9)])
def test_how_far_a_ct_was_moved(way: tuple[float, float, float], angle_deg: float) -> None:
    """About its own centre, wherever that lies."""
    angle, centre = np.radians(angle_deg), np.array([100.0, -200.0, 300.0])
    there = replace(result(), centre_ras_mm=centre)
    step = np.eye(4)
    step[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    step[:3, 3] = centre - step[:3, :3] @ centre + way
    assert moved_since(there, there.camera_from_world @ step) == pytest.approx((np.linalg.norm(way), angle_deg), abs=1e-6)


def test_a_moved_ct_is_marked_once(scene: Any) -> None:
    node = scene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "CT to X-ray")
    describe(node, "transform", result(), node, node)
    said = node.GetDescription()
    for _ in range(2):
        mark_moved(node, True)
        assert (node.GetAttribute(MOVED), node.GetDescription()) == ("1", f"Moved since the registration. {said}")
    mark_moved(node, False)
    assert (node.GetAttribute(MOVED), node.GetDescription()) == (None, said)
    mark_moved(node, True)
    describe(node, "transform", result(), node, node)
    assert (node.GetAttribute(MOVED), node.GetDescription()) == (None, said), "a new registration"


def test_the_placed_image_survives_the_scene_file(slicer: ModuleType, new_scene: Callable[[], Any], tmp_path: Path, camera: Camera) -> None:
    scene = new_scene()
    node = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "X-ray")
    reference = np.array([[0, 0, 1, 10.0], [-1, 0, 0, 20], [0, -1, 0, 30], [0, 0, 0, 1]])
    image = np.arange(camera.rows * camera.columns, dtype=np.float32).reshape(camera.rows, camera.columns)
    set_image(node, image, PlacedCamera(camera, reference), mirrored=True)
    storage = slicer.vtkMRMLNRRDStorageNode()
    scene.AddNode(storage)
    storage.SetFileName(str(tmp_path / "xray.nrrd"))
    assert storage.WriteData(node)
    node.SetAndObserveStorageNodeID(storage.GetID())
    scene.SetURL(str(tmp_path / "scene.mrml"))
    assert scene.Commit()
    fresh = new_scene()
    fresh.SetURL(str(tmp_path / "scene.mrml"))
    fresh.Import()
    loaded = fresh.GetFirstNodeByName("X-ray")
    there = placed_camera(loaded)
    assert there is not None
    assert there.world_from_camera == pytest.approx(reference, abs=1e-6)
    assert np.array_equal(voxels(loaded)[0], image)
    assert is_mirrored(loaded)
