"""Normalised cross-correlation of image gradients in least-squares form."""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import InputError
from .filters import Kernel, erode, gaussian_derivative_kernel, gaussian_kernel, separable_filter
from .ncc import GlobalNCC
from .standardize import standardize_locally, standardize_up_to_affine


class GradientNCC(GlobalNCC):
    """Gradient correlation: the mean NCC of the derivative images along columns and rows (Penney et al., IEEE TMI 1998).

    Derivatives of a Gaussian; edges decide, slow backgrounds vanish. Pixels whose filter would reach outside the mask do not count, so that a
    collimator's edge is none. With a `window` the derivative images are standardised locally as well: patch gradient correlation as in xReg
    (Grupp et al., IEEE TBME 2018), where weak edges count like strong ones.

    Args:
        fixed, mask: see `GlobalNCC`.
        sigma: of the Gaussian, pixels.
        window: kernel of the local standardisation, or None.
        floor: deviations below this share of the derivative image's own standard deviation are damped as noise (with a window only).
    """

    def __init__(
        self, fixed: Tensor, mask: Tensor | None = None, *, sigma: float = 1.0, window: Kernel | None = None, floor: float = 0.3
    ) -> None:
        if not sigma > 0 or not floor > 0:
            raise InputError(f"A gradient correlation has sigma {sigma} px and noise floor {floor}; expected positive numbers.")
        self._smooth, self._derive = gaussian_kernel(sigma), gaussian_derivative_kernel(sigma)
        self._radius = len(self._derive) // 2
        self._window = window
        self._floor = floor
        super().__init__(fixed, mask)
        if not bool((self._whole.weight > 0).any()):
            width = 2 * self._radius + 1
            raise InputError(f"The mask is narrower than the gradient filter ({width} x {width} pixels) everywhere.")

    def _feature_weight(self, weight: Tensor) -> Tensor:
        return erode(weight, self._radius)

    def _features(self, image: Tensor, image_weight: Tensor, weight: Tensor, tangent: Tensor | None) -> tuple[Tensor, Tensor | None]:
        # Standardised first, so that a flat image is exactly zero: the derivative filters would leave rounding, and correlate it. What follows is
        # blind to offset and scale, and so is its derivative.
        image, tangent = standardize_up_to_affine(image, image_weight, tangent)
        gradient = self._gradient(image)
        gradient_tangent = None if tangent is None else self._gradient(tangent)
        if self._window is None:
            return gradient, gradient_tangent
        return standardize_locally(gradient, weight, self._window, self._floor, gradient_tangent)

    def _gradient(self, images: Tensor) -> Tensor:
        """(B, 2, ...) derivatives along columns and along rows of (B, 1, ...)."""
        across = separable_filter(images, self._smooth, self._derive, "replicate")
        down = separable_filter(images, self._derive, self._smooth, "replicate")
        return torch.cat((across, down), dim=1)
