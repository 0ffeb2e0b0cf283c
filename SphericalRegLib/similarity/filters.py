"""Separable image filters as pairs of small matrices.

A separable filter is ``A @ image @ B.T`` with banded Toeplitz matrices A (rows) and B (columns), boundary included. At registration's image sizes
(32 to 512) products of the bands' blocks beat convolutions on a CPU, take any kernel, any leading shape and dtype, and differentiate in every mode.
"""

from __future__ import annotations

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

Kernel = tuple[float, ...]
"""Odd number of taps, centred: output[i] = sum over k of taps[k] * input[i + k - radius]."""

BLOCK = 32
"""Pixels that one product gives: with fewer of them the products are too small to be fast, with more they are mostly zeros."""


def box_kernel(width: int) -> Kernel:
    """Moving average over `width` (odd) pixels."""
    return (1.0 / width,) * width


def gaussian_kernel(sigma: float) -> Kernel:
    """Gaussian of `sigma` pixels, cut at 3 sigma, sum 1."""
    x = _positions(sigma)
    weights = torch.exp(-0.5 * (x / sigma) ** 2)
    return tuple((weights / weights.sum()).tolist())


def gaussian_derivative_kernel(sigma: float) -> Kernel:
    """First derivative of a Gaussian of `sigma` pixels, per pixel: a ramp of slope 1 gives exactly 1."""
    x = _positions(sigma)
    weights = x * torch.exp(-0.5 * (x / sigma) ** 2)
    return tuple((weights / (weights * x).sum()).tolist())


def separable_filter(images: Tensor, down_rows: Kernel, along_columns: Kernel, boundary: str) -> Tensor:
    """Filter `images` (..., H, W) by `down_rows` (across rows) and `along_columns`.

    Args:
        boundary: "zero" (outside is 0) or "replicate" (outside repeats the edge).
    """
    *leading, rows, columns = images.shape
    images = images.reshape(-1, rows, columns)
    b = filter_matrix(columns, along_columns, boundary, images.dtype, images.device)
    images = torch.cat([images[..., reach] @ b[block, reach].T for block, reach in _blocks(columns, along_columns)], dim=2)
    a = filter_matrix(rows, down_rows, boundary, images.dtype, images.device)
    images = torch.cat([a[block, reach].expand(len(images), -1, -1) @ images[:, reach] for block, reach in _blocks(rows, down_rows)], dim=1)
    return images.unflatten(0, leading) if leading else images[0]


def _blocks(size: int, kernel: Kernel) -> list[tuple[slice, slice]]:
    """Blocks of an axis of `size` pixels, each with what the kernel reaches from it."""
    radius = len(kernel) // 2
    return [(slice(i, min(i + BLOCK, size)), slice(max(0, i - radius), min(i + BLOCK + radius, size))) for i in range(0, size, BLOCK)]


@lru_cache(maxsize=128)
def filter_matrix(size: int, kernel: Kernel, boundary: str, dtype: torch.dtype, device: torch.device) -> Tensor:
    """(size, size) matrix that applies `kernel` along an axis of `size` pixels."""
    radius = len(kernel) // 2
    target = torch.arange(size)[:, None] + torch.arange(-radius, radius + 1)
    taps = torch.tensor(kernel, dtype=torch.float64).expand(size, -1).clone()
    if boundary == "zero":
        taps[(target < 0) | (target >= size)] = 0
    elif boundary != "replicate":
        raise ValueError(f'boundary must be "zero" or "replicate", not {boundary!r}')
    matrix = torch.zeros(size, size, dtype=torch.float64)
    matrix.scatter_add_(1, target.clamp(0, size - 1), taps)
    return matrix.to(device=device, dtype=dtype)


def erode(mask: Tensor, radius: int) -> Tensor:
    """Smallest value of `mask` (..., H, W) in a square of `radius` pixels; beyond the image counts as inside."""
    return 1 - dilate(1 - mask, radius)


def dilate(mask: Tensor, radius: int) -> Tensor:
    """Largest value of `mask` (..., H, W) in a square of `radius` pixels; beyond the image counts as 0 for masks in [0, 1]."""
    if radius == 0:
        return mask
    flat = mask.reshape(-1, 1, *mask.shape[-2:])
    width = 2 * radius + 1
    rows = F.max_pool2d(flat, (width, 1), 1, (radius, 0))
    return F.max_pool2d(rows, (1, width), 1, (0, radius)).reshape(mask.shape)


def _positions(sigma: float) -> Tensor:
    if not sigma > 0:
        raise ValueError(f"sigma must be positive, not {sigma}")
    radius = max(1, int(3 * sigma + 0.5))
    return torch.arange(-radius, radius + 1, dtype=torch.float64)
