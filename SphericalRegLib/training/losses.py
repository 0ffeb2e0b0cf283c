"""Losses that shape the deep similarity: its gradient by the pose, and its size.

With S = ||r||^2 the similarity of an X-ray and a DRR, g = dS/d(omega, v) its pose gradient and h that of the squared geodesic distance, gradient
matching asks g to be h (the lineage of ProST, SOPI and Chen & Kong, WACV 2026). The renderer stands before the network, so g = J_I^T dS/dI with the
image Jacobian J_I constant in the weights: no second derivative of the renderer is ever needed.

`refinement_loss` goes a step further and asks the pose after a Levenberg-Marquardt step to be the true one.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from SphericalRegLib.geometry.se3 import local, retract
from SphericalRegLib.models.encoder import SphericalEncoder
from SphericalRegLib.optimization.levenberg_marquardt import damped_step
from SphericalRegLib.optimization.problem import LeastSquaresProblem, linearize
from SphericalRegLib.similarity.spherical import embedding_residual

REFINEMENT_DAMPING = 1e-2


@dataclass(frozen=True)
class LossWeights:
    """What is asked of the similarity, and how much; a weight of zero leaves a term out (for ablation).

    Attributes:
        gradient: g against h, relative to |h|.
        magnitude: sqrt(S) against the geodesic distance, for each X-ray and its own DRR.
        pairs: the same for every X-ray with every DRR of the batch, relative to the distance. It costs one residual per pair and no rendering.
        refinement: what is left of the distance after `refinement_steps` steps of Levenberg-Marquardt (`refinement_loss`).
        refinement_steps: how many; from the second on, the renderer's second derivative is left out.
        rho_mm: the length that weighs a radian; distances below are in units of it.
        soft: distance below which a gradient's direction is not trusted, units of rho.
    """

    gradient: float = 1.0
    magnitude: float = 0.5
    pairs: float = 0.5
    refinement: float = 0.0
    refinement_steps: int = 1
    rho_mm: float = 100.0
    soft: float = 0.05


def scaled_tangent(from_pose: Tensor, to_pose: Tensor, centre: Tensor, rho_mm: float) -> Tensor:
    """(..., 6) the step from one pose to another: (omega, v / rho), so that its norm is a distance in units of rho."""
    delta = local(from_pose, to_pose, centre)
    return torch.cat((delta[..., :3], delta[..., 3:] / rho_mm), dim=-1)


def spherical_loss(
    encoder: SphericalEncoder,
    xray: Tensor,
    mask: Tensor,
    drr: Tensor,
    drr_mask: Tensor,
    drr_jacobian: Tensor,
    drr_pose: Tensor,
    true_pose: Tensor,
    centre: Tensor,
    weights: LossWeights,
) -> tuple[Tensor, dict[str, float]]:
    """Loss of one batch and the figures worth watching.

    Args:
        encoder: the network in training.
        xray, mask: (B, 1, S, S) X-rays and where they are valid.
        drr, drr_mask, drr_jacobian: (B, S, S), (B, 1, S, S) and (B, S, S, 6), rendered at `drr_pose`; the mask leaves out what lies beyond the CT
            as well.
        drr_pose, true_pose: (B, 4, 4); the X-rays were made at `true_pose`.
        centre: (3,), the CT's centre.
        weights: the terms.
    """
    kind = encoder.config.embedding
    drr = drr.detach().requires_grad_(weights.gradient > 0)
    fixed, moving = encoder(xray, mask), encoder(drr[:, None], drr_mask)
    squared = embedding_residual(fixed, moving, kind).square().sum(-1)
    target = scaled_tangent(drr_pose, true_pose, centre, weights.rho_mm).to(drr)
    distance = target.norm(dim=-1)
    figures = {"ratio": float((squared.detach().sqrt() / distance.clamp_min(1e-6)).median())}
    loss = drr.new_zeros(())
    if weights.gradient:
        (image_gradient,) = torch.autograd.grad(squared.sum(), drr, create_graph=True)
        gradient = torch.einsum("bhw,bhwk->bk", image_gradient, drr_jacobian)
        gradient = torch.cat((gradient[:, :3], gradient[:, 3:] * weights.rho_mm), dim=-1)
        wanted = -2 * target
        error = (gradient - wanted).square().sum(-1) / (wanted.norm(dim=-1) + weights.soft).square()
        # One wild sample must not undo a batch's work: beyond the bound its gradient is dropped.
        loss = loss + weights.gradient * error.clamp_max(50.0).mean()
        figures["cosine"] = float(torch.nn.functional.cosine_similarity(gradient.detach(), wanted, dim=-1).mean())
    if weights.magnitude:
        loss = loss + weights.magnitude * ((squared + 1e-6).sqrt() - distance).abs().mean()
    if weights.pairs:
        # X-ray i and DRR j are compared with i's mask on neither side but its own: masks differ, so only the embeddings are paired, not the images.
        between = embedding_residual(fixed[:, None], moving[None], kind).square().sum(-1)
        apart = scaled_tangent(drr_pose[None], true_pose[:, None], centre, weights.rho_mm).norm(dim=-1).to(drr)
        loss = loss + weights.pairs * (((between + 1e-6).sqrt() - apart) / (apart + 2 * weights.soft)).abs().mean()
    return loss, figures


def refinement_loss(problem: LeastSquaresProblem, start: Tensor, true_pose: Tensor, centre: Tensor, weights: LossWeights) -> Tensor:
    """Mean share of the distance to the true pose (B, 4, 4) that is left after unrolled damped steps from `start` (B, 4, 4).

    The steps are those of `levenberg_marquardt` with the damping held and every step taken: a rejected one would teach nothing. A first step
    depends on the weights through r and J alone, so its derivative is exact; later ones lack the renderer's second derivative.

    Args:
        problem: residual and Jacobian with a graph to the weights (`paired.PairedProblem`).
        start, true_pose, centre, weights: as of `spherical_loss`.
    """
    pose, index = start, torch.arange(len(start), device=start.device)
    before = scaled_tangent(start, true_pose, centre, weights.rho_mm).norm(dim=-1)
    longest = 2 * before + weights.soft
    for _ in range(weights.refinement_steps):
        model = linearize(problem, pose, index)
        delta, _ = damped_step(model, torch.full_like(model.cost.detach(), REFINEMENT_DAMPING), 1e-6)
        delta = torch.where(torch.isfinite(delta).all(-1, keepdim=True), delta, 0.0)
        # An untrained network's steps lead anywhere: beyond twice the way there only their direction counts.
        length = torch.cat((delta[:, :3], delta[:, 3:] / weights.rho_mm), dim=-1).norm(dim=-1)
        pose = retract(pose, delta * (longest / length.clamp_min(1e-12)).clamp_max(1.0)[:, None], centre)
    after = (scaled_tangent(pose, true_pose, centre, weights.rho_mm).square().sum(-1) + 1e-8).sqrt()
    return (after / (before + weights.soft)).clamp_max(5.0).mean()
