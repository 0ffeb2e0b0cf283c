"""The learned similarity: distance between the embeddings of X-ray and DRR, as a least-squares residual with its pose Jacobian."""

from __future__ import annotations

import torch
from torch import Tensor

from SphericalRegLib.geometry.so4 import so4_residual
from SphericalRegLib.models.encoder import Embedding, SphericalEncoder
from SphericalRegLib.similarity.forward_mode import along_columns

NOISE_RAD = 0.03
"""How far a trained residual is off along a direction of pose space: what weighs it against what is known of the pose beforehand."""


def embedding_residual(fixed: Tensor, moving: Tensor, embedding: Embedding = "so4") -> Tensor:
    """Residual vector (..., 6K) between embeddings (..., K, 2, 4) that broadcast.

    "so4": the K half-angle logarithms [Log p; Log q] times sqrt(2 / K); the squared norm is the mean over elements of ||log||_F^2 / 2, a bi-invariant
    metric of SO(4)^K, which for the images of two poses (`geometry.so4.so4_from_se3`) is the poses' squared distance. "cosine": arc length on one
    sphere, along the chord (..., 8K). "euclidean": the plain difference (..., 8K).
    """
    if embedding == "so4":
        logarithms = so4_residual(fixed[..., 0, :], fixed[..., 1, :], moving[..., 0, :], moving[..., 1, :])
        return (2 / logarithms.shape[-2]) ** 0.5 * logarithms.flatten(-2)
    difference = (moving - fixed).flatten(-3)
    if embedding == "euclidean":
        return difference
    chord = difference.square().sum(-1, keepdim=True).clamp(1e-12, 4 - 1e-6).sqrt()
    return difference * (2 * torch.asin(chord / 2) / chord)


class SphericalSimilarity:
    """Binds one X-ray; compares DRRs to it. The network's weights do not change here.

    Args:
        encoder: in evaluation mode, on the X-ray's device.
        fixed: (S, S) X-ray in the encoder's camera, line-integral-like.
        mask: (S, S), where the X-ray is valid. The same mask is laid on every DRR, so that both embeddings see the same part of the scene.
    """

    def __init__(self, encoder: SphericalEncoder, fixed: Tensor, mask: Tensor | None = None) -> None:
        self.encoder = encoder
        self.mask = torch.ones_like(fixed) if mask is None else mask.to(fixed)
        with torch.no_grad():
            self.embedding = encoder(fixed[None, None], self.mask[None, None])

    def residual(self, moving: Tensor, valid: Tensor | None = None) -> Tensor:
        """r (B, 6K) of DRRs (B, S, S)."""
        with torch.no_grad():
            return self._residual(moving, self._masks(moving, valid))

    def residual_and_jacobian(self, moving: Tensor, moving_jacobian: Tensor, valid: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """r (B, 6K) and J (B, 6K, 6) by forward-mode differentiation of the encoder along the six columns of the image Jacobian (B, S, S, 6)."""
        masks = self._masks(moving, valid)

        def residual(image: Tensor) -> Tensor:
            return self._residual(image, masks)

        with torch.no_grad():
            return along_columns(residual, moving, moving_jacobian)

    def score(self, moving: Tensor, valid: Tensor | None = None) -> Tensor:
        """(B,), the negative distance: higher is better, 0 at best."""
        return -self.residual(moving, valid).square().sum(-1).sqrt()

    def _masks(self, moving: Tensor, valid: Tensor | None) -> Tensor:
        masks = self.mask.expand_as(moving)
        return (masks if valid is None else masks * valid.to(masks))[:, None]

    def _residual(self, moving: Tensor, masks: Tensor) -> Tensor:
        return embedding_residual(self.embedding, self.encoder(moving[:, None], masks), self.encoder.config.embedding)
