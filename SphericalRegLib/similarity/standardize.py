"""Normalisation of images to zero mean and unit variance, with the exact derivative.

Mean and variance depend on the image, so the derivative of the normalised image is not just the scaled derivative of the image: each function
takes the image's tangent columns along and returns those of its result.

Shapes: images (B, C, H, W); weights (B, 1, H, W) or (1, 1, H, W), >= 0; tangents (B, C, 6, H, W) or None.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .filters import Kernel, separable_filter

FLAT = 1e-10
"""A variance below this share of the mean square is rounding: such an image is flat and becomes zero, as do its tangents."""


def standardize(image: Tensor, weight: Tensor, tangent: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
    """(image - mean) / deviation over all pixels, under the weights; a flat image becomes zero.

    The derivative of y = (x - m) / s along dx is (dx - mean(dx) - y mean(y dx)) / s.
    """
    total = weight.sum((-2, -1), keepdim=True).clamp_min(torch.finfo(image.dtype).tiny)
    share = weight / total
    mean = (share * image).sum((-2, -1), keepdim=True)
    centred = image - mean
    variance = (share * centred.square()).sum((-2, -1), keepdim=True)
    flat = variance <= FLAT * mean.square() + torch.finfo(image.dtype).tiny
    scale = torch.where(flat, 0, variance.clamp_min(torch.finfo(image.dtype).tiny).rsqrt())
    result = centred * scale
    if tangent is None:
        return result, None
    share, y = share[:, :, None], result[:, :, None]
    mean_tangent = (share * tangent).sum((-2, -1), keepdim=True)
    along = ((share * y) * tangent).sum((-2, -1), keepdim=True)
    return result, (tangent - mean_tangent - y * along) * scale[:, :, None]


def standardize_locally(
    image: Tensor, weight: Tensor, kernel: Kernel, floor: float, tangent: Tensor | None = None
) -> tuple[Tensor, Tensor | None]:
    """(image - local mean) / sqrt(local variance + floor^2): mean and variance in the window that the separable `kernel` makes around each pixel.

    The window's averages are taken over the pixels that have weight (normalised convolution, Knutsson & Westin, CVPR 1993), so nothing leaks in
    from outside the mask. `floor`, in units of the image, keeps the noise of empty regions from being blown up to the size of structure.

    With averages K: y = (x - K x) / s, s^2 = K x^2 - (K x)^2 + floor^2, so dy = (dx - K dx - y (K(x dx) - K x K dx) / s) / s.
    """

    def average(values: Tensor, norm: Tensor) -> Tensor:
        return separable_filter(values, kernel, kernel, "zero") / norm

    # A window that reaches almost no weight has no statistics; its centre then has no weight either, so any finite value will do.
    norm = separable_filter(weight, kernel, kernel, "zero").clamp_min(1e-6)
    mean = average(weight * image, norm)
    variance = (average(weight * image.square(), norm) - mean.square()).clamp_min(0)
    scale = (variance + floor**2).rsqrt()
    result = (image - mean) * scale
    if tangent is None:
        return result, None
    weight, norm, mean, scale = weight[:, :, None], norm[:, :, None], mean[:, :, None], scale[:, :, None]
    weighted = weight * tangent
    mean_tangent = average(weighted, norm)
    half_variance_tangent = average(image[:, :, None] * weighted, norm) - mean * mean_tangent
    return result, (tangent - mean_tangent - result[:, :, None] * (half_variance_tangent * scale)) * scale
