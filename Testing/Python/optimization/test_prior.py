"""The prior: its derivative, its answer where everything is linear, and that it stills what the residual does not see."""

from __future__ import annotations

import torch

from SphericalRegLib.geometry.se3 import local, retract
from SphericalRegLib.optimization.levenberg_marquardt import LMOptions, levenberg_marquardt
from SphericalRegLib.optimization.prior import PosePrior
from SphericalRegLib.optimization.problem import SharedProblem

CENTRE = torch.tensor([5.0, -3.0, 8.0], dtype=torch.float64)


def poses(count: int, sigma: float = 0.3) -> torch.Tensor:
    scale = torch.tensor([sigma] * 3 + [20.0] * 3, dtype=torch.float64)
    delta = torch.randn(count, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) * scale
    return retract(torch.eye(4, dtype=torch.float64).expand(count, 4, 4), delta, CENTRE)


def nothing(at: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return at.new_zeros(len(at), 1), at.new_zeros(len(at), 1, 6)


def test_the_jacobian_is_the_derivative() -> None:
    mean, here, index = poses(4), poses(8)[4:], torch.arange(4)
    prior = PosePrior(SharedProblem(nothing), mean, CENTRE, 0.1, 12.0, 0.05)
    _, jacobian = prior.residual_and_jacobian(here, index)
    for axis, step in enumerate([1e-6] * 3 + [1e-4] * 3):
        delta = torch.zeros(4, 6, dtype=torch.float64)
        delta[:, axis] = step
        ahead, behind = (prior.residual_and_jacobian(retract(here, sign * delta, CENTRE), index)[0] for sign in (1, -1))
        torch.testing.assert_close(jacobian[..., axis], (ahead - behind) / (2 * step), rtol=1e-6, atol=1e-8)


def test_a_measurement_and_a_prior_are_weighed_by_their_variances() -> None:
    """A position along x measured with sigma 2 mm, expected with sigma 6 mm: 0.9 of the way; along y nothing is measured, and nothing moves."""
    start = poses(1, 0.0)

    def measured(at: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        away = local(start.expand_as(at), at, CENTRE)
        jacobian = at.new_zeros(len(at), 1, 6)
        jacobian[:, 0, 3] = 1.0
        return away[:, 3:4] - 10.0, jacobian

    prior = PosePrior(SharedProblem(measured), start, CENTRE, 0.1, 6.0, 2.0)
    end = levenberg_marquardt(prior, start, CENTRE, LMOptions(max_iterations=50)).pose
    expected = torch.tensor([[0.0, 0.0, 0.0, 9.0, 0.0, 0.0]], dtype=torch.float64)
    torch.testing.assert_close(local(start, end, CENTRE), expected, rtol=0, atol=1e-4)
