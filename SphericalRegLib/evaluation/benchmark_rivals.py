"""Other differentiable renderers for `benchmark_render`: each does what its users do to get one gradient, the image's sum by the pose.

All see the same attenuation, rays and length of step as the projector: DiffDRR's integrators get the rays in world coordinates, nanodrr the camera
and the pose, whose frame is this package's. How well the images agree is part of the result.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from torch import Tensor

from SphericalRegLib.rendering.projector import Projector
from SphericalRegLib.rendering.rays import pixel_targets

_RAYS_AT_ONCE = 4096  # DiffDRR keeps some 30 tensors of rays x samples for its backward pass: more at once would not fit into memory, nor be faster


@dataclass(frozen=True)
class Rival:
    """`run` renders and differentiates once and returns the image (H, W), detached."""

    name: str
    settings: str
    run: Callable[[], Tensor]


PACKAGES = ("diffdrr", "nanodrr")


def missing_rivals() -> tuple[str, ...]:
    """Packages of rivals that are not installed: they are left out of a comparison."""
    return tuple(name for name in PACKAGES if find_spec(name) is None)


def rivals(projector: Projector, camera_from_world: Tensor) -> Iterator[Rival]:
    """Those whose packages are installed, for one pose (1, 4, 4) and the projector's camera, volume and step, on the CPU.

    Each is built when it is asked for, so that no more than one keeps its copy of the volume unless the caller keeps the rival.
    """
    world_from_camera = torch.linalg.inv(camera_from_world.to(torch.float64))
    missing = missing_rivals()
    if "diffdrr" not in missing:
        yield _diffdrr("siddon", projector, world_from_camera)
        yield _diffdrr("trilinear", projector, world_from_camera)
    if "nanodrr" not in missing:
        yield _nanodrr(projector, world_from_camera)


def _scalar_image(projector: Projector) -> Any:
    from torchio import ScalarImage

    return ScalarImage(tensor=torch.from_numpy(projector.attenuation.mu)[None], affine=projector.attenuation.world_from_voxel)


def diffdrr_images(projector: Projector) -> Callable[[Tensor], Tensor]:
    """DiffDRR's Siddon images (B, H, W) of poses (B, 4, 4), through the projector's camera and volume, on its device; without a gradient."""
    drr, device = _diffdrr_of(projector, "siddon").to(projector.device), projector.device
    columns, rows = projector.camera.size_px
    rays = pixel_targets(projector.camera, device).view(1, -1, 3).to(torch.float32)

    @torch.no_grad()
    def images(camera_from_world: Tensor) -> Tensor:
        world_from_camera = torch.linalg.inv(camera_from_world.to(device)).to(torch.float32)
        parts = []
        for some in world_from_camera.split(max(1, 16 * _RAYS_AT_ONCE // (rows * columns))):
            source = some[:, None, :3, 3]
            parts.append(drr.render(drr.density, source, rays @ some[:, :3, :3].mT + source))
        return torch.cat(parts).view(-1, rows, columns)

    return images


def _diffdrr_of(projector: Projector, integrator: str) -> Any:
    from diffdrr.data import read
    from diffdrr.drr import DRR

    camera = projector.camera
    image = _scalar_image(projector)
    subject = read(image, orientation=None, center_volume=False)
    subject.density = image
    columns, rows = camera.size_px
    return DRR(subject, sdd=camera.sdd_mm, height=rows, width=columns, delx=camera.pixel_spacing_mm[0], renderer=integrator)


def _diffdrr(integrator: str, projector: Projector, world_from_camera: Tensor) -> Rival:
    camera, drr = projector.camera, _diffdrr_of(projector, integrator)
    columns, rows = camera.size_px
    targets = pixel_targets(camera, torch.device("cpu")).view(1, -1, 3).to(torch.float32)
    low, high, _ = _box_interval(projector, world_from_camera)
    options: dict[str, Any] = {}
    if integrator == "trilinear":
        samples = 1 + math.ceil((high - low) * float(targets.norm(dim=-1).mean()) / projector.step_mm)
        options = {"n_points": samples, "alphamin": low, "alphamax": high}

    def run() -> Tensor:
        matrix = world_from_camera[0].to(torch.float32).requires_grad_()
        parts = []
        for chunk in targets.split(_RAYS_AT_ONCE, dim=1):
            source, target = matrix[:3, 3].view(1, 1, 3), chunk @ matrix[:3, :3].T + matrix[:3, 3]
            part = drr.render(drr.density, source, target, **options)
            part.sum().backward()
            parts.append(part.detach().view(-1))
        return torch.cat(parts).view(rows, columns)

    settings = f"{options['n_points']} samples a ray" if options else f"{sum(drr.density.shape) + 3} planes"
    return Rival(f"DiffDRR {integrator}", settings, run)


def _nanodrr(projector: Projector, world_from_camera: Tensor) -> Rival:
    from nanodrr.data import Subject
    from nanodrr.drr import DRR

    camera = projector.camera
    columns, rows = camera.size_px
    subject = Subject.from_images(_scalar_image(projector), convert_to_mu=False)
    x0, y0 = (
        (pp + 0.5 - n / 2) * spacing for pp, n, spacing in zip(camera.principal_point_px, camera.size_px, camera.pixel_spacing_mm)
    )  # nanodrr counts pixels from the image's corner, its offset in mm from the image's middle
    drr = DRR.from_carm_intrinsics(camera.sdd_mm, *camera.pixel_spacing_mm, x0, y0, rows, columns, dtype=torch.float32)
    _, _, mean_length = _box_interval(projector, world_from_camera)
    samples = max(2, round(mean_length / projector.step_mm))  # it spreads them over each ray's own way through the volume

    def run() -> Tensor:
        matrix = world_from_camera.to(torch.float32).requires_grad_()
        image = drr(subject, matrix, n_samples=samples, backend="torch")
        image.sum().backward()
        return image.detach()[0, 0]

    return Rival("nanodrr torch", f"{samples} samples a ray", run)


def _box_interval(projector: Projector, world_from_camera: Tensor) -> tuple[float, float, float]:
    """Where rays are inside the volume: least and greatest fraction of the way from source to pixel, and their mean length inside, mm."""
    targets = pixel_targets(projector.camera, torch.device("cpu")).view(-1, 3)
    voxel_from_camera = torch.as_tensor(np.linalg.inv(projector.attenuation.world_from_voxel)) @ world_from_camera[0]
    source = voxel_from_camera[:3, 3]
    ray = targets @ voxel_from_camera[:3, :3].T
    ends = torch.stack([(-1.0 - source) / ray, (torch.tensor(projector.attenuation.mu.shape) - source) / ray])
    low = ends.amin(dim=0).amax(dim=-1).clamp(0.0, 1.0)
    high = ends.amax(dim=0).amin(dim=-1).clamp(0.0, 1.0)
    hit = high > low
    lengths = ((high - low) * targets.norm(dim=-1))[hit]
    return float(low[hit].min()), float(high[hit].max()), float(lengths.mean())
