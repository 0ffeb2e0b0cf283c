"""The spherical similarity of a batch of X-rays, each with a pose of its own: what is optimised while a network is trained or watched."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.func import functional_call

from SphericalRegLib.geometry.metric import Places
from SphericalRegLib.geometry.se3 import local
from SphericalRegLib.models.encoder import SphericalEncoder
from SphericalRegLib.rendering.projector import Projector
from SphericalRegLib.similarity.forward_mode import along_columns
from SphericalRegLib.similarity.spherical import anchored_jacobian, embedding_residual, embedding_residual_and_jacobian

from .overrides import layer_norms_with_all_derivatives, overridden


@dataclass(frozen=True)
class PairedProblem:
    """An `optimization.LeastSquaresProblem` whose element b compares the DRR at its pose with X-ray b.

    With autograd on, gradients by the network's weights go through residual and Jacobian. Where the poses carry gradients too (the second of several
    unrolled steps), the image follows them through its Jacobian, which itself is a constant: the renderer's second derivative is left out.

    Attributes:
        encoder: the network.
        fixed: (B, K, 2, 4) embeddings of the X-rays.
        mask: (B, 1, S, S), where they are valid; laid on the DRRs too.
        projector: the CT through the training camera.
    """

    encoder: SphericalEncoder
    fixed: Tensor
    mask: Tensor
    projector: Projector

    def residual_and_jacobian(self, poses: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        """r (M, N) and J (M, N, 6) at poses (M, 4, 4) of the X-rays `index` (M,)."""
        centre, here = self.projector.centre, poses.detach()
        image, jacobian = self.projector.project_with_jacobian(here)
        if poses.requires_grad and torch.is_grad_enabled():
            image = image + torch.einsum("bhwk,bk->bhw", jacobian, local(here, poses, centre).to(jacobian))
        fixed, kind = self.fixed[index], self.encoder.config.embedding
        mask = self.mask[index] * self.projector.validity(here)[:, None]

        # A training's weights lie channels last, and so do the images that they make: torch 2.11 has no forward-mode derivative of their
        # GroupNorm on a CPU (2.15 has).
        weights = {name: value.clone(memory_format=torch.contiguous_format) for name, value in self.encoder.named_parameters()}

        def embedded(moving: Tensor) -> Tensor:
            return functional_call(self.encoder, weights, (moving[:, None], mask))

        with overridden(layer_norms_with_all_derivatives(self.encoder) if torch.is_grad_enabled() else {}):
            return embedding_residual_and_jacobian(fixed, *along_columns(embedded, image, jacobian), kind)


@dataclass(frozen=True)
class AnchoredPairs(PairedProblem):
    """The same with the Jacobian that training asked for in the place of the network's own (`similarity.spherical.anchored_jacobian`), as a
    registration has it; for watching, without gradients by weights or poses.

    Attributes:
        places: what the embeddings are anchored to.
    """

    places: Places

    def residual_and_jacobian(self, poses: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            fixed, mask = self.fixed[index], self.mask[index] * self.projector.validity(poses)[:, None]
            residual = embedding_residual(fixed, self.encoder(self.projector.project(poses)[:, None], mask))
            return residual, anchored_jacobian(fixed, self.places, poses).to(residual)
