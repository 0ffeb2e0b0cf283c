"""A volume packed for marching rays: what is air is cut off, what is left is 16-bit numbers, eight of which hold a cell's four corners.

The cell of voxel (i, j, k) has eight corners. Cells are stored in lines of 4 x 5 in (i, k) for one j: the 5 x 6 corners, row by row of k, are one
cache line of 64 bytes (two words are left over). Eight consecutive words from corner (i, k) on begin with (i, k), (i, k + 1) and end with (i + 1, k),
(i + 1, k + 1); the same in the next line is j + 1. So a trilinear sample is two 16-byte loads that never straddle a cache line, in whichever
direction a ray runs, and the volume takes 3.2 bytes a voxel.

Words are mu in 65535ths of its maximum: half a word is some 0.01 % of water, evenly so over the whole range, where float16 has steps of 0.05 %.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import warp as wp
from scipy import ndimage
from torch import Tensor

from ..errors import InputError
from .device import current_stream, warp_device
from .kernel import CELL_WORDS, pack_cells

BLOCK = 4
"""Edge, in voxels, of the blocks whose distance from the next attenuating voxel is known."""

_LOW = 2  # rings of air around the occupied box: one for the interpolant to fall to zero, one so that the very first cell is air altogether


@dataclass(frozen=True, eq=False)
class PackedVolume:
    """Attributes:
    cells: (lines, 32), uint16 in an int16 tensor; lines run over (brick k, brick i, j), j fastest.
    shape: (I, J, K) voxels with the rings of air.
    origin: (3,) index of the packed volume's first voxel in the original one; negative where there is only air before.
    scale: 1/mm for a word of 1.
    free_radius: uint8 (blocks i, j, k): no point of the block is nearer than this (voxels, Chebyshev) to where mu is not zero.
    """

    cells: Tensor
    shape: tuple[int, int, int]
    origin: np.ndarray
    scale: float
    free_radius: Tensor

    @property
    def strides(self) -> tuple[int, int]:
        """Words from one brick to the next along i and along k."""
        bricks_i = -(-self.shape[0] // 4)
        return self.shape[1] * CELL_WORDS, bricks_i * self.shape[1] * CELL_WORDS


def pack(mu: np.ndarray, device: torch.device) -> PackedVolume:
    """Packs mu (I, J, K), 1/mm.

    Raises:
        InputError: mu is not three-dimensional, not finite, negative, or too large for 32-bit addresses.
    """
    if mu.ndim != 3:
        raise InputError(f"The attenuation has shape {mu.shape}; expected three dimensions.")
    low, high = float(mu.min(initial=0.0)), float(mu.max(initial=0.0))
    if not (low >= 0.0 and high < float("inf")):
        raise InputError(f"The attenuation ranges from {low} to {high} per mm; expected finite numbers of at least 0.")
    box = _occupied_box(mu)
    occupied = np.ascontiguousarray(mu[box], dtype=np.float32)
    shape = tuple(n + 2 * _LOW for n in occupied.shape)
    bricks_i, bricks_k = -(-shape[0] // 4), -(-shape[2] // 4)
    lines = bricks_k * bricks_i * shape[1]
    if (lines + 1) * CELL_WORDS >= 2**31:
        raise InputError(f"The occupied part of the CT has {occupied.shape} voxels; expected fewer than about 1000 per axis: crop or resample it.")
    scale = high / 65535.0 if high > 0.0 else 1.0
    cells = torch.zeros(lines + 1, CELL_WORDS, dtype=torch.int16, device=device)  # the line after the last may be read, with weight zero
    full = torch.zeros(bricks_i, -(-shape[1] // BLOCK), bricks_k, dtype=torch.uint8, device=device)
    source = torch.from_numpy(occupied).to(device)
    inputs = [wp.from_torch(source), 1.0 / scale, bricks_i, _LOW]
    outputs = [wp.from_torch(cells[:lines], dtype=wp.uint16), wp.from_torch(full)]
    wp.launch(pack_cells, dim=lines, inputs=inputs, outputs=outputs, device=warp_device(device), stream=current_stream(device))
    free = torch.from_numpy(_free_radius(full.cpu().numpy())).to(device)
    return PackedVolume(cells, shape, np.array([s.start for s in box]) - _LOW, scale, free)


def _occupied_box(mu: np.ndarray) -> tuple[slice, slice, slice]:
    """The smallest box that holds all that attenuates; one voxel if nothing does."""
    by_ij = np.asarray(mu.any(axis=2))
    spans = [np.flatnonzero(a) for a in (by_ij.any(axis=1), by_ij.any(axis=0), mu.any(axis=(0, 1)))]
    i, j, k = (slice(int(s[0]), int(s[-1]) + 1) if s.size else slice(0, 1) for s in spans)
    return i, j, k


def _free_radius(full: np.ndarray) -> np.ndarray:
    """Per block, from the chessboard distance d (in blocks) to the next block with anything in it: 4 (d - 1), less the interpolant's reach of 1."""
    if not full.any():
        return np.full(full.shape, 255, dtype=np.uint8)
    distance = ndimage.distance_transform_cdt(full == 0, metric="chessboard")
    return np.clip(BLOCK * (distance - 1) - 1, 0, 255).astype(np.uint8)
