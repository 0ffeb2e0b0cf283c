"""Local mean-and-variance normalisation: what makes an X-ray and a DRR look alike to a network.

Scatter, beam hardening and a display curve change slowly over an image; edges of bone stay. Dividing the high-passed image by its local standard
deviation keeps the edges and drops the rest (local contrast normalisation: Jarrett et al., ICCV 2009).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def gaussian_window(sigma_px: float, dtype: torch.dtype, device: torch.device) -> Tensor:
    """A normalised 1D Gaussian (2r+1,), cut at two standard deviations."""
    radius = max(1, round(2 * sigma_px))
    x = torch.arange(-radius, radius + 1, dtype=dtype, device=device)
    weights = torch.exp(-0.5 * (x / sigma_px) ** 2)
    return weights / weights.sum()


def blur(image: Tensor, kernel: Tensor) -> Tensor:
    """Separable convolution of (B, C, H, W) with a 1D kernel; zeros outside."""
    channels = image.shape[1]
    radius = kernel.numel() // 2
    weight = kernel.expand(channels, 1, 1, -1)
    rows = F.conv2d(image, weight, padding=(0, radius), groups=channels)
    return F.conv2d(rows, weight.transpose(-1, -2), padding=(radius, 0), groups=channels)


def normalize_local_contrast(image: Tensor, mask: Tensor, sigma_px: float) -> Tensor:
    """High-pass `image` and divide by its local standard deviation, inside `mask`.

    Args:
        image: (B, 1, H, W), line integrals or anything like them.
        mask: (B, 1, H, W), 1 where the image is valid; statistics are those of the valid pixels (normalised convolution).
        sigma_px: standard deviation of the Gaussian window, pixels.

    Returns:
        (B, 1, H, W), zero outside the mask; unchanged when the image is scaled by a positive factor or shifted by a constant.
    """
    kernel = gaussian_window(sigma_px, image.dtype, image.device)
    weight = blur(mask, kernel).clamp_min(1e-3)
    # The global mean goes first: it costs nothing and keeps the float32 differences of squares below accurate.
    count = mask.sum((-2, -1), keepdim=True).clamp_min(1.0)
    centred = (image - (image * mask).sum((-2, -1), keepdim=True) / count) * mask
    spread = centred.square().sum((-2, -1), keepdim=True) / count
    high = (centred - blur(centred, kernel) / weight) * mask
    variance = blur(high.square(), kernel) / weight
    # The floor keeps noise in flat regions from being blown up to the size of anatomy.
    return high / (variance + 1e-3 * spread + 1e-12).sqrt()
