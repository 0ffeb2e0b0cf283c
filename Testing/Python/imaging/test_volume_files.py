"""Reading CTs: every format gives the same world, and every damage its sentence."""

import gzip
import struct

import numpy as np
import pytest
import SimpleITK as sitk

from SphericalRegLib.errors import InputError
from SphericalRegLib.imaging.volume import Volume

OBLIQUE = np.array([[0.8, -0.6, 0.0], [0.48, 0.64, -0.6], [0.36, 0.48, 0.8]])


def tissue(shape=(12, 11, 10), seed=0):
    """Noisy air with a block of tissue: what a CT looks like, with steps that no symmetry hides; [i, j, k], int16."""
    rng = np.random.default_rng(seed)
    hu = rng.normal(-1000, 15, shape)
    hu[2:8, 3:9, 1:7] = rng.normal(40, 20, (6, 6, 6))
    hu[4:6, 4:7, 2:6] = rng.normal(900, 50, (2, 3, 4))
    return hu.astype(np.int16)


def itk_image(hu, spacing=(0.7, 0.8, 2.5), origin=(-120.0, 33.0, 500.0), direction=OBLIQUE):
    image = sitk.GetImageFromArray(np.ascontiguousarray(hu.T))
    image.SetSpacing(spacing)
    image.SetOrigin(origin)
    image.SetDirection(np.asarray(direction, dtype=float).ravel().tolist())
    return image


def assert_same_world(volume, image):
    """Every voxel has ITK's value at ITK's place, with x and y turned from LPS to RAS."""
    for index in [(0, 0, 0), (11, 0, 0), (0, 10, 0), (0, 0, 9), (3, 4, 5)]:
        place = np.array(image.TransformIndexToPhysicalPoint(index)) * (-1, -1, 1)
        np.testing.assert_allclose(volume.world_from_voxel @ (*index, 1), [*place, 1], atol=1e-3)
        assert volume.hu[index] == image.GetPixel(index)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".nrrd", ".mha", ".mhd", ".nhdr", ".hdr"])
@pytest.mark.parametrize("mirrored", [False, True])
def test_formats_agree_with_itk(tmp_path, suffix, mirrored):
    direction = OBLIQUE * ((1, -1, 1) if mirrored else (1, 1, 1))
    image, path = itk_image(tissue(), direction=direction), tmp_path / f"ct{suffix}"
    sitk.WriteImage(image, str(path))
    volume = Volume.read(path)
    assert volume.hu.dtype == np.float32 and volume.shape == (12, 11, 10) and volume.valid is None and volume.labels is None
    assert_same_world(volume, sitk.ReadImage(str(path)))
    np.testing.assert_allclose(volume.centre_ras_mm, volume.box_corners_ras().mean(axis=0), atol=1e-4)


@pytest.mark.parametrize("suffix", [".nrrd", ".mha"])
def test_shear_is_kept(tmp_path, suffix):
    direction = OBLIQUE @ [[1, 0, 0.2], [0, 1, 0.1], [0, 0, 1]]
    image = itk_image(tissue(), direction=direction)
    sitk.WriteImage(image, str(tmp_path / f"ct{suffix}"))
    assert_same_world(Volume.read(tmp_path / f"ct{suffix}"), image)


@pytest.mark.parametrize("pixel_type", [sitk.sitkInt16, sitk.sitkInt32, sitk.sitkFloat32, sitk.sitkFloat64])
def test_pixel_types(tmp_path, pixel_type):
    image = sitk.Cast(itk_image(tissue()), pixel_type)
    for suffix in (".nii.gz", ".nrrd"):
        sitk.WriteImage(image, str(tmp_path / f"ct{suffix}"))
        np.testing.assert_array_equal(Volume.read(tmp_path / f"ct{suffix}").hu, tissue())


def patched(path, *changes):
    """A copy of an uncompressed NIfTI's bytes with (format, offset, values) written into its header."""
    data = bytearray(path.read_bytes())
    for code, offset, values in changes:
        struct.pack_into("<" + code, data, offset, *values)
    return bytes(data)


@pytest.fixture
def nifti(tmp_path):
    path = tmp_path / "ct.nii"
    sitk.WriteImage(itk_image(tissue()), str(path))
    return path


def other_sform(path, code, qform_code):
    rows = np.array(struct.unpack_from("<12f", path.read_bytes(), 280)).reshape(3, 4)
    rows[:, 3] += 50.0
    return patched(path, ("12f", 280, rows.ravel()), ("hh", 252, (qform_code, code)))


@pytest.mark.parametrize("sform_code", [0, 1, 2, 4])
@pytest.mark.parametrize("qform_code", [0, 1, 2])
def test_nifti_affines_that_differ_are_chosen_between_as_itk_does(nifti, sform_code, qform_code):
    nifti.write_bytes(other_sform(nifti, sform_code, qform_code))
    assert_same_world(Volume.read(nifti), sitk.ReadImage(str(nifti)))


def test_nifti_scaling_units_and_byte_order(nifti):
    nifti.write_bytes(patched(nifti, ("ff", 112, (0.5, -100.0)), ("hh", 252, (0, 0)), ("B", 123, (1,))))
    image = sitk.ReadImage(str(nifti))
    assert image.GetSpacing()[2] == pytest.approx(2500.0)  # metres
    with pytest.raises(InputError, match="units wrong"):
        Volume.read(nifti)
    nifti.write_bytes(patched(nifti, ("B", 123, (2,))))
    volume = Volume.read(nifti)
    np.testing.assert_allclose(volume.hu, tissue() * 0.5 - 100.0, atol=1e-4)
    assert_same_world(volume, sitk.ReadImage(str(nifti)))


def test_nifti2_and_big_endian_agree_with_nibabel(tmp_path):
    nibabel = pytest.importorskip("nibabel")
    affine = np.eye(4)
    affine[:3] = np.c_[OBLIQUE * (0.7, -0.8, 2.5), (1, 2, 3)]
    for name, image in (
        ("two.nii.gz", nibabel.Nifti2Image(tissue(), affine)),
        ("big.nii", nibabel.Nifti1Image(tissue(), affine, nibabel.Nifti1Header(endianness=">"))),
        ("sheared.nii", nibabel.Nifti1Image(tissue(), affine @ [[1, 0, 0.3, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])),
    ):
        nibabel.save(image, tmp_path / name)
        volume = Volume.read(tmp_path / name)
        np.testing.assert_allclose(volume.world_from_voxel, image.affine, atol=1e-5)
        np.testing.assert_array_equal(volume.hu, tissue())


def test_sheared_sform_is_taken_even_beside_a_qform(nifti):
    rows = np.array(struct.unpack_from("<12f", nifti.read_bytes(), 280)).reshape(3, 4)
    rows[:, 2] += (0.6, 0.2, 0.0)
    for qform_code in (0, 1):
        nifti.write_bytes(patched(nifti, ("12f", 280, rows.ravel()), ("hh", 252, (qform_code, 2))))
        np.testing.assert_allclose(Volume.read(nifti).world_from_voxel[:3], rows, atol=1e-4)


def write_damaged(folder):
    """One file of each kind of damage; returns {file name: what the sentence must say}."""
    ct, image = tissue(), itk_image(tissue())
    good = folder / "good.nii"
    sitk.WriteImage(image, str(good))
    expected = {}

    def case(name, message, content=None):
        expected[name] = message
        if isinstance(content, bytes):
            (folder / name).write_bytes(content)
        elif content is not None:
            sitk.WriteImage(content, str(folder / name))

    for suffix in (".nii", ".nii.gz", ".nrrd", ".mha"):
        sitk.WriteImage(image, str(folder / f"whole{suffix}"))
        whole = (folder / f"whole{suffix}").read_bytes()
        case(f"truncated{suffix}", "truncated", whole[: len(whole) * 2 // 3])
        case(f"empty{suffix}", "is empty", b"")
        (folder / f"whole{suffix}").unlink()
    case("header_only.nii", "damaged", good.read_bytes()[:200])
    case("damaged.nii.gz", "damaged", gzip.compress(good.read_bytes())[:-9] + b"123456789")
    case("noise.nrrd", "unknown format", np.random.default_rng(0).bytes(5000))
    case("letter.txt", "unknown format", b"Dear colleague, please find the CT attached.")
    case("flat.nii", "2D", image[:, :, 3])
    case("flat.png", "2D", sitk.Cast(sitk.Abs(image[:, :, 3]), sitk.sitkUInt16))
    case("slice.nii", "at least two voxels", image[:, :, 3:4])
    case("slice.mha", "at least two voxels", image[:, :, 3:4])
    vector = sitk.Compose(image, image, image)
    case("colour.nrrd", "3 values a voxel", vector)
    case("colour.nii", "is 5D", vector)
    case("rgb24.nii", "RGB", patched(good, ("hh", 70, (128, 24))))
    case("film.nrrd", "4D", sitk.JoinSeries(image, image))
    case("film.nii", "4D", sitk.JoinSeries(image, image))
    floats = sitk.Cast(image, sitk.sitkFloat32)
    with_nan = sitk.Image(floats)
    with_nan[1, 2, 3] = float("nan")
    with_nan[2, 2, 3] = float("inf")
    for suffix in (".nii.gz", ".nrrd"):
        case(f"nan{suffix}", r"NaN or infinite values in 2 of 1,320 voxels", with_nan)
    case("zero_spacing.nii", "spacing", patched(good, ("3f", 80, (0.7, 0.0, 2.5)), ("hh", 252, (0, 0))))
    case("singular.nii", "singular", patched(good, ("12f", 280, (0,) * 12), ("hh", 252, (0, 1))))
    raw = folder / "raw.mha"
    sitk.WriteImage(itk_image(ct, spacing=(1, 2, 3), direction=np.eye(3)), str(raw), useCompression=False)
    text = raw.read_bytes()
    case("zero_spacing.mha", "spacings is zero", text.replace(b"ElementSpacing = 1 2 3", b"ElementSpacing = 0 2 3"))
    case("singular.mha", "singular", text.replace(b"TransformMatrix = 1 0 0 0 1 0", b"TransformMatrix = 1 0 0 1 0 0"))
    case("huge.mha", "voxels; expected at most", text.replace(b"DimSize = 12 11 10", b"DimSize = 30000 30000 30000"))
    raw.unlink()
    case("huge.nii", "voxels; expected at most", patched(good, ("8h", 40, (3, 30000, 30000, 30000, 1, 1, 1, 1))))
    for name, offset in (("nan", np.nan), ("inf", np.inf), ("negative", -352.0)):
        case(f"begins_at_{name}.nii", "the voxels begin at byte", patched(good, ("f", 108, (offset,))))
    case("micrometres.mha", "units wrong", itk_image(ct, spacing=(700.0, 800.0, 2500.0)))
    case("metres.mha", "units wrong", itk_image(ct, spacing=(0.0007, 0.0008, 0.0025)))
    case("long.mha", "at most 3000 mm a side", itk_image(np.repeat(ct, 20, axis=0), spacing=(29, 1, 1)))
    case("constant.mha", "Every voxel of constant.mha is 0", itk_image(np.zeros_like(ct)))
    case("normalised.mha", "normalised", itk_image((ct - ct.min()).astype(np.float32) / np.ptp(ct)))
    case("eight_bit.mha", "8-bit", itk_image(np.clip((ct + 1000) / 8, 0, 255).astype(np.uint8)))
    case("air.mha", "no tissue", itk_image(np.minimum(ct, -900)))
    case("sixteen_bit.mha", "expected Hounsfield", itk_image((ct.astype(np.int32) + 1100) * 30))
    case("stored.mha", "before the rescale", itk_image(np.maximum(ct + 1024, 0)))
    case("all_padding.mha", "no tissue", itk_image(np.where(ct > 0, -2048, -3000).astype(np.int16)))
    expected["absent.nii.gz"] = "does not exist"
    return expected


def test_every_damage_gets_one_sentence(tmp_path, capfd):
    expected = write_damaged(tmp_path)
    assert len(expected) >= 35
    wrong = {}
    for name, message in expected.items():
        try:
            Volume.read(tmp_path / name)
            wrong[name] = "was read"
        except InputError as error:
            text = str(error)
            if message not in text or name not in text or "\n" in text or len(text) > 400 or "0x" in text:
                wrong[name] = text
    assert not wrong


def test_a_folder_without_dicom(tmp_path):
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(InputError, match="holds no DICOM images"):
        Volume.read(tmp_path)


@pytest.mark.parametrize("suffix", [".nii.gz", ".nii", ".nrrd", ".mha"])
def test_written_volumes_read_back(tmp_path, suffix):
    volume = Volume.from_sitk(itk_image(tissue(), direction=OBLIQUE * (1, 1, -1)))
    volume.write(tmp_path / f"out{suffix}")
    again = Volume.read(tmp_path / f"out{suffix}")
    np.testing.assert_array_equal(again.hu, volume.hu)
    np.testing.assert_allclose(again.world_from_voxel, volume.world_from_voxel, atol=2e-4)
    assert sitk.ReadImage(str(tmp_path / f"out{suffix}")).GetPixelID() == sitk.sitkInt16
    assert [entry.name for entry in tmp_path.iterdir()] == [f"out{suffix}"]


def test_refusals_to_write(tmp_path):
    sheared = Volume.from_sitk(itk_image(tissue(), direction=[[1, 0, 0.3], [0, 1, 0], [0, 0, 1]]))
    with pytest.raises(InputError, match=r"sheared.*write \.nrrd"):
        sheared.write(tmp_path / "a.nii.gz")
    with pytest.raises(InputError, match="no suffix of a volume"):
        sheared.write(tmp_path / "a.stl")
    sheared.write(tmp_path / "a.nrrd")
    np.testing.assert_allclose(Volume.read(tmp_path / "a.nrrd").world_from_voxel, sheared.world_from_voxel, atol=1e-9)
