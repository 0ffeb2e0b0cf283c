"""Display windows, edges, blends and checkerboards."""

import numpy as np
import pytest

from SphericalRegLib.errors import InputError
from SphericalRegLib.visualization.display import display_window, even_tone, grey, local_contrast, match_intensities, resize_to_width, to_unit
from SphericalRegLib.visualization.overlay import ESTIMATE_COLOUR, blend, checkerboard, contour, draw, edge_overlay, edges, toned


def disc(radius: float = 25, size: int = 96) -> np.ndarray:
    rows, columns = np.indices((size, size))
    return np.clip(radius + 0.5 - np.hypot(rows - size / 2, columns - size / 2), 0, 1).astype(np.float32)


def test_window_ignores_a_hot_and_a_dead_pixel():
    image = np.linspace(1, 2, 10000).reshape(100, 100)
    image[3, 3], image[4, 4] = 1e7, -1e7
    low, high = display_window(image)
    assert 1.0 <= low < 1.01 and 1.99 < high <= 2.0


def test_window_of_a_constant_image_is_empty_and_shows_black():
    window = display_window(np.full((5, 5), 3.0))
    assert window == (3.0, 3.0)
    assert not to_unit(np.full((5, 5), 3.0), window).any()


def test_window_keeps_a_small_object_in_a_flat_image():
    image = np.zeros((100, 100))
    image[50, 50] = 1.0
    assert display_window(image) == (0.0, 1.0)


def test_to_unit_clips_and_hides_what_is_not_finite():
    np.testing.assert_allclose(to_unit(np.array([[-1, 0, 1, 2, 3, np.nan, np.inf, -np.inf]]), (0, 2)), [[0, 0, 0.5, 1, 1, 0, 1, 0]])


def test_matching_undoes_any_increasing_curve_and_keeps_order():
    truth = np.random.default_rng(0).gamma(3.0, size=(80, 80)).astype(np.float32)
    matched = match_intensities(np.sqrt(truth) * 5 - 3, truth)
    inner = (truth > np.quantile(truth, 0.02)) & (truth < np.quantile(truth, 0.98))
    assert np.abs(matched - truth)[inner].max() < 0.02 * np.ptp(truth)
    order = np.argsort(truth, axis=None)
    assert (np.diff(matched.ravel()[order]) >= 0).all()


def test_matching_bears_a_constant_image():
    assert np.isfinite(match_intensities(np.ones((8, 8)), np.arange(64.0).reshape(8, 8))).all()


def test_tone_curve_is_increasing_and_shows_faint_parts():
    image = np.linspace(0, 1, 4000).reshape(50, 80) ** 6
    shown = even_tone(image, image)
    assert (np.diff(shown.ravel()) >= 0).all() and shown.min() == 0 and shown.max() == 1
    assert np.median(shown) > 0.2 > 5 * np.median(image)
    np.testing.assert_allclose(even_tone(image, image, evenness=0.0), to_unit(image, display_window(image)))
    assert not even_tone(np.ones((5, 5)), np.ones((5, 5))).any()


def test_local_contrast_drops_slow_and_linear_changes_and_keeps_edges():
    rows, columns = np.indices((96, 96))
    texture = np.sin(columns / 2.0) * np.cos(rows / 3.0)
    flat = local_contrast(texture)
    shaded = local_contrast(4 * texture + 0.05 * columns + 7)
    inner = np.s_[16:-16, 16:-16]
    assert np.corrcoef(flat[inner].ravel(), shaded[inner].ravel())[0, 1] > 0.99
    assert 0.6 < shaded[inner].std() < 1.1
    mask = columns > 30
    spoilt = np.where(mask, texture, 1e4)
    np.testing.assert_array_equal(local_contrast(spoilt, mask), local_contrast(texture, mask))
    assert not local_contrast(np.ones((20, 20))).any()


def test_grey_is_bright_where_dense_and_dim_outside_the_mask():
    image = np.array([[0.0, 1.0], [1.0, 1.0]])
    mask = np.array([[True, True], [True, False]])
    assert grey(image, mask, (0.0, 1.0))[..., 0].tolist() == [[0, 255], [255, 51]]


def test_edges_lie_on_the_rim_of_a_disc():
    lines = edges(disc(25))
    rows, columns = np.nonzero(lines > 0.5)
    radii = np.hypot(rows - 48, columns - 48)
    assert len(radii) > 100
    assert np.abs(radii - 25).max() < 2.0
    angles = np.unique(np.round(np.degrees(np.arctan2(rows - 48, columns - 48)) / 10))
    assert len(angles) >= 36, "the rim is closed"


def test_a_flat_image_has_no_edges_and_the_mask_makes_none():
    assert not edges(np.ones((40, 40))).any()
    mask = np.zeros((96, 96), bool)
    mask[10:80, 10:80] = True
    lines = edges(disc(20) + 5, mask)
    assert not lines[~mask].any()
    rows, columns = np.nonzero(lines)
    assert np.hypot(rows - 48, columns - 48).max() < 25


def test_overlay_is_grey_away_from_edges_and_coloured_on_them():
    picture = edge_overlay(disc(30), disc(30))
    background = toned(disc(30))
    lines = edges(disc(30))
    np.testing.assert_array_equal(picture[lines == 0], background[lines == 0])
    assert (picture[lines == 1] == ESTIMATE_COLOUR).all()


def test_draw_mixes_exactly():
    picture = np.full((1, 3, 3), 100, np.uint8)
    drawn = draw(picture, np.array([[0.0, 0.5, 1.0]]), (200, 0, 50))
    assert drawn.tolist() == [[[100, 100, 100], [150, 50, 75], [200, 0, 50]]]


def test_blend_and_checkerboard_show_the_right_image():
    fixed, moving = disc(20), disc(30)
    ours, theirs = blend(fixed, moving, opacity=0.0), blend(fixed, moving, opacity=1.0)
    np.testing.assert_array_equal(ours, toned(fixed))
    assert theirs[48, 48 + 25, 0] > 60 and ours[48, 48 + 25, 0] == 0
    board = checkerboard(fixed, moving, tiles=8)  # squares of 12 pixels
    np.testing.assert_array_equal(board[:12, :12], ours[:12, :12])
    np.testing.assert_array_equal(board[:12, 12:24], theirs[:12, 12:24])
    np.testing.assert_array_equal(board[12:24, 12:24], ours[12:24, 12:24])


def test_contour_is_on_the_border():
    mask = np.zeros((20, 20), bool)
    mask[5:15, 5:15] = True
    line = contour(mask)
    assert line[10, 4] > 0.5 and line[10, 5] > 0.5
    assert line[10, 10] == 0 and line[0, 0] == 0
    assert not contour(np.zeros((4, 4))).any() and not contour(np.ones((4, 4))).any()


def test_resize_keeps_masks_binary_and_values_in_place():
    image = np.arange(12.0, dtype=np.float32).reshape(3, 4)
    assert resize_to_width(image, 8).shape == (6, 8)
    mask = resize_to_width(image > 5, 8)
    assert mask.dtype == bool and mask.shape == (6, 8)
    assert resize_to_width(np.zeros((3, 4, 3), np.uint8), 8).shape == (6, 8, 3)


@pytest.mark.parametrize("call", [lambda: blend(disc(), disc(), opacity=1.5), lambda: checkerboard(disc(), disc(), tiles=0)])
def test_impossible_options_are_named(call):
    with pytest.raises(InputError):
        call()


def test_overlay_refuses_other_shapes():
    with pytest.raises(InputError, match="same grid"):
        edge_overlay(disc(), disc(20, 64))
