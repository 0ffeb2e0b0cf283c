"""One bone of several: label maps and segmentations."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
import pytest

from SphericalRegLib.errors import InputError
from SphericalRegLib.imaging.volume import Volume
from SphericalRegLib.mrml.labelling import CHOSEN, with_parts
from SphericalRegLib.mrml.matrices import to_vtk
from SphericalRegLib.mrml.parts import Part, parts_of, state_of
from SphericalRegLib.mrml.session import read_ct
from SphericalRegLib.mrml.volumes import labels_to_node, volume_from_node, volume_to_node
from SphericalRegLib.mrml.voxels import voxels

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
