"""Normalised cross-correlation in least-squares form, of the images or of features of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..errors import InputError
from .standardize import standardize

if TYPE_CHECKING:
    from typing_extensions import Self

PIXELS_AT_ONCE = 2**19
"""Of the fixed image, over as many masks as that makes: its features take several times their size while they are made."""

LEAST_SHARE = 0.2
"""Of the mask that is to be left for a score that counts in full: few pixels are alike by chance (the best of 64 unrelated images had a correlation
of 0.65 over 7 x 7 pixels, of 0.27 over 24 x 24)."""


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
        self._whole = self._seen = self._seen_over(self._mask)

    def residual(self, moving: Tensor) -> Tensor:
        """See `Similarity.residual`; N = channels * H * W, zero outside the mask."""
        features, _ = self._moving(moving, None)
        return self._residual(features)[0]

    def residual_and_jacobian(self, moving: Tensor, moving_jacobian: Tensor) -> tuple[Tensor, Tensor]:
        """See `Similarity.residual_and_jacobian`; exact, the normalisation's own derivative included."""
        features, tangent = self._moving(moving, moving_jacobian)
        assert tangent is not None  # as a Jacobian went in
        residual, root = self._residual(features)
        jacobian = (root[:, :, None] * tangent).transpose(1, 2).flatten(2).transpose(1, 2)
        return residual, jacobian

    def score(self, moving: Tensor) -> Tensor:
        """The mean NCC of the feature channels, (B,) in [-1, 1]; 0 for a flat or an invisible moving image. Where less than `LEAST_SHARE` of the
        weight is left, what is missing to that counts as not correlated."""
        features, _ = self._moving(moving, None)
        seen = self._seen
        total = torch.maximum(seen.weight.sum((-2, -1)), LEAST_SHARE * self._whole.weight.sum((-2, -1)))
        return ((seen.weight * features * seen.fixed).sum((-2, -1)) / total).mean(1)

    def over(self, valid: Tensor) -> Self:
        """See `Similarity.over`."""
        at_once = max(1, PIXELS_AT_ONCE // self._mask.numel())
        weights = self._mask * valid[:, None].to(self._mask)
        return self._with(_Seen.joined([self._seen_over(part) for part in weights.split(at_once)]))

    def of(self, index: Tensor) -> Self:
        """See `Similarity.of`."""
        return self if self._seen is self._whole else self._with(self._seen.of(index))

    def _with(self, seen: _Seen) -> Self:
        other = copy(self)
        other._seen = seen
        return other

    def moving_features(self, moving: Tensor) -> Tensor:
        """What is correlated, (B, C, H', W'): standardised feature images of moving images (B, H', W') of *any* size, all of whose pixels count."""
        image = moving[:, None]
        everywhere = torch.ones_like(image[:1])
        weight = self._feature_weight(everywhere)
        return standardize(self._features(image, everywhere, weight, None)[0], weight)[0]

    def fixed_features(self) -> tuple[Tensor, Tensor]:
        """The fixed image's standardised features (C, H, W) and their weight (H, W), over its whole mask."""
        return self._whole.fixed[0], self._whole.weight[0, 0]

    def _feature_weight(self, weight: Tensor) -> Tensor:
        """Where features count (B, 1, H, W), of where the images do."""
        return weight

    def _features(self, image: Tensor, image_weight: Tensor, weight: Tensor, tangent: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Feature images (B, C, H, W) and tangents (B, C, 6, H, W) of images (B, 1, H, W), (B, 1, 6, H, W) and both weights (B or 1, 1, H, W).

        What is made of them is standardised, so that the tangents may lack what that is blind to.
        """
        return image, tangent

    def _moving(self, moving: Tensor, jacobian: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """The moving images' standardised features, and their tangents."""
        tangent = None if jacobian is None else jacobian.movedim(-1, 1)[:, None]
        seen = self._seen
        assert len(seen.weight) in (1, len(moving)), f"held for {len(seen.weight)} images, asked for {len(moving)}: `of` was forgotten"
        features, tangent = self._features(moving[:, None], seen.image_weight, seen.weight, tangent)
        return standardize(features, seen.weight, tangent)

    def _seen_over(self, image_weight: Tensor) -> _Seen:
        weight = self._feature_weight(image_weight)
        fixed = standardize(self._features(self._fixed, image_weight, weight, None)[0], weight)[0]
        total = weight.sum((-2, -1), keepdim=True).clamp_min(torch.finfo(weight.dtype).tiny)
        return _Seen(image_weight, weight, fixed, (weight * (self._count / fixed.shape[1]) / total).sqrt())

    def _residual(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """The residual (B, C H W) and what the features' tangents are multiplied by (B, C, H, W)."""
        seen = self._seen
        blank = _is_zero(features) | _is_zero(seen.fixed)
        root = torch.where(blank, 0, seen.root)
        # Not over what is valid: where nothing is visible it has no pixel to carry the cost.
        constant = math.sqrt(2) * self._whole.root
        return torch.where(blank, constant, root * (features - seen.fixed)).flatten(1), root


@dataclass(frozen=True)
class _Seen:
    """The fixed image as each of B moving images can be compared with it; B = 1 stands for any number."""

    image_weight: Tensor  # (B, 1, H, W) of the images' pixels
    weight: Tensor  # (B, 1, H, W) of the features'
    fixed: Tensor  # (B, C, H, W) standardised features
    root: Tensor  # (B, 1, H, W) what a difference of features is multiplied by in the residual

    def of(self, index: Tensor) -> _Seen:
        return _Seen(*(getattr(self, item.name)[index] for item in fields(self)))

    @classmethod
    def joined(cls, parts: Sequence[_Seen]) -> _Seen:
        return parts[0] if len(parts) == 1 else cls(*(torch.cat([getattr(part, item.name) for part in parts]) for item in fields(cls)))


def _is_zero(features: Tensor) -> Tensor:
    """(B, C, 1, 1) bool: `standardize` makes a channel without contrast or without weight zero."""
    return features.detach().abs().amax((-2, -1), keepdim=True) == 0
