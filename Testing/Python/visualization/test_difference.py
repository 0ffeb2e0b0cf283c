"""Exact colours and signs of the difference maps."""

import numpy as np
import pytest

from SphericalRegLib.errors import InputError
from SphericalRegLib.visualization.difference import colour_limit, compare_drrs, compare_xray, difference_map, diverging, signed_difference
from SphericalRegLib.visualization.display import OUTSIDE

UNIT = (0.0, 1.0)


def smooth(seed: int = 0, shape: tuple[int, int] = (40, 50)) -> np.ndarray:
    rows, columns = np.indices(shape)
    return (np.sin(rows / 7 + seed) + np.cos(columns / 9) + 0.02 * columns).astype(np.float32)


def test_pixels_are_neutral_where_equal_red_where_only_fixed_blue_where_only_moving():
    fixed = np.array([[0.0, 1.0, 1.0], [0.0, 0.6, 0.2]])
    moving = np.array([[0.0, 1.0, 0.0], [1.0, 0.6, 0.4]])
    expected = [[[0, 0, 0], [255, 255, 255], [255, 0, 0]], [[0, 0, 255], [153, 153, 153], [51, 51, 102]]]
    picture = difference_map(fixed, moving, window=UNIT)
    assert picture.dtype == np.uint8
    assert picture.tolist() == expected


def test_the_strength_of_the_colour_is_the_size_of_the_difference():
    fixed, moving = smooth(0), smooth(1)
    picture = difference_map(fixed, moving, window=(-1.0, 3.0)).astype(int)
    strength = picture.max(axis=-1) - picture.min(axis=-1)
    np.testing.assert_allclose(strength / 255, np.abs(signed_difference(fixed, moving, window=(-1.0, 3.0))), atol=1 / 255 + 1e-6)


def test_signed_difference_is_positive_where_the_fixed_image_is_denser():
    fixed = np.array([[1.0, 0.0, 0.5]])
    moving = np.array([[0.0, 1.0, 0.25]])
    np.testing.assert_allclose(signed_difference(fixed, moving, window=UNIT), [[1.0, -1.0, 0.25]])


def test_diverging_colours_agree_with_the_difference_map():
    plus, zero, minus, unknown = diverging(np.array([[0.3, 0.0, -0.3, np.nan]]), limit=0.3)[0]
    assert plus[0] > plus[2] + 50, "positive is red"
    assert minus[2] > minus[0] + 50, "negative is blue"
    assert zero.min() > 240 and np.ptp(zero.astype(int)) <= 2, "zero is white"
    assert tuple(unknown) == OUTSIDE


def test_outside_the_mask_and_not_finite_is_slate():
    fixed, moving = smooth(), smooth()
    mask = np.ones(fixed.shape, bool)
    mask[0, 0] = False
    fixed[1, 1], moving[2, 2] = np.nan, np.inf
    picture = difference_map(fixed, moving, mask)
    signed = signed_difference(fixed, moving, mask)
    for pixel in ((0, 0), (1, 1), (2, 2)):
        assert tuple(picture[pixel]) == OUTSIDE
        assert np.isnan(signed[pixel])
    assert np.isfinite(signed).sum() == signed.size - 3


def test_values_outside_the_mask_have_no_say():
    fixed, moving = smooth(0), smooth(1)
    mask = np.ones(fixed.shape, bool)
    mask[:, :10] = False
    spoilt = fixed.copy()
    spoilt[:, :10] = 1e6
    np.testing.assert_array_equal(difference_map(fixed, moving, mask), difference_map(spoilt, moving, mask))


def test_one_hot_pixel_changes_nothing_elsewhere():
    fixed, moving = smooth(0), smooth(1)
    hot = fixed.copy()
    hot[5, 5] = 1e9
    rows, columns = np.indices(fixed.shape)
    distance = np.hypot(rows - 5, columns - 5)
    for compare, reach in ((compare_drrs, 0), (compare_xray, 10)):  # local contrast looks around itself
        map_before, signed_before = compare(fixed, moving)
        map_after, signed_after = compare(hot, moving)
        assert np.abs(map_after.astype(int) - map_before).max(axis=-1).ravel().argmax() == 5 * 50 + 5
        assert np.abs(signed_after - signed_before)[distance > reach].max() < 0.05


def test_an_xrays_unknown_response_is_not_a_difference():
    rows, columns = np.indices((96, 96))
    drr = (smooth(0, (96, 96)) + np.sin(columns / 3) * np.cos(rows / 4)).astype(np.float32)
    xray = np.sqrt(drr + 4) * 40 + 0.5 * columns  # a display curve and a heel effect
    right = np.abs(compare_xray(xray, drr)[1])
    shifted = np.abs(compare_xray(xray, np.roll(drr, 2, axis=1))[1])
    assert right.mean() < 0.03
    assert shifted.mean() > 3 * right.mean(), "a displacement of two pixels stands out"
    plain = np.abs(signed_difference(xray, drr)).mean()
    assert plain > 3 * right.mean(), "without local contrast the response shows"


def test_a_shift_shows_both_colours():
    rows, columns = np.indices((60, 60))
    disc = (np.hypot(rows - 30, columns - 30) < 15).astype(float)
    signed = compare_drrs(disc, np.roll(disc, 4, axis=1))[1]
    assert signed[30, 16] == 1.0, "left rim: only in the fixed image"
    assert signed[30, 47] == -1.0, "right rim: only in the moving one"
    assert signed[30, 30] == 0.0


def test_colour_limit_is_shared_and_never_tiny():
    assert colour_limit(np.zeros((4, 4)), np.full((2, 2), np.nan)) == 0.15
    assert colour_limit(np.full((4, 4), -0.4), np.full((4, 4), 0.1)) == pytest.approx(0.4)


@pytest.mark.parametrize(
    "fixed, moving, mask, words",
    [
        (np.zeros((3, 4)), np.zeros((4, 3)), None, ["moving has shape (4, 3)", "fixed has (3, 4)"]),
        (np.zeros((3, 4)), np.zeros((3, 4)), np.ones((2, 2), bool), ["mask has shape (2, 2)"]),
        (np.zeros((3, 4, 3)), np.zeros((3, 4)), None, ["fixed has shape (3, 4, 3)", "one grey image"]),
        (np.zeros((3, 4)), np.zeros((3, 4)), np.zeros((3, 4), bool), ["no pixel"]),
        (np.full((3, 4), np.nan), np.zeros((3, 4)), None, ["no pixel"]),
        (np.zeros((3, 4), complex), np.zeros((3, 4)), None, ["complex"]),
        (np.zeros((0, 4)), np.zeros((0, 4)), None, ["(0, 4)"]),
    ],
)
def test_input_that_cannot_be_compared_is_named(fixed, moving, mask, words):
    with pytest.raises(InputError) as caught:
        difference_map(fixed, moving, mask)
    for word in words:
        assert word in str(caught.value)
