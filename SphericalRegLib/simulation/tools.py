"""Metal in the beam that is not in the CT: wires and clamps as capsules, with exact chord lengths.

A capsule is a cylinder with hemispherical ends. Tools lie in world coordinates, so that they move with the X-ray's geometry and not with a pose.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Capsule:
    """Axis from `start` to `end` (world, mm) and radius (mm)."""

    start: tuple[float, float, float]
    end: tuple[float, float, float]
    radius_mm: float


def capsule_chords(source: np.ndarray, directions: np.ndarray, capsule: Capsule) -> np.ndarray:
    """Length (mm) that lies inside a capsule of each half-line from `source` (3,) along unit `directions` (..., 3): (...) float64.

    A capsule is convex, so each ray meets it in one interval: the hull of its intervals with the cylinder's mantle and the two spheres.
    """
    a, b = np.asarray(capsule.start, float), np.asarray(capsule.end, float)
    directions = np.asarray(directions, float)
    near, far = _sphere_interval(source, directions, a, capsule.radius_mm)
    for low, high in (_sphere_interval(source, directions, b, capsule.radius_mm), _cylinder_interval(source, directions, a, b, capsule.radius_mm)):
        near, far = np.minimum(near, low), np.maximum(far, high)  # an empty interval is (inf, -inf): neutral in the hull
    return np.clip(far - np.maximum(near, 0.0), 0.0, None)


def tool_chords(source: np.ndarray, directions: np.ndarray, capsules: tuple[Capsule, ...]) -> np.ndarray:
    """Sum of the chords (mm) of several capsules; where two overlap (the joint of a clamp) both count, as of two crossing rods."""
    total = np.zeros(np.asarray(directions).shape[:-1])
    for capsule in capsules:
        total += capsule_chords(source, directions, capsule)
    return total


def k_wire(rng: np.random.Generator, around: np.ndarray, extent_mm: float) -> tuple[Capsule, ...]:
    """A straight wire of .8-1.25 mm radius and 80-200 mm length whose middle lies within `extent_mm` of `around` (world, mm)."""
    middle = np.asarray(around) + rng.uniform(-extent_mm, extent_mm, 3)
    half = 0.5 * rng.uniform(80.0, 200.0) * _random_direction(rng)
    return (Capsule(_point(middle - half), _point(middle + half), float(rng.uniform(0.8, 1.25))),)


def screw(rng: np.random.Generator, around: np.ndarray, extent_mm: float) -> tuple[Capsule, ...]:
    """A shaft of 1.5-2.5 mm radius, 25-60 mm long, with a rounder head."""
    start = np.asarray(around) + rng.uniform(-extent_mm, extent_mm, 3)
    direction = _random_direction(rng)
    radius = float(rng.uniform(1.5, 2.5))
    return (
        Capsule(_point(start), _point(start + rng.uniform(25.0, 60.0) * direction), radius),
        Capsule(_point(start - 2.0 * direction), _point(start), 1.8 * radius),
    )


def clamp(rng: np.random.Generator, around: np.ndarray, extent_mm: float) -> tuple[Capsule, ...]:
    """Two curved-looking arms that cross in a joint: rods of 2-3.5 mm radius to the rings and four fifths of it to the tips, 120-180 mm in all."""
    joint = np.asarray(around) + rng.uniform(-extent_mm, extent_mm, 3)
    along = _random_direction(rng)
    across = np.cross(along, _random_direction(rng))
    across /= np.linalg.norm(across)
    length, opening, radius = rng.uniform(60.0, 90.0), rng.uniform(0.08, 0.3), float(rng.uniform(2.0, 3.5))
    rods = []
    for side in (-1.0, 1.0):
        tip = joint + length * (along + 0.5 * side * opening * across)
        ring = joint - length * (along + side * opening * across)
        rods += [Capsule(_point(joint), _point(tip), 0.8 * radius), Capsule(_point(ring), _point(joint), radius)]
    return tuple(rods)


def _sphere_interval(source: np.ndarray, directions: np.ndarray, centre: np.ndarray, radius: float) -> tuple[np.ndarray, np.ndarray]:
    offset = np.asarray(source, float) - centre
    half_b = directions @ offset
    # The distance of the ray's line to the centre comes from a cross product: half_b^2 - |offset|^2 loses all digits for a thin wire far away.
    distance_squared = (np.cross(directions, offset) ** 2).sum(-1)
    return _interval(-half_b, radius * radius - distance_squared)


def _cylinder_interval(
    source: np.ndarray, directions: np.ndarray, a: np.ndarray, b: np.ndarray, radius: float
) -> tuple[np.ndarray, np.ndarray]:
    """Interval of each ray inside the finite cylinder about a-b without its caps' spheres."""
    length = float(np.linalg.norm(b - a))
    if length == 0.0:
        return _interval(np.zeros(directions.shape[:-1]), np.full(directions.shape[:-1], -1.0))
    axis = (b - a) / length
    offset = np.asarray(source, float) - a
    across, offset_across = directions - (directions @ axis)[..., None] * axis, offset - (offset @ axis) * axis
    squared = (across**2).sum(-1)
    steep = squared > 1e-18  # otherwise the ray runs along the axis: the spheres' hull holds its whole chord
    safe = np.where(steep, squared, 1.0)
    middle = -(across @ offset_across) / safe
    distance_squared = (np.cross(across, offset_across) ** 2).sum(-1) / safe
    near, far = _interval(middle, np.where(steep, (radius * radius - distance_squared) / safe, -1.0))
    slope, height = directions @ axis, offset @ axis
    with np.errstate(divide="ignore", invalid="ignore"):
        at_a, at_b = -height / slope, (length - height) / slope
    flat = np.abs(slope) < 1e-12
    inside = (height >= 0.0) & (height <= length)
    low = np.where(flat, np.where(inside, -np.inf, np.inf), np.minimum(at_a, at_b))
    high = np.where(flat, np.where(inside, np.inf, -np.inf), np.maximum(at_a, at_b))
    near, far = np.maximum(near, low), np.minimum(far, high)
    empty = near > far
    return np.where(empty, np.inf, near), np.where(empty, -np.inf, far)


def _interval(middle: np.ndarray, half_squared: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    half = np.sqrt(np.clip(half_squared, 0.0, None))
    empty = half_squared < 0.0
    return np.where(empty, np.inf, middle - half), np.where(empty, -np.inf, middle + half)


def _random_direction(rng: np.random.Generator) -> np.ndarray:
    direction = rng.standard_normal(3)
    return direction / np.linalg.norm(direction)


def _point(values: np.ndarray) -> tuple[float, float, float]:
    return (float(values[0]), float(values[1]), float(values[2]))
