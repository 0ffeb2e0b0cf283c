"""What lies beyond the ends of a CT: the body goes on there, and pixels that would show it say nothing about the pose.

A body cut by a face of the grid is taken to go on as it is at that face, for `REACH_MM`. That much unseen body is itself a volume, coarse and of
density one; its projection is the length of ray, in mm, that the CT has nothing to tell about.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy import ndimage

from .backends import Backend, make_backend

if TYPE_CHECKING:
    from torch import Tensor

    from ..geometry.camera import Camera
    from ..imaging.attenuation import Attenuation

REACH_MM = 300.0
VOXEL_MM = 4.0
TOLERANCE_MM = 2.0
"""Less unseen body than this leaves a pixel valid: the ramps of the coarse voxels."""


class UnseenRays:
    """Renders the unseen body of a CT; made when first asked for, once for all cameras and grids.

    Args:
        attenuation: the CT.
        device: where images are made.
        threads: see `Projector`.
    """

    def __init__(self, attenuation: Attenuation, device: torch.device, threads: int | None = None) -> None:
        self._arguments = attenuation, device, threads

    def prepare(self) -> None:
        """Make it now rather than when first asked."""
        _ = self._backend

    def lengths_mm(self, camera: Camera, camera_from_world: Tensor) -> Tensor:
        """Lengths (B, H, W), mm, of unseen body along each ray, of poses (B, 4, 4)."""
        if self._backend is None:
            columns, rows = camera.size_px
            return torch.zeros(len(camera_from_world), rows, columns, device=self._arguments[1])
        return self._backend.project(camera, camera_from_world)

    @cached_property
    def _backend(self) -> Backend | None:
        attenuation, device, threads = self._arguments
        unseen = unseen_body(attenuation)
        return None if unseen is None else make_backend("warp", unseen, VOXEL_MM, device, threads)


def unseen_body(attenuation: Attenuation) -> Attenuation | None:
    """The body beyond the faces that `attenuation.cut_faces` names, 1 per mm; None where nothing is cut.

    The body's section at a face is what attenuates more than half as much as the median of all that does (clothes and the table's foam are no body),
    its holes filled.
    """
    from ..imaging.attenuation import Attenuation as Result

    positive = attenuation.mu[::2, ::2, ::2]
    positive = positive[positive > 0]
    if not any(attenuation.cut_faces) or positive.size == 0:
        return None
    tissue = 0.5 * float(np.median(positive))
    spacing = np.linalg.norm(attenuation.world_from_voxel[:3, :3], axis=0)
    factor = np.maximum(1, np.rint(VOXEL_MM / spacing)).astype(int)
    inner = -(-np.array(attenuation.mu.shape) // factor)
    beyond = np.ceil(REACH_MM / (factor * spacing)).astype(int)
    low = np.array([beyond[a] if attenuation.cut_faces[2 * a] else 0 for a in range(3)])
    high = np.array([beyond[a] if attenuation.cut_faces[2 * a + 1] else 0 for a in range(3)])
    unseen = np.zeros(inner + low + high, dtype=np.float32)
    for face in np.flatnonzero(attenuation.cut_faces).tolist():
        axis, is_high = face // 2, face % 2
        section = attenuation.mu[(slice(None),) * axis + (-is_high,)]  # the last slice or slice 0
        others = [a for a in range(3) if a != axis]
        body = _any_of_blocks(ndimage.binary_fill_holes(section > tissue), factor[others])
        where = [slice(low[a], low[a] + inner[a]) for a in range(3)]
        where[axis] = slice(low[axis] + inner[axis], None) if is_high else slice(0, low[axis])
        unseen[tuple(where)] = np.expand_dims(body, axis)
    voxel_from_coarse = np.diag([*factor, 1.0]).astype(np.float64)
    voxel_from_coarse[:3, 3] = (factor - 1) / 2 - low * factor
    return Result(unseen, attenuation.world_from_voxel @ voxel_from_coarse, np.asarray(attenuation.centre_ras_mm))


def _any_of_blocks(mask: np.ndarray, factor: np.ndarray) -> np.ndarray:
    rows, columns = (int(n) for n in -(-np.array(mask.shape) // factor))
    padded = np.pad(mask, [(0, rows * factor[0] - mask.shape[0]), (0, columns * factor[1] - mask.shape[1])])
    return np.asarray(padded.reshape(rows, factor[0], columns, factor[1]).any(axis=(1, 3)))
