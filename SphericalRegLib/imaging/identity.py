"""Telling whether two CTs are the same one, whatever file format or grid they came in.

A model that was trained for one patient is of no use on another's CT, and nothing would say so: a few moments of the attenuation tell them apart, and
survive resampling, another file format and a shift of the whole world.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from .attenuation import Attenuation

MASS_TOLERANCE = 0.05
MOMENT_TOLERANCE_MM = 3.0
"""On grids of 2 or 4 mm the sample CTs' mass changes by up to .6 %, their centre of mass by .2 mm and their extent by .3 mm; the two differ from each
other by 40 %, 12 mm and 7 mm."""


@dataclass(frozen=True)
class CtIdentity:
    """Moments of a CT's attenuation, world axes.

    Attributes:
        name: of the file or sample.
        centre_ras_mm: centre of the uncropped grid.
        mass_mm2: integral of the attenuation over the volume, mm^3 / mm.
        offset_mm: from the grid's centre to the centre of mass.
        spread_mm: standard deviation of the mass along each world axis.
    """

    name: str
    centre_ras_mm: tuple[float, float, float]
    mass_mm2: float
    offset_mm: tuple[float, float, float]
    spread_mm: tuple[float, float, float]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for a model card."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> CtIdentity:
        """Back from `to_dict`; raises KeyError, TypeError or ValueError for anything else."""
        vectors = {key: _triple(values[key]) for key in ("centre_ras_mm", "offset_mm", "spread_mm")}
        return cls(str(values["name"]), mass_mm2=float(values["mass_mm2"]), **vectors)

    def differs_from(self, other: CtIdentity) -> str | None:
        """In words, what tells two CTs apart, or None if they are the same one (up to a shift of the world)."""
        if abs(self.mass_mm2 - other.mass_mm2) > MASS_TOLERANCE * max(self.mass_mm2, other.mass_mm2):
            return f"its attenuation differs by {100 * (self.mass_mm2 / max(other.mass_mm2, 1e-9) - 1):+.0f} %"
        offset = float(np.linalg.norm(np.subtract(self.offset_mm, other.offset_mm)))
        spread = float(np.abs(np.subtract(self.spread_mm, other.spread_mm)).max())
        if offset > MOMENT_TOLERANCE_MM:
            return f"its centre of mass lies {offset:.0f} mm elsewhere"
        if spread > MOMENT_TOLERANCE_MM:
            return f"its extent differs by {spread:.0f} mm"
        return None


def ct_identity(attenuation: Attenuation, name: str = "") -> CtIdentity:
    """The moments of a CT."""
    mu, affine = attenuation.mu, attenuation.world_from_voxel
    volume = float(abs(np.linalg.det(affine[:3, :3])))
    total = float(mu.sum(dtype=np.float64))
    # Marginals along the three axes and of the three pairs of axes hold all first and second moments: one pass each, no grid of coordinates.
    index = [np.arange(size, dtype=np.float64) for size in mu.shape]
    marginal = [mu.sum(axis=tuple(b for b in range(3) if b != a), dtype=np.float64) for a in range(3)]
    mean = np.array([m @ i for m, i in zip(marginal, index)]) / total
    covariance = np.diag([m @ (i - c) ** 2 / total for m, i, c in zip(marginal, index, mean)])
    for a, b in ((0, 1), (0, 2), (1, 2)):
        plane = mu.sum(axis=3 - a - b, dtype=np.float64)
        covariance[a, b] = covariance[b, a] = (index[a] - mean[a]) @ plane @ (index[b] - mean[b]) / total
    at = affine[:3, :3] @ mean + affine[:3, 3]
    spread = np.sqrt(np.diag(affine[:3, :3] @ covariance @ affine[:3, :3].T))
    centre = np.asarray(attenuation.centre_ras_mm, dtype=np.float64)
    return CtIdentity(name, _triple(centre), total * volume, _triple(at - centre), _triple(spread))


def _triple(values: Any) -> tuple[float, float, float]:
    x, y, z = (float(value) for value in values)
    return x, y, z
