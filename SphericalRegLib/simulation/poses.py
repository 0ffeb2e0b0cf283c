"""Where the patient lies in a simulated X-ray, where registration starts, and the points that the error is measured at."""

from __future__ import annotations

import numpy as np
import torch

from SphericalRegLib.errors import InputError
from SphericalRegLib.geometry.camera import Camera
from SphericalRegLib.geometry.se3 import retract
from SphericalRegLib.imaging.volume import Volume

FIDUCIAL_HU = (300.0, 2000.0)
"""Fiducials lie in voxels between: above the first is cortical and dense cancellous bone, and above the second the streaks of implants begin, well
before the beam meets titanium (`materials.METAL_HU`)."""


def perturb(camera_from_world: np.ndarray, rotation: np.ndarray, translation: np.ndarray, centre: np.ndarray) -> np.ndarray:
    """A pose (4, 4) after the step (omega rad (3,), v mm (3,)) of the project's chart: world axes, on the right, about `centre` (3,)."""
    delta = torch.from_numpy(np.concatenate([rotation, translation]).astype(np.float64))
    pose = torch.from_numpy(np.array(camera_from_world, dtype=np.float64))
    return retract(pose, delta, torch.from_numpy(np.array(centre, dtype=np.float64))).numpy()


def draw_pose(
    view: np.ndarray, centre: np.ndarray, rotation_range_deg: float, translation_range_mm: tuple[float, float, float], rng: np.random.Generator
) -> np.ndarray:
    """A pose (4, 4) around a view: the CT turned about `centre` by up to the range about each world axis, uniformly, and shifted uniformly by up
    to (right, down, depth) mm in *camera* axes, so that a depth range means depth in every view."""
    rotation = np.deg2rad(rng.uniform(-rotation_range_deg, rotation_range_deg, 3))
    pose = perturb(view, rotation, np.zeros(3), centre)
    limits = np.asarray(translation_range_mm, dtype=np.float64)
    pose[:3, 3] += rng.uniform(-limits, limits)
    return pose


def draw_start(truth: np.ndarray, centre: np.ndarray, sigma_deg: float, sigma_mm: float, rng: np.random.Generator) -> np.ndarray:
    """A starting pose (4, 4): the true one after a step (omega, v) whose six components are normal with these standard deviations."""
    return perturb(truth, np.deg2rad(rng.normal(0.0, sigma_deg, 3)), rng.normal(0.0, sigma_mm, 3), centre)


def bone_fiducials(
    volume: Volume, camera: Camera, camera_from_world: np.ndarray, field: np.ndarray, count: int, rng: np.random.Generator
) -> np.ndarray:
    """Centres (count, 3) in world mm of bone voxels that the open field (H, W) bool of the image shows, drawn without repetition.

    Raises:
        InputError: if the field of view holds fewer.
    """
    voxels = np.argwhere((volume.hu > FIDUCIAL_HU[0]) & (volume.hu < FIDUCIAL_HU[1]))
    if len(voxels):
        points = voxels @ volume.world_from_voxel[:3, :3].T + volume.world_from_voxel[:3, 3]
        pixels = camera.project(points @ camera_from_world[:3, :3].T + camera_from_world[:3, 3])
        points = points[_shown(pixels, field)]
    if len(voxels) == 0 or len(points) < count:
        found = len(points) if len(voxels) else 0
        raise InputError(
            f"only {found} bone voxels ({FIDUCIAL_HU[0]:g}-{FIDUCIAL_HU[1]:g} HU) of the CT {volume.name!r} lie inside the X-ray's field of view, "
            f"expected at least {count}: aim at bone, widen the field or narrow the range of poses"
        )
    return points[np.sort(rng.choice(len(points), count, replace=False))]


def _shown(pixels: np.ndarray, field: np.ndarray) -> np.ndarray:
    """(N,) bool: pixels (N, 2) (column, row) that round to an open pixel; nan (behind the source) is not shown."""
    rows, columns = field.shape
    inside: np.ndarray = np.all((pixels >= 0.0) & (pixels <= (columns - 1, rows - 1)), axis=1)
    nearest = np.rint(np.where(inside[:, None], pixels, 0.0)).astype(np.int64)
    return inside & field[nearest[:, 1], nearest[:, 0]]
