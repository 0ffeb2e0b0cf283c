"""A small phantom with bone-like parts, and X-rays of it with more in them than the renderer knows."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from SphericalRegLib.geometry.camera import Camera
from SphericalRegLib.geometry.se3 import retract
from SphericalRegLib.geometry.views import named_view
from SphericalRegLib.imaging.attenuation import Attenuation, attenuation
from SphericalRegLib.imaging.radiograph import Radiograph
from SphericalRegLib.imaging.volume import Volume
from SphericalRegLib.rendering.projector import Projector

CAMERA = Camera(1000.0, (2.0, 2.0), (112, 96), (54.0, 49.0))


@lru_cache(maxsize=1)
def volume() -> Volume:
    """Water ellipsoid with asymmetric bones, 3 mm voxels, all of it inside the grid, RAS axes, centre off the origin."""
    spacing, shape = 3.0, (48, 40, 52)
    affine = np.diag([spacing, spacing, spacing, 1.0])
    affine[:3, 3] = [-60.0, -50.0, 20.0]
    x, y, z = (np.arange(n) * spacing - (n - 1) * spacing / 2 for n in shape)
    x, y, z = np.meshgrid(x, y, z, indexing="ij")

    def ball(cx: float, cy: float, cz: float, a: float, b: float, c: float) -> np.ndarray:
        inside = 1 - ((x - cx) / a) ** 2 - ((y - cy) / b) ** 2 - ((z - cz) / c) ** 2
        return 1 / (1 + np.exp(-8 * np.clip(inside, -5, 5)))

    hu = -1000 + 1030 * ball(0, 0, 0, 62, 50, 68)
    for bone in [(-20, 10, 20, 12, 10, 26), (22, -8, 10, 8, 14, 20), (5, 14, -30, 30, 8, 9), (-25, -15, -25, 9, 9, 16), (10, -20, 38, 16, 7, 6)]:
        hu += 1100 * ball(*bone)
    return Volume(hu.astype(np.float32), affine, name="phantom")


@lru_cache(maxsize=1)
def ct() -> Attenuation:
    return attenuation(volume())


def true_pose(view: str = "ap") -> Tensor:
    """A pose near a named view, centre at 75 % of the detector's distance."""
    delta = torch.tensor([0.10, -0.06, 0.08, 4.0, -3.0, 6.0], dtype=torch.float64)
    centre = torch.as_tensor(ct().centre_ras_mm)
    return retract(named_view(view, CAMERA, centre), delta, centre)


def radiograph(pose: Tensor, seed: int = 0, camera: Camera = CAMERA) -> Radiograph:
    """Finely sampled, on another scale, with a slow background (scatter) and noise."""
    image = Projector(ct(), camera, step_mm=0.7).project(pose[None])[0].numpy()
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[-1 : 1 : 1j * camera.rows, -1 : 1 : 1j * camera.columns]
    shown = 2.0 * image + 0.3 * columns - 0.2 * rows**2 + rng.normal(0, 0.02, image.shape)
    return Radiograph(shown.astype(np.float32), np.ones(image.shape, dtype=bool), camera, name="phantom.png")


def target_error(estimate: np.ndarray, truth: Tensor) -> float:
    """Mean 3D displacement of the corners of a 60 mm cube, mm."""
    corners = np.stack(np.meshgrid([-30, 30], [-30, 30], [-30, 30]), -1).reshape(8, 3) + ct().centre_ras_mm
    truth = truth.numpy()
    difference = corners @ (estimate - truth)[:3, :3].T + (estimate - truth)[:3, 3]
    return float(np.linalg.norm(difference, axis=1).mean())
