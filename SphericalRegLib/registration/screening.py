"""Screened multi-start: many poses are compared with the X-rays in one go at low resolution.

A pose is an orientation and a depth, which change the look of the projection, and a shift, which to first order only moves it. So orientations and
depths are drawn and rendered, and *all* shifts of each are scored at once by correlating feature images through the FFT (Lewis, Vision Interface
1995; with a mask: Padfield, IEEE TIP 2012). One rendering thus stands for a thousand poses. Where there are several views, their correlation maps
are read out on one lattice of shifts in the world and added.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..geometry.se3 import local, retract, transform_points
from ..progress import Progress, ProgressCallback, silent
from ..rendering.projector import Projector
from ..similarity.ncc import GlobalNCC
from .options import MultiStart
from .problem import PIXELS_AT_ONCE, MultiViewProblem, ViewTerm
from .region import pixel_at_ct
from .scored import Scored

RADIUS_SIGMAS = 2.5
"""Shifts are searched up to this many standard deviations."""

APART_DEG, APART_MM = 2.0, 4.0
"""Poses nearer to each other than both end in the same minimum."""

STEPS_IN_DEPTH, SHIFTS_AT_ONCE = 64, 2**18
"""What bounds a lattice of shifts in all directions: its steps to each side, beyond which they grow longer, and the shifts of all poses together that
are read out at a time (some 100 MB)."""


def even_normal(count: int, dimensions: int, seed: int) -> Tensor:
    """Normal numbers (count, dimensions), float64, of a scrambled Sobol sequence, which covers the range more evenly than random ones."""
    uniform = torch.quasirandom.SobolEngine(dimensions, scramble=True, seed=seed).draw(count, dtype=torch.float64).clamp(1e-6, 1 - 1e-6)
    return math.sqrt(2.0) * torch.erfinv(2 * uniform - 1)


def spread_poses(start: Tensor, centre: Tensor, options: MultiStart, seed: int) -> Tensor:
    """Orientations and depths about a start (4, 4): poses (options.poses, 4, 4), the start itself first.

    Normal in omega and in the shift along the central ray.
    """
    if options.poses == 1:
        return start[None]
    normal = even_normal(options.poses - 1, 4, seed).to(start.device)
    ray = start[2, :3]  # the camera's z axis in the world
    delta = torch.cat((normal[:, :3] * math.radians(options.rotation_deg), normal[:, 3:] * options.translation_mm * ray), dim=1)
    return torch.cat((start[None], retract(start.expand(len(delta), 4, 4), delta, centre)))


def screen(
    views: Sequence[ViewTerm[GlobalNCC]], poses: Tensor, radius_mm: float, pixel_mm: float, progress: ProgressCallback = silent, stage: str = "search"
) -> Scored:
    """Each pose at its best shift.

    Args:
        views: one or more, on the grid of the screening resolution.
        poses: camera_from_world (B, 4, 4) of the first camera.
        radius_mm: largest shift; perpendicular to the central ray for one view, in any direction for several.
        pixel_mm: step of the shift, about a pixel measured at the CT; of the coarsest view.
        progress: called several times a second.

    Returns:
        All poses, shifted, best first.
    """
    searches = [_ShiftSearch.prepare(view, poses[:1], radius_mm) for view in views]
    lattice = _lattice(radius_mm, pixel_mm, in_depth=len(views) > 1).to(poses.device)
    size = max(1, min(PIXELS_AT_ONCE // max(search.pixels for search in searches), SHIFTS_AT_ONCE // len(lattice)))
    best_poses, best_scores = [], []
    for first in range(0, len(poses), size):
        progress(Progress(stage, first, len(poses)))
        chunk = poses[first : first + size]
        shifts = lattice @ chunk[:, :3, :3]  # from camera axes to the world's
        score = torch.stack([search.scores(chunk, shifts) for search in searches]).mean(0)
        top, index = score.max(1)
        shift = shifts[torch.arange(len(chunk), device=chunk.device), index]
        best_poses.append(retract(chunk, torch.cat((torch.zeros_like(shift), shift), dim=1), views[0].projector.centre))
        best_scores.append(top)
    progress(Progress(stage, len(poses), len(poses)))
    return Scored.sorted(torch.cat(best_poses), torch.cat(best_scores))


def diverse(poses: Tensor, count: int, centre: Tensor, apart_deg: float, apart_mm: float) -> Tensor:
    """Indices of up to `count` poses, in order, of which no two lie within both `apart_deg` and `apart_mm` of each other."""
    kept: list[int] = []
    for index in range(len(poses)):
        if kept:
            delta = local(poses[kept], poses[index].expand(len(kept), 4, 4), centre)
            near = (delta[:, :3].norm(dim=1) < math.radians(apart_deg)) & (delta[:, 3:].norm(dim=1) < apart_mm)
            if bool(near.any()):
                continue
        kept.append(index)
        if len(kept) == count:
            break
    return torch.tensor(kept, dtype=torch.long, device=poses.device)


def best_depths(problem: MultiViewProblem, poses: Tensor, through: Tensor, depths_mm: Sequence[float]) -> tuple[Tensor, Tensor]:
    """Each pose (B, 4, 4) moved along the ray through a point (3,) of the CT, to that of the depths with the best score; and that score (B,).

    Depths are in mm, + is away from the source. A pose is compared over the pixels that were valid before it was moved; where several depths are as
    good, it moves least.
    """
    at = transform_points(poses, through.expand(len(poses), 1, 3))[:, 0]
    ray = (at / at.norm(dim=1, keepdim=True))[:, None] @ poses[:, :3, :3]  # (B, 1, 3) in world axes
    depths = torch.tensor(sorted(depths_mm, key=abs), dtype=poses.dtype, device=poses.device)
    shift = ray * depths[:, None]
    moved = retract(poses[:, None].expand(-1, len(depths), 4, 4), torch.cat((torch.zeros_like(shift), shift), dim=-1), problem.centre)
    element = torch.arange(len(poses), device=poses.device)
    scores = problem.holding_valid_at(poses).held_score(moved.flatten(0, 1), element.repeat_interleave(len(depths)))
    scores = scores.reshape(len(poses), len(depths)).nan_to_num(-torch.inf)
    index = scores.argsort(dim=1, descending=True, stable=True)[:, 0]
    return moved[element, index], scores[element, index]


def _lattice(radius_mm: float, step_mm: float, in_depth: bool) -> Tensor:
    """Shifts (S, 3) on a lattice in camera axes: across the central ray, and along it if `in_depth`."""
    step_mm = max(step_mm, radius_mm / STEPS_IN_DEPTH) if in_depth else step_mm
    half = max(1, math.ceil(radius_mm / step_mm)) if radius_mm > 0 else 0
    line = torch.arange(-half, half + 1, dtype=torch.float64) * step_mm
    # Depth moves a view's image little, so that a coarser step will do along it.
    deep = line[half % 2 :: 2] if in_depth else line[half : half + 1]
    x, y, z = torch.meshgrid(line, line, deep, indexing="ij")
    shifts = torch.stack((x, y, z), dim=-1).reshape(-1, 3)
    return shifts[shifts.norm(dim=1) <= radius_mm + 1e-6]


@dataclass(frozen=True)
class _ShiftSearch:
    """One view's correlation at all shifts of the image."""

    view: ViewTerm[GlobalNCC]
    projector: Projector  # onto a grid that is larger by `pad` on each side: a shift brings in what lies there
    pad: int
    fixed_spectrum: Tensor  # (C, rows, columns') of weight * fixed features
    weight_spectrum: Tensor
    energy: Tensor  # () of the fixed features under the weight

    @classmethod
    def prepare(cls, view: ViewTerm[GlobalNCC], camera1_from_world: Tensor, radius_mm: float) -> _ShiftSearch:
        """For shifts up to `radius_mm` from poses about as far from the source as the first of these (B, 4, 4)."""
        camera, centre = view.projector.camera, view.projector.centre
        pad = math.ceil(radius_mm / pixel_at_ct(camera, view.camera_from_camera1 @ camera1_from_world, centre)) + 2
        larger = camera.crop(-pad, -pad, camera.columns + 2 * pad, camera.rows + 2 * pad)
        fixed, weight = view.similarity.fixed_features()
        size = (larger.rows, larger.columns)
        return cls(
            view,
            view.projector.with_camera(larger),
            pad,
            torch.fft.rfft2(weight * fixed, s=size).conj(),
            torch.fft.rfft2(weight, s=size).conj(),
            (weight * fixed.square()).sum(),
        )

    @property
    def pixels(self) -> int:
        # The transforms of features and of their squares want room too.
        return 3 * self.projector.camera.rows * self.projector.camera.columns

    def scores(self, camera1_from_world: Tensor, shifts: Tensor) -> Tensor:
        """Correlation (B, S) in [-1, 1] of poses (B, 4, 4) of the first camera moved by shifts (B, S, 3) in world axes."""
        poses = self.view.camera_from_camera1 @ camera1_from_world
        maps = self._maps(poses)
        centre = self.projector.centre
        moved = transform_points(poses, centre + shifts)
        camera = self.projector.camera
        here = camera.project(transform_points(poses, centre.expand(len(poses), 1, 3)))
        offset = (here - camera.project(moved)).round()
        usable = torch.isfinite(offset).all(-1) & (offset.abs() <= self.pad).all(-1)
        column, row = (torch.where(usable, offset[..., k], 0).long() + self.pad for k in (0, 1))
        picked = maps.flatten(1).gather(1, row * maps.shape[2] + column)
        return torch.where(usable, picked, -1.0)

    def _maps(self, poses: Tensor) -> Tensor:
        """(B, 2 pad + 1, 2 pad + 1): entry (pad + dy, pad + dx) is the correlation with moving features read at (x + dx, y + dy)."""
        features = self.view.similarity.moving_features(self.projector.project(poses))
        size = features.shape[-2:]
        product = (torch.fft.rfft2(features) * self.fixed_spectrum).sum(1)
        correlation = torch.fft.irfft2(product, s=size)
        energy = torch.fft.irfft2(torch.fft.rfft2(features.square().sum(1)) * self.weight_spectrum, s=size)
        # Where next to nothing of the moving image is left under the mask, a small number must not make a good match of it.
        energy = energy.clamp_min(0.2 * self.energy)
        score = correlation * (energy * self.energy).rsqrt()
        return score[:, : 2 * self.pad + 1, : 2 * self.pad + 1]
