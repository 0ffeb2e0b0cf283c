"""The geometry in a DICOM header: distances, spacings, place on the detector, sides, angles, frames."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from SphericalRegLib.errors import InputError
from SphericalRegLib.geometry.views import NAMED_VIEWS, c_arm_view
from SphericalRegLib.imaging.pixels import read_pixels
from SphericalRegLib.imaging.radiograph import Radiograph
from SphericalRegLib.imaging.starts import Start

sys.path.insert(0, str(Path(__file__).parent))
from dicom_xrays import COLUMNS, GOOD, ROWS, counts, values, write


def test_angiography_with_everything(tmp_path):
    path = write(tmp_path / "x.dcm", **GOOD, PixelIntensityRelationship="LIN")
    read = values(path)
    assert read.sdd_mm.value == 1020 and read.sdd_mm.origin == "DistanceSourceToDetector (0018,1110)"
    assert read.sod_mm.value == 700 and "(0018,1111)" in read.sod_mm.origin
    assert read.pixel_spacing_mm.value == (0.25, 0.3)  # DICOM writes the distance between rows first
    radiograph = Radiograph.read(path)
    assert radiograph.camera.sdd_mm == 1020 and radiograph.camera.pixel_spacing_mm == (0.25, 0.3)
    assert radiograph.camera.size_px == (COLUMNS, ROWS) and radiograph.camera.principal_point_px == ((COLUMNS - 1) / 2, (ROWS - 1) / 2)
    assert radiograph.known.principal_point_px.is_default and not radiograph.known.sdd_mm.is_default
    np.testing.assert_allclose(radiograph.image, np.log(4000.0) - np.log(counts()[0]), atol=2e-3)


def test_pixel_spacing_calibrated_to_the_patient_is_not_the_detectors(tmp_path):
    path = write(tmp_path / "x.dcm", **GOOD, PixelSpacing=[0.206, 0.1716], PixelSpacingCalibrationType="GEOMETRY")
    read = values(path)
    assert read.pixel_spacing_mm.value == (0.25, 0.3) and "(0018,1164)" in read.pixel_spacing_mm.origin
    assert any("calibrated to the patient" in warning for warning in read.warnings)


def test_calibrated_pixel_spacing_alone_is_magnified_back(tmp_path):
    tags = {**GOOD, "ImagerPixelSpacing": ..., "PixelSpacing": [0.21, 0.14], "PixelSpacingCalibrationType": "FIDUCIAL"}
    read = values(write(tmp_path / "x.dcm", **tags))
    np.testing.assert_allclose(read.pixel_spacing_mm.value, np.array([0.14, 0.21]) * 1020 / 700)
    del tags["DistanceSourceToPatient"]
    path = write(tmp_path / "y.dcm", **tags)
    with pytest.raises(InputError, match=r"pixel spacing is not known.*calibrated to the patient \(FIDUCIAL\)"):
        Radiograph.read(path)


def test_uncalibrated_pixel_spacing_is_used_with_a_warning(tmp_path):
    read = values(write(tmp_path / "x.dcm", DistanceSourceToDetector=1020, PixelSpacing=[0.3, 0.25]))
    assert read.pixel_spacing_mm.value == (0.25, 0.3) and any("may be calibrated" in w for w in read.warnings)


def test_dx_with_imager_spacing_only_is_refused_by_name_and_completed_by_the_user(tmp_path):
    path = write(tmp_path / "x.dcm", modality="DX", ImagerPixelSpacing=[0.14, 0.14])
    with pytest.raises(InputError, match=r"source-to-detector distance is not known: give sdd_mm in geometry.json"):
        Radiograph.read(path)
    radiograph = Radiograph.read(path, {"sdd_mm": 1800})
    assert radiograph.camera.sdd_mm == 1800 and radiograph.camera.pixel_spacing_mm == (0.14, 0.14)
    assert radiograph.known.sdd_mm.origin == "user" and "(0018,1164)" in radiograph.known.pixel_spacing_mm.origin


def test_zero_means_unknown(tmp_path):
    path = write(tmp_path / "x.dcm", modality="CR", DistanceSourceToDetector=0.0, PixelSpacing=[0.0, 0.0])
    read = values(path)
    assert read.sdd_mm is None and read.pixel_spacing_mm is None and len(read.warnings) == 2
    with pytest.raises(InputError, match=r"not known.*DistanceSourceToDetector \(0018,1110\) is 0.*not recorded"):
        Radiograph.read(path)


def test_no_distance_and_no_spacing(tmp_path):
    with pytest.raises(InputError, match="source-to-detector distance is not known"):
        Radiograph.read(write(tmp_path / "x.dcm", modality="CR"))


def test_distance_in_metres_or_object_behind_the_detector_is_not_believed(tmp_path):
    read = values(write(tmp_path / "x.dcm", **{**GOOD, "DistanceSourceToDetector": 1.02}))
    assert read.sdd_mm is None and "too short to be in mm" in read.warnings[0]
    read = values(write(tmp_path / "y.dcm", **{**GOOD, "DistanceSourceToPatient": 1300}))
    assert read.sod_mm is None and read.sdd_mm.value == 1020


def test_magnification_completes_the_distances(tmp_path):
    read = values(write(tmp_path / "x.dcm", DistanceSourceToPatient=700, EstimatedRadiographicMagnificationFactor=1.5))
    assert read.sdd_mm.value == pytest.approx(1050) and "(0018,1114)" in read.sdd_mm.origin
    read = values(write(tmp_path / "y.dcm", DistanceSourceToDetector=1050, EstimatedRadiographicMagnificationFactor=1.5))
    assert read.sod_mm.value == pytest.approx(700)


@pytest.mark.parametrize(
    "tags,expected",
    [
        ({"DetectorElementSpacing": [0.1, 0.2], "DetectorBinning": [3, 2]}, (0.4, 0.3)),
        ({"IntensifierSize": 240}, (4.0, 4.0)),
        ({"FieldOfViewDimensions": [80, 120], "FieldOfViewShape": "RECTANGLE"}, (2.0, 2.0)),
        ({"IntensifierSize": 240, "PixelAspectRatio": [6, 5]}, (4.0, 4.8)),  # vertical first
        ({"CassetteSize": "18CMX24CM", "CassetteOrientation": "LANDSCAPE"}, (4.0, 4.0)),
        ({"NominalScannedPixelSpacing": [0.3, 0.2]}, (0.2, 0.3)),
    ],
)
def test_spacing_of_last_resort(tmp_path, tags, expected):
    assert values(write(tmp_path / "x.dcm", **tags)).pixel_spacing_mm.value == pytest.approx(expected)


def test_resized_image_is_noticed(tmp_path):
    read = values(write(tmp_path / "x.dcm", **GOOD, FieldOfViewDimensions=[24, 30]))
    assert any("may have been resized or cropped" in warning for warning in read.warnings)
    assert not values(write(tmp_path / "y.dcm", **GOOD, FieldOfViewDimensions=[12, 15])).warnings


# Place on the detector.

PANEL = {
    "DistanceSourceToDetector": 1000,
    "DetectorElementSpacing": [0.2, 0.2],
    "ImagerPixelSpacing": [0.4, 0.4],  # 2 x 2 binning
    "DetectorActiveDimensions": [100 * 0.2, 150 * 0.2],
    "DetectorActiveOrigin": [10, 20],  # row, column, in detector pixels
    "FieldOfViewOrigin": [15, 24],
}


def test_principal_point_from_the_place_of_the_field_on_the_detector(tmp_path):
    # Middle of the active area: column 20 + 75, row 10 + 50 of the detector, so 71 and 45 detector pixels from the field's corner,
    # which are 35.5 and 22.5 image pixels.
    read = values(write(tmp_path / "x.dcm", modality="DX", **PANEL))
    assert read.principal_point_px.value == pytest.approx((35.5 - 0.5, 22.5 - 0.5))
    assert "(0018,7026)" in read.principal_point_px.origin and "(0018,7030)" in read.principal_point_px.origin


def test_active_origin_counts_pixels_not_mm(tmp_path):
    moved = values(write(tmp_path / "x.dcm", modality="DX", **{**PANEL, "DetectorActiveOrigin": [10, 22]}))
    assert moved.principal_point_px.value[0] == pytest.approx(35.0 + 2 * 0.2 / 0.4)


@pytest.mark.parametrize("rotation", [0, 90, 180, 270])
@pytest.mark.parametrize("flip", ["NO", "YES"])
def test_principal_point_follows_rotation_and_flip(tmp_path, rotation, flip):
    # The same is done to an image of the field in which the central pixel is marked.
    upright = (ROWS, COLUMNS) if rotation in (0, 180) else (COLUMNS, ROWS)
    field = np.zeros(upright)
    tags = {**PANEL, "FieldOfViewOrigin": [60 - 2 * 13 - 1, 95 - 2 * 17 - 1]}  # the central ray meets the centre of pixel (17, 13)
    field[13, 17] = 1
    stored = np.rot90(field, -rotation // 90)
    if flip == "YES":
        stored = stored[:, ::-1]
    assert stored.shape == (ROWS, COLUMNS)
    read = values(write(tmp_path / "x.dcm", modality="DX", **tags, FieldOfViewRotation=rotation, FieldOfViewHorizontalFlip=flip))
    row, column = np.argwhere(stored)[0]
    assert read.principal_point_px.value == pytest.approx((column, row))
    assert read.mirrored.value == (flip == "YES")


def test_isocentre_projection_of_enhanced_angiography(tmp_path):
    # Fractional detector elements, (row, column), from the *centre* of the first one.
    read = values(write(tmp_path / "x.dcm", **{**PANEL, "PositionOfIsocenterProjection": [44.5, 93.5]}))
    assert read.principal_point_px.value == pytest.approx(((94 - 24) / 2 - 0.5, (45 - 15) / 2 - 0.5))


def test_principal_point_far_outside_is_not_believed(tmp_path):
    read = values(write(tmp_path / "x.dcm", modality="DX", **{**PANEL, "FieldOfViewOrigin": [1000, 2000]}))
    assert read.principal_point_px is None and any("far outside" in warning for warning in read.warnings)


# Which side is which.


@pytest.mark.parametrize(
    "view,axes,mirrored", [("PA", "LF", True), ("PA", "RF", False), ("AP", "LF", False), ("AP", "RF", True), ("LL", "AF", False)]
)
def test_orientation_and_beam_tell_a_mirrored_image(tmp_path, view, axes, mirrored):
    read = values(write(tmp_path / "x.dcm", modality="DX", **GOOD, ViewPosition=view, PatientOrientation=list(axes)))
    assert read.mirrored.value is mirrored and "(0020,0020)" in read.mirrored.origin


@pytest.mark.parametrize("base", NAMED_VIEWS)
@pytest.mark.parametrize("angles", [(0, 0), (30, -20), (-75, 15)])
def test_beam_agrees_with_the_named_views(base, angles):
    from SphericalRegLib.geometry.camera import Camera

    camera = Camera(1000, (1, 1), (10, 10), (4.5, 4.5))
    beam = Start(base, *angles).beam_ras()
    np.testing.assert_allclose(beam, c_arm_view(*angles, camera, [0, 0, 0], base=base)[2, :3].numpy(), atol=1e-12)


def test_contradiction_between_flip_and_orientation_is_reported(tmp_path):
    read = values(
        write(tmp_path / "x.dcm", modality="DX", **GOOD, ViewPosition="PA", PatientOrientation=["L", "F"], FieldOfViewHorizontalFlip="NO")
    )
    assert read.mirrored.value and any("try both" in warning for warning in read.warnings)


def test_mirrored_dicom_comes_back_unmirrored(tmp_path):
    plain = Radiograph.read(write(tmp_path / "a.dcm", **GOOD, PixelIntensityRelationship="LIN"))
    flipped = Radiograph.read(
        write(tmp_path / "b.dcm", counts()[:, :, ::-1], **GOOD, PixelIntensityRelationship="LIN", FieldOfViewHorizontalFlip="YES")
    )
    assert flipped.mirrored and np.array_equal(flipped.image, plain.image) and flipped.camera == plain.camera


# Angles and frames.


def test_angles_give_the_start(tmp_path):
    read = values(write(tmp_path / "x.dcm", **GOOD, PositionerPrimaryAngle=30, PositionerSecondaryAngle=-12.5))
    assert read.start.value == Start("pa", 30, -12.5) and "(0018,1510)" in read.start.origin
    assert str(read.start.value) == "pa, LAO 30, caudal 12.5 degrees"


def test_empty_angles_give_no_start(tmp_path):
    assert values(write(tmp_path / "x.dcm", **GOOD, PositionerPrimaryAngle=None, PositionerSecondaryAngle=None)).start is None


def test_text_where_a_number_belongs(tmp_path):
    path = write(tmp_path / "x.dcm", **GOOD)
    dataset = pydicom.dcmread(path)
    del dataset.DistanceSourceToDetector
    dataset.add_new(0x00181110, "LO", "about one metre")
    dataset.save_as(path)
    read = values(path)
    assert read.sdd_mm is None and "not a number" in read.warnings[0]


@pytest.mark.parametrize("increment,expected", [(2.0, 30 + 2 * 2.0), ([0, 1.5, 7], 37)])
def test_angle_increments_of_a_rotating_arm(tmp_path, increment, expected):
    angles = {"PositionerPrimaryAngle": 30, "PositionerSecondaryAngle": 0, "PositionerPrimaryAngleIncrement": increment}
    path = write(tmp_path / "x.dcm", counts(3), **GOOD, **angles)
    assert values(path, 2).start.value.primary_deg == expected and values(path, 0).start.value.primary_deg == 30


def test_multi_frame_needs_a_frame(tmp_path):
    path = write(tmp_path / "x.dcm", counts(3), **GOOD, PixelIntensityRelationship="LIN")
    with pytest.raises(InputError, match="has 3 frames: say which one"):
        Radiograph.read(path)
    stored = read_pixels(path, 2)
    assert (stored.frames, stored.frame) == (3, 2) and np.array_equal(stored.grey, counts(3)[2])


def test_enhanced_functional_groups_are_per_frame(tmp_path):
    def item(**tags) -> Dataset:
        dataset = Dataset()
        for keyword, value in tags.items():
            setattr(dataset, keyword, value)
        return dataset

    frames = [
        item(
            XRayGeometrySequence=Sequence([item(DistanceSourceToDetector=1000 + 10 * k, DistanceSourceToIsocenter=700.0)]),
            PositionerPositionSequence=Sequence([item(PositionerPrimaryAngle=10.0 * k, PositionerSecondaryAngle=5.0)]),
        )
        for k in range(3)
    ]
    pixel = item(ImagerPixelSpacing=[0.3, 0.25], PixelIntensityRelationship="LOG", PixelIntensityRelationshipSign=1)
    shared = [item(FramePixelDataPropertiesSequence=Sequence([pixel]))]
    path = write(
        tmp_path / "x.dcm", counts(3), PerFrameFunctionalGroupsSequence=Sequence(frames), SharedFunctionalGroupsSequence=Sequence(shared)
    )
    read = values(path, 2)
    assert read.sdd_mm.value == 1020 and "frame 2" in read.sdd_mm.origin and read.sod_mm.value == 700
    assert read.start.value == Start("pa", 20, 5) and read.pixel_spacing_mm.value == (0.25, 0.3) and "all frames" in read.pixel_spacing_mm.origin
    assert read_pixels(path, 1).header.intensity.value == "line_integral"
