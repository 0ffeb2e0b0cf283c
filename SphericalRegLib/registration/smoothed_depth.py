"""The depth at which the smoothed cost is least.

One view hardly shows depth, so that along it the cost is rough where it should be deep: samples and voxels pass pixels and make local minima a
millimetre or two apart, and a search ends in one of them. A parabola through the cost of several depths averages over what a single minimum takes for
truth: the response surface of experimental design (Box and Wilson, J. R. Stat. Soc. B 13, 1951), in the one direction that needs it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..geometry.se3 import retract
from .problem import MultiViewProblem

DEPTHS = 9
"""Depths compared, in all."""


def smoothed_depths(problem: MultiViewProblem, poses: Tensor, normal_matrix: Tensor, reach_mm: float) -> Tensor:
    """The poses (E, 4, 4), each moved to the vertex of the parabola through its scores at depths up to `reach_mm` before and behind it.

    Depth takes the other five parameters along, as the quadratic model of the cost has it. A pose whose parabola has no peak within reach stays.

    Args:
        problem: of one view, holding the pixels that were valid at the starts (`MultiViewProblem.holding_valid_at`).
        poses: (E, 4, 4), where searches ended; the problem's elements in their order.
        normal_matrix: (E, 6, 6), J^T J there.
        reach_mm: half the window.
    """
    count = len(poses)
    ray = torch.cat((torch.zeros_like(poses[:, 2, :3]), poses[:, 2, :3]), dim=-1)  # along the camera's axis, in the tangent's world axes
    covariance, singular = torch.linalg.inv_ex(normal_matrix)
    along = (covariance @ ray[..., None])[..., 0]
    variance = (along * ray).sum(-1, keepdim=True)
    known = (singular == 0) & torch.isfinite(along).all(-1) & (variance[:, 0] > 0)
    way = torch.where(known[:, None], along / variance, ray)
    unit = torch.linspace(-1, 1, DEPTHS, dtype=poses.dtype, device=poses.device)
    moved = retract(poses[:, None].expand(-1, DEPTHS, 4, 4), reach_mm * unit[:, None] * way[:, None], problem.centre)
    index = torch.arange(count, device=poses.device)
    scores = problem.held_score(moved.flatten(0, 1), index.repeat_interleave(DEPTHS)).view(count, DEPTHS).to(poses)
    powers = torch.stack((torch.ones_like(unit), unit, unit.square()), dim=-1)
    _, slope, bend = (scores @ torch.linalg.pinv(powers).T).unbind(-1)
    vertex = -slope / (2 * bend)
    peaked = known & (bend < 0) & (vertex.abs() <= 1)  # not where a score is no number either
    step = torch.where(peaked, reach_mm * vertex, 0.0)
    return torch.where(peaked[:, None, None], retract(poses, step[:, None] * way, problem.centre), poses)
