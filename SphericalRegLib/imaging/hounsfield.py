"""Is this a CT? Checks of a volume's values, and the rule by which padding is told from air.

**Padding** is what a file writes where nothing was measured. Air is measured: it lies at -1000 HU and, but for images computed or cleaned by
software, it is noisy. The rule:

1. a value below -1500 HU is padding (-2048, -3024, -32768: no tissue and no noise reaches there);
2. a value that the file declares as its padding is, if it lies below -1010 HU;
3. one exact value below -1010 HU is, if a tenth or more of the voxels have it and four of five of those have a neighbour (along i) that has it, too:
   a constant background such as -1024. Noisy air clipped at -1024 does not pass: there the neighbour is above the limit as often as not;
4. exactly 0 HU is, under the same conditions and if 99 % of the grid's outer faces have it: a CT masked with zeros, which would otherwise be a block
   of water.

-1000 HU is never padding.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from SphericalRegLib.errors import InputError

PADDING_BELOW_HU = -1500.0
AIR_HU = -1000.0

Padding = float | None | Literal["auto"]
"""How padding is known: by the rule above, by its value (that value and everything below it), or there is none."""

_BACKGROUND_BELOW_HU = -1010.0
_BACKGROUND_SHARE = 0.1
_BACKGROUND_TOGETHER = 0.8
_SAMPLE = 2_000_000


def check_finite(values: np.ndarray, what: str) -> None:
    """Raise InputError with the count of NaN and infinite voxels, if there are any."""
    bad = sum(int(np.count_nonzero(~np.isfinite(values[..., k]))) for k in range(values.shape[-1]))
    if bad:
        raise InputError(f"{what} holds NaN or infinite values in {bad:,} of {values.size:,} voxels; expected finite Hounsfield units.")


def check_hounsfield(values: np.ndarray, what: str) -> None:
    """Raise InputError for values (I, J, K) that cannot be Hounsfield units: constant, normalised, 8-bit, not rescaled, without tissue."""
    low, high = float(values.min()), float(values.max())
    expected = "expected Hounsfield units: about -1000 for air, 0 for water, 300 to 2000 for bone"
    if low == high:
        raise InputError(f"Every voxel of {what} is {low:g}; {expected}.")
    if high < -500:
        raise InputError(f"The values of {what} span {low:g} to {high:g}, which holds no tissue; {expected}.")
    if low >= -1 and high <= 1:
        raise InputError(f"The values of {what} span {low:g} to {high:g} (normalised?); {expected}.")
    if low >= 0 and high <= 255:
        raise InputError(f"The values of {what} span {low:g} to {high:g} (8-bit grey values or a label map?); {expected}.")
    if high > 32767:
        raise InputError(f"The values of {what} span {low:g} to {high:g}; {expected}.")
    if low >= 0 and _looks_unscaled(_sample(values)):
        raise InputError(f"The values of {what} span {low:g} to {high:g} with tissue near 1000 (stored values before the rescale?); {expected}.")


def find_padding(values: np.ndarray, padding: Padding = "auto", declared: float | None = None) -> np.ndarray | None:
    """Where padding is: (I, J, K) bool, or None where there is none. `declared`: the value that the file names as its padding."""
    if padding is None:
        return None
    if padding != "auto":
        return _none_if_empty(values <= padding)
    mask = values < PADDING_BELOW_HU
    if declared is not None and declared < _BACKGROUND_BELOW_HU:
        np.logical_or(mask, values == np.float32(declared), out=mask)
    for background in _constant_backgrounds(values):
        np.logical_or(mask, values == background, out=mask)
    return _none_if_empty(mask)


def _constant_backgrounds(values: np.ndarray) -> list[float]:
    """The values of rules 3 and 4 that a CT has."""
    sample = _sample(values)
    sample = sample[sample >= PADDING_BELOW_HU]

    def fills(value: float) -> bool:
        count = int(np.count_nonzero(sample == value))
        return 0 < count >= _BACKGROUND_SHARE * sample.size and _togetherness(values, value) >= _BACKGROUND_TOGETHER

    levels, counts = np.unique(sample[sample < _BACKGROUND_BELOW_HU], return_counts=True)
    found = [value for value in map(float, levels[counts.argsort()][-1:]) if fills(value)]
    if fills(0) and _share_of_faces(values, 0) >= 0.99:
        found.append(0.0)
    return found


def _togetherness(values: np.ndarray, value: float) -> float:
    """Of the voxels with a value, the share whose next voxel along i has it, too; from a few planes."""
    has_it = values[:, :, :: max(1, values.shape[2] // 16)] == value
    here = np.count_nonzero(has_it[:-1])
    return np.count_nonzero(has_it[:-1] & has_it[1:]) / here if here else 0.0


def _share_of_faces(values: np.ndarray, value: float) -> float:
    faces = [values[(slice(None),) * axis + (end,)] for axis in range(3) for end in (0, -1)]
    return sum(np.count_nonzero(face == value) for face in faces) / sum(face.size for face in faces)


def _looks_unscaled(sample: np.ndarray) -> bool:
    """Soft tissue makes a peak at 1024 in stored values (or 1000), with little between it and the air near 0; in Hounsfield units there is none."""
    peak, below = np.count_nonzero((sample > 900) & (sample < 1150)), np.count_nonzero((sample > 300) & (sample < 800))
    return bool(peak > 0.05 * sample.size and peak > 1.5 * below)


def _sample(values: np.ndarray) -> np.ndarray:
    """At most about two million voxels on a regular lattice, (N,)."""
    stride = max(1, round((values.size / _SAMPLE) ** (1 / 3)))
    return np.asarray(values[::stride, ::stride, ::stride]).ravel()


def _none_if_empty(mask: np.ndarray) -> np.ndarray | None:
    return mask if mask.any() else None
