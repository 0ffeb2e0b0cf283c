"""The sampler's line integrals against phantoms, SciPy and the registration's renderer."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import map_coordinates

from SphericalRegLib.errors import InputError
from SphericalRegLib.geometry.camera import Camera
from SphericalRegLib.geometry.views import named_view
from SphericalRegLib.imaging.attenuation import attenuation
from SphericalRegLib.imaging.volume import Volume
from SphericalRegLib.rendering.projector import Projector
from SphericalRegLib.simulation.materials import tissue_densities
from SphericalRegLib.simulation.sampler import RaySampler, world_rays

CAMERA = Camera(900.0, (2.0, 2.5), (48, 40), (21.3, 18.8))


def grid_points(shape, affine):
    voxels = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1)
    return voxels @ affine[:3, :3].T + affine[:3, 3]


def oblique_affine(spacing, shape, left_handed=False, tilt=0.0):
    """`tilt`: tangent of the angle by which the slices lean, as of a tilted gantry."""
    rotation, _ = np.linalg.qr(np.array([[0.9, 0.2, 0.1], [-0.3, 0.8, 0.3], [0.1, -0.2, 0.9]]))
    if (np.linalg.det(rotation) < 0) != left_handed:
        rotation[:, 0] *= -1
    affine = np.eye(4)
    affine[:3, :3] = rotation @ [[1, 0, 0], [0, 1, tilt], [0, 0, 1]] * np.asarray(spacing)
    affine[:3, 3] = np.array([12.0, -30.0, 45.0]) - affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    return affine


def sphere(radius=30.0, left_handed=False, tilt=0.0):
    shape = (60, 56, 48)
    affine = oblique_affine((1.5, 1.6, 1.8), shape, left_handed, tilt)
    distance = np.linalg.norm(grid_points(shape, affine) - np.array([12.0, -30.0, 45.0]), axis=-1)
    return Volume(np.clip((radius - distance) / 2.0 + 0.5, 0, 1).astype(np.float32) * 1000 - 1000, affine, name="sphere")


def pose_of(volume, view="ap"):
    return named_view(view, CAMERA, volume.centre_ras_mm.tolist()).numpy()


@pytest.mark.parametrize(("left_handed", "tilt"), [(False, 0.0), (True, 0.0), (False, 0.4), (True, -0.2)])
def test_water_sphere_has_its_chords(left_handed, tilt):
    volume = sphere(left_handed=left_handed, tilt=tilt)
    pose = pose_of(volume)
    water, bone, titanium = RaySampler(volume, threads=1).areal_densities(CAMERA, pose)
    source, directions = world_rays(CAMERA, pose)
    closest = np.linalg.norm(np.cross(directions, volume.centre_ras_mm - source), axis=-1)
    expected = 0.2 * np.sqrt(np.clip(30.0**2 - closest**2, 0, None))  # cm of water
    inner = closest < 26
    assert inner.sum() > 200
    np.testing.assert_allclose(water[inner], expected[inner], rtol=0.02)
    assert water[inner].sum() == pytest.approx(expected[inner].sum(), rel=2e-3)
    assert np.abs(water[closest > 34]).max() < 0.02  # of 6 cm: the spline rings a little around an edge
    assert bone.max() < 0.05 and titanium.max() == 0.0


def test_bone_box_along_the_axis_and_the_cut_end_goes_on():
    shape = (24, 24, 30)
    affine = np.diag([2.0, 2.0, 2.0, 1.0])
    hu = np.full(shape, -1000.0, np.float32)
    hu[4:20, 4:20, :] = 1000.0
    volume = Volume(hu, affine, name="bar")
    camera = Camera(900.0, (1.0, 1.0), (3, 3), (1.0, 1.0))
    pose = np.eye(4)  # along +z, from below
    pose[:3, 3] = -np.array([23.0, 23.0, 0.0]) + [0, 0, 600.0]
    plain = RaySampler(volume, threads=1).areal_densities(camera, pose)[:, 1, 1]
    longer = RaySampler(volume, extend_mm=50.0, threads=1).areal_densities(camera, pose)[:, 1, 1]
    density = tissue_densities(np.array(1000.0))
    np.testing.assert_allclose(plain, 6.0 * density, rtol=5e-4)
    np.testing.assert_allclose(longer, 16.0 * density, rtol=5e-4)  # 60 mm + 50 mm at each end


def test_extension_leaves_ends_in_air_alone():
    volume = sphere()
    pose = pose_of(volume)
    np.testing.assert_array_equal(
        RaySampler(volume, threads=1, step_mm=1.0).areal_densities(CAMERA, pose),
        RaySampler(volume, threads=1, step_mm=1.0, extend_mm=80.0).areal_densities(CAMERA, pose),
    )


def test_interpolation_is_scipys_cubic_spline():
    rng = np.random.default_rng(3)
    hu = rng.uniform(-200, 90, (9, 8, 10)).astype(np.float32)
    volume = Volume(hu, np.diag([3.0, 2.0, 2.5, 1.0]), name="noise")
    pose = pose_of(volume, "left")
    camera = Camera(900.0, (1.5, 1.5), (12, 12), (5.0, 6.0))
    sampled = RaySampler(volume, step_mm=0.05, threads=1).areal_densities(camera, pose)[0]
    source, directions = world_rays(camera, pose)
    depth = np.arange(500, 900, 0.05)
    for row, column in [(5, 5), (4, 7), (8, 3)]:
        points = (source + depth[:, None] * directions[row, column]) @ np.linalg.inv(volume.world_from_voxel[:3, :3]).T
        inside = ((points > -0.5) & (points < np.array(hu.shape) - 0.5)).all(axis=1)
        clamped = np.clip(points[inside], 0, np.array(hu.shape) - 1)  # half a voxel beyond the outermost centres the value is theirs
        values = map_coordinates(hu.astype(float), clamped.T, order=3, mode="mirror")
        expected = (tissue_densities(values)[:, 0]).sum() * 0.005
        assert sampled[row, column] == pytest.approx(expected, rel=2e-3)


def test_agrees_with_the_renderer_but_is_not_it():
    """A smooth water object: same geometry, so within a few per cent; another interpolant and step, so not the same numbers."""
    volume = sphere()
    pose = pose_of(volume, "left")
    rendered = Projector(attenuation(volume), CAMERA).project(torch.from_numpy(pose)[None])[0].numpy()
    water = RaySampler(volume, threads=1).areal_densities(CAMERA, pose)[0]
    inside = water > 1.0
    scale = (rendered[inside] * water[inside]).sum() / (water[inside] ** 2).sum()
    difference = np.abs(rendered[inside] / scale - water[inside]) / water[inside]
    assert 0.1 < scale < 0.3  # 1/cm of water at a diagnostic energy
    assert difference.mean() < 0.02
    assert difference.max() > 1e-4


def test_threads_do_not_change_the_result():
    volume = sphere()
    one, three = (RaySampler(volume, threads=n).areal_densities(CAMERA.resize(200, 120), pose_of(volume)) for n in (1, 3))
    np.testing.assert_array_equal(one, three)


def test_tick_cancels():
    class StopNow(Exception):
        pass

    def stop():
        raise StopNow

    with pytest.raises(StopNow):
        RaySampler(sphere(), threads=2).areal_densities(CAMERA, pose_of(sphere()), stop)


def test_too_thin_a_ct_is_refused():
    with pytest.raises(InputError, match="at least 4"):
        RaySampler(Volume(np.zeros((8, 8, 3), np.float32), np.eye(4), name="thin"))
