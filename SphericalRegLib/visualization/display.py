"""From measured numbers to pictures: one place that decides what black and white mean.

Every function takes plain arrays ``(H, W)`` in the project's polarity (*bone bright*, as line integrals are), so that the command line, the report
and the Slicer module draw alike. Masks are ``True`` where a pixel counts; a pixel that is not finite never counts.
"""

from __future__ import annotations

import numpy as np
from PIL import Image
from scipy import ndimage

from SphericalRegLib.errors import InputError
from SphericalRegLib.imaging.normalization import robust_range

Window = tuple[float, float]
RGB = tuple[int, int, int]

OUTSIDE: RGB = (38, 40, 48)  # slate: outside the mask, told apart from black, which is air
PERCENTILES = (0.5, 99.5)


def checked_image(image: np.ndarray, name: str = "image") -> np.ndarray:
    """``image`` as float32 ``(H, W)``.

    Raises:
        InputError: if it is not a two-dimensional, non-empty array of real numbers.
    """
    array = np.asarray(image)
    if array.ndim != 2 or array.size == 0:
        raise InputError(f"{name} has shape {array.shape}; expected one grey image (rows, columns)")
    if array.dtype.kind not in "biuf":
        raise InputError(f"{name} holds {array.dtype}; expected real numbers")
    return array.astype(np.float32)


def counted(images: dict[str, np.ndarray], mask: np.ndarray | None) -> tuple[list[np.ndarray], np.ndarray]:
    """The images as float32 and the pixels that count in all of them (inside the mask and finite).

    Raises:
        InputError: if shapes differ or no pixel counts.
    """
    checked = {name: checked_image(image, name) for name, image in images.items()}
    (first, reference), *rest = checked.items()
    for name, image in rest:
        if image.shape != reference.shape:
            raise InputError(f"{name} has shape {image.shape} but {first} has {reference.shape}; expected the same grid")
    valid = np.ones(reference.shape, bool)
    if mask is not None:
        mask = np.asarray(mask)
        if mask.shape != reference.shape:
            raise InputError(f"mask has shape {mask.shape} but {first} has {reference.shape}; expected the same grid")
        valid &= mask.astype(bool)
    for image in checked.values():
        valid &= np.isfinite(image)
    if not valid.any():
        raise InputError(f"no pixel of {' and '.join(checked)} is both inside the mask and finite; nothing can be shown")
    return list(checked.values()), valid


def display_window(image: np.ndarray, mask: np.ndarray | None = None, percentiles: tuple[float, float] = PERCENTILES) -> Window:
    """Values shown as black and as white: percentiles of the pixels that count.

    One hot pixel or a lead letter is beyond them (`imaging.normalization.robust_range`). Where they leave no range, a small bright object in a
    flat image, it is the full range.
    """
    (array,), valid = counted({"image": image}, mask)
    low, high = robust_range(array, valid, *percentiles)
    return (low, high) if high > low else (float(array[valid].min()), float(array[valid].max()))


def to_unit(image: np.ndarray, window: Window) -> np.ndarray:
    """``image`` with the window mapped to [0, 1] and clipped; 0 where it is not finite or the window is empty."""
    low, high = window
    array = checked_image(image)
    scaled = (array - low) / (high - low) if high > low else np.zeros_like(array)
    return np.clip(np.nan_to_num(scaled, nan=0.0, posinf=1.0, neginf=0.0), 0.0, 1.0)


def match_intensities(moving: np.ndarray, fixed: np.ndarray, mask: np.ndarray | None = None, levels: int = 65) -> np.ndarray:
    """``moving`` through the increasing curve that gives it the grey-value distribution of ``fixed`` inside the mask.

    An X-ray and a DRR relate by an unknown increasing response (log offset, beam hardening, display curve). Quantile matching removes it, and
    leaves what a difference map is to show: things in different places. Where both are DRRs of one renderer it must not be used.
    """
    (moving, fixed), valid = counted({"moving": moving, "fixed": fixed}, mask)
    fractions = np.linspace(0.0, 1.0, levels)
    # The two end knots are the robust window's, so that a hot pixel moves no knot far.
    fractions[0], fractions[-1] = (p / 100 for p in PERCENTILES)
    source, group = np.unique(np.quantile(moving[valid], fractions), return_inverse=True)
    # One moving value that holds several quantiles (air, a saturated part) gets the mean of theirs.
    target = np.bincount(group, np.quantile(fixed[valid], fractions)) / np.bincount(group)
    return np.interp(moving, source, target).astype(np.float32)


def even_tone(image: np.ndarray, reference: np.ndarray, mask: np.ndarray | None = None, evenness: float = 0.5) -> np.ndarray:
    """``image`` in [0, 1] by a tone curve that shows faint parts too: half the reference's window, half its cumulative histogram.

    A radiograph has a few very dense parts that would leave the rest dark. The curve is increasing and the same for the whole image, and two
    images shown by one reference are comparable.
    """
    (array, reference), valid = counted({"image": image, "reference": reference}, mask)
    fractions = np.linspace(0.0, 1.0, 129)
    values, group = np.unique(np.quantile(reference[valid], fractions), return_inverse=True)
    cumulative = np.bincount(group, fractions) / np.bincount(group)
    linear = to_unit(array, display_window(reference, valid))
    if len(values) < 2:
        return linear
    cumulative = (cumulative - cumulative[0]) / (cumulative[-1] - cumulative[0])  # air stays black however much of it there is
    equalised = np.interp(np.nan_to_num(array), values, cumulative)
    return ((1 - evenness) * linear + evenness * equalised).astype(np.float32)


def local_contrast(image: np.ndarray, mask: np.ndarray | None = None, sigma_px: float | None = None) -> np.ndarray:
    """``image`` less its local mean, in units of its local standard deviation, float32 ``(H, W)``; 0 outside the mask.

    Local means a Gaussian of ``sigma_px`` (default: a 24th of the width) inside the mask. Half the median deviation is added in quadrature, so that
    noise in flat parts stays small. What changes slowly over the image (scatter, the heel effect, dense parts) and any linear change of the grey
    values goes; edges stay. It is the normalisation behind local NCC.
    """
    (array,), valid = counted({"image": image}, mask)
    unit = to_unit(array, display_window(array, valid))  # clipped: a hot pixel must not spoil its neighbourhood
    mean, deviation = local_statistics(unit, valid, array.shape[1] / 24 if sigma_px is None else sigma_px)
    return np.where(valid & (deviation > 0), (unit - mean) / np.maximum(deviation, 1e-12), 0.0).astype(np.float32)


def local_statistics(unit: np.ndarray, valid: np.ndarray, sigma_px: float) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation ``(H, W)`` of the valid pixels around each pixel, as `local_contrast` defines them."""
    weight = np.maximum(ndimage.gaussian_filter(valid.astype(np.float32), sigma_px), 1e-3)

    def mean(values: np.ndarray) -> np.ndarray:
        return ndimage.gaussian_filter(np.where(valid, values, 0.0), sigma_px) / weight

    middle = mean(unit)
    variance = mean((unit - middle) ** 2)
    return middle, np.sqrt(variance + 0.25 * np.median(variance[valid]))


def to_bytes(unit: np.ndarray) -> np.ndarray:
    """[0, 1] -> uint8, rounded."""
    return np.round(np.clip(unit, 0.0, 1.0) * 255).astype(np.uint8)


def grey(image: np.ndarray, mask: np.ndarray | None = None, window: Window | None = None) -> np.ndarray:
    """Grey RGB picture, uint8 ``(H, W, 3)``; bone bright; dimmed to 20 % outside the mask, where nothing was compared."""
    array = checked_image(image)
    _, valid = counted({"image": array}, mask)
    unit = to_unit(array, window or display_window(array, mask))
    return np.repeat(to_bytes(np.where(valid, unit, 0.2 * unit))[..., None], 3, axis=2)


def resize_to_width(image: np.ndarray, columns: int) -> np.ndarray:
    """``image`` resampled for display to ``columns`` columns, rows in proportion (bicubic with anti-aliasing; not for measuring).

    Float images and uint8 pictures alike; a boolean mask is resampled by nearest neighbour.
    """
    array = np.asarray(image)
    rows = max(1, round(array.shape[0] * columns / array.shape[1]))
    if array.dtype == bool:
        return np.asarray(Image.fromarray(array.astype(np.uint8)).resize((columns, rows), Image.Resampling.NEAREST)).astype(bool)
    if array.dtype != np.uint8:
        array = np.nan_to_num(array.astype(np.float32))
    return np.asarray(Image.fromarray(array).resize((columns, rows), Image.Resampling.BICUBIC))
