"""The open field on synthetic X-rays: blades, turned blades, circles, octagons, dense anatomy at the edge, and images without any of it."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import SimpleITK as sitk
from scipy import ndimage

from SphericalRegLib.geometry.camera import Camera
from SphericalRegLib.imaging.collimator import find_blanked_border, find_open_field
from SphericalRegLib.imaging.collimator import open_mask as search_open_mask
from SphericalRegLib.imaging.outline import OpenField
from SphericalRegLib.imaging.radiograph import Radiograph

SIZE = 384
Y, X = np.mgrid[:SIZE, :SIZE].astype(float)


def anatomy(seed: int, thickness: float = 3.0, air: bool = True) -> np.ndarray:
    """Line integrals of a body with long bones and round ones at random places; with air beside it, or filling the image."""
    rng = np.random.default_rng(seed)
    if air:
        centre, half = rng.uniform(0.35, 0.65) * SIZE, rng.uniform(0.2, 0.35) * SIZE
        body = thickness * np.sqrt(np.clip(1 - ((X - centre) / half) ** 2, 0, None))
    else:
        body = thickness * (0.8 + 0.2 * np.sin(X / SIZE * 3 + seed))
    for _ in range(6):
        x, y, length, width, angle = *rng.uniform(0, SIZE, 2), rng.uniform(40, 200), rng.uniform(8, 25), rng.uniform(0, np.pi)
        along = (X - x) * np.cos(angle) + (Y - y) * np.sin(angle)
        across = -(X - x) * np.sin(angle) + (Y - y) * np.cos(angle)
        body = body + rng.uniform(0.5, 1.5) * ((np.abs(along) < length) & (np.abs(across) < width))
    return ndimage.gaussian_filter(body, 1.5)


def rectangle(left, top, right, bottom, angle_deg=0.0) -> np.ndarray:
    c, s = np.cos(np.radians(angle_deg)), np.sin(np.radians(angle_deg))
    u = (X - SIZE / 2) * c + (Y - SIZE / 2) * s + SIZE / 2
    v = -(X - SIZE / 2) * s + (Y - SIZE / 2) * c + SIZE / 2
    return (u >= left) & (u <= right) & (v >= top) & (v <= bottom)


def octagon(radius: float) -> np.ndarray:
    angles = np.arange(8) * np.pi / 4
    return np.all([(X - SIZE / 2) * np.cos(a) + (Y - SIZE / 2) * np.sin(a) <= radius for a in angles], axis=0)


FIELDS = {
    "four blades": rectangle(50, 30, 340, 350),
    "narrow": rectangle(130, 40, 250, 360),
    "one blade": rectangle(-10, -10, 300, SIZE + 10),
    "two blades": rectangle(-10, 60, SIZE + 10, 330),
    "turned 25 degrees": rectangle(70, 80, 310, 320, 25),
    "turned one blade": rectangle(-200, -200, 310, 600, 12),
    "circle": (X - SIZE / 2) ** 2 + (Y - SIZE / 2) ** 2 < (0.47 * SIZE) ** 2,
    "circle cut by the image": (X - SIZE / 2) ** 2 + (Y - SIZE / 2) ** 2 < (0.58 * SIZE) ** 2,
    "octagon": octagon(0.46 * SIZE),
}


def x_ray(line_integrals: np.ndarray, field: np.ndarray | None, seed: int = 0, photons: float = 2000.0) -> np.ndarray:
    """Counts with scatter, penumbra and noise, from 0 to 1."""
    primary = np.exp(-line_integrals)
    if field is not None:
        primary = primary * ndimage.gaussian_filter(field.astype(float), 1.5)
    signal = primary + 0.04 * ndimage.gaussian_filter(primary, 40)
    return np.random.default_rng(seed).poisson(photons * signal) / photons


def open_mask(signal: np.ndarray):
    """Of a signal in [0, 1] where all pixels count."""
    mask, fields = search_open_mask(signal, np.ones(signal.shape, bool), True, lambda counted: signal)
    return mask, (fields[-1] if fields else None)


def overlap(found: np.ndarray, true: np.ndarray) -> float:
    return float((found & true).sum() / (found | true).sum())


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("name", FIELDS)
def test_open_field_is_found(name, seed):
    field = FIELDS[name]
    mask, found = open_mask(np.clip(x_ray(anatomy(seed), field, seed), 0, 1))
    assert found is not None
    assert (mask & ~field).sum() <= 0.002 * field.sum()  # nothing blocked is used
    assert overlap(mask, field) > 0.9
    if name in ("four blades", "turned 25 degrees"):
        assert found.shape == "rectangle"
    if name == "circle":
        assert found.shape == "circle"


@pytest.mark.parametrize("thickness", [2.0, 4.0])
def test_body_that_fills_the_field(thickness):
    field = FIELDS["four blades"]
    mask, found = open_mask(np.clip(x_ray(anatomy(5, thickness, air=False), field, photons=5e4) * np.exp(thickness), 0, 1))
    assert found is not None and overlap(mask, field) > 0.9


@pytest.mark.parametrize("air", [True, False])
@pytest.mark.parametrize("thickness", [1.0, 3.0, 5.0])
@pytest.mark.parametrize("seed", range(6))
def test_nothing_is_masked_where_there_is_no_collimator(seed, thickness, air):
    signal = x_ray(anatomy(seed, thickness, air), None, seed, photons=2e4)
    assert find_open_field(np.clip(signal / np.percentile(signal, 99.9), 0, 1)) is None


def test_letters_burnt_into_the_blocked_part_do_not_matter():
    field = FIELDS["four blades"]
    signal = np.clip(x_ray(anatomy(1), field), 0, 1)
    signal[5:20, 5:25] = 1
    mask, found = open_mask(signal)
    assert found is not None and overlap(mask, field) > 0.9 and not mask[5:20, 5:25].any()


def test_a_pixel_that_does_not_count_may_be_anything():
    """In a large image, too, which is searched in blocks, and where the field is found only after the scatter has been taken away."""
    primary = np.exp(-anatomy(1)) * ndimage.gaussian_filter(FIELDS["four blades"].astype(float), 1.5)
    signal = np.kron(np.clip(primary + 0.3 * ndimage.gaussian_filter(primary, 40), 0, 1)[::2, ::2], np.ones((15, 15)))
    usable = np.ones(signal.shape, bool)
    usable[1400, 1300] = False
    whole = find_open_field(signal, usable)
    signal[1400, 1300] = np.nan
    found = find_open_field(signal, usable)
    assert whole is not None and found is not None
    assert overlap(found.mask(*signal.shape[::-1]), whole.mask(*signal.shape[::-1])) > 0.999


BLANKED = [(name, fill, inverted) for name in FIELDS for fill in (0, 255) for inverted in (False, True)]
# One side that looks like air may be air.
BLANKED = [b for b in BLANKED if b[0] not in ("octagon",) and not ("blade" in b[0] and b[0] != "four blades" and (b[1] == 255) != b[2])]


@pytest.mark.parametrize("name,fill,inverted", BLANKED)
def test_blanked_border_is_found_whatever_its_value(tmp_path, name, fill, inverted):
    field = FIELDS[name]
    grey = np.round(20 + 215 * np.clip(x_ray(anatomy(3), field), 0, 1))
    grey = np.where(field, 255 - grey if inverted else grey, fill).astype(np.uint8)
    grey[2:9, 2:20] = 255 - fill  # burnt-in letters
    path = tmp_path / "xray.png"
    sitk.WriteImage(sitk.GetImageFromArray(grey), str(path))
    read = Radiograph.read(path, Camera(1000.0, (1.0, 1.0), (SIZE, SIZE), (191.5, 191.5)), intensity="display", inverted=inverted)
    assert not (read.mask & ~field).any() and overlap(read.mask, field) > 0.88


@pytest.mark.parametrize("name", ["one blade", "turned one blade"])
def test_the_image_s_own_border_is_no_edge_of_a_blanked_one(name):
    field = FIELDS[name]
    grey = np.where(field, 20 + 215 * np.clip(x_ray(anatomy(3), field), 0, 1), 0)
    found = find_blanked_border(grey, np.ones(field.shape, bool), True)
    assert found is not None and len(found.offsets) == 1 and overlap(found.mask(SIZE, SIZE), field) > 0.98


def test_infinite_pixels_that_do_not_count_do_not_matter():
    signal, usable = np.clip(x_ray(anatomy(1), FIELDS["four blades"]), 0, 1), np.ones((SIZE, SIZE), bool)
    usable[200:204, 200:204] = False
    whole = find_open_field(signal, usable)
    signal[200:202, 200:204], signal[202:204, 200:204] = np.inf, -np.inf
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = find_open_field(signal, usable)
    assert whole is not None and found is not None and np.array_equal(found.offsets, whole.offsets)


@pytest.mark.parametrize("seed", range(4))
def test_saturated_air_around_a_body_is_no_blanked_border(seed):
    rng = np.random.default_rng(seed)
    across, down = rng.uniform(0.25, 0.4, 2) * SIZE
    plain = np.ones((SIZE, SIZE), bool)
    head = 3 * np.sqrt(np.clip(1 - ((X - 190) / across) ** 2 - ((Y - 180) / down) ** 2, 0, None))
    neck = 2 * np.sqrt(np.clip(1 - ((X - 200) / 60) ** 2, 0, None)) * (Y > 200)
    grey = np.minimum(np.round(300 * np.exp(-np.maximum(head, neck))), 255)
    limb = np.minimum(np.round(300 * np.exp(-2 * np.sqrt(np.clip(1 - ((X - 170) / (70 + 20 * seed)) ** 2, 0, None)))), 255)
    for image in (grey, limb):
        assert (image[0] == 255).mean() > 0.1
        assert find_blanked_border(image, plain, True) is None and find_blanked_border(255 - image, plain, False) is None


@pytest.mark.parametrize("x", [150, 230, 320])
@pytest.mark.parametrize("thickness", [0.3, 1.0, 3.0, 5.0])
def test_a_ball_in_saturated_air_is_no_round_shutter(x, thickness):
    ball = thickness * np.sqrt(np.clip(1 - ((X - x) / 140) ** 2 - ((Y - 190) / 140) ** 2, 0, None))
    for grey in (np.round(4000 * np.exp(-ball)), np.round(255 * (1 - ball / 6))):
        for stored in (grey, grey.astype(np.uint16)):
            assert find_blanked_border(stored, np.ones((SIZE, SIZE), bool), True) is None


@pytest.mark.parametrize("kept_from", [20, 30, 40])
def test_a_users_mask_cuts_no_dense_body_off(kept_from):
    """Few pixels, as coarse as the outline is steep: three sides fade, and the fourth is the mask's."""
    y, x = np.ogrid[:80, :96]
    inside = (np.abs(x - 45) < 28) & (np.abs(y - 40) < 26)
    depth = np.minimum(28 - np.abs(x - 45), 26 - np.abs(y - 40)).clip(0)
    grey, usable = np.where(inside, np.round(60000 * np.exp(-0.85 * np.sqrt(depth))), 60000.0), np.ones((80, 96), bool)
    usable[:, :kept_from] = False
    assert find_blanked_border(grey, usable, True) is None and find_blanked_border(grey[:, ::-1], usable[:, ::-1], True) is None


@pytest.mark.parametrize("gap", [12, 30])
def test_a_white_shutter_is_found_where_a_body_comes_near_it(gap):
    """And a pixel that does not count may be anything."""
    y, x = np.ogrid[:SIZE, :SIZE]
    field = (np.abs(x - 190) < 130) & (np.abs(y - 190) < 130)
    body = 2 * np.sqrt(np.clip(1 - ((X - 190) / (130 - gap)) ** 2 - ((Y - 190) / (130 - gap)) ** 2, 0, None))
    grey, usable = np.where(field, np.round(254 * np.exp(-body)), 255.0), np.ones((SIZE, SIZE), bool)
    usable[61, 190], grey[61, 190] = False, np.nan
    found = find_blanked_border(grey, usable, True)
    assert found is not None and overlap(found.mask(SIZE, SIZE), field) > 0.98


def dense_patient(seed: int) -> np.ndarray:
    """Line integrals of a head on a neck that runs out of the image: hardly anything comes through, so that it is as dark as the blocked part."""
    rng = np.random.default_rng(seed)
    x, width = rng.uniform(0.4, 0.6) * SIZE, rng.uniform(0.12, 0.18) * SIZE
    head = np.sqrt(np.clip(1 - ((X - x) / (0.2 * SIZE)) ** 2 - ((Y - 0.4 * SIZE) / (0.25 * SIZE)) ** 2, 0, None))
    neck = np.sqrt(np.clip(1 - ((X - x) / width) ** 2, 0, None)) * (Y > 0.45 * SIZE)
    return ndimage.gaussian_filter(7 * np.maximum(head, neck), 1.5)


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("name", ["four blades", "turned one blade", "turned 25 degrees", "circle", "circle cut by the image"])
def test_dense_anatomy_hides_a_part_of_the_border(name, seed):
    field = FIELDS[name]
    mask, found = open_mask(np.clip(x_ray(dense_patient(seed), field, seed), 0, 1))
    assert found is not None and overlap(mask, field) > 0.88
    assert (mask & ~field).sum() <= 0.01 * field.sum()


@pytest.mark.parametrize("seed", range(4))
def test_nothing_is_masked_of_a_dense_patient_without_a_collimator(seed):
    signal = x_ray(dense_patient(seed), None, seed)
    shoulders = x_ray(dense_patient(seed) + 7 * (Y - 0.1 * np.abs(X - SIZE / 2) > 0.8 * SIZE), None, seed)
    for image in (signal, shoulders):
        assert find_open_field(np.clip(image, 0, 1)) is None


def display_of_the_logarithm(field: np.ndarray, seed: int) -> np.ndarray:
    """Grey values from 0 to 1 of a dense patient in so much scatter that it is seen beside the field."""
    primary = np.exp(-dense_patient(seed)) * ndimage.gaussian_filter(field.astype(float), 1.0)
    signal = primary + 0.08 * ndimage.gaussian_filter(primary, 30)
    low, high = np.percentile(np.log(signal)[field], (0.5, 99.5))
    return np.round(255 * np.clip((np.log(signal) - low) / (high - low), 0, 1)) / 255


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_what_a_turned_field_shows_is_kept_in_bright_scatter(seed):
    """Its blades are taken for lines through both borders, their own and the scatter's, beyond them: part of what is blocked stays."""
    field = FIELDS["turned 25 degrees"]
    mask, found = open_mask(display_of_the_logarithm(field, seed))
    assert found is not None and (field & ~mask).sum() < 0.03 * field.sum() and (~field & ~mask).sum() > 0.3 * (~field).sum()


@pytest.mark.parametrize("name", ["four blades", "circle"])
def test_scatter_beside_air_is_no_border_on_a_display_of_the_logarithm(name):
    """It ends where the display becomes black, in a step; the blades' own is higher."""
    field = FIELDS[name]
    mask, found = open_mask(display_of_the_logarithm(field, 2))
    assert found is not None and overlap(mask, field) > 0.88 and (mask & ~field).sum() <= 0.01 * field.sum()


@pytest.mark.parametrize("name", ["four blades", "turned 25 degrees", "circle"])
def test_blanked_border_is_as_black_as_dense_anatomy(name):
    field = FIELDS[name]
    grey = np.where(field, np.round(255 * np.clip(np.exp(-dense_patient(3)) * 1.1 - 0.02, 0, 1)), 0)
    assert (grey[field] == 0).mean() > 0.1
    found = find_blanked_border(grey, np.ones(field.shape, bool), True)
    assert found is not None and overlap(found.mask(SIZE, SIZE), field) > 0.98
    assert found.shape == ("circle" if name == "circle" else "rectangle")


@pytest.mark.parametrize("shape", [(1, 1), (3, 3), (8, 8), (20, 300), (1, 3000), (3000, 11)])
def test_images_too_small_for_a_border(shape):
    signal = np.random.default_rng(0).uniform(size=shape)
    assert find_open_field(signal) is None and find_open_field(np.zeros(shape)) is None
    plain = np.ones(shape, bool)
    assert search_open_mask(signal, plain, True, lambda counted: signal)[0].all()
    assert search_open_mask(signal, ~plain, True, lambda counted: signal)[1] == ()


def test_an_arc_on_one_side_is_no_circle():
    """A thigh beside air: the border between them is round, and it is dark behind it."""
    thigh = 8.0 * ((X + 0.3 * SIZE) ** 2 + (Y - SIZE / 2) ** 2 < (0.8 * SIZE) ** 2)
    assert find_open_field(np.clip(x_ray(thigh, None), 0, 1)) is None
    field = OpenField(*circle_edges(SIZE * 1.3, SIZE / 2, 0.9 * SIZE), 1.5, "circle")
    assert not field.is_seen_all_around(SIZE, SIZE)
    assert OpenField(*circle_edges(SIZE / 2, SIZE / 2, 0.55 * SIZE), 1.5, "circle").is_seen_all_around(SIZE, SIZE)


def circle_edges(x: float, y: float, radius: float) -> tuple[np.ndarray, np.ndarray]:
    angle = np.linspace(0, 2 * np.pi, 72, endpoint=False)
    normals = np.stack((np.cos(angle), np.sin(angle)), 1)
    return normals, normals @ np.array([x, y]) + radius


def test_field_scales_with_the_grid():
    square = OpenField(np.array([[1.0, 0], [-1, 0], [0, 1], [0, -1]]), np.array([9.5, 0.5, 4.5, 0.5]), 1.0, "rectangle")
    assert np.array_equal(square.mask(12, 8), np.pad(np.ones((5, 10), bool), ((0, 3), (0, 2))))
    fine = square.scaled(3, 2)
    assert np.array_equal(fine.mask(36, 16), np.kron(square.mask(12, 8), np.ones((2, 3))).astype(bool))


def test_radiograph_masks_the_blocked_part_and_normalises_without_it(tmp_path):
    field, body = FIELDS["circle"], anatomy(4)
    grey = np.round(250 * np.clip(x_ray(body, field), 0, 1)).astype(np.uint8)
    path = tmp_path / "xray.png"
    sitk.WriteImage(sitk.GetImageFromArray(grey), str(path))
    camera = Camera(1000.0, (1.0, 1.0), (SIZE, SIZE), (191.5, 191.5))
    read = Radiograph.read(path, camera, intensity="display")
    assert overlap(read.mask, field) > 0.9
    inside = read.mask
    assert np.corrcoef(read.image[inside], body[inside])[0, 1] > 0.9
    assert Radiograph.read(path, camera, intensity="display", collimator=False).mask.all()
    negative = tmp_path / "negative.png"
    sitk.WriteImage(sitk.GetImageFromArray(255 - grey), str(negative))
    assert overlap(Radiograph.read(negative, camera, intensity="display", inverted=True).mask, field) > 0.9
