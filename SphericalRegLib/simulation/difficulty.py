"""What makes a simulated X-ray easy or hard: three written-down levels, and the exposure that is drawn from one.

Pairs (low, high) are ranges; each image draws from them uniformly.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from SphericalRegLib.errors import InputError

from .detector import DisplayCurve, Shutter
from .spectrum import TUBE_KVP

Range = tuple[float, float]


@dataclass(frozen=True)
class Difficulty:
    """A level.

    Attributes:
        name: of the level.
        kvp: tube voltage, kV.
        filtration_mm_al: aluminium that hardens the beam, mm.
        scatter_ratio: mean scatter-to-primary ratio over the object, behind the grid.
        scatter_width_mm: standard deviation of the scatter's blur on the detector.
        focal_spot_mm: standard deviation of the blur before detection, mm on the detector.
        scintillator_mm: standard deviation of the blur after detection: it correlates the noise.
        dose_quanta_per_mm2: quanta that reach the detector behind the patient (median of the open field).
        electronic_quanta: standard deviation of the electronic noise, quanta per pixel.
        shading: relative change of the signal from one edge of the image to the other (heel effect, gain), along a random direction; where that is a
            diagonal, 1.41 times as much from corner to corner.
        full_well: detector saturation as a multiple of the median signal in the field; air beyond it is lost.
        shutter_share: open part of the detector's half width and half height; (1, 1) means no shutter.
        circle_chance: probability that the opening is round.
        shutter_tilt_deg: largest turn of a rectangular opening.
        display: None stores 16-bit raw counts; otherwise 8-bit display grey values.
        wires, screws, clamps: how many at most; each image draws a number from 0 (from 1 where `always_tools`) to it.
        always_tools: every image has at least one of each kind that is allowed.
        continued_mm: how far the patient goes on beyond the CT's cut ends.

    Raises:
        InputError: a tube voltage that there is no spectrum for, or negative filtration.
    """

    name: str
    kvp: Range
    filtration_mm_al: Range
    scatter_ratio: Range
    scatter_width_mm: Range
    focal_spot_mm: Range
    scintillator_mm: Range
    dose_quanta_per_mm2: Range
    electronic_quanta: float
    shading: Range
    full_well: Range
    shutter_share: Range
    circle_chance: float
    shutter_tilt_deg: float
    display: DisplayRange | None
    wires: int = 0
    screws: int = 0
    clamps: int = 0
    always_tools: bool = False
    continued_mm: float = 0.0

    def __post_init__(self) -> None:
        if not TUBE_KVP[0] <= min(self.kvp) <= max(self.kvp) <= TUBE_KVP[1]:
            raise InputError(f"the level {self.name!r} has a tube voltage of {self.kvp} kVp, expected {TUBE_KVP[0]:g} to {TUBE_KVP[1]:g} kVp")
        if min(self.filtration_mm_al) < 0.0:
            raise InputError(f"the level {self.name!r} has a filtration of {self.filtration_mm_al} mm Al, expected at least 0")


@dataclass(frozen=True)
class DisplayRange:
    """Ranges of `DisplayCurve`: both percentiles' distance from 0 and 100, and the curve's parameters."""

    window_tail_percent: Range
    gamma: Range
    sigmoid: Range
    compression: Range
    inverted_chance: float
    blanked_chance: float


CLEAN = Difficulty(
    name="clean",
    kvp=(80.0, 80.0),
    filtration_mm_al=(4.0, 4.0),
    scatter_ratio=(0.0, 0.0),
    scatter_width_mm=(40.0, 40.0),
    focal_spot_mm=(0.1, 0.1),
    scintillator_mm=(0.1, 0.1),
    dose_quanta_per_mm2=(100_000.0, 100_000.0),
    electronic_quanta=0.0,
    shading=(0.0, 0.0),
    full_well=(1000.0, 1000.0),
    shutter_share=(1.0, 1.0),
    circle_chance=0.0,
    shutter_tilt_deg=0.0,
    display=None,
)
"""Another physics and nothing else: beam hardening, a cubic interpolant, hardly any noise, raw counts. The patient ends where the CT ends."""

REALISTIC = Difficulty(
    name="realistic",
    kvp=(65.0, 90.0),
    filtration_mm_al=(3.0, 6.0),
    scatter_ratio=(0.2, 0.5),
    scatter_width_mm=(25.0, 60.0),
    focal_spot_mm=(0.1, 0.25),
    scintillator_mm=(0.15, 0.3),
    dose_quanta_per_mm2=(3_000.0, 10_000.0),
    electronic_quanta=5.0,
    shading=(0.0, 0.1),
    full_well=(5.0, 12.0),
    shutter_share=(0.8, 0.98),
    circle_chance=0.3,
    shutter_tilt_deg=4.0,
    display=DisplayRange(
        window_tail_percent=(0.0, 1.0), gamma=(0.7, 1.2), sigmoid=(0.0, 4.0), compression=(0.0, 0.0), inverted_chance=0.25, blanked_chance=0.5
    ),
    wires=2,
    continued_mm=100.0,
)
"""An averaged fluoroscopy image as a C-arm stores it: scatter, noise, a light collimator, an unknown display curve in 8 bits, up to two wires."""

HARD = Difficulty(
    name="hard",
    kvp=(60.0, 110.0),
    filtration_mm_al=(2.5, 8.0),
    scatter_ratio=(0.6, 1.5),
    scatter_width_mm=(15.0, 60.0),
    focal_spot_mm=(0.2, 0.5),
    scintillator_mm=(0.2, 0.5),
    dose_quanta_per_mm2=(300.0, 1_500.0),
    electronic_quanta=8.0,
    shading=(0.1, 0.3),
    full_well=(3.0, 6.0),
    shutter_share=(0.55, 0.8),
    circle_chance=0.5,
    shutter_tilt_deg=12.0,
    display=DisplayRange(
        window_tail_percent=(0.5, 4.0), gamma=(0.5, 1.6), sigmoid=(1.0, 6.0), compression=(0.0, 0.6), inverted_chance=0.5, blanked_chance=0.5
    ),
    wires=3,
    screws=3,
    clamps=1,
    always_tools=True,
    continued_mm=100.0,
)
"""A single low-dose frame with strong scatter, tight and tilted shutters, a harsh display curve with range compression, and metal in the way."""

DIFFICULTIES: dict[str, Difficulty] = {level.name: level for level in (CLEAN, REALISTIC, HARD)}


def difficulty(name: str) -> Difficulty:
    """One of `DIFFICULTIES` by name.

    Raises:
        InputError: for another name.
    """
    if name not in DIFFICULTIES:
        raise InputError(f"there is no difficulty {name!r}: known are {', '.join(DIFFICULTIES)}")
    return DIFFICULTIES[name]


@dataclass(frozen=True)
class Exposure:
    """One image's settings, drawn from a `Difficulty`; units as there."""

    kvp: float
    filtration_mm_al: float
    scatter_ratio: float
    scatter_width_mm: float
    focal_spot_mm: float
    scintillator_mm: float
    dose_quanta_per_mm2: float
    electronic_quanta: float
    shading: float
    shading_angle_deg: float
    full_well: float
    shutter: Shutter | None
    display: DisplayCurve | None


def draw_exposure(level: Difficulty, size_px: tuple[int, int], spacing_mm: tuple[float, float], rng: np.random.Generator) -> Exposure:
    """Settings of one image of `size_px` (columns, rows) and `spacing_mm` (column, row)."""

    def draw(limits: Range) -> float:
        return float(rng.uniform(*limits))

    def draw_log(limits: Range) -> float:
        return float(np.exp(rng.uniform(*np.log(limits))))

    return Exposure(
        kvp=draw(level.kvp),
        filtration_mm_al=draw(level.filtration_mm_al),
        scatter_ratio=draw(level.scatter_ratio),
        scatter_width_mm=draw(level.scatter_width_mm),
        focal_spot_mm=draw(level.focal_spot_mm),
        scintillator_mm=draw(level.scintillator_mm),
        dose_quanta_per_mm2=draw_log(level.dose_quanta_per_mm2),
        electronic_quanta=level.electronic_quanta,
        shading=draw(level.shading),
        shading_angle_deg=draw((0.0, 360.0)),
        full_well=draw_log(level.full_well),
        shutter=_draw_shutter(level, size_px, spacing_mm, rng),
        display=None if level.display is None else _draw_display(level.display, rng),
    )


def _draw_shutter(level: Difficulty, size_px: tuple[int, int], spacing_mm: tuple[float, float], rng: np.random.Generator) -> Shutter | None:
    if min(level.shutter_share) >= 1.0:
        return None
    half = np.array([0.5 * n * s for n, s in zip(size_px, spacing_mm)])
    share = rng.uniform(*level.shutter_share, 2)
    opening = share * half
    round_one = bool(rng.random() < level.circle_chance)
    if round_one:  # an image intensifier's circle: it may reach a little over the nearer edge
        opening = np.full(2, share[0] * half.min() * 1.1)
    slack = np.clip(half - opening, 0.0, None) / np.array(spacing_mm)
    centre = (np.array(size_px) - 1) / 2 + 0.5 * slack * rng.uniform(-1.0, 1.0, 2)
    tilt = float(rng.uniform(-level.shutter_tilt_deg, level.shutter_tilt_deg))
    return Shutter(
        shape="circle" if round_one else "rectangle",
        centre_px=(float(centre[0]), float(centre[1])),
        half_size_mm=(float(opening[0]), float(opening[1])),
        angle_deg=0.0 if round_one else tilt,
        penumbra_mm=float(rng.uniform(0.3, 1.0)),
    )


def _draw_display(ranges: DisplayRange, rng: np.random.Generator) -> DisplayCurve:
    low, high = rng.uniform(*ranges.window_tail_percent, 2)
    return DisplayCurve(
        window_percentiles=(float(low), 100.0 - float(high)),
        gamma=float(rng.uniform(*ranges.gamma)),
        sigmoid=float(rng.uniform(*ranges.sigmoid)),
        compression=float(rng.uniform(*ranges.compression)),
        inverted=bool(rng.random() < ranges.inverted_chance),
        blanked=bool(rng.random() < ranges.blanked_chance),
    )
