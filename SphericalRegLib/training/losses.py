"""Losses that shape the deep similarity: where its embeddings lie, its gradient by the pose, and its size.

With S = ||r||^2 the similarity of an X-ray and a DRR, g = dS/d(omega, v) its pose gradient and h that of the squared geodesic distance, gradient
matching asks g to be h (the lineage of ProST, SOPI and Chen & Kong, WACV 2026). The renderer stands before the network, so g = J_I^T dS/dI with the
image Jacobian J_I constant in the weights: no second derivative of the renderer is ever needed.

The poses themselves have a place in SO(4) (Etzel & McCarthy, ICRA 1996), and there their distance is the geodesic's: embeddings that lie where their
poses do have it as their similarity, and its gradient. `anchor` asks for that, at the price of no derivative at all.

`refinement_loss` asks the pose after a Levenberg-Marquardt step to be the true one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from SphericalRegLib.errors import InputError
from SphericalRegLib.geometry.metric import Places, PoseMetric
from SphericalRegLib.geometry.se3 import retract
from SphericalRegLib.models.encoder import Embedding, SphericalEncoder
from SphericalRegLib.optimization.levenberg_marquardt import damped_step
from SphericalRegLib.optimization.problem import LeastSquaresProblem, linearize
from SphericalRegLib.similarity.spherical import embedding_residual

REFINEMENT_DAMPING = 1e-2


@dataclass(frozen=True)
class LossWeights:
    """What is asked of the similarity, and how much; a weight of zero leaves a term out.

    Attributes:
        anchor: every element of an embedding against the place in SO(4) of its image's pose; of X-rays and of DRRs.
        gradient: g against h, relative to |h|.
        magnitude: sqrt(S) against the geodesic distance, for each X-ray and its own DRR.
        pairs: the same for every X-ray with every DRR of the batch, relative to the distance. It costs one residual per pair and no rendering.
        refinement: what is left of the distance after `refinement_steps` steps of Levenberg-Marquardt (`refinement_loss`).
        refinement_steps: how many; from the second on, the renderer's second derivative is left out.
        metric: of SE(3), in which all distances here are measured.
        soft: distance below which a direction is not trusted, rad as `metric` measures poses.
    """

    anchor: float = 1.0
    gradient: float = 0.0
    magnitude: float = 0.0
    pairs: float = 0.0
    refinement: float = 0.0
    refinement_steps: int = 1
    metric: PoseMetric = field(default_factory=PoseMetric)
    soft: float = 0.05

    def __post_init__(self) -> None:
        asked = (self.anchor, self.gradient, self.magnitude, self.pairs, self.refinement)
        if not all(0 <= weight < math.inf for weight in asked) or not any(asked):
            raise InputError(
                f"The loss has the weights anchor {self.anchor}, gradient {self.gradient}, magnitude {self.magnitude}, pairs {self.pairs} and "
                f"refinement {self.refinement}; expected zero or positive numbers, and one at least that is not zero."
            )
        if self.refinement_steps < 1 or not 0 < self.soft < math.inf:
            raise InputError(
                f"The loss has {self.refinement_steps} steps of refinement and trusts directions beyond {self.soft} rad; expected at least one step "
                "and a positive number."
            )

    @property
    def anchors(self) -> bool:
        """Whether embeddings have their places."""
        return self.anchor > 0

    @property
    def need_derivatives(self) -> bool:
        """Whether a term needs the image Jacobian, which costs several times what the others do."""
        return self.gradient > 0 or self.refinement > 0

    def fit(self, embedding: Embedding) -> bool:
        """Poses have a place in SO(4) alone."""
        return embedding == "so4" or not self.anchors


GRADIENT_MATCHING = LossWeights(anchor=0.0, gradient=1.0, magnitude=0.5, pairs=0.5)
"""What the lineage asks: for embeddings in whatever space."""


@dataclass(frozen=True)
class Batch:
    """B X-rays, each with a DRR of a pose near its own.

    Attributes:
        xray, mask: (B, 1, S, S) X-rays and where they are valid.
        drr, drr_mask: (B, S, S) and (B, 1, S, S); the mask leaves out what lies beyond the CT as well.
        true_pose, drr_pose: (B, 4, 4) camera_from_world of X-rays and DRRs.
        places: where poses lie in SO(4), about the CT's centre; its metric is the losses'.
    """

    xray: Tensor
    mask: Tensor
    drr: Tensor
    drr_mask: Tensor
    true_pose: Tensor
    drr_pose: Tensor
    places: Places


def spherical_loss(fixed: Tensor, moving: Tensor, batch: Batch, kind: Embedding, weights: LossWeights) -> tuple[Tensor, dict[str, float]]:
    """Terms that look at embeddings alone, (B, K, 2, 4) of X-rays and DRRs; and the figures worth watching."""
    residual = embedding_residual(fixed, moving, kind)
    squared = residual.square().sum(-1)
    distance = batch.places.log(batch.drr_pose, batch.true_pose).norm(dim=-1).to(residual)
    figures = {"ratio": float((squared.detach().sqrt() / distance.clamp_min(1e-6)).median())}
    loss = residual.new_zeros(())
    if weights.anchors:
        for name, pose, made in (("X-ray off", batch.true_pose, fixed), ("DRR off", batch.drr_pose, moving)):
            place = batch.places.of(pose).to(made)[:, None].expand_as(made)
            off = _length(embedding_residual(place, made)).mean()
            loss, figures[name] = loss + weights.anchor * off, float(off.detach())
    if weights.magnitude:
        loss = loss + weights.magnitude * (_length(residual) - distance).abs().mean()
    if weights.pairs:
        # Embeddings are paired, not images: each was made under its own mask.
        between = _length(embedding_residual(fixed[:, None], moving[None], kind))
        here, there = torch.broadcast_tensors(batch.drr_pose[None], batch.true_pose[:, None])
        apart = batch.places.log(here, there).norm(dim=-1).to(residual)
        loss = loss + weights.pairs * ((between - apart) / (apart + 2 * weights.soft)).abs().mean()
    return loss, figures


def gradient_loss(encoder: SphericalEncoder, batch: Batch, drr_jacobian: Tensor, weights: LossWeights) -> tuple[Tensor, dict[str, float]]:
    """Mean squared error of g against h, relative to |h|, and their mean cosine; `drr_jacobian` (B, S, S, 6) belongs to the batch's DRRs."""
    drr = batch.drr.detach().requires_grad_()
    fixed, moving = encoder(batch.xray, batch.mask), encoder(drr[:, None], batch.drr_mask)
    squared = embedding_residual(fixed, moving, encoder.config.embedding).square().sum(-1)
    (image_gradient,) = torch.autograd.grad(squared.sum(), drr, create_graph=True)
    gradient = batch.places.metric.gradient(batch.drr_pose, torch.einsum("bhw,bhwk->bk", image_gradient, drr_jacobian))
    wanted = -2 * batch.places.log(batch.drr_pose, batch.true_pose).to(gradient)
    error = (gradient - wanted).square().sum(-1) / (wanted.norm(dim=-1) + weights.soft).square()
    cosine = torch.nn.functional.cosine_similarity(gradient.detach(), wanted, dim=-1).mean()
    # One wild sample must not undo a batch's work: beyond the bound its gradient is dropped.
    return error.clamp_max(50.0).mean(), {"cosine": float(cosine)}


def _length(residual: Tensor) -> Tensor:
    """Norm over the last axis with a bounded derivative at zero."""
    return (residual.square().sum(-1) + 1e-6).sqrt()


def refinement_loss(problem: LeastSquaresProblem, start: Tensor, true_pose: Tensor, places: Places, weights: LossWeights) -> Tensor:
    """Mean share of the distance to the true pose (B, 4, 4) that is left after unrolled damped steps from `start` (B, 4, 4).

    The steps are those of `levenberg_marquardt` with the damping held and every step taken: a rejected one would teach nothing. A first step
    depends on the weights through r and J alone, so its derivative is exact; later ones lack the renderer's second derivative.

    Args:
        problem: residual and Jacobian with a graph to the weights (`paired.PairedProblem`).
        start, true_pose: (B, 4, 4); places: see `Batch`; weights: see `LossWeights`.
    """
    pose, index = start, torch.arange(len(start), device=start.device)
    before = places.log(start, true_pose).norm(dim=-1)
    longest = 2 * before + weights.soft
    for _ in range(weights.refinement_steps):
        model = linearize(problem, pose, index)
        delta, _ = damped_step(model, torch.full_like(model.cost.detach(), REFINEMENT_DAMPING), 1e-6)
        delta = torch.where(torch.isfinite(delta).all(-1, keepdim=True), delta, 0.0)
        # An untrained network's steps lead anywhere: beyond twice the way there only their direction counts.
        length = places.metric.coordinates(pose, delta).norm(dim=-1)
        pose = retract(pose, delta * (longest / length.clamp_min(1e-12)).clamp_max(1.0)[:, None], places.centre)
    after = (places.log(pose, true_pose).square().sum(-1) + 1e-8).sqrt()
    return (after / (before + weights.soft)).clamp_max(5.0).mean()
