"""The DRR laid over the X-ray: edges, blends, checkerboards.

All pictures are uint8 RGB ``(H, W, 3)``; images are float ``(H, W)``, bone bright.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from SphericalRegLib.errors import InputError
from SphericalRegLib.visualization.display import (
    RGB,
    checked_image,
    counted,
    display_window,
    even_tone,
    grey,
    local_statistics,
    match_intensities,
    to_unit,
)

ESTIMATE_COLOUR: RGB = (70, 200, 255)  # sky blue: what was computed, the DRR
TRUTH_COLOUR: RGB = (255, 92, 72)  # red: the truth, where it is known
INITIAL_COLOUR: RGB = (255, 200, 60)  # amber: where the registration began
FLAT_SHARE = 0.02  # gradients below this share of the strongest are no part of the picture
SHORTEST_EDGE = 0.03  # of the image's shorter side; shorter ones are texture


def edges(image: np.ndarray, mask: np.ndarray | None = None, *, sigma_px: float | None = None, share: float = 0.1) -> np.ndarray:
    """Thin edges of an image as opacities in [0, 1], float32 ``(H, W)``.

    Canny's detector (Canny 1986): gradient of a Gaussian of ``sigma_px`` (default: a 320th of the width, at least 1.2) in units of the local standard
    deviation, so that a faint iliac crest counts as much as the spine; non-maximum suppression across the edge; hysteresis with the high threshold at
    the strongest ``share`` of the pixels that count and are not flat, and the low one at 40 % of it; specks are left out. The lines are softened a
    little so that they look even at any zoom. The rim of the mask is not an edge.
    """
    (array,), valid = counted({"image": image}, mask)
    unit = np.where(valid, to_unit(array, display_window(array, valid)), 0.0)
    sigma_px = max(1.2, array.shape[1] / 320) if sigma_px is None else sigma_px
    gradient_row = ndimage.gaussian_filter(unit, sigma_px, order=(1, 0))
    gradient_column = ndimage.gaussian_filter(unit, sigma_px, order=(0, 1))
    deviation = local_statistics(unit, valid, array.shape[1] / 16)[1]
    strength = np.hypot(gradient_row, gradient_column) / np.maximum(deviation, 1e-3)
    if not valid.all():  # the padding outside the mask makes a step that isn't in the image
        rim = max(1, int(np.ceil(3 * sigma_px)))
        valid = ndimage.binary_erosion(valid, iterations=rim, border_value=1)
        strength = np.where(valid, strength, 0.0)
    counts = strength[valid]
    counts = counts[counts > FLAT_SHARE * counts.max(initial=1e-6 / FLAT_SHARE)]  # a small bone is lost in the air around it
    if not counts.size:
        return np.zeros(unit.shape, np.float32)
    high = float(np.quantile(counts, 1 - share))
    rows, columns = np.indices(unit.shape, dtype=np.float32)
    length = np.maximum(np.hypot(gradient_row, gradient_column), 1e-12)
    step_row, step_column = gradient_row / length, gradient_column / length
    ahead, behind = (
        ndimage.map_coordinates(strength, [rows + s * step_row, columns + s * step_column], order=1, mode="nearest") for s in (1, -1)
    )
    ridge = (strength >= ahead) & (strength > behind) & (strength > 0.4 * high)
    groups, count = ndimage.label(ridge, structure=np.ones((3, 3)))
    strong = np.bincount(groups[ridge & (strength > high)], minlength=count + 1) > 0
    long = np.bincount(groups.ravel(), minlength=count + 1) >= SHORTEST_EDGE * min(unit.shape)
    lines = ridge & (strong & long)[groups]
    return np.clip(1.7 * ndimage.gaussian_filter(lines.astype(np.float32), 0.6), 0.0, 1.0)


def draw(picture: np.ndarray, opacity: np.ndarray, colour: RGB) -> np.ndarray:
    """``picture`` with a colour laid on at the given opacities ``(H, W)`` in [0, 1]."""
    if opacity.shape != picture.shape[:2]:
        raise InputError(f"opacity has shape {opacity.shape} but the picture has {picture.shape[:2]}; expected the same grid")
    weight = np.asarray(opacity, np.float32)[..., None]
    return np.round((1 - weight) * picture + weight * np.asarray(colour, np.float32)).astype(np.uint8)


def toned(image: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
    """A grey picture by the tone curve that shows faint parts too (`display.even_tone`); black is 0 and white is 1."""
    return grey(even_tone(image, image, mask), mask, (0.0, 1.0))


def grey_pair(fixed: np.ndarray, moving: np.ndarray, mask: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Both images by the fixed one's tone curve, the moving one with its grey-value distribution."""
    (fixed, moving), valid = counted({"fixed": fixed, "moving": moving}, mask)
    matched = match_intensities(moving, fixed, valid)
    return toned(fixed, valid), grey(even_tone(matched, fixed, valid), valid, (0.0, 1.0))


def edge_overlay(fixed: np.ndarray, moving: np.ndarray, mask: np.ndarray | None = None, *, colour: RGB = ESTIMATE_COLOUR) -> np.ndarray:
    """The fixed image in grey with the edges of the moving one in colour: right where coloured lines lie on the anatomy's own borders.

    Raises:
        InputError: if shapes differ or no pixel counts.
    """
    counted({"fixed": fixed, "moving": moving}, mask)
    return draw(toned(fixed, mask), edges(moving, mask), colour)


def blend(fixed: np.ndarray, moving: np.ndarray, mask: np.ndarray | None = None, *, opacity: float = 0.5) -> np.ndarray:
    """Both images in grey, the moving one at ``opacity`` over the fixed one (0: only fixed, 1: only moving)."""
    if not 0.0 <= opacity <= 1.0:
        raise InputError(f"opacity is {opacity}; expected 0 to 1")
    fixed_picture, moving_picture = grey_pair(fixed, moving, mask)
    return np.round((1 - opacity) * fixed_picture.astype(np.float32) + opacity * moving_picture).astype(np.uint8)


def checkerboard(fixed: np.ndarray, moving: np.ndarray, mask: np.ndarray | None = None, *, tiles: int = 8) -> np.ndarray:
    """Squares of the two images in turn, the fixed one top left, ``tiles`` squares across: borders run on where the pose is right."""
    if tiles < 1:
        raise InputError(f"a checkerboard of {tiles} tiles can't be drawn; expected at least 1")
    fixed_picture, moving_picture = grey_pair(fixed, moving, mask)
    rows, columns = fixed_picture.shape[:2]
    side = max(1.0, columns / tiles)
    odd = (np.arange(rows)[:, None] // side + np.arange(columns) // side) % 2 == 1
    return np.where(odd[..., None], moving_picture, fixed_picture)


def contour(mask: np.ndarray, *, width_px: float = 1.5) -> np.ndarray:
    """The border of a mask (a label's projection, say) as opacities in [0, 1], float32 ``(H, W)``; empty for an empty or a full mask."""
    inside = checked_image(np.asarray(mask).astype(np.float32), "mask") > 0.5
    if inside.all() or not inside.any():
        return np.zeros(inside.shape, np.float32)
    # Distance to the border, which lies half-way between the last pixel inside and the first outside.
    distance = np.where(inside, ndimage.distance_transform_edt(inside), ndimage.distance_transform_edt(~inside)) - 0.5
    return np.clip(width_px / 2 + 0.5 - distance, 0.0, 1.0).astype(np.float32)
