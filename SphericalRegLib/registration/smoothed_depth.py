"""The depth at which the smoothed score is highest.

One view hardly shows depth, the shift along the camera's axis, so that along it the score is rough where it should be steep: samples and voxels pass
pixels and make local peaks a millimetre or two apart, and a search ends on one of them. A parabola through the scores of several depths averages
over what a single peak takes for truth: the response surface of experimental design (Box and Wilson, J. R. Stat. Soc. B 13, 1951), in the one
direction that needs it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..geometry.se3 import retract
from ..optimization.covariance import pose_covariance
from .problem import MultiViewProblem

DEPTHS = 9
"""Depths compared, in all."""
SURE = 4.0
"""How many standard errors the parabola must bend: what is flat but for noise has a peak anywhere."""
FURTHEST_TURN_RAD = 0.2
"""What the way may turn the CT within reach: more than any patient's depth takes along, and what a system that hardly knows a turn would do."""


def smoothed_depths(problem: MultiViewProblem, poses: Tensor, normal_matrix: Tensor, reach_mm: float) -> Tensor:
    """The poses (E, 4, 4), each moved to the vertex of the parabola through its scores at depths up to `reach_mm` before and behind it.

    Depth takes the other five parameters along, as the quadratic model of the cost has it. A pose stays where that model is singular, where the
    parabola bends no more than noise would make it, and where its peak is out of reach.

    Args:
        problem: of one view, holding the pixels that were valid at the starts (`MultiViewProblem.holding_valid_at`).
        poses: (E, 4, 4), where searches ended; the problem's elements in their order.
        normal_matrix: (E, 6, 6), J^T J there.
        reach_mm: half the window.
    """
    count = len(poses)
    ray = torch.cat((torch.zeros_like(poses[:, 2, :3]), poses[:, 2, :3]), dim=-1)  # along the camera's axis, in the tangent's world axes
    determined = torch.isfinite(normal_matrix).flatten(1).all(-1)
    system = torch.where(determined[:, None, None], normal_matrix, torch.eye(6).to(normal_matrix))
    covariance = pose_covariance(system, system.new_full((count,), 0.5), 1.0)  # infinite where nothing depends on a parameter
    along = (covariance @ ray[..., None])[..., 0]
    way = along / (along * ray).sum(-1, keepdim=True)
    known = determined & torch.isfinite(way).all(-1) & (reach_mm * way[:, :3].norm(dim=-1) <= FURTHEST_TURN_RAD)
    way = torch.where(known[:, None], way, ray)
    unit = torch.linspace(-1, 1, DEPTHS, dtype=poses.dtype, device=poses.device)
    moved = retract(poses[:, None].expand(-1, DEPTHS, 4, 4), reach_mm * unit[:, None] * way[:, None], problem.centre)
    index = torch.arange(count, device=poses.device)
    scores = problem.held_score(moved.flatten(0, 1), index.repeat_interleave(DEPTHS)).view(count, DEPTHS).to(poses)
    powers = torch.stack((torch.ones_like(unit), unit, unit.square()), dim=-1)
    fitted = scores @ torch.linalg.pinv(powers).T
    _, slope, bend = fitted.unbind(-1)
    noise = (scores - fitted @ powers.T).square().sum(-1) / (DEPTHS - 3)
    error = (noise * torch.linalg.inv(powers.T @ powers)[2, 2]).sqrt()
    vertex = -slope / (2 * bend)
    peaked = known & (-bend > SURE * error) & (vertex.abs() <= 1)  # not where a score is no number either
    step = torch.where(peaked, reach_mm * vertex, 0.0)
    return torch.where(peaked[:, None, None], retract(poses, step[:, None] * way, problem.centre), poses)
