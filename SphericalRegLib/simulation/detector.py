"""From the transmitted beam to the stored image: shutters, scatter, blur, quanta, display. Pure functions on (H, W) float64 arrays."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter, zoom

_SHUTTER_LEAKAGE = 1e-4  # of the open field, through a few millimetres of lead
_BODY_BELOW = 0.9  # of the open field: half a centimetre of tissue takes a tenth away, clothes and a table less


@dataclass(frozen=True)
class Shutter:
    """The collimator's opening on the detector.

    Attributes:
        shape: "rectangle" or "circle".
        centre_px: (column, row).
        half_size_mm: (half width, half height); a circle's radius is the first.
        angle_deg: turn of the rectangle, from columns towards rows.
        penumbra_mm: standard deviation of the edge.
    """

    shape: str
    centre_px: tuple[float, float]
    half_size_mm: tuple[float, float]
    angle_deg: float = 0.0
    penumbra_mm: float = 0.5


def shutter_distance_mm(shutter: Shutter, shape: tuple[int, int], spacing_mm: tuple[float, float]) -> np.ndarray:
    """Signed distance-like field (H, W) mm on the detector: positive inside the opening, 0 on its edge."""
    rows, columns = shape
    x = (np.arange(columns)[None, :] - shutter.centre_px[0]) * spacing_mm[0]
    y = (np.arange(rows)[:, None] - shutter.centre_px[1]) * spacing_mm[1]
    if shutter.shape == "circle":
        return shutter.half_size_mm[0] - np.hypot(x, y)
    if shutter.shape != "rectangle":
        raise ValueError(f"a shutter is a rectangle or a circle, not {shutter.shape!r}")
    cos, sin = np.cos(np.deg2rad(shutter.angle_deg)), np.sin(np.deg2rad(shutter.angle_deg))
    along, across = cos * x + sin * y, -sin * x + cos * y
    return np.minimum(shutter.half_size_mm[0] - np.abs(along), shutter.half_size_mm[1] - np.abs(across))


def shutter_opening(shutter: Shutter | None, shape: tuple[int, int], spacing_mm: tuple[float, float]) -> np.ndarray:
    """Share of the beam that the collimator lets through, (H, W) between its leakage and 1; all ones without a shutter."""
    if shutter is None:
        return np.ones(shape)
    edge = shutter_distance_mm(shutter, shape, spacing_mm) / max(shutter.penumbra_mm, 1e-6)
    # The logistic curve of slope 1.702 is within 1 % of the normal distribution's integral: a Gaussian penumbra.
    return _SHUTTER_LEAKAGE + (1.0 - _SHUTTER_LEAKAGE) / (1.0 + np.exp(-1.702 * np.clip(edge, -40.0, 40.0)))


def scatter(primary: np.ndarray, field: np.ndarray, ratio: float, width_mm: float, spacing_mm: tuple[float, float]) -> np.ndarray:
    """Scattered signal (H, W), to be added to the primary signal.

    Each ray sends out scatter in proportion to P log(1 / P): none in air, little behind dense bone (Ohnesorge, Flohr & Klingenbeck-Regn, European
    Radiology 9, 1999). It arrives blurred by a Gaussian, scaled so that in the median pixel behind the object it is `ratio` times the primary.

    Args:
        primary: (H, W) transmitted share of the open field, shutters included.
        field: (H, W) bool, the open field; the object is what takes more than a tenth away in it.
        ratio: scatter-to-primary ratio behind the anti-scatter grid.
        width_mm: standard deviation of the blur on the detector.
        spacing_mm: pixel spacing (column, row).
    """
    if ratio <= 0.0:
        return np.zeros_like(primary)
    body = field & (primary < _BODY_BELOW)
    if not body.any():
        return np.zeros_like(primary)
    clipped = np.clip(primary, 1e-6, 1.0)
    blurred = _smooth(-clipped * np.log(clipped), width_mm, spacing_mm)
    return ratio * float(np.median(primary[body])) / max(float(np.median(blurred[body])), 1e-12) * blurred


def blur(image: np.ndarray, sigma_mm: float, spacing_mm: tuple[float, float]) -> np.ndarray:
    """Gaussian blur of a standard deviation in mm on the detector; 0 changes nothing."""
    if sigma_mm <= 0.0:
        return image
    return gaussian_filter(image, (sigma_mm / spacing_mm[1], sigma_mm / spacing_mm[0]), mode="nearest")


def open_field_quanta(signal: np.ndarray, dose_quanta_per_mm2: float, field: np.ndarray, spacing_mm: tuple[float, float]) -> float:
    """Quanta per pixel in the open field for which the median pixel of the `field` (H, W) bool receives the stated dose.

    This is what automatic exposure control does: the dose is fixed behind the patient, not in front. As a scale: one microgray at the detector is
    about 30,000 quanta per mm^2 (IEC 62220-1); a fluoroscopy frame has a few hundred, an acquired or averaged image several thousand.
    """
    return dose_quanta_per_mm2 * spacing_mm[0] * spacing_mm[1] / max(float(np.median(signal[field])), 1e-9)


def add_noise(signal: np.ndarray, quanta: float, electronic_quanta: float, rng: np.random.Generator) -> np.ndarray:
    """Poisson noise of `signal * quanta` expected quanta, plus normal electronic noise of a standard deviation in quanta; in units of the signal."""
    counted = rng.poisson(np.clip(signal, 0.0, None) * quanta).astype(np.float64)
    if electronic_quanta > 0.0:
        counted += rng.normal(0.0, electronic_quanta, signal.shape)
    return counted / quanta


def to_counts(signal: np.ndarray, full_well: float) -> np.ndarray:
    """16-bit raw detector counts (H, W) uint16: `full_well` (units of the signal) and beyond is saturated at 65535, 0 stays 0."""
    return np.clip(np.round(signal / full_well * 65535.0), 0, 65535).astype(np.uint16)


@dataclass(frozen=True)
class DisplayCurve:
    """How a workstation turns the signal into grey values.

    Attributes:
        window_percentiles: of the log signal inside the open field, mapped to black and white; beyond is lost.
        gamma: power of the windowed log signal: below 1 brightens.
        sigmoid: slope of the S-shaped characteristic curve; 0 is a straight line.
        compression: share of the large-area brightness that dynamic-range compression takes away.
        inverted: white is bone.
        blanked: the workstation paints what lies behind the shutters black.
    """

    window_percentiles: tuple[float, float] = (0.1, 99.9)
    gamma: float = 1.0
    sigmoid: float = 0.0
    compression: float = 0.0
    inverted: bool = False
    blanked: bool = False


def to_display(signal: np.ndarray, field: np.ndarray, curve: DisplayCurve, spacing_mm: tuple[float, float]) -> np.ndarray:
    """8-bit display grey values (H, W) uint8; air is bright unless the curve is inverted.

    Args:
        signal: (H, W) detector signal.
        field: (H, W) bool, the open field: window and compression are made from it.
        curve: the look.
        spacing_mm: pixel spacing (column, row).
    """
    floor = max(1e-9, 0.02 * float(np.median(signal[field])))
    logarithm = np.log(np.clip(signal, floor, None))
    if curve.compression > 0.0:
        logarithm = logarithm - curve.compression * _smooth(logarithm, 25.0, spacing_mm)
    low, high = np.percentile(logarithm[field], curve.window_percentiles)
    grey = np.clip((logarithm - low) / max(high - low, 1e-9), 0.0, 1.0) ** curve.gamma
    if curve.sigmoid > 0.0:
        edge = 1.0 / (1.0 + np.exp(0.5 * curve.sigmoid))
        grey = (1.0 / (1.0 + np.exp(-curve.sigmoid * (grey - 0.5))) - edge) / (1.0 - 2.0 * edge)
    if curve.inverted:
        grey = 1.0 - grey
    if curve.blanked:
        grey = np.where(field, grey, 0.0)
    return np.clip(np.round(255.0 * grey), 0, 255).astype(np.uint8)


def _smooth(image: np.ndarray, sigma_mm: float, spacing_mm: tuple[float, float]) -> np.ndarray:
    """Wide Gaussian blur on a coarser grid: a quarter of the standard deviation is fine enough for it."""
    sigma = (sigma_mm / spacing_mm[1], sigma_mm / spacing_mm[0])
    coarse = [max(8, min(n, int(np.ceil(4.0 * n / s)))) for n, s in zip(image.shape, sigma)]
    if coarse[0] >= image.shape[0] or coarse[1] >= image.shape[1]:
        return gaussian_filter(image, sigma, mode="nearest")
    factors = [c / n for c, n in zip(coarse, image.shape)]
    prefiltered = gaussian_filter(image, [0.4 / f for f in factors], mode="nearest")
    small = zoom(prefiltered, factors, order=1, mode="nearest", grid_mode=True)
    remaining = [np.sqrt(max((s * f) ** 2 - 0.4**2, 0.0)) for s, f in zip(sigma, factors)]
    wide = gaussian_filter(small, remaining, mode="nearest")
    return zoom(wide, [n / w for n, w in zip(image.shape, wide.shape)], order=1, mode="nearest", grid_mode=True)
