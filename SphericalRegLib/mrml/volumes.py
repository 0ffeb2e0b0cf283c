"""CT nodes and `Volume`."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..errors import InputError
from ..imaging.volume import Volume
from .matrices import node_from_voxel
from .voxels import set_voxels, voxels


def volume_from_node(node: Any) -> Volume:
    """A CT node's values (copied) in the CT's *own* frame: its parent transforms move that frame in the scene and do not enter.

    Args:
        node: vtkMRMLScalarVolumeNode with Hounsfield units.

    Raises:
        InputError: no image, or not a CT.
    """
    values = voxels(node)
    if values.ndim != 3:
        raise InputError(f"The volume {node.GetName()!r} has {values.shape[3]} values a voxel; expected a CT with one.")
    return Volume.from_array(values.transpose(), node_from_voxel(node), name=node.GetName())


def centre_of(node: Any) -> np.ndarray:
    """(3,): the centre of a CT node's grid in its own frame, mm: the point that it turns about.

    Raises:
        InputError: no image.
    """
    size = np.array(voxels(node).shape[2::-1])
    return (node_from_voxel(node) @ [*((size - 1) / 2), 1])[:3]


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
