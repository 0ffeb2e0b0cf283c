"""How well the data fix the pose: covariance from the normal matrix, and the least observable direction."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from SphericalRegLib.errors import InputError
from SphericalRegLib.optimization.result import OptimizationResult

PARAMETERS = ("turn about R", "turn about A", "turn about S", "shift along R", "shift along A", "shift along S")
"""Names of delta = (omega, v): world axes R (right), A (anterior), S (superior)."""


@dataclass(frozen=True)
class Observability:
    """Principal directions of a pose's uncertainty, worst first, measured as displacements: a turn by omega counts as rho |omega| mm.

    `directions` (..., 6, 6): row k is the step delta = (omega, v), rad and mm, along direction k with a displacement of 1 mm; `sigma_mm` (..., 6)[k]
    is the standard deviation along it, inf where nothing depends on it.
    """

    sigma_mm: Tensor
    directions: Tensor
    rho_mm: float

    def worst(self, camera_from_world: Tensor) -> str:
        """One phrase for the least observable direction of one pose (4, 4), after its largest part: "depth (...): 3.1 mm"."""
        if self.sigma_mm.ndim != 1:
            raise InputError("The least observable direction is named for one pose at a time.")
        step = self.directions[0]
        turn, shift = self.rho_mm * step[:3], step[3:]
        ray = camera_from_world[2, :3].to(step)
        if (shift @ ray).abs() > 0.8:
            name = "depth (shift along the central ray)"
        elif (turn @ ray).abs() > 0.8:
            name = "roll about the central ray"
        else:
            name = PARAMETERS[int(torch.cat((turn, shift)).abs().argmax())]
        return f"{name}: {self.sigma_mm[0].item():.3g} mm"


def pose_covariance(normal_matrix: Tensor, cost: Tensor, degrees_of_freedom: Tensor | float) -> Tensor:
    """sigma^2 (J^T J)^-1 (..., 6, 6) with sigma^2 = 2 cost / degrees_of_freedom; (omega, v), rad and mm, world axes on the right about the centre.

    `degrees_of_freedom` is the number of *independent* residuals minus 6. Residuals of neighbouring pixels are correlated (detector blur, scatter,
    the model's own errors), and then the number of rows is far too large and the covariance too small; `effective_rows` corrects for it. Rows of
    weight zero do not count either, nor does `OptimizationResult.rows` count them. Directions that nothing depends on get an infinite variance on
    their diagonal. To first order, and calibrated only if somebody has compared it with errors. Seber and Wild,
    "Nonlinear Regression", chapter 2.1.2.
    """
    sigma_square = residual_variance(cost, degrees_of_freedom)
    diagonal = normal_matrix.diagonal(dim1=-2, dim2=-1)
    blind = diagonal <= 0
    scale = torch.where(blind, 1.0, diagonal).rsqrt()
    system = normal_matrix * scale[..., :, None] * scale[..., None, :]
    values, vectors = torch.linalg.eigh(system)
    usable = values > 1e-12
    inverse = (vectors * torch.where(usable, 1.0 / torch.where(usable, values, 1.0), 0.0)[..., None, :]) @ vectors.transpose(-1, -2)
    lost = ((vectors**2) * (~usable)[..., None, :]).sum(-1) > 1e-6  # parameters that a null direction moves
    covariance = inverse * scale[..., :, None] * scale[..., None, :] * sigma_square[..., None, None]
    return covariance + torch.diag_embed(torch.where(lost, torch.inf, 0.0).to(covariance.dtype))


def residual_variance(cost: Tensor, degrees_of_freedom: Tensor | float) -> Tensor:
    """sigma^2 = 2 cost / degrees of freedom (...)."""
    freedom = torch.as_tensor(degrees_of_freedom, dtype=cost.dtype, device=cost.device)
    if bool((freedom <= 0).any()):
        raise InputError("A covariance needs more than six independent residuals.")
    return 2.0 * cost / freedom


def effective_rows(rows: Tensor | float, correlation_length_px: float) -> Tensor:
    """Number of independent residuals among `rows` that are correlated over a disc of this radius in pixels: rows / (pi l^2). Two rows a pixel, as
    similarities of gradients have, count twice."""
    area = max(1.0, torch.pi * correlation_length_px**2)
    return torch.as_tensor(rows, dtype=torch.float64) / area


def result_covariance(result: OptimizationResult, correlation_length_px: float = 0.0) -> Tensor:
    """`pose_covariance` (B, 6, 6) of an optimiser's result, with `effective_rows` - 6 degrees of freedom (at least one)."""
    freedom = (effective_rows(result.rows, correlation_length_px) - 6.0).clamp_min(1.0)
    return pose_covariance(result.normal_matrix, result.cost, freedom)


def observability(normal_matrix: Tensor, variance: Tensor | float, rho_mm: float) -> Observability:
    """Eigen-decomposition of variance (J^T J)^-1, `normal_matrix` (..., 6, 6), with a radian weighed as `rho_mm`; J^T J may be singular."""
    weight = 1.0 / normal_matrix.new_tensor([rho_mm] * 3 + [1.0] * 3)
    values, vectors = torch.linalg.eigh(normal_matrix * weight[:, None] * weight)
    known = values > 1e-12 * values[..., -1:]
    sigma = torch.where(known, torch.where(known, values, 1.0).rsqrt(), torch.inf)
    variance = torch.as_tensor(variance, dtype=sigma.dtype, device=sigma.device)
    return Observability(sigma * variance.sqrt()[..., None], vectors.transpose(-1, -2) * weight, rho_mm)
