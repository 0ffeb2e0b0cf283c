"""From stored grey values to an image that looks like line integrals: bone bright, linear in attenuation as far as it can be known.

The X-ray obeys Beer and Lambert's law, I = I0 exp(-L). Detector counts are brought back by L = log I0 - log I. A display image has passed an
unknown monotone curve; -log(g + offset) of its robustly normalised grey g is a fair guess for it, and the similarities that follow are built to
bear what is left. All statistics are percentiles inside the mask, so that a hot pixel, a dead pixel or a lead letter cannot move them.
"""

from __future__ import annotations

import numpy as np

from SphericalRegLib.errors import InputError

# Some displays show the signal and some its logarithm, and nobody says which. The offset lies between the two: small, it would be right for the
# first; without bound, -log becomes 1 - g, right for the second. At 0.5 the gradients of both kinds agree with the CT's projections nearly as well as
# with the offset that suits them best.
DISPLAY_OFFSET = 0.5
LOW_PERCENTILE, HIGH_PERCENTILE = 0.1, 99.9
# Percentiles of more pixels than this are taken from an even subset: the figure moves by less than a grey level and reading stays quick.
MAX_SAMPLES = 400_000


def robust_range(grey: np.ndarray, usable: np.ndarray, low: float = LOW_PERCENTILE, high: float = HIGH_PERCENTILE) -> tuple[float, float]:
    """Low and high percentile of the usable pixels."""
    values = grey[usable]
    values = values[:: max(1, len(values) // MAX_SAMPLES)]
    bottom, top = np.percentile(values, (low, high))
    return float(bottom), float(top)


def to_line_integral(
    grey: np.ndarray,
    usable: np.ndarray,
    intensity: str,
    inverted: bool,
    i0: float | None = None,
    full_scale: float | None = None,
    where: str = "X-ray",
) -> np.ndarray:
    """Convert stored values to line-integral-like ones (no unit, bone bright).

    Args:
        grey: (H, W) stored values.
        usable: (H, W) bool, pixels that the statistics are taken from.
        intensity: "counts": L = log I0 - log I, counts clamped a factor of two beyond their robust range, so that dead and hot pixels stay near the
            others; "display": -log((g + 0.5) / 1.5) of the robustly normalised grey; "line_integral": taken as they are, if white is bone.
        inverted: white is bone. Counts are then taken from ``full_scale``, display values from the sum of their robust limits. Line integrals are
            taken from their upper robust limit where white is air.
        i0: counts without an object; the default is the 99.9th percentile, the brightest air in the image. A wrong value only adds a constant.
        full_scale: the largest value that ``grey`` could have.

    Returns:
        (H, W) float32.

    Raises:
        InputError: fewer than 16 usable pixels, or nothing to see in them (constant).
    """
    if np.count_nonzero(usable) < 16:
        raise InputError(f"{where}: only {np.count_nonzero(usable)} pixels are left inside the mask, expected at least 16")
    low, high = robust_range(grey, usable)
    if not high > low:
        # A small bright object in a flat image lies beyond the percentiles; only a truly flat image is refused.
        low, high = float(grey[usable].min()), float(grey[usable].max())
    if not high > low:
        raise InputError(f"{where}: every pixel inside the mask has the value {low:g}: nothing to register")
    if intensity == "line_integral":
        return (grey if inverted else high - grey).astype(np.float32)
    if inverted:
        grey = (full_scale if intensity == "counts" and full_scale is not None else low + high) - grey
    if intensity == "display":
        normalised = np.clip((grey - low) / (high - low), 0, 1)
        return -np.log((normalised + DISPLAY_OFFSET) / (1 + DISPLAY_OFFSET)).astype(np.float32)
    if intensity == "counts":
        inside = grey[usable]
        positive = inside[inside > 0]
        if len(positive) < 16:
            raise InputError(f"{where}: holds no positive values, so they cannot be detector counts: is it already a line integral?")
        floor, brightest = robust_range(positive, np.ones(len(positive), dtype=bool))
        # Real anatomy and noise reach a little beyond the percentiles; what lies beyond twice that is a dead or a hot pixel.
        clipped = np.clip(grey, floor / 2, brightest * 2)
        return (np.log(brightest if i0 is None else float(i0)) - np.log(clipped)).astype(np.float32)
    raise InputError(f"{where}: intensity is {intensity!r}, expected counts, display or line_integral")


def air_bright(grey: np.ndarray, usable: np.ndarray, inverted: bool) -> np.ndarray:
    """The stored values as a signal in [0, 1] where air is bright: what the collimator search looks at."""
    low, high = robust_range(grey, usable)
    signal = np.clip((grey - low) / max(high - low, 1e-12), 0, 1)
    return 1 - signal if inverted else signal
