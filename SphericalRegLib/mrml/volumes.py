"""CT nodes and `Volume`."""

from __future__ import annotations

from typing import Any

import numpy as np
import SimpleITK as sitk

from ..errors import InputError
from ..imaging.grid import place
from ..imaging.volume import Volume
from .matrices import node_from_voxel, scene_from_node
from .voxels import set_voxels, voxels


def volume_from_node(node: Any, labels: Any = None) -> Volume:
    """A CT node's values (copied) in the CT's *own* frame: its parent transforms move that frame in the scene and do not enter.

    Args:
        node: vtkMRMLScalarVolumeNode with Hounsfield units.
        labels: vtkMRMLLabelMapVolumeNode, brought to the CT's grid; where the two have different parent transforms these are honoured, so that a
            label map lies where the scene shows it.

    Raises:
        InputError: no image, not a CT, labels that lie elsewhere, transforms that are not linear.
    """
    values = voxels(node)
    if values.ndim != 3:
        raise InputError(f"The volume {node.GetName()!r} has {values.shape[3]} values a voxel; expected a CT with one.")
    volume = Volume.from_array(values.transpose(), node_from_voxel(node), name=node.GetName())
    if labels is None:
        return volume
    ct_from_labels = np.linalg.inv(scene_from_node(node)) @ scene_from_node(labels) @ node_from_voxel(labels)
    return volume.with_labels(place(sitk.GetImageFromArray(np.ascontiguousarray(voxels(labels))), ct_from_labels))


def volume_to_node(scene: Any, volume: Volume, name: str = "") -> Any:
    """A new vtkMRMLScalarVolumeNode with a CT; as 16-bit integers where that loses nothing."""
    hu = volume.hu
    whole = hu.min() >= -(2**15) and hu.max() < 2**15 and bool((hu == np.rint(hu)).all())
    node = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", name or volume.name or "CT")
    set_voxels(node, hu.transpose().astype(np.int16 if whole else np.float32), volume.world_from_voxel)
    node.CreateDefaultDisplayNodes()
    return node


def labels_to_node(scene: Any, volume: Volume, name: str = "") -> Any:
    """A new vtkMRMLLabelMapVolumeNode with the labels of a CT.

    Raises:
        InputError: it has none.
    """
    if volume.labels is None:
        raise InputError(f"{volume.name or 'The volume'} has no labels.")
    node = scene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", name or f"{volume.name} labels".strip())
    set_voxels(node, volume.labels.transpose(), volume.world_from_voxel)
    node.CreateDefaultDisplayNodes()
    return node
