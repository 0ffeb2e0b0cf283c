"""Radiograph: formats, intensity kinds, robustness, grid changes that carry the camera along."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from SphericalRegLib.errors import InputError
from SphericalRegLib.geometry.camera import Camera
from SphericalRegLib.imaging.radiograph import Radiograph, resampling_weights
from SphericalRegLib.models.canonical import resample_to_camera

ROWS, COLUMNS = 48, 64
CAMERA = Camera(1000.0, (2.0, 3.0), (COLUMNS, ROWS), (30.25, 20.5))


def line_integrals() -> np.ndarray:
    """A smooth body with a denser rod in it; air at the border."""
    y, x = np.mgrid[:ROWS, :COLUMNS]
    body = 3.0 * np.clip(1 - ((x - 34) / 26) ** 2 - ((y - 22) / 20) ** 2, 0, None)
    return (body + 1.5 * ((abs(x - 40) < 3) & (abs(y - 22) < 10))).astype(np.float32)


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.corrcoef(a.ravel(), b.ravel())[0, 1])


def save(path, array: np.ndarray):
    if path.suffix == ".npy":
        np.save(path, array)
    else:
        sitk.WriteImage(sitk.GetImageFromArray(array), str(path))
    return path


@pytest.mark.parametrize("suffix", [".png", ".tif", ".nrrd", ".mha", ".npy"])
def test_counts_give_back_the_line_integrals_up_to_a_constant_in_every_format(tmp_path, suffix):
    truth = line_integrals()
    counts = np.round(60000 * np.exp(-truth)).astype(np.uint16)
    radiograph = Radiograph.read(save(tmp_path / f"xray{suffix}", counts), CAMERA, intensity="counts")
    assert radiograph.image.dtype == np.float32 and radiograph.image.shape == (ROWS, COLUMNS)
    np.testing.assert_allclose(radiograph.image, truth, atol=5e-3)
    assert radiograph.camera == CAMERA and radiograph.mask.all()


def test_counts_use_a_given_i0(tmp_path):
    truth = line_integrals() + 0.5  # no air anywhere: the default can only be right up to a constant
    path = save(tmp_path / "xray.tif", np.round(60000 * np.exp(-truth)).astype(np.uint16))
    np.testing.assert_allclose(Radiograph.read(path, CAMERA, intensity="counts", i0=60000).image, truth, atol=2e-3)
    np.testing.assert_allclose(Radiograph.read(path, CAMERA, intensity="counts").image, truth - 0.5, atol=2e-3)


@pytest.mark.parametrize("kind", ["counts", "display"])
@pytest.mark.parametrize("value", [65535, 0])
def test_hot_and_dead_pixels_do_not_change_the_rest(tmp_path, kind, value):
    grey = np.round(20000 * np.exp(-line_integrals()) + 50).astype(np.uint16)
    broken = grey.copy()
    broken[5, 7] = value
    clean = Radiograph.read(save(tmp_path / "a.png", grey), CAMERA, intensity=kind, collimator=False).image
    spoilt = Radiograph.read(save(tmp_path / "b.png", broken), CAMERA, intensity=kind, collimator=False).image
    assert np.isfinite(spoilt).all()
    assert np.ptp(spoilt) < np.ptp(clean) + 2 * np.log(2)  # the bad pixel itself stays near the others
    elsewhere = np.ones_like(grey, dtype=bool)
    elsewhere[5, 7] = False
    np.testing.assert_allclose(spoilt[elsewhere], clean[elsewhere], atol=0.02)


def test_display_is_bone_bright_whichever_way_the_grey_runs(tmp_path):
    truth = line_integrals()
    grey = np.round(255 * (np.exp(-truth) ** 0.6)).astype(np.uint8)
    normal = Radiograph.read(save(tmp_path / "a.png", grey), CAMERA, intensity="display")
    negative = Radiograph.read(save(tmp_path / "b.png", 255 - grey), CAMERA, intensity="display", inverted=True)
    assert correlation(normal.image, truth) > 0.98
    np.testing.assert_allclose(negative.image, normal.image, atol=1e-5)


def test_line_integrals_are_taken_as_they_are(tmp_path):
    truth = line_integrals()
    assert np.array_equal(Radiograph.read(save(tmp_path / "x.nrrd", truth), CAMERA).image, truth)


def test_line_integrals_are_bone_bright_by_what_they_are(tmp_path):
    """Nobody means by "inverted": false that they are upside down; a file of floats is known by its kind."""
    truth = line_integrals()
    path = save(tmp_path / "x.npy", truth)
    for said in ({}, {"inverted": False}, {"intensity": "line_integral", "inverted": False}, {"inverted": True}):
        found = Radiograph.read(path, CAMERA, **said)
        np.testing.assert_allclose(found.image, truth, atol=1e-5)
        assert found.known.inverted.value is True


@pytest.mark.parametrize("kind", [np.int16, np.uint16])
def test_inverted_counts_are_taken_from_what_their_type_can_hold(tmp_path, kind):
    truth = line_integrals()
    counts = (np.iinfo(kind).max - np.round(20000 * np.exp(-truth))).astype(kind)
    image = Radiograph.read(save(tmp_path / "x.nrrd", counts), CAMERA, intensity="counts", inverted=True, collimator=False).image
    np.testing.assert_allclose(image, truth, atol=0.01)


def test_kind_follows_the_file_when_nobody_says(tmp_path):
    grey = np.round(200 * np.exp(-line_integrals())).astype(np.uint8)
    assert Radiograph.read(save(tmp_path / "a.png", grey), CAMERA).intensity == "display"
    assert Radiograph.read(save(tmp_path / "b.png", grey.astype(np.uint16)), CAMERA).intensity == "counts"
    assert Radiograph.read(save(tmp_path / "c.npy", grey.astype(np.float64)), CAMERA).intensity == "line_integral"


def test_grey_image_stored_as_colours_is_accepted(tmp_path):
    grey = np.round(255 * np.exp(-line_integrals())).astype(np.uint8)
    plain = Radiograph.read(save(tmp_path / "a.png", grey), CAMERA)
    path = tmp_path / "rgb.png"
    sitk.WriteImage(sitk.GetImageFromArray(np.stack([grey] * 3, -1), isVector=True), str(path))
    assert np.array_equal(Radiograph.read(path, CAMERA).image, plain.image)
    alpha = np.stack([grey] * 3 + [np.full_like(grey, 255)], -1)
    sitk.WriteImage(sitk.GetImageFromArray(alpha, isVector=True), str(path))
    assert np.array_equal(Radiograph.read(path, CAMERA).image, plain.image)


def test_mirrored_image_comes_back_with_its_camera(tmp_path):
    grey = np.round(60000 * np.exp(-line_integrals())).astype(np.uint16)
    mask = np.ones((ROWS, COLUMNS), dtype=np.uint8)
    mask[:, :5] = 0
    seen = Radiograph.read(save(tmp_path / "a.png", grey), CAMERA, intensity="counts", mask=mask)
    mirrored = Radiograph.read(
        save(tmp_path / "b.png", grey[:, ::-1].copy()), CAMERA.flip_columns(), intensity="counts", mirrored=True, mask=mask[:, ::-1]
    )
    assert mirrored.mirrored and mirrored.camera == CAMERA
    assert np.array_equal(mirrored.image, seen.image)
    assert np.array_equal(mirrored.mask, mask.astype(bool))


def test_multi_frame_file_needs_a_frame(tmp_path):
    stack = np.stack([line_integrals(), 2 * line_integrals()])
    path = save(tmp_path / "cine.nrrd", stack)
    with pytest.raises(InputError, match=r"has 2 frames.*\"frame\" in geometry"):
        Radiograph.read(path, CAMERA)
    with pytest.raises(InputError, match="frame 2 was asked for"):
        Radiograph.read(path, CAMERA, frame=2)
    assert np.array_equal(Radiograph.read(path, CAMERA, frame=1).image, stack[1])


def test_mask_file_excludes_and_statistics_ignore_what_it_excludes(tmp_path):
    grey = np.round(20000 * np.exp(-line_integrals())).astype(np.uint16)
    lettered = grey.copy()
    lettered[2:12, 2:12] = 65535
    mask = np.full((ROWS, COLUMNS), 255, np.uint8)
    mask[2:12, 2:12] = 0
    read = Radiograph.read(save(tmp_path / "x.png", lettered), CAMERA, intensity="display", mask=save(tmp_path / "m.png", mask))
    plain = Radiograph.read(save(tmp_path / "y.png", grey), CAMERA, intensity="display")
    assert np.array_equal(read.mask, mask > 0)
    np.testing.assert_allclose(read.image[read.mask], plain.image[read.mask], atol=0.02)


def test_nan_pixels_are_named_unless_masked(tmp_path):
    image = line_integrals()
    image[3, 4] = np.nan
    path = save(tmp_path / "x.npy", image)
    with pytest.raises(InputError, match="1 pixels that are not finite"):
        Radiograph.read(path, CAMERA)
    mask = np.ones((ROWS, COLUMNS), bool)
    mask[3, 4] = False
    assert np.isfinite(Radiograph.read(path, CAMERA, mask=mask).image).all()


def test_resize_averages_areas_and_moves_the_camera():
    image = line_integrals()
    radiograph = Radiograph(image, np.ones(image.shape, bool), CAMERA)
    small = radiograph.resize(COLUMNS // 4, ROWS // 4)
    np.testing.assert_allclose(small.image, image.reshape(ROWS // 4, 4, COLUMNS // 4, 4).mean((1, 3)), atol=1e-5)
    assert small.camera == CAMERA.resize(COLUMNS // 4, ROWS // 4)
    # The same point of the detector keeps its value: a linear ramp stays the same ramp in mm, at any ratio, up and down.
    ramp = np.broadcast_to(np.arange(COLUMNS, dtype=np.float32), (ROWS, COLUMNS))
    for columns, rows in ((17, 11), (200, 90)):
        other = Radiograph(ramp.copy(), np.ones(ramp.shape, bool), CAMERA).resize(columns, rows)
        expected = (np.arange(columns) + 0.5) * COLUMNS / columns - 0.5
        np.testing.assert_allclose(other.image[rows // 2, 3:-3], expected[3:-3], atol=0.03)


def test_resize_keeps_masked_pixels_out_of_the_means():
    image = np.ones((ROWS, COLUMNS), np.float32)
    mask = np.ones(image.shape, bool)
    image[:, :6] = 1000
    mask[:, :6] = False
    small = Radiograph(image, mask, CAMERA).resize(COLUMNS // 4, ROWS // 4)
    assert not small.mask[:, 0].any() and small.mask[:, 1:].all()
    np.testing.assert_allclose(small.image[:, 1:], 1, atol=1e-5)


@pytest.mark.parametrize("old,new", [(7, 3), (10, 10), (5, 13), (1760, 256)])
def test_resampling_weights_sum_to_one(old, new):
    np.testing.assert_allclose(resampling_weights(old, new).sum(1), 1, rtol=1e-5)


def test_crop_carries_the_camera_and_refuses_the_outside():
    image = line_integrals()
    radiograph = Radiograph(image, np.ones(image.shape, bool), CAMERA, name="x.png")
    part = radiograph.crop(10, 4, 20, 16)
    assert np.array_equal(part.image, image[4:20, 10:30]) and part.camera == CAMERA.crop(10, 4, 20, 16)
    with pytest.raises(InputError, match="cannot crop"):
        radiograph.crop(50, 0, 20, 16)


def test_tensor_gives_image_and_mask():
    image = line_integrals()
    tensor, mask = Radiograph(image, image > 0, CAMERA).tensor()
    assert tensor.shape == mask.shape == (ROWS, COLUMNS) and mask.numpy().sum() == (image > 0).sum()


def test_image_and_mask_are_what_they_are_said_to_be():
    image = line_integrals()
    radiograph = Radiograph(image.astype(np.float64), (image > 0).astype(np.uint8), CAMERA)
    assert (radiograph.image.dtype, radiograph.mask.dtype) == (np.float32, bool)
    assert radiograph.image[radiograph.mask].shape == (np.count_nonzero(image > 0),)
    assert [str(tensor.dtype) for tensor in radiograph.tensor()] == ["torch.float32", "torch.bool"]


@pytest.mark.parametrize(
    "given,message",
    [
        ({"i0": -1}, "i0 is -1, expected a number above zero"),
        ({"i0": float("nan")}, "i0 is nan, expected a finite number"),
        ({"frame": 0.5}, "frame is 0.5, expected a frame number"),
        ({"inverted": 1}, "inverted is 1, expected true or false"),
        ({"intensity": "grey"}, "expected one of counts"),
    ],
)
def test_arguments_are_checked_as_a_geometry_file_is(tmp_path, given, message):
    path = save(tmp_path / "x.png", _grey())
    with pytest.raises(InputError, match=message) as caught:
        Radiograph.read(path, CAMERA, **{"intensity": "counts", **given})
    assert "x.png" in str(caught.value)


def _grey() -> np.ndarray:
    return np.round(60000 * np.exp(-line_integrals())).astype(np.uint16)


BAD_FILES = {
    "missing": (lambda p: None, "x.png", "does not exist"),
    "folder": (lambda p: p.mkdir(), "x.png", "is a folder"),
    "empty": (lambda p: p.write_bytes(b""), "x.png", "empty"),
    "not an image": (lambda p: p.write_text("hello, world"), "x.png", "cannot be read"),
    "unknown suffix": (lambda p: p.write_text("hello"), "x.txt", "suffix '.txt'"),
    "truncated": (lambda p: _truncate(save(p, _grey()), 0.5), "x.mha", "cannot be read"),
    "pickled": (lambda p: np.save(p, np.array([{}, 1], dtype=object), allow_pickle=True), "x.npy", "npy array of numbers"),
    "complex": (lambda p: np.save(p, np.ones((20, 20), complex)), "x.npy", "type complex128"),
    "one-dimensional": (lambda p: np.save(p, np.ones(100)), "x.npy", "shape"),
    "too small": (lambda p: np.save(p, np.arange(20.0).reshape(4, 5)), "x.npy", "5 x 4 pixels"),
    "constant": (lambda p: np.save(p, np.full((ROWS, COLUMNS), 7, np.uint16)), "x.npy", "has the value 7"),
    "colour": (lambda p: _save_colour(p), "x.png", "colour"),
    "no positive counts": (lambda p: np.save(p, -_grey().astype(np.int32)), "x.npy", "no positive values"),
}


def _truncate(path, share: float) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])


def _save_colour(path) -> None:
    colours = np.random.default_rng(0).integers(0, 255, (ROWS, COLUMNS, 3), dtype=np.uint8)
    sitk.WriteImage(sitk.GetImageFromArray(colours, isVector=True), str(path))


@pytest.mark.parametrize("kind", BAD_FILES)
def test_bad_image_is_named_in_one_sentence(tmp_path, kind):
    make, name, message = BAD_FILES[kind]
    make(tmp_path / name)
    with pytest.raises(InputError, match=message) as error:
        Radiograph.read(tmp_path / name, CAMERA)
    assert name in str(error.value) and "\n" not in str(error.value)


def test_truncated_png_is_refused(tmp_path):
    path = save(tmp_path / "x.png", _grey())
    _truncate(path, 0.6)
    with pytest.raises(InputError, match=r"x\.png"):
        Radiograph.read(path, CAMERA)


def test_bad_mask_and_missing_geometry(tmp_path):
    path = save(tmp_path / "x.png", _grey())
    with pytest.raises(InputError, match="expected the X-ray's"):
        Radiograph.read(path, CAMERA, mask=np.ones((4, 4)))
    with pytest.raises(InputError, match="excludes every pixel"):
        Radiograph.read(path, CAMERA, mask=save(tmp_path / "m.png", np.zeros((ROWS, COLUMNS), np.uint8)))
    with pytest.raises(InputError, match="source-to-detector distance is not known"):
        Radiograph.read(path)
    with pytest.raises(InputError, match="pixel spacing is not known"):
        Radiograph.read(path, {"sdd_mm": 1000})
    with pytest.raises(InputError, match=r"size_px .* says 32 x 24"):
        Radiograph.read(path, CAMERA.resize(32, 24))
    with pytest.raises(InputError, match="expected one of counts"):
        Radiograph.read(path, CAMERA, intensity="grey")
    with pytest.raises(InputError, match="geometry is a int"):
        Radiograph.read(path, 7)


def test_what_is_not_finite_lies_outside_the_mask_and_is_nobodys_concern():
    image, mask = line_integrals(), np.ones((ROWS, COLUMNS), bool)
    mask[:4], mask[:, -3:] = False, False
    given = image.copy()
    given[:4], given[:, -3:] = np.nan, -np.inf
    radiograph = Radiograph(given, mask, CAMERA, name="x")
    assert np.isnan(given[0, 0]), "the caller's array is his own"
    np.testing.assert_array_equal(radiograph.image[mask], image[mask])
    assert (radiograph.image[~mask] == np.median(image[mask])).all()
    clean = np.where(mask, image, 0).astype(np.float32)
    seen, expected = (resample_to_camera(each, CAMERA.resize(32, 24)) for each in (radiograph, Radiograph(clean, mask, CAMERA)))
    assert torch.equal(seen[0], expected[0]) and torch.equal(seen[1], expected[1])
    assert np.isfinite(radiograph.resize(20, 20).image).all()
    whole = Radiograph(image, mask, CAMERA)
    assert whole.image is image, "nothing is copied where nothing is wrong"
    given[5, 5] = np.nan
    with pytest.raises(InputError, match="X-ray x: 1 pixels inside its mask are not finite"):
        Radiograph(given, mask, CAMERA, name="x")
    assert not Radiograph(np.full((ROWS, COLUMNS), np.nan), np.zeros((ROWS, COLUMNS), bool), CAMERA).image.any()
