"""What the pixels of a DICOM X-ray mean, and files that cannot be used."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import CTImageStorage, JPEG2000Lossless

from SphericalRegLib.errors import InputError
from SphericalRegLib.imaging import dicom_pixels
from SphericalRegLib.imaging.dicom import read_dicom_geometry
from SphericalRegLib.imaging.pixels import read_pixels
from SphericalRegLib.imaging.radiograph import Radiograph

sys.path.insert(0, str(Path(__file__).parent))
from dicom_xrays import COLUMNS, GOOD, ROWS, counts, values, write


def kind_of(path) -> tuple[str, bool]:
    header = read_pixels(path).header
    return header.intensity.value, header.inverted.value


@pytest.mark.parametrize(
    "modality,tags,expected",
    [
        ("XA", {"PixelIntensityRelationship": "LIN"}, ("counts", False)),
        ("XA", {"PixelIntensityRelationship": "DISP"}, ("display", False)),
        ("XA", {}, ("display", False)),
        ("RF", {"PhotometricInterpretation": "MONOCHROME1"}, ("display", True)),
        ("CR", {}, ("display", True)),
        ("CR", {"PhotometricInterpretation": "MONOCHROME1"}, ("display", False)),
        ("DX", {"PixelIntensityRelationship": "LIN", "PixelIntensityRelationshipSign": 1}, ("counts", False)),
        ("DX", {"PixelIntensityRelationship": "LIN", "PixelIntensityRelationshipSign": -1}, ("counts", True)),
        ("DX", {"PixelIntensityRelationshipSign": 1, "RescaleSlope": -1, "RescaleIntercept": 4095}, ("display", True)),
        ("DX", {"PresentationIntentType": "FOR PROCESSING"}, ("counts", True)),
        ("DX", {"PixelIntensityRelationship": "LOG", "PixelIntensityRelationshipSign": -1}, ("line_integral", True)),
    ],
)
def test_kind_and_polarity(tmp_path, modality, tags, expected):
    assert kind_of(write(tmp_path / "x.dcm", modality=modality, **GOOD, **tags)) == expected


def encodings() -> dict[str, tuple[np.ndarray, dict]]:
    """The same X-ray as machines of different habits store it."""
    linear = counts()[0].astype(float)
    logarithm = np.round(400 * np.log(linear))
    return {
        "linear": (linear, {"PixelIntensityRelationship": "LIN", "PixelIntensityRelationshipSign": 1}),
        "linear negative": (4095 - linear, {"PixelIntensityRelationship": "LIN", "PixelIntensityRelationshipSign": -1}),
        "logarithm": (logarithm, {"PixelIntensityRelationship": "LOG", "PixelIntensityRelationshipSign": 1}),
        "logarithm negative": (4095 - logarithm, {"PixelIntensityRelationship": "LOG", "PixelIntensityRelationshipSign": -1}),
        "linear rescaled": (
            linear / 2,
            {"PixelIntensityRelationship": "LIN", "PixelIntensityRelationshipSign": 1, "RescaleSlope": 2, "RescaleIntercept": 0},
        ),
        "linear negative rescaled": (
            4095 - linear,
            {"PixelIntensityRelationship": "LIN", "PixelIntensityRelationshipSign": -1, "RescaleSlope": 2, "RescaleIntercept": 0},
        ),
        "linear turned by its slope": (
            linear,
            {"PixelIntensityRelationship": "LIN", "PixelIntensityRelationshipSign": 1, "RescaleSlope": -1, "RescaleIntercept": 0},
        ),
    }


@pytest.mark.parametrize("name", encodings())
def test_every_encoding_of_one_x_ray_gives_the_same_line_integrals(tmp_path, name):
    pixels, tags = encodings()[name]
    radiograph = Radiograph.read(write(tmp_path / "x.dcm", np.round(pixels).astype(np.uint16)[None], modality="DX", **GOOD, **tags))
    truth = np.log(4000.0) - np.log(counts()[0])
    slope, offset = np.polyfit(truth.ravel(), radiograph.image.ravel(), 1)
    assert slope == pytest.approx(400 if "logarithm" in name else 1, rel=1e-2)
    np.testing.assert_allclose((radiograph.image - offset) / slope, truth, atol=0.01)


@pytest.mark.parametrize("name", ["logarithm", "logarithm negative"])
@pytest.mark.parametrize("kind", ["line_integral", "display"])
def test_a_users_geometry_describes_the_image_as_stored(tmp_path, name, kind):
    pixels, tags = encodings()[name]
    path = write(tmp_path / "x.dcm", pixels.astype(np.uint16)[None], modality="DX", **GOOD, **tags)
    assert np.array_equal(read_pixels(path).grey, pixels)
    truth = np.log(4000.0) - np.log(counts()[0])
    for inverted in ({}, {"inverted": name == "logarithm negative"}):
        image = Radiograph.read(path, {"intensity": kind, **inverted}).image
        assert np.corrcoef(image.ravel(), truth.ravel())[0, 1] > 0.98


def test_the_geometry_alone_says_what_the_values_mean(tmp_path):
    """Slicer has the pixels from elsewhere. It reads them with ITK, which turns MONOCHROME1 round."""
    for photometric, itk_inverted in (("MONOCHROME2", True), ("MONOCHROME1", True)):
        path = write(tmp_path / "x.dcm", modality="DX", **GOOD, PhotometricInterpretation=photometric)
        geometry, header = read_dicom_geometry(path), read_pixels(path).header
        assert geometry.values == header
        assert geometry.values.intensity.value == "display"
        assert geometry.values.inverted.value == (photometric == "MONOCHROME2")
        assert geometry.values.full_scale.value == 4095
        itk = sitk.GetArrayFromImage(sitk.ReadImage(str(path)))[0]
        assert np.array_equal(itk, counts()[0] if photometric == "MONOCHROME2" else 4095 - counts()[0])
        assert geometry.as_read_by_itk.inverted.value is itk_inverted


def test_voi_lut_of_a_display_image_is_applied_and_a_window_is_not(tmp_path):
    lut = Dataset()
    lut.LUTDescriptor, lut.LUTData = [4096, 0, 16], (np.arange(4096, dtype=np.uint16) * 2).tobytes()
    lut["LUTData"].VR = "OW"
    lut["LUTDescriptor"].VR = "US"
    with_lut = read_pixels(write(tmp_path / "a.dcm", **GOOD, VOILUTSequence=Sequence([lut])))
    assert np.array_equal(with_lut.grey, 2.0 * counts()[0])
    of_frame = Dataset()
    of_frame.FrameVOILUTSequence = Sequence([Dataset()])
    of_frame.FrameVOILUTSequence[0].VOILUTSequence = Sequence([lut])
    plain = Dataset()
    path = write(tmp_path / "c.dcm", counts(2), **GOOD, PerFrameFunctionalGroupsSequence=Sequence([plain, of_frame]))
    assert np.array_equal(read_pixels(path, 0).grey, counts(2)[0])
    assert np.array_equal(read_pixels(path, 1).grey, 2.0 * counts(2)[1])
    windowed = read_pixels(write(tmp_path / "b.dcm", **GOOD, WindowCenter=2000, WindowWidth=100))
    assert np.array_equal(windowed.grey, counts()[0])


def test_shutter_collimator_and_padding_are_masked(tmp_path):
    shutter = {
        "ShutterShape": "RECTANGULAR",
        "ShutterLeftVerticalEdge": 5,
        "ShutterRightVerticalEdge": COLUMNS + 1,
        "ShutterUpperHorizontalEdge": 0,
        "ShutterLowerHorizontalEdge": ROWS + 1,
    }
    mask = Radiograph.read(write(tmp_path / "a.dcm", **GOOD, **shutter), collimator=False).mask
    assert not mask[:, :5].any() and mask[:, 5:].all()
    circle = {"CollimatorShape": "CIRCULAR", "CenterOfCircularCollimator": [20, 30], "RadiusOfCircularCollimator": 15}
    mask = Radiograph.read(write(tmp_path / "b.dcm", **GOOD, **circle), collimator=False).mask
    assert mask[19, 29] and mask[19, 29 + 14] and not mask[19, 29 + 15] and abs(mask.sum() - np.pi * 15**2) < 30
    polygon = {"ShutterShape": "POLYGONAL", "VerticesOfThePolygonalShutter": [1, 1, 1, COLUMNS, ROWS, 1]}
    mask = Radiograph.read(write(tmp_path / "c.dcm", **GOOD, **polygon), collimator=False).mask
    assert mask[2, 2] and mask[2, COLUMNS - 8] and not mask[-3, -3]
    pixels = counts()
    pixels[0, :4] = 3999
    mask = Radiograph.read(write(tmp_path / "d.dcm", pixels, **GOOD, PixelPaddingValue=3999), collimator=False).mask
    assert not mask[:4].any() and mask[10:30, 10:40].all()
    pixels = counts().astype(np.int16)
    pixels[0, :4] = -2000
    path = write(tmp_path / "e.dcm", pixels, **GOOD, PixelRepresentation=1, BitsStored=16, HighBit=15)
    dataset = pydicom.dcmread(path)
    dataset.add_new(0x00280120, "US", 65536 - 2000)  # signed, written as unsigned
    dataset.save_as(path)
    mask = Radiograph.read(path, collimator=False).mask
    assert not mask[:4].any() and mask[4:].all()


def test_a_mask_is_read_as_stored(tmp_path):
    """Whatever a display would make of it: zero excludes."""
    keep = np.zeros((1, ROWS, COLUMNS), np.uint16)
    keep[:, 10:30, 10:40] = 1
    path = write(tmp_path / "x.dcm", **GOOD)
    display = {"RescaleSlope": 1, "RescaleIntercept": -1024, "VOILUTFunction": "SIGMOID", "WindowCenter": 0, "WindowWidth": 9}
    mask = write(tmp_path / "mask.dcm", keep, modality="OT", **display)
    assert np.array_equal(Radiograph.read(path, mask=mask, collimator=False).mask, keep[0] > 0)
    mask.write_text("no mask")
    with pytest.raises(InputError, match=r"^mask .*mask\.dcm"):
        Radiograph.read(path, mask=mask)
    with pytest.raises(InputError, match=r"^mask .*none\.png does not exist"):
        Radiograph.read(path, mask=tmp_path / "none.png")


def test_collimator_edges_that_do_not_lie_in_the_image_are_ignored(tmp_path):
    edges = {"Left": -184, "Right": 184}
    tags = {f"Collimator{side}VerticalEdge": value for side, value in edges.items()}
    path = write(
        tmp_path / "x.dcm", **GOOD, CollimatorShape="RECTANGULAR", **tags, CollimatorUpperHorizontalEdge=907, CollimatorLowerHorizontalEdge=1299
    )
    stored = read_pixels(path)
    assert stored.valid is None and any("ignored" in warning for warning in stored.header.warnings)


# Files that cannot be used.


def _truncate(path):
    content = path.read_bytes()
    path.write_bytes(content[: len(content) - 2000])


BAD = {
    "CT slice": (lambda p: write(p, modality="CT", SOPClassUID=CTImageStorage), "modality CT, expected a projection X-ray"),
    "no image": (lambda p: write(p, Rows=..., Columns=..., PixelData=...), "without an image"),
    "no pixels": (lambda p: write(p, **GOOD, PixelData=...), "without pixels"),
    "truncated": (lambda p: _truncate(write(p, **GOOD)), "damaged or incomplete pixels"),
    "not DICOM": (lambda p: p.write_text("just a text with a DICOM name"), "not a DICOM file|cannot be read as DICOM"),
    "random bytes": (lambda p: p.write_bytes(np.random.default_rng(0).bytes(4000)), "not a DICOM file|cannot be read as DICOM"),
    "size contradicts": (lambda p: write(p, **GOOD, Rows=ROWS + 7), "damaged or incomplete pixels"),
}


@pytest.mark.parametrize("kind", BAD)
def test_unusable_file_is_named(tmp_path, kind):
    make, message = BAD[kind]
    make(tmp_path / "x.dcm")
    with pytest.raises(InputError, match=message) as error:
        Radiograph.read(tmp_path / "x.dcm", {"sdd_mm": 1000, "pixel_spacing_mm": [1, 1]})
    assert "x.dcm" in str(error.value) and "\n" not in str(error.value)


def test_compressed_garbage_is_named(tmp_path):
    path = write(tmp_path / "x.dcm", **GOOD)
    dataset = pydicom.dcmread(path)
    dataset.file_meta.TransferSyntaxUID = JPEG2000Lossless
    dataset.PixelData = pydicom.encaps.encapsulate([b"\xff\x4f\xff\x51" + b"\0" * 100])
    dataset["PixelData"].is_undefined_length = True
    dataset.save_as(path)
    with pytest.raises(InputError, match=r"is compressed .* cannot be decoded"):
        Radiograph.read(path)


@pytest.mark.parametrize("plugins", [True, False])
def test_compressed_image_is_decoded(tmp_path, plugins, monkeypatch):
    """By pydicom where it has a plugin, else by ITK, which turns MONOCHROME1 round."""

    def no_plugin(*_arguments):
        raise RuntimeError("no plugin")

    if not plugins:
        monkeypatch.setattr(dicom_pixels, "_pixel_array", no_plugin)
    image = sitk.GetImageFromArray(counts())
    writer = sitk.ImageFileWriter()
    for tag, value in {"0008|0060": "XA", "0018|1110": "1020", "0018|1164": "0.3\\0.25"}.items():
        image.SetMetaData(tag, value)
    writer.SetFileName(str(tmp_path / "x.dcm"))
    writer.UseCompressionOn()
    writer.SetCompressor("JPEG2000")
    writer.Execute(image[:, :, 0])
    assert pydicom.dcmread(tmp_path / "x.dcm").file_meta.TransferSyntaxUID.is_compressed
    assert np.array_equal(read_pixels(tmp_path / "x.dcm").grey, counts()[0])
    dataset = pydicom.dcmread(tmp_path / "x.dcm")
    dataset.PhotometricInterpretation = "MONOCHROME1"
    dataset.save_as(tmp_path / "x.dcm")
    assert np.array_equal(read_pixels(tmp_path / "x.dcm").grey, counts()[0]), "as stored"


def test_file_without_preamble_is_read(tmp_path):
    path = write(tmp_path / "x.dcm", **GOOD)
    dataset = pydicom.dcmread(path)
    pydicom.filewriter.dcmwrite(tmp_path / "bare.dcm", Dataset(dataset), implicit_vr=True, little_endian=True, enforce_file_format=False)
    content = (tmp_path / "bare.dcm").read_bytes()
    assert content[128:132] != b"DICM"
    assert values(tmp_path / "bare.dcm").sdd_mm.value == 1020
