"""Case folders: what is in them, what is not, and that they repeat."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import numpy as np
import pytest
import torch

from SphericalRegLib.errors import InputError
from SphericalRegLib.geometry.distances import rotation_angle
from SphericalRegLib.geometry.se3 import local
from SphericalRegLib.geometry.views import named_view
from SphericalRegLib.imaging.case import load_case
from SphericalRegLib.imaging.volume import Volume
from SphericalRegLib.progress import Cancelled
from SphericalRegLib.simulation.cases import SimulationOptions, draw_tools, flat_panel, simulate_cases
from SphericalRegLib.simulation.difficulty import CLEAN, HARD, REALISTIC
from SphericalRegLib.simulation.poses import bone_fiducials, draw_pose, draw_start

CAMERA = flat_panel(64, 56, 1000.0, 240.0, (4.0, -3.0))


def phantom() -> Volume:
    """A water block with three bone rods in air, off the world's origin."""
    shape = (40, 36, 44)
    affine = np.diag([-3.0, 3.0, 3.0, 1.0])
    affine[:3, 3] = [80.0, -20.0, 100.0]
    hu = np.full(shape, -1000.0, np.float32)
    hu[6:34, 6:30, 4:40] = 20.0
    hu[10:13, 12:15, 6:38] = 900.0
    hu[26:29, 10:13, 8:30] = 1100.0
    hu[12:28, 22:24, 20:23] = 700.0
    return Volume.from_array(hu, affine, name="phantom")


def options(**changes) -> SimulationOptions:
    return SimulationOptions(**{"camera": CAMERA, "rotation_range_deg": 6.0, "translation_range_mm": (5.0, 5.0, 20.0), "seed": 3, **changes})


def poses_and_start(folder):
    truth, geometry = (json.loads((folder / name).read_text()) for name in ("truth.json", "geometry.json"))
    return truth, geometry


def test_cases_load_and_hold_no_truth(tmp_path):
    volume = phantom()
    seen = []
    folders = simulate_cases(volume, tmp_path / "set", 2, options(views=("ap", "left")), threads=1, progress=seen.append)
    assert [f.name for f in folders] == ["case_000", "case_001"]
    for folder in folders:
        case = load_case(folder)
        np.testing.assert_array_equal(case.volume.hu, volume.hu)
        np.testing.assert_allclose(case.volume.world_from_voxel, volume.world_from_voxel)
        radiograph = case.views[0].radiograph
        assert radiograph.camera == CAMERA
        truth, geometry = poses_and_start(folder)
        np.testing.assert_allclose(case.initial_camera_from_world, geometry["initial_camera_from_world"], atol=1e-9)
        assert len(truth["fiducials_ras_mm"]) == 100
        true_numbers = {round(x, 9) for row in truth["camera_from_world"][:3] for x in row}
        for name in ("geometry.json", "case.json", "simulation.json"):
            text = (folder / name).read_text()
            assert "fiducials_ras" not in text
            numbers = {round(float(t), 9) for t in re.findall(r"-?[0-9.]+(?:e-?[0-9]+)?", re.sub(r'"[^"]*"', "", text))}
            assert not (true_numbers & numbers) - {0.0, 1.0}
    assert json.loads((folders[0] / "case.json").read_text())["ct"] == "../ct.nii.gz"
    assert seen[-1].done == seen[-1].total == 2 and any("left" in p.message for p in seen)
    assert not list((tmp_path / "set").glob(".*"))


def test_a_seed_repeats_and_another_does_not(tmp_path):
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        simulate_cases(phantom(), tmp_path / name, 1, options(level=HARD, seed=seed), threads=1)
    files = ("xray.png", "geometry.json", "truth.json", "simulation.json")
    same = [(tmp_path / "a/case_000" / f).read_bytes() == (tmp_path / "b/case_000" / f).read_bytes() for f in files]
    assert all(same)
    assert (tmp_path / "a/case_000/xray.png").read_bytes() != (tmp_path / "c/case_000/xray.png").read_bytes()


def test_resume_keeps_what_is_there_and_does_not_depend_on_it(tmp_path):
    simulate_cases(phantom(), tmp_path / "whole", 3, options(), threads=1)
    simulate_cases(phantom(), tmp_path / "parts", 1, options(), threads=1)
    before = (tmp_path / "parts/case_000/xray.png").stat().st_mtime_ns
    (tmp_path / "parts/.case_001.partial").mkdir()  # a run that was killed
    simulate_cases(phantom(), tmp_path / "parts", 3, options(), threads=1)
    assert (tmp_path / "parts/case_000/xray.png").stat().st_mtime_ns == before
    for index in range(3):
        names = [tmp_path / s / f"case_00{index}/truth.json" for s in ("whole", "parts")]
        assert names[0].read_bytes() == names[1].read_bytes()
    with pytest.raises(InputError, match="other options"):
        simulate_cases(phantom(), tmp_path / "parts", 3, options(seed=9), threads=1)
    other = Volume.from_array(phantom().hu[:, :, :30], phantom().world_from_voxel, name="other")
    with pytest.raises(InputError, match="another CT"):
        simulate_cases(other, tmp_path / "parts", 3, options(), threads=1)


def test_a_file_of_another_ct_is_not_taken_for_this_one(tmp_path):
    """What a run without enough bone leaves, or somebody who deleted the cases alone."""
    volume = phantom()
    soft = Volume.from_array(np.minimum(volume.hu, 100.0), volume.world_from_voxel, name="soft")
    with pytest.raises(InputError, match="bone"):
        simulate_cases(soft, tmp_path / "hu", 1, options(), threads=1)
    with pytest.raises(InputError, match=r"ct\.nii\.gz holds another CT .* delete it and the cases"):
        simulate_cases(volume, tmp_path / "hu", 1, options(), threads=1)
    (tmp_path / "hu/ct.nii.gz").unlink()
    np.testing.assert_array_equal(load_case(simulate_cases(volume, tmp_path / "hu", 1, options(), threads=1)[0]).volume.hu, volume.hu)

    shifted = Volume.from_array(volume.hu, volume.world_from_voxel + np.outer(np.eye(4)[0], np.eye(4)[3]), name="shifted")
    Volume(volume.hu, volume.world_from_voxel).write(tmp_path / "grid/ct.nii.gz")
    with pytest.raises(InputError, match="holds another CT"):
        simulate_cases(shifted, tmp_path / "grid", 1, options(), threads=1)

    one, two = (replace(volume, labels=(volume.hu > limit).astype(np.uint8)) for limit in (300, 1000))
    simulate_cases(one, tmp_path / "labels", 1, options(), threads=1)
    with pytest.raises(InputError, match=r"labels\.nii\.gz holds other labels than"):
        simulate_cases(two, tmp_path / "labels", 2, options(), threads=1)
    without = simulate_cases(volume, tmp_path / "labels", 2, options(), threads=1)[1]
    assert json.loads((without / "case.json").read_text()) == {"ct": "../ct.nii.gz"}


def test_a_sheared_ct_comes_back_with_its_shear(tmp_path):
    plain = phantom()
    affine = plain.world_from_voxel.copy()
    affine[:3, 2] = (0.3, 0.4, 3.0)  # the gantry was tilted
    hu = plain.hu.copy()
    hu[:3] = -3024.0
    volume = Volume.from_array(hu, affine, labels=(hu > 300).astype(np.uint8), name="tilted")
    for count in (1, 2):  # and is known again
        folder = simulate_cases(volume, tmp_path, count, options(), threads=1)[-1]
        case = load_case(folder)
        assert json.loads((folder / "case.json").read_text()) == {"ct": "../ct.nrrd", "labels": "../labels.nrrd"}
        np.testing.assert_allclose(case.volume.world_from_voxel, affine, atol=1e-9)
        np.testing.assert_array_equal(case.volume.hu, volume.hu)
        np.testing.assert_array_equal(case.volume.valid, volume.valid)
        np.testing.assert_array_equal(case.volume.labels, volume.labels)


def test_more_cases_keep_the_names_of_those_that_are_there(tmp_path):
    first = simulate_cases(phantom(), tmp_path, 1, options(), threads=1)
    (tmp_path / "case_000").rename(tmp_path / "case_0000")  # as of a set of 2000
    assert [folder.name for folder in simulate_cases(phantom(), tmp_path, 2, options(), threads=1)] == ["case_0000", "case_0001"]
    assert first[0].name == "case_000" and not first[0].exists()


def test_a_cancelled_case_leaves_nothing_half_written(tmp_path):
    calls = []

    def stop(report):
        calls.append(report)
        if len(calls) == 4:
            raise Cancelled

    with pytest.raises(Cancelled):
        simulate_cases(phantom(), tmp_path, 2, options(), threads=1, progress=stop)
    assert sorted(p.name for p in tmp_path.iterdir()) in (["ct.nii.gz"], ["case_000", "ct.nii.gz"])


def test_levels_share_poses_and_starts_of_a_seed(tmp_path):
    for level in (CLEAN, REALISTIC):
        simulate_cases(phantom(), tmp_path / level.name, 1, options(level=level), threads=1)
    (truth_a, geometry_a), (truth_b, geometry_b) = (poses_and_start(tmp_path / n / "case_000") for n in ("clean", "realistic"))
    assert truth_a["camera_from_world"] == truth_b["camera_from_world"]
    assert geometry_a["initial_camera_from_world"] == geometry_b["initial_camera_from_world"]
    assert (geometry_a["intensity"], geometry_b["intensity"]) == ("counts", "display")


def test_a_named_ct_is_referred_to_and_not_copied(tmp_path):
    first = simulate_cases(phantom(), tmp_path / "first", 1, options(), threads=1)[0]
    ct = tmp_path / "first" / "ct.nii.gz"
    folder = simulate_cases(phantom(), tmp_path / "deep" / "second", 1, options(), ct=ct, threads=1)[0]
    assert json.loads((folder / "case.json").read_text()) == {"ct": "../../../first/ct.nii.gz"}
    assert not (tmp_path / "deep/second/ct.nii.gz").exists()
    assert (folder / "xray.png").read_bytes() == (first / "xray.png").read_bytes()
    np.testing.assert_array_equal(load_case(folder).volume.hu, phantom().hu)


def test_padding_and_labels_survive(tmp_path):
    plain = phantom()
    hu = plain.hu.copy()
    hu[:3] = -3024.0
    labels = (plain.hu > 300).astype(np.uint8)
    volume = Volume.from_array(hu, plain.world_from_voxel, labels=labels, name="padded")
    assert volume.valid is not None
    case = load_case(simulate_cases(volume, tmp_path, 1, options(), threads=1)[0])
    np.testing.assert_array_equal(case.volume.valid, volume.valid)
    np.testing.assert_array_equal(case.volume.labels, labels)


def test_second_view_has_the_exact_relation(tmp_path):
    folder = simulate_cases(phantom(), tmp_path, 1, options(second_view="left"), threads=1)[0]
    case = load_case(folder)
    assert len(case.views) == 2
    relation = case.views[1].camera_from_camera1
    angle = rotation_angle(torch.eye(4, dtype=torch.float64), torch.from_numpy(relation))
    assert np.rad2deg(float(angle)) == pytest.approx(90, abs=20)
    truth, _ = poses_and_start(folder)
    centre = np.append(case.volume.centre_ras_mm, 1.0)
    in_second = relation @ np.array(truth["camera_from_world"]) @ centre  # the CT's centre stays near the second central ray
    assert np.abs(in_second[:2]).max() <= 5.0 + 1e-6 and in_second[2] == pytest.approx(750, abs=20.1)


def test_mirrored_images_read_back_as_the_plain_ones(tmp_path):
    plain, mirrored = (
        load_case(simulate_cases(phantom(), tmp_path / str(flag), 1, options(level=CLEAN, mirrored=flag), threads=1)[0]) for flag in (False, True)
    )
    a, b = plain.views[0].radiograph, mirrored.views[0].radiograph
    assert b.mirrored and b.camera == a.camera
    np.testing.assert_array_equal(a.image, b.image)


def test_fiducials_are_bone_inside_the_open_field(tmp_path):
    volume = phantom()
    for index, folder in enumerate(simulate_cases(volume, tmp_path, 3, options(level=HARD, fiducials=60), threads=1)):
        truth, _ = poses_and_start(folder)
        points = np.array(truth["fiducials_ras_mm"])
        assert len(np.unique(points, axis=0)) == 60
        voxels = np.rint((points - volume.world_from_voxel[:3, 3]) @ np.linalg.inv(volume.world_from_voxel[:3, :3]).T).astype(int)
        assert (volume.hu[tuple(voxels.T)] > 300).all()
        pose = np.array(truth["camera_from_world"])
        pixels = CAMERA.project(points @ pose[:3, :3].T + pose[:3, 3])
        assert (pixels >= 0).all() and (pixels <= [63, 55]).all()
        exposure = json.loads((folder / "simulation.json").read_text())["exposures"][0]
        shutter = exposure["shutter"]
        offset = np.abs(pixels - shutter["centre_px"]) * CAMERA.pixel_spacing_mm[0]
        reach = np.hypot(*shutter["half_size_mm"]) if shutter["shape"] == "rectangle" else shutter["half_size_mm"][0]
        assert (np.hypot(*offset.T) < reach + 4).all(), index


def test_too_little_bone_is_an_error_and_leaves_no_folder(tmp_path):
    volume = phantom()
    soft = Volume.from_array(np.minimum(volume.hu, 100.0), volume.world_from_voxel, name="soft")
    with pytest.raises(InputError, match="only 0 bone voxels"):
        simulate_cases(soft, tmp_path, 1, options(), threads=1)
    assert not list(tmp_path.glob("*case*"))
    pose = named_view("ap", CAMERA, volume.centre_ras_mm.tolist()).numpy()
    with pytest.raises(InputError, match="expected at least 100000"):
        bone_fiducials(volume, CAMERA, pose, np.ones((56, 64), bool), 100_000, np.random.default_rng(0))


def test_pose_ranges_and_start_sigmas():
    rng = np.random.default_rng(0)
    centre = np.array([10.0, -20.0, 30.0])
    view = named_view("left", CAMERA, centre.tolist()).numpy()
    truth = [draw_pose(view, centre, 12.0, (5.0, 10.0, 40.0), rng) for _ in range(200)]
    shift = np.array([(p @ np.append(centre, 1.0))[:3] for p in truth]) - [0, 0, 750.0]
    assert (np.abs(shift) <= np.array([5.0, 10.0, 40.0]) + 1e-9).all()
    np.testing.assert_allclose(np.abs(shift).max(axis=0), [5, 10, 40], rtol=0.08)
    delta = np.array([local(*(torch.from_numpy(m) for m in (view, p)), torch.from_numpy(centre)).numpy() for p in truth])
    assert np.rad2deg(np.abs(delta[:, :3])).max() <= 12.0 + 1e-6
    starts = [draw_start(truth[0], centre, 5.0, 10.0, rng) for _ in range(500)]
    delta = np.array([local(*(torch.from_numpy(m) for m in (truth[0], s)), torch.from_numpy(centre)).numpy() for s in starts])
    np.testing.assert_allclose(np.rad2deg(delta[:, :3]).std(axis=0), 5.0, rtol=0.12)
    np.testing.assert_allclose(delta[:, 3:].std(axis=0), 10.0, rtol=0.12)
    assert np.abs(delta.mean(axis=0) / delta.std(axis=0)).max() < 0.15


def test_tools_as_the_level_allows():
    numbers = [len(draw_tools(level, np.zeros(3), 50.0, np.random.default_rng(i))) for level in (CLEAN, REALISTIC, HARD) for i in range(30)]
    assert max(numbers[:30]) == 0
    assert min(numbers[30:60]) == 0 and max(numbers[30:60]) == 2
    assert min(numbers[60:]) >= 1 + 2 + 4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"views": ("front",)}, "front"),
        ({"views": ()}, "at least one view"),
        ({"second_view": "top"}, "top"),
        ({"fiducials": 0}, "fiducials"),
        ({"rotation_range_deg": -1.0}, "not negative"),
        ({"start_sigma_mm": float("nan")}, "finite"),
        ({"step_mm": 0.0}, "step"),
        ({"seed": -1}, "seed"),
        ({"sod_fraction": 1.0}, "sod_fraction"),
        ({"sod_fraction": float("nan")}, "sod_fraction"),
    ],
)
def test_unusable_options_are_named(changes, message):
    with pytest.raises(InputError, match=message):
        replace(options(), **changes)


@pytest.mark.parametrize("changes", [{"kvp": (80.0, 200.0)}, {"kvp": (20.0, 80.0)}, {"filtration_mm_al": (-1.0, 3.0)}])
def test_a_level_without_a_spectrum_is_named(changes):
    with pytest.raises(InputError, match=r"the level 'mine' has .* expected"):
        replace(REALISTIC, name="mine", **changes)


def test_unusable_places_are_named(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="is a file"):
        simulate_cases(phantom(), tmp_path / "file", 1, options())
    with pytest.raises(InputError, match="at least 1"):
        simulate_cases(phantom(), tmp_path, 0, options())
    with pytest.raises(InputError, match="does not exist"):
        simulate_cases(phantom(), tmp_path, 1, options(), ct=tmp_path / "none.nii.gz")
