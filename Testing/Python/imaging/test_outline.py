"""Straight and round outlines, from points on parts of them and from others that lie anywhere."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from SphericalRegLib.imaging.outline import OUTWARD, BorderPoints, OpenField, fit_outline, of_edges

SIZE = 200


def seen_from_each_side(field: OpenField, seed: int, hidden: float = 0.0, astray: int = 0) -> BorderPoints:
    """Points on a field's border, to a fraction of a pixel, less a share of them at one place; and some that are nowhere near it."""
    rng = np.random.default_rng(seed)
    points, edge = field.border(SIZE, SIZE)
    first = int(rng.integers(len(points)))
    kept = np.roll(np.arange(len(points)), first) >= hidden * len(points)
    points, normals = points[kept], field.normals[edge[kept]]
    points = points + 0.2 * rng.normal(size=points.shape)
    side = (normals @ OUTWARD.T).argmax(1)
    others = rng.uniform(0.3 * SIZE, 0.7 * SIZE, (astray, 2))
    return BorderPoints(
        np.concatenate((points, others)), np.ones(len(points) + astray), np.concatenate((side, rng.integers(0, 4, astray)))
    )


def rectangle(turn_deg: float, middle: tuple[float, float], half: tuple[float, float]) -> OpenField:
    angle = np.radians(turn_deg)
    across, down = np.array([np.cos(angle), np.sin(angle)]), np.array([-np.sin(angle), np.cos(angle)])
    normals = np.array([across, -across, down, -down])
    return of_edges(normals, normals @ np.array(middle) + np.repeat(half, 2), 1.5)


def circle(middle: tuple[float, float], radius: float) -> OpenField:
    angle = np.linspace(0, 2 * np.pi, 180, endpoint=False)
    normals = np.stack((np.cos(angle), np.sin(angle)), 1)
    return OpenField(normals, normals @ np.array(middle) + radius, 1.5, "circle")


def are_one(a: OpenField, b: OpenField) -> bool:
    """Whether each of two fields lies within a pixel of the other."""
    return not any((one.mask(SIZE, SIZE, margin=1.0) & ~other.mask(SIZE, SIZE)).any() for one, other in ((a, b), (b, a)))


@settings(deadline=None, max_examples=40)
@given(st.floats(-20, 20), st.floats(80, 120), st.floats(80, 120), st.floats(50, 70), st.floats(50, 70), st.integers(0, 10**6))
def test_a_rectangle_is_found_among_points_astray(turn, x, y, half_x, half_y, seed):
    true = rectangle(turn, (x, y), (half_x, half_y))
    found = fit_outline(seen_from_each_side(true, seed, hidden=0.12, astray=60), 1.5)
    assert any(field.shape == "rectangle" and are_one(field, true) for field in found[:3])


@settings(deadline=None, max_examples=40)
@given(st.floats(80, 120), st.floats(80, 120), st.floats(50, 130), st.integers(0, 10**6))
def test_a_circle_is_found_first_in_part_or_cut_by_the_image(x, y, radius, seed):
    true = circle((x, y), radius)
    if len(true.border(SIZE, SIZE)[0]) < 150:
        return
    found = fit_outline(seen_from_each_side(true, seed, hidden=0.25, astray=40), 1.5)
    assert found[0].shape == "circle" and are_one(found[0], true)


@pytest.mark.parametrize("seed", range(5))
def test_an_octagon_is_no_circle(seed):
    angle = np.arange(8) * np.pi / 4 + 0.1
    normals = np.stack((np.cos(angle), np.sin(angle)), 1)
    true = of_edges(normals, normals @ np.array([100.0, 100.0]) + 80, 1.5)
    found = fit_outline(seen_from_each_side(true, seed), 1.5)
    assert true.shape == found[0].shape == "polygon" and are_one(found[0], true)


def test_nothing_is_found_in_no_points_and_in_a_handful():
    nothing = BorderPoints(np.zeros((0, 2)), np.zeros(0), np.zeros(0, dtype=int))
    assert fit_outline(nothing, 1.5) == []
    few = BorderPoints(np.random.default_rng(0).uniform(0, SIZE, (5, 2)), np.ones(5), np.arange(5) % 4)
    assert fit_outline(few, 1.5) == []


def test_names_of_what_edges_make():
    true = rectangle(10, (100, 100), (50, 60))
    assert true.shape == "rectangle" and true.only(np.array([1, 0, 1, 0], dtype=bool)).shape == "rectangle"
    turned = of_edges(np.array([[1.0, 0], [np.cos(0.6), np.sin(0.6)]]), np.array([50.0, 50]), 1.5)
    assert turned.shape == "polygon"


def test_border_points_lie_on_their_edges_inside_the_image():
    field = rectangle(7, (100, 90), (120, 50))
    points, edge = field.border(SIZE, SIZE)
    assert np.abs((points * field.normals[edge]).sum(1) - field.offsets[edge]).max() < 1e-9
    assert (points >= 0).all() and (points <= SIZE - 1).all() and (points @ field.normals.T <= field.offsets + 1e-5).all()
