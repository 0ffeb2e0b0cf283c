"""Normalisation of images to zero mean and unit variance, with the exact derivative.

Mean and variance depend on the image, so the derivative of the normalised image is not just the scaled derivative of the image: each function
takes the image's tangent columns along and returns those of its result. Passes over the tangents are what these take their time for, and are few;
their means are products of matrices, in float32 right to some 1e-5 at 512 x 512.

Shapes: images (B, C, H, W); weights (B, 1, H, W) or (1, 1, H, W), >= 0; tangents (B, C, 6, H, W) or None.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .filters import Kernel, separable_filter

FLAT = 1e-10
"""A variance below this share of the mean square is rounding: such an image is flat and becomes zero, as do its tangents."""


@dataclass(frozen=True)
class Centred:
    """Images less their mean under the weights, and what they deviate by.

    Attributes:
        image: (B, C, H, W); exactly zero where the image is flat.
        share: (B or 1, 1, H, W), the weights over their sum.
        variance: (B, C, 1, 1).
        inverse_deviation: (B, C, 1, 1); zero where the image is flat.
    """

    image: Tensor
    share: Tensor
    variance: Tensor
    inverse_deviation: Tensor

    @classmethod
    def of(cls, image: Tensor, weight: Tensor) -> Centred:
        tiny = torch.finfo(image.dtype).tiny
        share = weight / weight.sum((-2, -1), keepdim=True).clamp_min(tiny)
        mean = (share * image).sum((-2, -1), keepdim=True)
        centred = image - mean
        variance = (share * centred.square()).sum((-2, -1), keepdim=True)
        flat = variance <= FLAT * mean.square() + tiny
        return cls(torch.where(flat, 0, centred), share, variance, torch.where(flat, 0, torch.where(flat, 1, variance).rsqrt()))


def standardize_up_to_affine(image: Tensor, weight: Tensor, tangent: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
    """`standardize` before what is blind to offset and scale, and therefore to the derivatives of mean and deviation: the tangents lack these."""
    centred = Centred.of(image, weight)
    scale = centred.inverse_deviation
    return centred.image * scale, None if tangent is None else tangent * scale[:, :, None]


def standardize(image: Tensor, weight: Tensor, tangent: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
    """(image - mean) / deviation over all pixels, under the weights; a flat image becomes zero.

    The derivative of y = (x - m) / s along dx is (dx - mean(dx) - y mean(y dx)) / s.
    """
    centred = Centred.of(image, weight)
    result = centred.image * centred.inverse_deviation
    if tangent is None:
        return result, None
    scale, share = centred.inverse_deviation, centred.share.expand_as(result)
    columns = tangent.flatten(-2).to(result)
    sums = torch.stack((share, share * result), dim=-3).flatten(-2) @ columns.mT  # (B, C, 2, 6): the means of dx and of y dx
    parts = torch.stack((torch.ones_like(result), result), dim=-3).flatten(-2)
    return result, ((columns - sums.mT @ parts) * scale).view_as(tangent)


def standardize_locally(
    image: Tensor, weight: Tensor, kernel: Kernel, floor: float, tangent: Tensor | None = None
) -> tuple[Tensor, Tensor | None]:
    """(image - local mean) / sqrt(local variance + (floor s)^2): mean and variance in the window that the separable `kernel` makes around each pixel,
    s the deviation over all pixels; a flat image becomes zero.

    The window's averages are taken over the pixels that have weight (normalised convolution, Knutsson & Westin, CVPR 1993), so nothing leaks in
    from outside the mask. `floor` keeps the noise of empty regions from being blown up to the size of structure.

    With averages K over windows and M over all pixels, x less its mean: y = (x - K x) / s_y with s_y^2 = K x^2 - (K x)^2 + floor^2 M x^2, so
    dy = (dx - K dx - y (K(x dx) - K x K dx + floor^2 M(x dx)) / s_y) / s_y.
    """

    def sums(values: Tensor) -> Tensor:
        return separable_filter(values, kernel, kernel, "zero")

    whole = Centred.of(image, weight)
    image = whole.image
    # A window that reaches almost no weight has no statistics; its centre then has no weight either, so any finite value will do.
    norm = sums(weight).clamp_min(1e-6).reciprocal()
    mean = sums(weight * image) * norm
    variance = (sums(weight * image.square()) * norm - mean.square()).clamp_min(0) + floor**2 * whole.variance
    flat = whole.inverse_deviation == 0
    scale = torch.where(flat, 0, torch.where(flat, 1, variance).clamp_min(torch.finfo(image.dtype).tiny).rsqrt())
    result = (image - mean) * scale
    if tangent is None:
        return result, None
    weighted = weight[:, :, None] * tangent
    tangent_sums = sums(weighted)
    half_sums = torch.addcmul(sums(image[:, :, None] * weighted), mean[:, :, None], tangent_sums, value=-1)
    along = tangent.flatten(-2).to(image) @ (whole.share * image).flatten(-2)[..., None]  # (B, C, 6, 1) M(x dx)
    slope = result * scale.square()
    columns = tangent * scale[:, :, None]
    columns = torch.addcmul(columns, tangent_sums, (norm * scale)[:, :, None], value=-1)
    columns = torch.addcmul(columns, half_sums, (norm * slope)[:, :, None], value=-1)
    return result, torch.addcmul(columns, along[..., None], slope[:, :, None], value=-(floor**2))
