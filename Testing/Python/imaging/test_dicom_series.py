"""Folders of DICOM slices made with pydicom: geometry from the slices' positions, and folders that are not one CT."""

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, EnhancedCTImageStorage, ExplicitVRLittleEndian, generate_uid

from SphericalRegLib.errors import InputError
from SphericalRegLib.imaging.volume import Volume

AXIAL = [1, 0, 0, 0, 1, 0]
CORONAL = [1, 0, 0, 0, 0, -1]


def tissue(shape=(9, 8, 7)):
    hu = np.random.default_rng(0).normal(-1000, 15, shape)
    hu[2:7, 2:6, 1:6] = np.random.default_rng(1).normal(300, 200, (5, 4, 5))
    return hu.astype(np.int16)


def dataset(sop_class=CTImageStorage, **values):
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = sop_class
    meta.MediaStorageSOPInstanceUID = generate_uid()
    data = Dataset()
    data.file_meta = meta
    data.SOPClassUID, data.SOPInstanceUID = sop_class, meta.MediaStorageSOPInstanceUID
    data.StudyInstanceUID, data.SeriesInstanceUID, data.Modality = "1.2.3", "1.2.3.4", "CT"
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, 16, 15, 1
    data.RescaleSlope, data.RescaleIntercept = 1, -1024
    for name, value in values.items():
        setattr(data, name, value)
    return data


def pixels(data, stored):
    """Stored values [i, j] of a slice, or [i, j, k] of frames."""
    data.Columns, data.Rows = stored.shape[:2]
    data.PixelData = np.ascontiguousarray(stored.T.astype(np.int16)).tobytes()
    return data


def write_series(folder, hu=None, step=(0.0, 0.0, 2.5), orientation=AXIAL, origin=(10.0, 20.0, 30.0), skip=(), shuffle=True, prefix="", **values):
    """One file per slice, named in random order, with RescaleIntercept -1024."""
    folder.mkdir(exist_ok=True)
    hu = tissue() if hu is None else hu
    names = np.random.default_rng(2).permutation(hu.shape[2]) if shuffle else np.arange(hu.shape[2])
    for k in set(range(hu.shape[2])) - set(skip):
        data = dataset(**{"SeriesNumber": 2, "SeriesDescription": "Thorax 2.5", "InstanceNumber": k + 1, "PixelSpacing": [0.5, 0.8], **values})
        data.ImagePositionPatient = (np.array(origin) + k * np.array(step)).tolist()
        data.ImageOrientationPatient = orientation
        pixels(data, hu[:, :, k].astype(int) + 1024).save_as(folder / f"{prefix}{names[k]:03d}.dcm", enforce_file_format=True)
    return folder


def test_an_axial_series(tmp_path):
    volume = Volume.read(write_series(tmp_path / "ct"))
    np.testing.assert_array_equal(volume.hu, tissue())
    np.testing.assert_allclose(volume.world_from_voxel, [[-0.8, 0, 0, -10], [0, -0.5, 0, -20], [0, 0, 2.5, 30], [0, 0, 0, 1]])
    assert volume.name == "ct"


@pytest.mark.parametrize("step", [(0.0, 0.0, -2.5), (0.0, 0.6, 2.4), (0.3, -0.7, -2.4)])
def test_descending_and_tilted_series_keep_every_slice_where_it_was(tmp_path, step):
    """The gantry's tilt is a shear: slices stay axial and move sideways. Slices are sorted along their normal, whatever the file order."""
    volume = Volume.read(write_series(tmp_path / "ct", step=step))
    flipped = step[2] < 0
    np.testing.assert_array_equal(volume.hu, tissue()[:, :, ::-1] if flipped else tissue())
    for k in range(7):
        lps = np.array([10.0, 20.0, 30.0]) + (6 - k if flipped else k) * np.array(step)
        np.testing.assert_allclose(volume.world_from_voxel @ (0, 0, k, 1), [*(lps * (-1, -1, 1)), 1], atol=1e-9)


def test_a_coronal_series(tmp_path):
    volume = Volume.read(write_series(tmp_path / "ct", orientation=CORONAL, step=(0, 3.0, 0)))
    np.testing.assert_allclose(volume.world_from_voxel @ (1, 0, 0, 1), [-10.8, -20, 30, 1])
    np.testing.assert_allclose(volume.world_from_voxel @ (0, 1, 0, 1), [-10, -20, 29.5, 1])
    np.testing.assert_allclose(volume.world_from_voxel @ (0, 0, 1, 1), [-10, -23, 30, 1])


def test_one_slice_leads_to_its_series(tmp_path):
    folder = write_series(tmp_path / "ct")
    np.testing.assert_array_equal(Volume.read(folder / "003.dcm").hu, tissue())


def test_an_enhanced_ct_in_one_file(tmp_path):
    def item(**values):
        data = Dataset()
        for name, value in values.items():
            setattr(data, name, value)
        return data

    data = dataset(EnhancedCTImageStorage, NumberOfFrames=7)
    data.SharedFunctionalGroupsSequence = [
        item(
            PlaneOrientationSequence=[item(ImageOrientationPatient=AXIAL)],
            PixelMeasuresSequence=[item(PixelSpacing=[0.5, 0.8], SliceThickness=3)],
            PixelValueTransformationSequence=[item(RescaleSlope=1, RescaleIntercept=-1024, RescaleType="HU")],
        )
    ]
    heights = [30.0 - 2.5 * k for k in range(7)]
    data.PerFrameFunctionalGroupsSequence = [item(PlanePositionSequence=[item(ImagePositionPatient=[10, 20, z])]) for z in heights]
    pixels(data, tissue().astype(int) + 1024).save_as(tmp_path / "enhanced.dcm", enforce_file_format=True)
    for path in (tmp_path, tmp_path / "enhanced.dcm"):
        volume = Volume.read(path)
        np.testing.assert_array_equal(volume.hu, tissue()[:, :, ::-1])
        np.testing.assert_allclose(volume.world_from_voxel, [[-0.8, 0, 0, -10], [0, -0.5, 0, -20], [0, 0, 2.5, 15], [0, 0, 0, 1]])


def test_a_ct_is_found_among_scouts_other_modalities_and_other_files(tmp_path):
    write_series(tmp_path / "disc")
    (tmp_path / "disc" / "README").write_text("viewer")
    (tmp_path / "disc" / "DICOMDIR").write_bytes(b"\0" * 128 + b"DICM")
    (tmp_path / "disc" / "empty.dcm").touch()
    scout = tissue()[:, :, :1]
    write_series(tmp_path / "disc" / "scout", scout, SeriesInstanceUID="1.2.3.5", SeriesNumber=1, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    write_series(tmp_path / "disc" / "mr", SeriesInstanceUID="1.2.3.6", SeriesNumber=7, Modality="MR")
    np.testing.assert_array_equal(Volume.read(tmp_path / "disc").hu, tissue())


def test_several_ct_series_are_listed_and_can_be_chosen(tmp_path):
    write_series(tmp_path / "ct", prefix="a")
    write_series(tmp_path / "ct", tissue() + 1, prefix="b", SeriesInstanceUID="1.2.3.77", SeriesNumber=3, SeriesDescription="Bone 0.6")
    with pytest.raises(InputError, match=r"2 CT series.*Thorax 2\.5.*7 slices.*1\.2\.3\.4.*Bone 0\.6") as caught:
        Volume.read(tmp_path / "ct")
    assert "\n" not in str(caught.value)
    for wanted in ("3", "1.2.3.77", ".77"):
        np.testing.assert_array_equal(Volume.read(tmp_path / "ct", series=wanted).hu, tissue() + 1)
    with pytest.raises(InputError, match=r"No series .* fit '9'.*Thorax"):
        Volume.read(tmp_path / "ct", series="9")


def test_declared_padding_is_found_by_its_tag(tmp_path):
    """GE writes -2000 outside the circle; with the intercept it is -3024. Another maker's 0 becomes -1024."""
    for value, name in ((-2000, "ge"), (0, "zero"), (63536, "unsigned")):
        hu = np.maximum(tissue(), -1023)
        hu[:2] = (value - 65536 if value > 32767 else value) - 1024
        folder = write_series(tmp_path / name, hu)
        for path in folder.iterdir():
            data = pydicom.dcmread(path)
            data.add_new(0x00280120, "US" if value > 32767 else "SS", value)
            data.save_as(path, enforce_file_format=True)
        volume = Volume.read(folder)
        assert volume.valid is not None and not volume.valid[:2].any() and volume.valid[2:].all()
        assert (volume.hu[:2] == -1000).all()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"skip": (3,)}, r"unevenly spaced: 5 mm between slices 3 and 4, 2\.5 mm elsewhere"),
        ({"skip": (0, 1, 2, 3, 4, 5)}, "the only slice of"),
        ({"hu": tissue()[:, :, :1]}, "the only slice of"),
        ({"Modality": "MR"}, "holds no CT.*MR, 7 slices"),
        ({"Modality": "XA"}, "holds no CT.*XA"),
        ({"step": (0.0, 0.0, 0.0)}, "two slices at 30.00 mm"),
        ({"PixelSpacing": [0.0, 0.8]}, "PixelSpacing.*positive"),
        ({"PixelSpacing": []}, "no usable PixelSpacing"),
        ({"orientation": [1, 0, 0, 1, 0, 0]}, "perpendicular unit vectors"),
        ({"orientation": []}, "no usable ImageOrientationPatient"),
        ({"RescaleIntercept": 0}, "before the rescale"),
    ],
)
def test_folders_that_are_not_a_ct(tmp_path, values, message):
    hu = values.pop("hu", np.clip(tissue(), -1000, 300) if "RescaleIntercept" in values else None)
    if "RescaleIntercept" in values:
        hu[2:7, 2:6, 1:6] = 30
    with pytest.raises(InputError, match=message) as caught:
        Volume.read(write_series(tmp_path / "ct", hu, **values))
    assert "\n" not in str(caught.value)


def edited(folder, name, **values):
    data = pydicom.dcmread(folder / name)
    for key, value in values.items():
        setattr(data, key, value)
    data.save_as(folder / name, enforce_file_format=True)


def test_slices_that_do_not_belong_together(tmp_path):
    folder = write_series(tmp_path / "ct", shuffle=False)
    edited(folder, "003.dcm", ImageOrientationPatient=[1, 0, 0, 0, 0.8, 0.6])
    with pytest.raises(InputError, match="differ in orientation"):
        Volume.read(folder)
    write_series(folder, shuffle=False)
    edited(folder, "003.dcm", ImagePositionPatient=[12, 20, 37.5])
    with pytest.raises(InputError, match="shifted sideways by up to 2 mm"):
        Volume.read(folder)
    write_series(folder, shuffle=False)
    pixels(smaller := pydicom.dcmread(folder / "003.dcm"), tissue()[:5, :5, 3])
    smaller.save_as(folder / "003.dcm", enforce_file_format=True)
    with pytest.raises(InputError, match="differ in Rows"):
        Volume.read(folder)
    write_series(folder, shuffle=False)
    (folder / "003.dcm").write_bytes((folder / "003.dcm").read_bytes()[:-40])
    with pytest.raises(InputError, match=r"pixels of .*003\.dcm cannot be read"):
        Volume.read(folder)


def test_a_slice_leads_to_its_own_series_only(tmp_path):
    """Not to another whose UID ends alike, not to copies in folders below, and a slice without a UID to none."""
    folder = write_series(tmp_path / "ct")
    write_series(folder / "copy", tissue() + 1)
    write_series(folder, tissue() + 1, prefix="b", SeriesInstanceUID="9.1.2.3.4")
    np.testing.assert_array_equal(Volume.read(folder / "003.dcm").hu, tissue())
    write_series(tmp_path, tissue()[:, :, :1], prefix="alone", SeriesInstanceUID="")
    write_series(tmp_path, prefix="other")
    with pytest.raises(InputError, match=r"alone000\.dcm is one slice and has no SeriesInstanceUID"):
        Volume.read(tmp_path / "alone000.dcm")
    with pytest.raises(InputError, match=r"No series .* fit ''"):
        Volume.read(folder, series="")


def without_preamble(folder):
    for path in folder.iterdir():
        data = Dataset(pydicom.dcmread(path))
        pydicom.filewriter.dcmwrite(path.with_suffix(""), data, implicit_vr=True, little_endian=True, enforce_file_format=False)
        path.unlink()
    return folder


def test_slices_without_preamble(tmp_path):
    folder = without_preamble(write_series(tmp_path / "ct"))
    assert (folder / "003").read_bytes()[128:132] != b"DICM"
    (folder / "film.mp4").write_bytes(b"\x08\0" + np.random.default_rng(0).bytes(5000))
    np.testing.assert_array_equal(Volume.read(folder).hu, tissue())
    (folder / "003").rename(folder / "003.dcm")
    np.testing.assert_array_equal(Volume.read(folder / "003.dcm").hu, tissue())


@pytest.mark.parametrize("content", [b"not DICOM " * 100, b"\0" * 128 + b"DICM", np.random.default_rng(0).bytes(3000)])
def test_a_file_that_is_dicom_by_its_name_only(tmp_path, content):
    (tmp_path / "ct.dcm").write_bytes(content)
    with pytest.raises(InputError, match=r"CT .*ct\.dcm (is not a DICOM file|cannot be read as DICOM)"):
        Volume.read(tmp_path / "ct.dcm")
    with pytest.raises(InputError, match="holds no DICOM images"):
        Volume.read(tmp_path)


def test_directions_of_a_length_that_is_not_quite_one_scale_nothing(tmp_path):
    volume = Volume.read(write_series(tmp_path / "ct", orientation=[1.004, 0, 0, 0.003, 0.997, 0]))
    np.testing.assert_allclose(volume.world_from_voxel, [[-0.8, 0, 0, -10], [0, -0.5, 0, -20], [0, 0, 2.5, 30], [0, 0, 0, 1]], atol=1e-12)
