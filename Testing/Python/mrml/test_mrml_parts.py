"""One bone of several: label maps and segmentations."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
import pytest

from SphericalRegLib.errors import InputError
from SphericalRegLib.geometry.camera import Camera
from SphericalRegLib.imaging.radiograph import Radiograph
from SphericalRegLib.imaging.volume import Volume
from SphericalRegLib.mrml.labelling import CHOSEN, with_parts
from SphericalRegLib.mrml.landmarks import points_of_ct
from SphericalRegLib.mrml.matrices import placed_in, scene_from_node, to_vtk
from SphericalRegLib.mrml.parts import Part, parts_of, state_in, state_of
from SphericalRegLib.mrml.session import Outcome, ResultNodes, read_ct, write_outcome
from SphericalRegLib.mrml.volumes import labels_to_node, volume_from_node, volume_to_node
from SphericalRegLib.mrml.voxels import voxels
from SphericalRegLib.registration.result import RegistrationResult

ROD, BALL = 7, 9


@pytest.fixture
def labelled(ct: Volume) -> Volume:
    labels = np.zeros(ct.shape, np.uint8)
    labels[20:23, 8:11, 4:22] = ROD
    labels[25, 21, 9] = BALL
    return Volume(ct.hu, ct.world_from_voxel, labels=labels, name="phantom")


@pytest.fixture
def segmentation(slicer: ModuleType, scene: Any, labelled: Volume) -> Any:
    """Two segments that share one image, named by hand."""
    logic = slicer.vtkSlicerSegmentationsModuleLogic()
    logic.SetMRMLScene(scene)
    node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "bones")
    assert logic.ImportLabelmapToSegmentationNode(labels_to_node(scene, labelled), node)
    for part, name in zip(parts_of(node), ("rod", "ball")):
        node.GetSegmentation().GetSegment(part.key).SetName(name)
    return node


def test_a_label_map_tells_its_values(scene: Any, labelled: Volume) -> None:
    assert [part.key for part in parts_of(labels_to_node(scene, labelled))] == [ROD, BALL]
    assert parts_of(scene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", "empty")) == ()


def test_names_come_from_the_colour_table(scene: Any, labelled: Volume) -> None:
    node = labels_to_node(scene, labelled)
    colours = scene.AddNewNodeByClass("vtkMRMLColorTableNode", "anatomy")
    colours.SetTypeToUser()
    colours.SetNumberOfColors(10)
    colours.SetColor(ROD, "femur", 1, 0, 0, 1)
    node.GetDisplayNode().SetAndObserveColorNodeID(colours.GetID())
    assert parts_of(node) == (Part(ROD, "7: femur"), Part(BALL, "9"))


@pytest.mark.parametrize(("chosen", "inside"), [(["rod"], {ROD}), (["ball"], {BALL}), (None, {ROD, BALL}), (["ball", "rod"], {ROD, BALL})])
def test_chosen_segments_become_labels(scene: Any, labelled: Volume, segmentation: Any, chosen: Any, inside: set[int]) -> None:
    node = volume_to_node(scene, labelled)
    volume, labels = with_parts(volume_from_node(node), node, segmentation, chosen)
    assert labels == (CHOSEN,)
    assert volume.labels is not None
    assert np.array_equal(volume.labels == CHOSEN, np.isin(labelled.labels, list(inside)))  # type: ignore[arg-type]
    by_id = None if chosen is None else [part.key for part in parts_of(segmentation) if part.name in chosen]
    again, _ = with_parts(volume_from_node(node), node, segmentation, by_id)
    assert np.array_equal(again.labels, volume.labels)  # type: ignore[arg-type]


def test_a_segment_lies_where_the_scene_shows_it(scene: Any, labelled: Volume, segmentation: Any) -> None:
    node = volume_to_node(scene, labelled)
    shift = scene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
    step = np.eye(4)
    step[:3, 3] = 2 * labelled.world_from_voxel[:3, 0]
    shift.SetMatrixTransformToParent(to_vtk(step))
    segmentation.SetAndObserveTransformNodeID(shift.GetID())
    volume, _ = with_parts(volume_from_node(node), node, segmentation, ["rod"])
    assert volume.labels is not None
    assert labelled.labels is not None
    assert np.array_equal(volume.labels[2:] == CHOSEN, labelled.labels[:-2] == ROD)


def test_only_the_chosen_part_attenuates(scene: Any, labelled: Volume, segmentation: Any) -> None:
    from SphericalRegLib.imaging.attenuation import attenuation

    node = volume_to_node(scene, labelled)
    volume, options = read_ct(node, segmentation, ["ball"])
    mu = attenuation(volume, options.attenuation, options.labels).mu
    assert np.unravel_index(mu.argmax(), mu.shape) == (25, 21, 9)
    assert mu[20:23, 8:11, 4:22].max() < 0.01 * mu.max()


@pytest.mark.parametrize(
    ("chosen", "said"), [(["femur"], r"no segment 'femur'; it has 'rod', 'ball'"), ([], "No segment of 'bones' was chosen")]
)
def test_what_is_not_there_is_named(scene: Any, labelled: Volume, segmentation: Any, chosen: list[str], said: str) -> None:
    with pytest.raises(InputError, match=said):
        read_ct(volume_to_node(scene, labelled), segmentation, chosen)


def test_parts_need_something_to_be_parts_of(scene: Any, labelled: Volume) -> None:
    node = volume_to_node(scene, labelled)
    with pytest.raises(InputError, match="there is no label map"):
        read_ct(node, None, [1])
    with pytest.raises(InputError, match="whole numbers"):
        read_ct(node, labels_to_node(scene, labelled), ["femur"])
    with pytest.raises(InputError, match="has no segment"):
        read_ct(node, scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "empty"), None)


def test_an_edit_changes_the_state(scene: Any, labelled: Volume, segmentation: Any) -> None:
    labels = labels_to_node(scene, labelled)
    shared = segmentation.GetBinaryLabelmapInternalRepresentation(parts_of(segmentation)[0].key)
    for node, image in ((labels, labels.GetImageData()), (segmentation, shared)):
        before = state_of(node)
        assert state_of(node) == before
        image.Modified()
        assert state_of(node) != before
    assert voxels(labels).max() == BALL


def transform(scene: Any, matrix: np.ndarray) -> Any:
    node = scene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
    node.SetMatrixTransformToParent(to_vtk(matrix))
    return node


def motion(*shift: float, turn: float = 0.0) -> np.ndarray:
    matrix = np.eye(4)
    matrix[:2, :2] = [[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]
    matrix[:3, 3] = shift
    return matrix


def test_where_the_voxels_lie_is_part_of_the_state(scene: Any, labelled: Volume, segmentation: Any) -> None:
    """A transform that is hardened and a changed spacing leave the image of a volume alone."""
    for node in (volume_to_node(scene, labelled), labels_to_node(scene, labelled), segmentation):
        before = state_of(node)
        node.SetAndObserveTransformNodeID(transform(scene, motion(5, 0, 0, turn=0.2)).GetID())
        assert state_of(node) == before
        node.HardenTransform()
        assert state_of(node) != before
    node = volume_to_node(scene, labelled)
    before = state_of(node)
    node.SetSpacing(1, 1, 1)
    assert state_of(node) != before


def test_the_state_in_a_ct_changes_when_one_of_both_is_moved(scene: Any, labelled: Volume, segmentation: Any) -> None:
    node, both = volume_to_node(scene, labelled), transform(scene, motion(1, 2, 3))
    for labels in (labels_to_node(scene, labelled), segmentation):
        before = state_in(node, labels)
        node.SetAndObserveTransformNodeID(both.GetID())
        assert state_in(node, labels) != before
        labels.SetAndObserveTransformNodeID(both.GetID())
        for turn in (0.1, 0.7, 2.0):
            both.SetMatrixTransformToParent(to_vtk(motion(0.3, 40, -7, turn=turn)))
            assert state_in(node, labels) == before
        node.SetAndObserveTransformNodeID(None)


def register(
    scene: Any, ct: Any, camera: Camera, scene_from_ct: np.ndarray, along: tuple[Any, ...], nodes: ResultNodes | None = None, **keywords: Any
) -> ResultNodes:
    """Show a registration that moves the CT to `scene_from_ct`."""
    start = np.eye(4)
    start[:3, 3] = (0, 0, 700)
    pose = start @ scene_from_ct
    result = RegistrationResult(pose, np.eye(6), np.zeros(3), 0.5, (), (), pose, np.linalg.inv(start))
    image = np.zeros((camera.rows, camera.columns), np.float32)
    xray = nodes.xray if nodes is not None else scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "X-ray")
    outcome: Any = Outcome(result, None, Radiograph(image, image == 0, camera), image)  # type: ignore[arg-type]
    return write_outcome(scene, outcome, ct, xray, nodes, along=along, **keywords)


@pytest.mark.parametrize("kind", ["segmentation", "label map"])
def test_the_second_bone_is_cut_from_where_the_first_one_was(
    scene: Any, camera: Camera, labelled: Volume, segmentation: Any, kind: str
) -> None:
    """One bone after the other: the first registration moves the CT, and its bones with it."""
    node = volume_to_node(scene, labelled)
    labels, chosen = (segmentation, ["ball"]) if kind == "segmentation" else (labels_to_node(scene, labelled), [BALL])
    before, nodes = state_in(node, labels), None
    for step in (motion(30, -8, 11, turn=0.3), motion(25, 4, 9, turn=-0.1)):
        nodes = register(scene, node, camera, step, (labels, None), nodes)
        assert scene_from_node(node) == pytest.approx(step)
        assert scene_from_node(labels) == pytest.approx(step), "the bones are seen where the CT is"
        assert state_in(node, labels) == before, "nothing has to be prepared anew"
        volume, numbers = with_parts(volume_from_node(node), node, labels, chosen)
        assert volume.labels is not None and labelled.labels is not None
        assert np.array_equal(np.isin(volume.labels, numbers), labelled.labels == BALL)  # type: ignore[arg-type]
    register(scene, node, camera, np.eye(4), (labels,), nodes, move_xray=True)
    assert node.GetParentTransformNode() is labels.GetParentTransformNode() is None


def test_what_lies_elsewhere_stays_where_it_lies_in_the_ct(
    slicer: ModuleType, scene: Any, camera: Camera, labelled: Volume, segmentation: Any
) -> None:
    """Bones and points that were drawn on a CT that had been moved, and bones with a transform of their own."""
    node, points = volume_to_node(scene, labelled), scene.AddNode(slicer.vtkMRMLMarkupsFiducialNode())
    there = motion(30, -8, 11, turn=0.3)
    nodes = register(scene, node, camera, there, ())
    where = np.array([[3.0, 4, 150], [-20, 11, 140]])
    for place in where:
        points.AddControlPoint(*(there @ [*place, 1])[:3].tolist())
    segmentation.ApplyTransformMatrix(to_vtk(there))
    own = labels_to_node(scene, labelled)
    own.SetAndObserveTransformNodeID(transform(scene, there @ motion(0, 0, 8)).GetID())

    def cut() -> list[np.ndarray]:
        volume = volume_from_node(node)
        return [np.asarray(with_parts(volume, node, labels, None)[0].labels) for labels in (segmentation, own)]

    before = cut()
    assert np.array_equal(before[0] != 0, np.not_equal(labelled.labels, 0)) and before[1].any() and not np.array_equal(before[1], labelled.labels)
    register(scene, node, camera, motion(25, 4, 9, turn=-0.1), (segmentation, points, own), nodes)
    assert points_of_ct(points, node) == pytest.approx(where)
    assert all(np.array_equal(after, was) for after, was in zip(cut(), before))
    for each in (segmentation, points, own):
        assert placed_in(node, each) == pytest.approx(np.eye(4)), "it is seen where the CT is, and goes with it"


def test_what_was_drawn_on_the_ct_is_not_left_behind(scene: Any, camera: Camera, labelled: Volume, segmentation: Any) -> None:
    node, other = volume_to_node(scene, labelled), scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "of another CT")
    segmentation.SetReferenceImageGeometryParameterFromVolumeNode(node)
    register(scene, node, camera, motion(30, -8, 11), ())
    assert segmentation.GetParentTransformNode() is node.GetParentTransformNode() is not None
    assert other.GetParentTransformNode() is None
