"""The learned similarity: distance between the embeddings of X-ray and DRR, as a least-squares residual with its pose Jacobian."""

from __future__ import annotations

from copy import copy
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from SphericalRegLib.geometry.metric import Places
from SphericalRegLib.geometry.so4 import so4_residual, so4_residual_and_tangent
from SphericalRegLib.models.encoder import Embedding, SphericalEncoder
from SphericalRegLib.similarity.forward_mode import along_columns

if TYPE_CHECKING:
    from typing_extensions import Self

NOISE_RAD = 0.03
"""How far a trained residual is off along a direction of pose space: what weighs it against what is known of the pose beforehand."""


def embedding_residual(fixed: Tensor, moving: Tensor, embedding: Embedding = "so4") -> Tensor:
    """Residual vector (..., 6K) between embeddings (..., K, 2, 4) that broadcast.

    "so4": the K half-angle logarithms [Log p; Log q] times sqrt(2 / K); the squared norm is the mean over elements of ||log||_F^2 / 2, a bi-invariant
    metric of SO(4)^K, which for the images of two poses (`geometry.so4.so4_from_se3`) is the poses' squared distance. "cosine": arc length on one
    sphere, along the chord (..., 8K). "euclidean": the plain difference (..., 8K).
    """
    if embedding == "so4":
        return _scale(moving) * so4_residual(fixed[..., 0, :], fixed[..., 1, :], moving[..., 0, :], moving[..., 1, :]).flatten(-2)
    difference = (moving - fixed).flatten(-3)
    if embedding == "euclidean":
        return difference
    chord = difference.square().sum(-1, keepdim=True).clamp(1e-12, 4 - 1e-6).sqrt()
    return difference * (2 * torch.asin(chord / 2) / chord)


def embedding_residual_and_jacobian(fixed: Tensor, moving: Tensor, tangent: Tensor, embedding: Embedding = "so4") -> tuple[Tensor, Tensor]:
    """`embedding_residual` (B, N) of moving embeddings (B, K, 2, 4), and its derivative (B, N, 6) along their tangents (B, K, 2, 4, 6)."""
    if embedding != "so4":
        return along_columns(lambda elements: embedding_residual(fixed, elements, embedding), moving, tangent)
    (p1, q1), (p2, q2), (p2_tangent, q2_tangent) = fixed.unbind(-2), moving.unbind(-2), tangent.unbind(-3)
    logarithms, columns = so4_residual_and_tangent(p1, q1, p2, q2, p2_tangent, q2_tangent)
    return _scale(moving) * logarithms.flatten(-2), _scale(moving) * columns.flatten(-3, -2)


def anchored_jacobian(fixed: Tensor, places: Places, pose: Tensor) -> Tensor:
    """(B, 6K, 6): the derivative that `embedding_residual` to fixed embeddings (1, K, 2, 4) has at poses (B, 4, 4) where every element of an image's
    embedding lies at its pose's place in SO(4), as training asks (`training.losses`, "anchor"); by (omega, v) of `geometry.se3.retract` about the
    places' centre.

    What a network really does about a pose is this and ripples, narrow beside the errors that there are to mend. Its own derivative has both, and
    leads a search into the next ripple; this one has the way home alone, and costs no derivative of a network or of an image.
    """
    place, tangent = places.with_tangent(pose)
    count = fixed.shape[-3]
    elements = place[:, None].expand(-1, count, -1, -1), tangent[:, None].expand(-1, count, -1, -1, -1)
    return embedding_residual_and_jacobian(fixed.to(pose), *elements)[1]


def _scale(elements: Tensor) -> float:
    return (2 / elements.shape[-3]) ** 0.5


class SphericalSimilarity:
    """Binds one X-ray; compares DRRs to it. The network's weights do not change here.

    Args:
        encoder: in evaluation mode, on the X-ray's device.
        fixed: (S, S) X-ray in the encoder's camera, line-integral-like.
        mask: (S, S), where the X-ray is valid. The same mask is laid on every DRR, so that both embeddings see the same part of the scene.
    """

    def __init__(self, encoder: SphericalEncoder, fixed: Tensor, mask: Tensor | None = None) -> None:
        self.encoder = encoder
        self._seen = (torch.ones_like(fixed) if mask is None else mask.to(fixed))[None, None]  # (B, 1, S, S); B = 1 stands for any number
        self._whole = self._seen
        with torch.no_grad():
            self.embedding = encoder(fixed[None, None], self._whole)

    @property
    def open_share(self) -> float:
        """Share of the encoder's field in which the X-ray is valid."""
        return float(self._whole.mean())

    def residual(self, moving: Tensor) -> Tensor:
        """r (B, 6K) of DRRs (B, S, S)."""
        with torch.no_grad():
            return embedding_residual(self.embedding, self.encoder(moving[:, None], self._masks(moving)), self.encoder.config.embedding)

    def residual_and_jacobian(self, moving: Tensor, moving_jacobian: Tensor) -> tuple[Tensor, Tensor]:
        """r (B, 6K) and J (B, 6K, 6) by forward-mode differentiation of the encoder along the six columns of the image Jacobian (B, S, S, 6)."""
        masks = self._masks(moving)

        def embedded(image: Tensor) -> Tensor:
            return self.encoder(image[:, None], masks)

        with torch.no_grad():
            embedding, tangent = along_columns(embedded, moving, moving_jacobian)
            return embedding_residual_and_jacobian(self.embedding, embedding, tangent, self.encoder.config.embedding)

    def score(self, moving: Tensor) -> Tensor:
        """(B,), the negative distance: higher is better, 0 at best."""
        return -self.residual(moving).square().sum(-1).sqrt()

    def over(self, valid: Tensor) -> Self:
        """See `Similarity.over`: the mask of the DRRs; the X-ray's embedding stays that of its whole mask."""
        return self._with(self._whole * valid[:, None].to(self._whole))

    def of(self, index: Tensor) -> Self:
        """See `Similarity.of`."""
        return self if self._seen is self._whole else self._with(self._seen[index])

    def _with(self, seen: Tensor) -> Self:
        other = copy(self)
        other._seen = seen
        return other

    def _masks(self, moving: Tensor) -> Tensor:
        return self._seen.expand(len(moving), -1, -1, -1)  # refuses moving images that `over` was not told of
