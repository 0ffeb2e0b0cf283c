"""Normalised cross-correlation in least-squares form, of the images or of features of them."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..errors import InputError
from .standardize import standardize


class GlobalNCC:
    """Normalised cross-correlation over the whole mask: blind to scale and offset of either image.

    With both images standardised (zero mean, unit variance under the weights), r = moving - fixed gives r'r = 2 N (1 - NCC): minimising the residual
    maximises the correlation, and Gauss-Newton applies. Subclasses correlate *features* instead, one NCC per feature channel, averaged.

    A flat or an invisible channel, of either image, has nothing to correlate: it costs what an NCC of 0 costs, by a constant residual, so that a pose
    that leaves the view is never better than one that is merely wrong.

    Args:
        fixed: (H, W), the X-ray as line integrals (bone bright), float.
        mask: (H, W), bool or weights in [0, 1]; pixels that count. All by default.

    Raises:
        InputError: the shapes differ, the image is not finite inside the mask, or the mask is empty.
    """

    def __init__(self, fixed: Tensor, mask: Tensor | None = None) -> None:
        if fixed.ndim != 2:
            raise InputError(f"The fixed image has shape {tuple(fixed.shape)}; expected (rows, columns).")
        mask = torch.ones_like(fixed) if mask is None else mask.to(fixed)
        if mask.shape != fixed.shape:
            raise InputError(f"The mask has shape {tuple(mask.shape)} but the fixed image has {tuple(fixed.shape)}; they must be equal.")
        if not bool((mask > 0).any()):
            raise InputError("The mask of the fixed image is empty; at least one pixel must count.")
        fixed = torch.where(mask > 0, fixed, 0)
        if not bool(torch.isfinite(fixed).all()):
            raise InputError("The fixed image holds values inside its mask that are not finite; expected numbers.")
        self._fixed = fixed[None, None]
        self._mask = mask[None, None]
        self._count = float(mask.sum())
        self._whole: tuple[Tensor, Tensor] | None = None

    def residual(self, moving: Tensor, valid: Tensor | None = None) -> Tensor:
        """See `Similarity.residual`; N = channels * H * W, zero outside the mask."""
        features, fixed, weight, _ = self._compare(moving, None, valid)
        return self._residual(features, fixed, weight)[0]

    def residual_and_jacobian(self, moving: Tensor, moving_jacobian: Tensor, valid: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """See `Similarity.residual_and_jacobian`; exact, the normalisation's own derivative included."""
        features, fixed, weight, tangent = self._compare(moving, moving_jacobian, valid)
        assert tangent is not None  # as a Jacobian went in
        residual, root = self._residual(features, fixed, weight)
        jacobian = (root[:, :, None] * tangent).transpose(1, 2).flatten(2).transpose(1, 2)
        return residual, jacobian

    def score(self, moving: Tensor, valid: Tensor | None = None) -> Tensor:
        """The mean NCC of the feature channels, (B,) in [-1, 1]; 0 for a flat or an invisible moving image."""
        features, fixed, weight, _ = self._compare(moving, None, valid)
        total = weight.sum((-2, -1)).clamp_min(torch.finfo(weight.dtype).tiny)
        return ((weight * features * fixed).sum((-2, -1)) / total).mean(1)

    def moving_features(self, moving: Tensor) -> Tensor:
        """What is correlated, (B, C, H', W'): standardised feature images of moving images (B, H', W') of *any* size, all of whose pixels count."""
        image = moving[:, None]
        features, weight, _ = self._features(image, torch.ones_like(image[:1]), None)
        return standardize(features, weight)[0]

    def fixed_features(self) -> tuple[Tensor, Tensor]:
        """The fixed image's standardised features (C, H, W) and their weight (H, W)."""
        features, weight = self._fixed_whole()
        return features[0], weight[0, 0]

    def _features(self, image: Tensor, weight: Tensor, tangent: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
        """Feature images (B, C, H, W), their weight (B, 1, H, W) and tangents (B, C, 6, H, W) of images (B, 1, H, W), (B, 1, 6, H, W)."""
        return image, weight, tangent

    def _compare(self, moving: Tensor, jacobian: Tensor | None, valid: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """Standardised features of both images, their common weight, and the moving ones' tangents."""
        weight = self._mask if valid is None else self._mask * valid[:, None].to(self._mask)
        tangent = None if jacobian is None else jacobian.movedim(-1, 1)[:, None]
        features, weight, tangent = self._features(moving[:, None], weight, tangent)
        features, tangent = standardize(features, weight, tangent)
        return features, self._fixed_features(valid), weight, tangent

    def _fixed_features(self, valid: Tensor | None) -> Tensor:
        """The fixed image's features over the same pixels as the moving ones'; they do not change as long as the whole mask is valid."""
        return self._fixed_whole()[0] if valid is None else self._standardized_fixed(self._mask * valid[:, None].to(self._mask))[0]

    def _fixed_whole(self) -> tuple[Tensor, Tensor]:
        """The fixed image's features (1, C, H, W) over its whole mask, and their weight (1, 1, H, W)."""
        if self._whole is None:
            self._whole = self._standardized_fixed(self._mask)
        return self._whole

    def _standardized_fixed(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        features, weight, _ = self._features(self._fixed, weight, None)
        return standardize(features, weight)[0], weight

    def _residual(self, features: Tensor, fixed: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        """The residual (B, C H W) and what the features' tangents are multiplied by (B, C, H, W)."""
        channels = features.shape[1]
        blank = _is_zero(features) | _is_zero(fixed)
        root = torch.where(blank, 0, self._root_weight(weight, channels))
        # Not over `weight`: where nothing is visible it has no pixel to carry the cost.
        constant = math.sqrt(2) * self._root_weight(self._fixed_whole()[1], channels)
        return torch.where(blank, constant, root * (features - fixed)).flatten(1), root

    def _root_weight(self, weight: Tensor, channels: int) -> Tensor:
        total = weight.sum((-2, -1), keepdim=True).clamp_min(torch.finfo(weight.dtype).tiny)
        return (weight * (self._count / channels) / total).sqrt()


def _is_zero(features: Tensor) -> Tensor:
    """(B, C, 1, 1) bool: `standardize` makes a channel without contrast or without weight zero."""
    return features.detach().abs().amax((-2, -1), keepdim=True) == 0
