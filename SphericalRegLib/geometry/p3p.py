"""Poses from three landmarks: where the source stands that sees them at their pixels.

Grunert's solution (1841) as Haralick, Lee, Ottenberg and Noelle give it ("Review and analysis of solutions of the three point perspective pose
estimation problem", IJCV 13, 1994): a quartic in the ratio of two distances from the source. Up to four poses fit three landmarks exactly.
"""

from __future__ import annotations

import numpy as np


def poses_from_three(points: np.ndarray, rays: np.ndarray) -> list[np.ndarray]:
    """camera_from_world (4, 4) of all poses at which three points (3, 3), mm in world, lie on unit rays (3, 3) of the camera, before the source.

    Noise can make roots complex in pairs: their real parts are used, so that what comes back fits nearly and is worth refining.
    """
    side_a, side_b, side_c = (float(np.linalg.norm(points[i] - points[j])) for i, j in ((1, 2), (0, 2), (0, 1)))
    if min(side_a, side_b, side_c) == 0:
        return []
    cos_a, cos_b, cos_c = (float(rays[i] @ rays[j]) for i, j in ((1, 2), (0, 2), (0, 1)))
    a, c = (side_a / side_b) ** 2, (side_c / side_b) ** 2
    difference, rest = a - c, 1 - a - c
    quartic = (
        (difference - 1) ** 2 - 4 * c * cos_a**2,
        4 * (difference * (1 - difference) * cos_b - rest * cos_a * cos_c + 2 * c * cos_a**2 * cos_b),
        2 * (difference**2 - 1 + 2 * difference**2 * cos_b**2 + 2 * (1 - c) * cos_a**2 + 2 * (1 - a) * cos_c**2)
        - 8 * (a + c) * cos_a * cos_b * cos_c,
        4 * (-difference * (1 + difference) * cos_b + 2 * a * cos_c**2 * cos_b - rest * cos_a * cos_c),
        (1 + difference) ** 2 - 4 * a * cos_c**2,
    )
    if not np.isfinite(quartic).all() or not np.any(quartic[:-1]):
        return []
    poses = []
    for third in sorted({float(np.real(root)) for root in np.roots(quartic)}):
        below = 2 * (cos_c - third * cos_a)
        square = 1 + third**2 - 2 * third * cos_b
        if third <= 0 or below == 0 or square <= 0:
            continue
        second = ((difference - 1) * third**2 - 2 * difference * cos_b * third + 1 + difference) / below
        if second <= 0 or not np.isfinite(second):
            continue
        depths = side_b / np.sqrt(square) * np.array([1.0, second, third])
        poses.append(align(points, depths[:, None] * rays))
    return poses


def align(world: np.ndarray, camera: np.ndarray) -> np.ndarray:
    """The rigid camera_from_world (4, 4) that brings points (N, 3) of the world closest to points (N, 3) of the camera (Kabsch, by the SVD)."""
    middle_world, middle_camera = world.mean(0), camera.mean(0)
    u, _, vh = np.linalg.svd((camera - middle_camera).T @ (world - middle_world))
    rotation = u @ np.diag([1.0, 1.0, np.sign(np.linalg.det(u @ vh))]) @ vh
    pose = np.eye(4)
    pose[:3, :3] = rotation
    pose[:3, 3] = middle_camera - rotation @ middle_world
    return pose
