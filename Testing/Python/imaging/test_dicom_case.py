"""DICOM X-rays in a case folder."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from SphericalRegLib.errors import InputError
from SphericalRegLib.geometry.views import c_arm_view
from SphericalRegLib.imaging.case import load_case

sys.path.insert(0, str(Path(__file__).parent))
from dicom_xrays import GOOD, counts, write


def make_case(folder, pixels=None, **tags):
    from SphericalRegLib.imaging.volume import Volume

    folder.mkdir()
    rng = np.random.default_rng(0)
    hu = rng.normal(40, 30, (14, 12, 10)).astype(np.float32)
    hu[3:9] += 500
    hu[:2] = -1000
    affine = np.diag([3.0, 3.0, 4.0, 1.0])
    affine[:3, 3] = 10, -20, 30
    import SimpleITK as sitk

    sitk.WriteImage(Volume.from_array(hu, affine).to_sitk(), str(folder / "ct.nrrd"))
    write(folder / "xray.dcm", pixels, **{**GOOD, "PixelIntensityRelationship": "LIN", **tags})
    return folder


def test_case_takes_geometry_and_start_from_the_tags(tmp_path):
    case = load_case(make_case(tmp_path / "case", PositionerPrimaryAngle=20, PositionerSecondaryAngle=10))
    camera = case.views[0].radiograph.camera
    expected = c_arm_view(20, 10, camera, case.volume.centre_ras_mm.tolist(), 700 / 1020).numpy()
    np.testing.assert_allclose(case.initial_camera_from_world, expected, atol=1e-9)
    assert "PositionerPrimaryAngle (0018,1510)" in case.initial_origin


def test_image_that_is_feet_up_turns_the_start(tmp_path):
    case = load_case(make_case(tmp_path / "case", PositionerPrimaryAngle=0, PositionerSecondaryAngle=0, PatientOrientation=["L", "H"]))
    rotation = case.initial_camera_from_world[:3, :3]
    np.testing.assert_allclose(rotation[1], [0, 0, 1], atol=1e-12)  # rows run to the head
    np.testing.assert_allclose(rotation[0], [-1, 0, 0], atol=1e-12)  # columns to the left, as the tag says
    assert not case.views[0].radiograph.mirrored


def test_geometry_file_wins_over_tags_and_tags_fill_in(tmp_path):
    folder = make_case(tmp_path / "case")
    (folder / "geometry.json").write_text('{"sdd_mm": 1111}')
    radiograph = load_case(folder).views[0].radiograph
    assert radiograph.camera.sdd_mm == 1111 and radiograph.camera.pixel_spacing_mm == (0.25, 0.3)
    assert radiograph.known.sdd_mm.origin == "geometry.json: sdd_mm" and "(0018,1164)" in radiograph.known.pixel_spacing_mm.origin
    assert load_case(folder).initial_camera_from_world is None


def test_frame_of_a_cine_run_is_chosen_in_the_geometry_file(tmp_path):
    folder = make_case(tmp_path / "case", pixels=counts(3))
    with pytest.raises(InputError, match=r'"frame" in geometry\.json'):
        load_case(folder)
    (folder / "geometry.json").write_text('{"frame": 2, "collimator": false, "i0": 4000}')
    read = load_case(folder).views[0].radiograph
    np.testing.assert_allclose(read.image, np.log(4000) - np.log(counts(3)[2]), atol=1e-4)
