"""What is known of a pose before the image is looked at, as further rows of a least-squares problem.

A maximum a posteriori estimate: where the residual says little (how far away the patient is, for one), the pose stays near the start instead of
following the residual's noise; where it says much, the rows weigh nothing. Bishop, "Pattern Recognition and Machine Learning", 2006, chapter 3.3.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from SphericalRegLib.geometry.se3 import local, so3_right_jacobian_inverse
from SphericalRegLib.optimization.problem import LeastSquaresProblem

LEAST = 1e-6
"""Standard deviation, rad and mm, that zero stands for."""


@dataclass(frozen=True)
class PosePrior:
    """A problem with six more rows: the way from a mean pose, in standard deviations, times those of the residual's rows.

    Attributes:
        problem: whose residual has independent rows of standard deviation `noise`.
        mean: (B, 4, 4) camera_from_world, float64.
        centre: (3,) that tangents turn about.
        sigma_rad, sigma_mm: standard deviations of a pose about its mean, per axis; zero holds it where it is.
        noise: see `problem`.
    """

    problem: LeastSquaresProblem
    mean: Tensor
    centre: Tensor
    sigma_rad: float
    sigma_mm: float
    noise: float

    def residual_and_jacobian(self, poses: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        """r (M, N + 6) and J (M, N + 6, 6) at poses (M, 4, 4) of the problems `index` (M,)."""
        r, jacobian = self.problem.residual_and_jacobian(poses, index)
        mean = self.mean[index]
        delta = local(mean, poses, self.centre)
        slope = torch.zeros(len(poses), 6, 6, dtype=delta.dtype, device=delta.device)
        slope[:, :3, :3] = so3_right_jacobian_inverse(delta[:, :3])
        slope[:, 3:, 3:] = mean[:, :3, :3].mT @ poses[:, :3, :3]
        weight = self.noise / delta.new_tensor([self.sigma_rad] * 3 + [self.sigma_mm] * 3).clamp_min(LEAST)
        return torch.cat((r, (delta * weight).to(r)), dim=1), torch.cat((jacobian, (slope * weight[:, None]).to(jacobian)), dim=1)
