"""Camera: the pixel convention through crop, resize and flips, projection both ways, K, geometry.json, and what it refuses."""

from __future__ import annotations

import json
import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import zoom

from SphericalRegLib.errors import InputError
from SphericalRegLib.geometry.camera import Camera

CAMERA = Camera(sdd_mm=1020.0, pixel_spacing_mm=(0.3, 0.4), size_px=(640, 480), principal_point_px=(300.25, 250.5))
POINTS = np.array([[0.0, 0.0, 700.0], [10.0, -20.0, 800.0], [-55.0, 40.0, 1020.0], [80.0, 70.0, 500.0]])


def close(a: Camera, b: Camera) -> bool:
    return a.size_px == b.size_px and all(np.allclose(getattr(a, name), getattr(b, name), rtol=1e-12) for name in a.to_dict())


def test_the_central_ray_meets_the_principal_point_and_the_axes_follow_columns_and_rows():
    assert np.allclose(CAMERA.project(np.array([0.0, 0.0, 5.0])), CAMERA.principal_point_px)
    on_detector = np.array([[0.3, 0.0, 1020.0], [0.0, 0.4, 1020.0]])  # one pixel to the right, one down
    assert np.allclose(CAMERA.project(on_detector) - CAMERA.principal_point_px, np.eye(2))
    assert CAMERA.columns == 640
    assert CAMERA.rows == 480


def test_project_agrees_with_the_intrinsic_matrix():
    homogeneous = POINTS @ CAMERA.intrinsic_matrix().T
    assert np.allclose(CAMERA.project(POINTS), homogeneous[:, :2] / homogeneous[:, 2:])


def test_intrinsic_matrix_round_trip():
    k = CAMERA.intrinsic_matrix()
    assert close(Camera.from_intrinsic_matrix(k, 1020.0, (640, 480)), CAMERA)
    assert Camera.from_intrinsic_matrix(5 * k, 1020.0, (640, 480), (0.3, 0.4)).pixel_spacing_mm == (0.3, 0.4)


@pytest.mark.parametrize("kind", ["numpy", "torch", "torch32"])
def test_back_project_inverts_project(kind):
    points = {"numpy": POINTS, "torch": torch.from_numpy(POINTS), "torch32": torch.from_numpy(POINTS).float()}[kind].reshape(2, 2, 3)
    back = CAMERA.back_project(CAMERA.project(points), points[..., 2])
    assert type(back) is type(points)
    assert back.dtype == points.dtype
    assert np.allclose(np.asarray(back), np.asarray(points), atol=1e-3 if kind == "torch32" else 1e-9)
    on_detector = np.asarray(CAMERA.back_project(CAMERA.project(points)))
    assert np.allclose(on_detector[..., 2], 1020.0)
    assert np.allclose(np.cross(on_detector, np.asarray(points)) / 1e6, 0, atol=1e-6)  # on the same ray


def test_pixels_as_a_grid_lie_where_back_projection_puts_them():
    pixels = np.array([[0.0, 0.0], [639.0, 0.0], [12.5, 471.0]])
    grid = np.column_stack((pixels, np.zeros(3), np.ones(3))) @ CAMERA.camera_from_pixel().T
    np.testing.assert_allclose(grid[:, :3], CAMERA.back_project(pixels), atol=1e-9)
    np.testing.assert_array_equal(CAMERA.camera_from_pixel()[:, 2], (0, 0, 1, 0))


def test_projection_is_differentiable_and_marks_what_is_behind_the_source():
    points = torch.from_numpy(POINTS).requires_grad_()
    assert torch.autograd.gradcheck(CAMERA.project, (points,))
    behind = torch.tensor([[1.0, 2.0, 0.0], [1.0, 2.0, -3.0], [1.0, 2.0, 3.0]], dtype=torch.float64, requires_grad=True)
    pixels = CAMERA.project(behind)
    assert torch.isnan(pixels[:2]).all()
    assert torch.isfinite(pixels[2]).all()
    (gradient,) = torch.autograd.grad(pixels[2].sum(), behind)
    assert torch.isfinite(gradient).all()
    assert np.isnan(CAMERA.project(np.array([[1.0, 2.0, -3.0]]))).all()


def corners(camera: Camera) -> np.ndarray:
    """The field of view's outer edges on the detector plane, mm: left, top, right, bottom."""
    edges = camera.back_project(np.array([[-0.5, -0.5], [camera.columns - 0.5, camera.rows - 0.5]]))
    return edges[:, :2].ravel()


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 3000), st.integers(1, 3000))
def test_resize_keeps_the_field_of_view(columns, rows):
    resized = CAMERA.resize(columns, rows)
    assert resized.size_px == (columns, rows)
    assert np.allclose(corners(resized), corners(CAMERA), atol=1e-9)
    back = resized.resize(640, 480)
    assert np.allclose(back.principal_point_px, CAMERA.principal_point_px, atol=1e-9)
    assert np.allclose(back.pixel_spacing_mm, CAMERA.pixel_spacing_mm, rtol=1e-12)


def pixel_centres(camera: Camera) -> np.ndarray:
    """The detector points (rows, columns, 3) of an image: an image whose values know where they are."""
    column, row = np.meshgrid(np.arange(camera.columns), np.arange(camera.rows))
    return camera.back_project(np.stack((column, row), -1).astype(float))


SMALL = Camera(800.0, (0.5, 0.8), (12, 8), (4.3, 5.1))


def test_crop_and_padding_follow_the_image():
    image = pixel_centres(SMALL)
    assert np.allclose(pixel_centres(SMALL.crop(3, 2, 5, 4)), image[2:6, 3:8])
    padded = pixel_centres(SMALL.crop(-2, -1, 20, 10))
    assert np.allclose(padded[1:9, 2:14], image)


def test_flips_follow_the_image_up_to_the_frame_that_turns_with_it():
    image = pixel_centres(SMALL)
    assert np.allclose(pixel_centres(SMALL.rotate_180()), image[::-1, ::-1] * [-1, -1, 1])
    assert np.allclose(pixel_centres(SMALL.flip_columns()), image[:, ::-1] * [-1, 1, 1])
    assert np.allclose(pixel_centres(SMALL.flip_rows()), image[::-1] * [1, -1, 1])
    for change in (Camera.flip_columns, Camera.flip_rows, Camera.rotate_180):
        assert close(change(change(SMALL)), SMALL)
        assert change(SMALL) != SMALL


def test_rotated_camera_sees_the_rotated_image_from_the_turned_pose():
    turned = POINTS * [-1, -1, 1]
    expected = (SMALL.columns - 1, SMALL.rows - 1) - SMALL.project(POINTS)
    assert np.allclose(SMALL.rotate_180().project(turned), expected)


def test_half_pixel_convention_is_that_of_grid_aligned_resampling():
    """A ramp resampled by an independent implementation with cell-aligned grids lands where the resized camera says."""
    column_mm = pixel_centres(SMALL)[..., 0]
    resampled = zoom(column_mm, (3, 3), order=1, grid_mode=True, mode="nearest")
    expected = pixel_centres(SMALL.resize(36, 24))[..., 0]
    assert np.allclose(resampled[2:-2, 2:-2], expected[2:-2, 2:-2])
    halved = column_mm.reshape(4, 2, 6, 2).mean((1, 3))  # binning
    assert np.allclose(halved, pixel_centres(SMALL.resize(6, 4))[..., 0])


def test_json_round_trip():
    text = json.dumps(CAMERA.to_dict())
    assert Camera.from_dict(json.loads(text)) == CAMERA
    assert Camera.from_dict({**CAMERA.to_dict(), "note": "unknown keys are allowed", "inverted": True}) == CAMERA


def test_values_become_plain_python_numbers():
    camera = Camera(np.float32(1000), [np.float64(0.5), 1], np.array([64, 48]), (31, np.int64(23)))  # type: ignore[arg-type]
    assert camera == Camera(1000.0, (0.5, 1.0), (64, 48), (31.0, 23.0))
    assert hash(camera) == hash(Camera(1000.0, (0.5, 1.0), (64, 48), (31.0, 23.0)))
    assert [type(value) for value in (camera.sdd_mm, *camera.pixel_spacing_mm, *camera.size_px)] == [float, float, float, int, int]


@pytest.mark.parametrize("key", ["sdd_mm", "pixel_spacing_mm", "size_px", "principal_point_px"])
@pytest.mark.parametrize("value", [None, "1020", [], {}, [1.0], [1.0, "2"], [1.0, math.nan], [1, 2, 3], True, math.inf])
def test_unusable_values_are_named(key, value):
    with pytest.raises(InputError, match=key):
        Camera.from_dict({**CAMERA.to_dict(), key: value})


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("sdd_mm", 0, "greater than zero, but it is 0"),
        ("sdd_mm", -5.0, "greater than zero"),
        ("pixel_spacing_mm", [0.0, 1.0], "greater than zero"),
        ("size_px", [640, -1], "greater than zero"),
        ("size_px", [640.5, 480], "whole number"),
    ],
)
def test_impossible_values_are_named(key, value, words):
    with pytest.raises(InputError, match=f"{key} must be .*{words}"):
        Camera.from_dict({**CAMERA.to_dict(), key: value})


def test_missing_keys_are_named():
    with pytest.raises(InputError, match="needs sdd_mm and size_px"):
        Camera.from_dict({"pixel_spacing_mm": [1, 1], "principal_point_px": [0, 0]})
    with pytest.raises(InputError, match="not a list"):
        Camera.from_dict([1, 2])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda k: k[:2], "3 x 3"),
        (lambda k: k + np.eye(3, k=1) * 5, "without skew"),
        (lambda k: k * [[-1, 1, 1], [1, -1, 1], [1, 1, 1]], "positive focal lengths"),
        (lambda k: k * np.nan, "finite"),
    ],
)
def test_intrinsic_matrices_that_are_refused(change, words):
    with pytest.raises(InputError, match=words):
        Camera.from_intrinsic_matrix(change(CAMERA.intrinsic_matrix()), 1020.0, (640, 480))


def test_spacing_that_contradicts_the_sdd_is_refused():
    with pytest.raises(InputError, match="contradicts"):
        Camera.from_intrinsic_matrix(CAMERA.intrinsic_matrix(), 1020.0, (640, 480), (0.3, 0.5))


def test_the_camera_needs_no_torch():
    code = "import sys; from SphericalRegLib.geometry.camera import Camera; Camera(1, (1, 1), (1, 1), (0, 0)); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
