"""Covariance: against the spread of many noisy solutions, singular systems, and the name of the least observable direction."""

from __future__ import annotations

import math

import pytest
import torch

from SphericalRegLib.errors import InputError
from SphericalRegLib.geometry.se3 import local
from SphericalRegLib.optimization.covariance import (
    effective_rows,
    observability,
    pose_covariance,
    residual_variance,
    result_covariance,
)
from SphericalRegLib.optimization.first_order import first_order
from SphericalRegLib.optimization.gauss_newton import gauss_newton
from SphericalRegLib.optimization.levenberg_marquardt import levenberg_marquardt
from SphericalRegLib.optimization.problem import linearize

F64 = torch.float64


def test_covariance_is_the_spread_of_noisy_solutions(scene):
    """400 copies of one scene with pixel noise of known size: the solutions' scatter is the predicted covariance."""
    base = scene(batch=1, points=12, noise=0.0)
    generator = torch.Generator().manual_seed(5)
    batch, sigma = 400, 0.7
    noise = sigma * torch.randn(batch, *base.problem.observed.shape[1:], generator=generator, dtype=F64)
    problem = type(base.problem)(base.problem.points, base.problem.observed + noise)
    result = levenberg_marquardt(problem, base.truth.expand(batch, 4, 4).clone(), base.centre)
    errors = local(base.truth, result.pose, base.centre)
    empirical = errors.T @ errors / batch
    known = pose_covariance(result.normal_matrix[0], result.cost.new_tensor(0.5 * sigma**2 * 18), 18)
    # chi-square of 400 draws: whitened, the scatter is the identity to within a few times sqrt(2 / 400)
    whitening = torch.linalg.inv(torch.linalg.cholesky(known))
    assert (whitening @ empirical @ whitening.T - torch.eye(6, dtype=F64)).abs().max() < 0.25
    estimated = residual_variance(result.cost, result.rows - 6.0)
    assert estimated.mean().item() == pytest.approx(sigma**2, rel=0.03)
    assert torch.allclose(result_covariance(result)[0], known * estimated[0] / sigma**2, rtol=1e-4)


def test_degrees_of_freedom(scene):
    s = scene(batch=1, noise=1.0)
    result = levenberg_marquardt(s.problem, s.start, s.centre)
    few = pose_covariance(result.normal_matrix, result.cost, 2.0)
    many = pose_covariance(result.normal_matrix, result.cost, 200.0)
    assert torch.allclose(few, 100 * many)
    assert effective_rows(1000, 0.0) == 1000
    assert effective_rows(1000, 3.0).item() == pytest.approx(1000 / (math.pi * 9))
    assert torch.allclose(result_covariance(result), pose_covariance(result.normal_matrix, result.cost, 34.0))
    with pytest.raises(InputError, match="more than six"):
        pose_covariance(result.normal_matrix, result.cost, 0.0)


@pytest.mark.parametrize("optimise", [levenberg_marquardt, gauss_newton, first_order])
def test_rows_of_masked_pixels_are_no_degrees_of_freedom(scene, optimise):
    """Three rows of weight zero for each that counts, in other places for each element: the covariance is that of the rows that count."""
    s = scene(batch=2, noise=1.0)
    places = torch.stack([torch.randperm(160, generator=torch.Generator().manual_seed(b))[:40] for b in range(2)])

    def diluted(poses, index):
        r, j = s.problem.residual_and_jacobian(poses, index)
        where = places[index]
        return r.new_zeros(len(r), 160).scatter(1, where, r), j.new_zeros(len(r), 160, 6).scatter(1, where[..., None].expand(j.shape), j)

    problem = type("Diluted", (), {"residual_and_jacobian": staticmethod(diluted)})()
    plain, masked = optimise(s.problem, s.start, s.centre), optimise(problem, s.start, s.centre)
    assert masked.rows.tolist() == plain.rows.tolist() == [40, 40]
    assert torch.allclose(result_covariance(masked), result_covariance(plain), rtol=1e-6)


def test_a_row_that_is_fitted_exactly_still_counts(scene):
    s = scene(batch=1)
    model = linearize(s.problem, s.truth, torch.arange(1))
    assert int((s.problem.residual(s.truth, s.problem.observed) == 0).sum()) > 0
    assert model.weighted.tolist() == model.rows.tolist() == [40]


def test_a_direction_that_nothing_depends_on_has_an_infinite_variance():
    matrix = torch.diag(torch.tensor([4.0, 1, 1, 0, 1, 1], dtype=F64))
    covariance = pose_covariance(matrix, torch.tensor(1.0, dtype=F64), 2.0)
    assert covariance.diagonal().tolist() == [0.25, 1, 1, math.inf, 1, 1]
    matrix[4, 5] = matrix[5, 4] = 1.0  # y + z is known, y - z is not
    covariance = pose_covariance(matrix, torch.tensor(1.0, dtype=F64), 2.0)
    assert torch.isinf(covariance.diagonal()).tolist() == [False, False, False, True, True, True]


def test_observability_of_a_diagonal_system():
    rho = 100.0
    matrix = torch.diag(torch.tensor([1e4, 4e4, 1e6, 0.25, 9.0, 0.0], dtype=F64))
    seen = observability(matrix, 4.0, rho)
    # displacement sigmas: 2 * (rho / 100, rho / 200, rho / 1000, 2, 1 / 3, inf)
    assert torch.allclose(seen.sigma_mm, torch.tensor([math.inf, 4.0, 2.0, 1.0, 2 / 3, 0.2], dtype=F64))
    assert torch.allclose(seen.directions.abs() @ torch.ones(6, dtype=F64), torch.tensor([1, 1, 1 / rho, 1 / rho, 1, 1 / rho], dtype=F64))


def test_directions_are_unit_displacements_that_diagonalise_the_covariance(scene):
    s = scene(batch=2, noise=1.0)
    result = levenberg_marquardt(s.problem, s.start, s.centre)
    variance = residual_variance(result.cost, 34.0)
    seen = observability(result.normal_matrix, variance, 500.0)
    weight = torch.tensor([500.0] * 3 + [1.0] * 3, dtype=F64)
    unit = seen.directions * weight
    assert torch.allclose(unit @ unit.mT, torch.eye(6, dtype=F64).expand(2, 6, 6), atol=1e-10)
    covariance = pose_covariance(result.normal_matrix, result.cost, 34.0) * weight[:, None] * weight
    assert torch.allclose(unit @ covariance @ unit.mT, torch.diag_embed(seen.sigma_mm**2), rtol=1e-6, atol=1e-9)
    assert (seen.sigma_mm.diff(dim=-1) <= 0).all()


def test_depth_is_the_least_observable_direction_of_one_view(scene):
    s = scene(batch=1, noise=1.0, degrees=1.0)
    result = levenberg_marquardt(s.problem, s.start, s.centre)
    seen = observability(result.normal_matrix[0], residual_variance(result.cost, 34.0)[0], 100.0)
    assert seen.worst(result.pose[0]).startswith("depth (shift along the central ray): ")


def test_other_directions_are_named():
    pose = torch.eye(4, dtype=F64)[[0, 2, 1, 3]]
    pose[1] *= -1  # z of the camera is A: a PA view
    for column, name in [(0, "turn about R"), (1, "roll about the central ray"), (2, "turn about S"), (3, "shift along R"), (4, "depth")]:
        matrix = torch.eye(6, dtype=F64) * 1e6
        matrix[column, column] = 0.01
        assert observability(matrix, 1.0, 10.0).worst(pose).startswith(name)
    with pytest.raises(InputError, match="one pose"):
        observability(torch.eye(6, dtype=F64).repeat(2, 1, 1), 1.0, 10.0).worst(pose)
