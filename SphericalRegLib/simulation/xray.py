"""One X-ray: material line integrals and an exposure in, a stored image out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .detector import add_noise, blur, open_field_quanta, scatter, shutter_distance_mm, shutter_opening, to_counts, to_display
from .difficulty import Exposure
from .spectrum import transmission, tungsten_spectrum


@dataclass(frozen=True)
class SimulatedXray:
    """A stored image.

    Attributes:
        pixels: (H, W) uint16 raw counts or uint8 display grey values.
        intensity: "counts" or "display", as in geometry.json.
        inverted: white is bone.
        field: (H, W) bool, the part that the collimator leaves open.
    """

    pixels: np.ndarray
    intensity: str
    inverted: bool
    field: np.ndarray


def expose(areal_density: np.ndarray, spacing_mm: tuple[float, float], exposure: Exposure, rng: np.random.Generator) -> SimulatedXray:
    """The detector's image of what the beam passed through.

    In order: filtered polyenergetic attenuation, heel effect, shutters, scatter, focal-spot blur, Poisson and electronic noise at the exposure's
    dose, scintillator blur, saturation, and quantisation as raw counts or as display grey values.

    Args:
        areal_density: (M, H, W) g/cm^2, see `materials.MATERIALS`.
        spacing_mm: pixel spacing (column, row).
        exposure: settings.
        rng: for the noise.
    """
    shape = areal_density.shape[1:]
    field = np.ones(shape, dtype=bool)
    if exposure.shutter is not None:
        field = shutter_distance_mm(exposure.shutter, shape, spacing_mm) > 0.0
    beam = _heel(shape, exposure.shading, exposure.shading_angle_deg) * shutter_opening(exposure.shutter, shape, spacing_mm)
    primary = transmission(areal_density, tungsten_spectrum(exposure.kvp, exposure.filtration_mm_al)) * beam
    signal = primary + scatter(primary, field, exposure.scatter_ratio, exposure.scatter_width_mm, spacing_mm)
    signal = blur(signal, exposure.focal_spot_mm, spacing_mm)
    quanta = open_field_quanta(signal, exposure.dose_quanta_per_mm2, field, spacing_mm)
    full_well = exposure.full_well * float(np.median(signal[field]))
    noisy = blur(add_noise(signal, quanta, exposure.electronic_quanta, rng), exposure.scintillator_mm, spacing_mm)
    noisy = np.clip(noisy, 0.0, full_well)
    if exposure.display is None:
        return SimulatedXray(to_counts(noisy, min(full_well, 1.05 * float(noisy.max()))), "counts", False, field)
    return SimulatedXray(to_display(noisy, field, exposure.display, spacing_mm), "display", exposure.display.inverted, field)


def _heel(shape: tuple[int, int], shading: float, angle_deg: float) -> np.ndarray:
    """Linear change of the beam along a direction, mean 1: by `shading` across the image along rows or columns, 1.41 times that along a diagonal."""
    y, x = np.meshgrid(np.linspace(-0.5, 0.5, shape[0]), np.linspace(-0.5, 0.5, shape[1]), indexing="ij")
    return 1.0 + shading * (np.cos(np.deg2rad(angle_deg)) * x + np.sin(np.deg2rad(angle_deg)) * y)
