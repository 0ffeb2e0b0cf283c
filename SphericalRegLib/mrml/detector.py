"""A camera that stands in the scene, and images on its detector.

An image on the placed detector is a one-slice volume: i runs along image columns, j along rows, k along the beam, and the voxel (0, 0, 0) is the
centre of the first pixel. The grid alone does not tell the source; a node therefore keeps its camera as an attribute, and the place is read from the
grid *with the node's parent transforms*, so an X-ray that somebody moves takes its camera along.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import InputError
from ..geometry.camera import Camera
from .matrices import scene_from_node, scene_from_voxel
from .voxels import set_voxels

CAMERA = "SphericalReg.Camera"
"""Attribute with the camera as JSON: the keys of geometry.json."""

MIRRORED = "SphericalReg.Mirrored"
"""Attribute, "1" where the stored X-ray was mirrored: show the image mirrored again."""


@dataclass(frozen=True, eq=False)
class PlacedCamera:
    """A camera and where it stands: `world_from_camera` (4, 4), the scene's RAS from camera coordinates, mm."""

    camera: Camera
    world_from_camera: np.ndarray

    @property
    def world_from_pixel(self) -> np.ndarray:
        """(4, 4): the IJKToRAS matrix of an image on the detector."""
        return self.world_from_camera @ self.camera.camera_from_pixel()

    @property
    def source(self) -> np.ndarray:
        """(3,) in the scene's RAS."""
        return self.world_from_camera[:3, 3]

    def detector_corners(self) -> np.ndarray:
        """(4, 3) in the scene's RAS: the image's outer corners, clockwise in the image from the top left."""
        columns, rows = self.camera.size_px
        pixels = np.array([[-0.5, -0.5], [columns - 0.5, -0.5], [columns - 0.5, rows - 0.5], [-0.5, rows - 0.5]])
        return self.camera.back_project(pixels) @ self.world_from_camera[:3, :3].T + self.source

    def resized(self, longer_side_px: int) -> PlacedCamera:
        """The same field of view on a grid with at most this many pixels along its longer side."""
        scale = min(1.0, longer_side_px / max(self.camera.size_px))
        columns, rows = (max(1, round(scale * size)) for size in self.camera.size_px)
        return PlacedCamera(self.camera.resize(columns, rows), self.world_from_camera)


def set_image(node: Any, image: np.ndarray, placed: PlacedCamera, *, mirrored: bool = False) -> None:
    """Put an image, (H, W) or colours (H, W, 3), into a volume node on the placed detector.

    Args:
        node: vtkMRMLScalarVolumeNode, or vtkMRMLVectorVolumeNode for colours. Its parent transforms stay, and are allowed for.
        image: float32 or uint8, on the camera's grid.
        placed: the camera, where it stands in the scene.
        mirrored: kept as an attribute, for whoever shows the image.

    Raises:
        InputError: the image has another size than the camera, or a parent transform is not linear.
    """
    if image.shape[:2] != (placed.camera.rows, placed.camera.columns):
        columns, rows = placed.camera.size_px
        raise InputError(f"The image has {image.shape[1]} x {image.shape[0]} pixels; expected the camera's {columns} x {rows}.")
    was_modifying = node.StartModify()
    try:
        set_voxels(node, image[None], np.linalg.inv(scene_from_node(node)) @ placed.world_from_pixel)
        node.SetAttribute(CAMERA, json.dumps(placed.camera.to_dict()))
        node.SetAttribute(MIRRORED, "1" if mirrored else "0")
    finally:
        node.EndModify(was_modifying)


def placed_camera(node: Any) -> PlacedCamera | None:
    """The camera of a node that `set_image` filled, where the node stands now; None for any other node.

    Raises:
        InputError: the attribute is damaged, or the node has been scaled, sheared or mirrored, so that no camera can stand there.
    """
    text = node.GetAttribute(CAMERA)
    if not text:
        return None
    try:
        camera = Camera.from_dict(json.loads(text))
    except ValueError as error:
        raise InputError(f"The attribute {CAMERA} of {node.GetName()!r} is damaged ({error}); expected the keys of geometry.json.") from None
    world_from_camera = scene_from_voxel(node) @ np.linalg.inv(camera.camera_from_pixel())
    rotation = world_from_camera[:3, :3]
    if np.abs(rotation.T @ rotation - np.eye(3)).max() > 1e-4 or np.linalg.det(rotation) < 0:
        raise InputError(f"The image {node.GetName()!r} has been scaled, sheared or mirrored, or has another grid than its camera.")
    return PlacedCamera(camera, world_from_camera)


def is_mirrored(node: Any) -> bool:
    """Whether the image of a node is to be shown mirrored."""
    return node.GetAttribute(MIRRORED) == "1"
