"""Hounsfield units to attenuation: the formula's fixed points, what is left out, and which faces cut the body."""

import json
from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from SphericalRegLib.errors import InputError
from SphericalRegLib.imaging.attenuation import (
    Attenuation,
    AttenuationModel,
    attenuation,
    cortical_bone_hu,
    mu_bone_per_mm,
    mu_water_per_mm,
    water_bone_fractions,
)
from SphericalRegLib.imaging.samples import sample_volume
from SphericalRegLib.imaging.volume import Volume

WATER_60 = 0.02059  # 1/mm: NIST, 0.2059 cm2/g at 60 keV
BONE_60 = 0.3148 * 1.92 / 10


def phantom(margin=4, hu=0.0):
    """A cube of tissue in exact air, (20, 21, 22)."""
    values = np.full((20, 21, 22), -1000.0, dtype=np.float32)
    values[margin:-margin, margin:-margin, margin:-margin] = hu
    return values


# ---- the formula


def test_water_air_and_the_line_between():
    mu = AttenuationModel(air_below_hu=-2000).mu(np.array([-3000.0, -1000.0, -500.0, 0.0, 1000.0]))
    np.testing.assert_allclose(mu, [0, 0, 0.5 * WATER_60, WATER_60, 2 * WATER_60], atol=1e-9)
    assert mu.dtype == np.float32


def test_the_table_is_nists():
    assert mu_water_per_mm(60) == pytest.approx(WATER_60, rel=1e-12)
    assert mu_bone_per_mm(60) == pytest.approx(BONE_60, rel=1e-12)
    assert mu_water_per_mm(70) == pytest.approx(0.01929, rel=0.01)  # XCOM, off the grid of the table
    assert mu_bone_per_mm(70) == pytest.approx(0.04935, rel=0.02)
    assert cortical_bone_hu(60) == pytest.approx(1000 * (BONE_60 / WATER_60 - 1))


@given(hu=st.floats(-1000, 4000), energy=st.floats(40, 120))
@settings(max_examples=50, deadline=None)
def test_the_mixture_attenuates_as_the_hounsfield_unit_says_at_the_cts_energy(hu, energy):
    water, bone = water_bone_fractions(np.array([hu]), energy)
    mu = water * mu_water_per_mm(energy) + bone * mu_bone_per_mm(energy)
    np.testing.assert_allclose(mu, mu_water_per_mm(energy) * (1 + hu / 1000), rtol=1e-5, atol=1e-7)


def test_the_mixture_and_its_mass_are_continuous_and_grow():
    hu = np.linspace(-1100, 3500, 46001)
    water, bone = water_bone_fractions(hu)
    mass = water + 1.92 * bone
    for part in (water, bone, mass):
        assert np.abs(np.diff(part)).max() < 5e-4
    assert (np.diff(mass) >= -1e-6).all() and (water >= 0).all() and (bone >= 0).all()
    full = cortical_bone_hu(70)
    np.testing.assert_allclose(np.interp([100, full], hu, bone), [0, 1], atol=1e-3)
    np.testing.assert_allclose(np.interp([-1000, 0, 100, full], hu, water), [0, 1, 1.1, 0], atol=1e-3)


def test_another_energy_gives_bone_its_own_slope_and_leaves_water_alone():
    softer = AttenuationModel(energy_kev=50, ct_energy_kev=70)
    line = AttenuationModel(energy_kev=50)
    hu = np.array([-500.0, 0.0, 100.0, 1000.0])
    np.testing.assert_allclose(softer.mu(hu)[:3], line.mu(hu)[:3], rtol=1e-6)
    assert softer.mu(hu)[3] > 1.1 * line.mu(hu)[3]  # the photo effect in calcium
    np.testing.assert_allclose(AttenuationModel(energy_kev=60, ct_energy_kev=60).mu(hu), AttenuationModel().mu(hu), rtol=1e-5)
    np.testing.assert_allclose(softer.mu(np.array([cortical_bone_hu(70)])), mu_bone_per_mm(50), rtol=1e-4)


def test_bone_only_rises_smoothly_from_nothing_to_everything():
    model, everything = AttenuationModel(bone_only=True), AttenuationModel()
    hu = np.linspace(-1000, 1500, 5001)
    share = model.mu(hu) / np.maximum(everything.mu(hu), 1e-9)
    assert (share[hu <= 175] == 0).all() and np.allclose(share[hu >= 325], 1) and share[hu == 250] == pytest.approx(0.5, abs=1e-6)
    assert (np.diff(share) >= -1e-6).all() and np.abs(np.diff(share)).max() < 0.006


def test_metal_is_clamped_only_if_asked():
    hu = np.array([3000.0, 20000.0])
    np.testing.assert_allclose(AttenuationModel().mu(hu), WATER_60 * np.array([4.0, 21.0]), rtol=1e-6)
    np.testing.assert_allclose(AttenuationModel(metal_clamp_hu=2000).mu(hu), WATER_60 * 3.0, rtol=1e-6)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"energy_kev": 5}, "5 keV; expected 20 to 200"),
        ({"ct_energy_kev": 1000}, "1000 keV"),
        ({"energy_kev": float("nan")}, "nan keV"),
        ({"bone_width_hu": 0}, "positive width"),
        ({"label_softness_mm": -1}, "softness of at least 0"),
        ({"air_below_hu": float("nan")}, "air_below_hu"),
    ],
)
def test_bad_models(values, message):
    with pytest.raises(InputError, match=message):
        AttenuationModel(**values)


# ---- a whole volume


def test_the_slabs_make_one_volume_in_c_order_whatever_the_order_of_the_input():
    hu = np.random.default_rng(0).uniform(-900, 2000, (9, 37, 8)).astype(np.float32)
    matrix = np.diag([1.0, 2, 3, 1])
    for order in "CF":
        result = attenuation(Volume(np.asarray(hu, order=order), matrix, centre_ras_mm=np.array([1.0, 2, 3])))
        np.testing.assert_array_equal(result.mu, AttenuationModel().mu(hu))
        assert result.mu.flags.c_contiguous and result.mu.dtype == np.float32
        np.testing.assert_array_equal(result.centre_ras_mm, [1, 2, 3])
        np.testing.assert_array_equal(result.world_from_voxel, matrix)


def test_air_noise_and_padding_are_exactly_nothing_and_lungs_stay():
    rng = np.random.default_rng(0)
    hu = phantom()
    hu[hu < -900] = rng.normal(-1000, 12, (hu < -900).sum())
    hu[8:12, 8:12, 8:12] = rng.normal(-850, 30, (4, 4, 4))
    hu[:, :2] = -2048
    result = attenuation(Volume.from_array(hu, np.eye(4)))
    assert (result.mu[:3] == 0).all() and (result.mu[:, :2] == 0).all()
    lung = np.s_[8:12, 8:12, 8:12]
    np.testing.assert_allclose(result.mu[lung], (1 + hu[lung] / 1000) * WATER_60, rtol=1e-5)


def test_a_valid_mask_rules_even_over_tissue():
    valid = np.ones((20, 21, 22), dtype=bool)
    valid[:10] = False
    result = attenuation(Volume(phantom(), np.eye(4), valid=valid))
    assert not result.mu[:10].any() and result.mu[10:].any()


@pytest.mark.parametrize(("axis", "end", "face"), [(0, 0, 0), (0, -1, 1), (1, 0, 2), (1, -1, 3), (2, 0, 4), (2, -1, 5)])
def test_the_face_through_which_the_body_leaves(axis, end, face):
    hu = phantom()
    assert attenuation(Volume(hu, np.eye(4))).cut_faces == (False,) * 6
    rod = [slice(9, 12)] * 3
    rod[axis] = slice(0, 10) if end == 0 else slice(10, None)
    hu[tuple(rod)] = 30
    expected = [False] * 6
    expected[face] = True
    assert attenuation(Volume(hu, np.eye(4))).cut_faces == tuple(expected)


def test_cropping_cuts_and_noise_does_not():
    volume = Volume(phantom(), np.eye(4))
    assert attenuation(volume.crop_to_box((0, 0, 8), (20, 21, 22))).cut_faces == (False, False, False, False, True, False)
    noisy = phantom() + np.random.default_rng(0).normal(0, 30, (20, 21, 22)).astype(np.float32)
    assert attenuation(Volume(noisy, np.eye(4))).cut_faces == (False,) * 6


def test_padding_is_no_reason_to_forget_a_cut():
    """A field of view that fills a tenth of the face, all of it tissue: cut, although nine tenths of the face are empty."""
    hu = np.full((40, 40, 10), -2048.0, dtype=np.float32)
    hu[18:21, 18:21] = 40
    hu[5:9, 5:9, 4:6] = np.linspace(-900, 300, 32).reshape(4, 4, 2)
    assert attenuation(Volume.from_array(hu, np.eye(4))).cut_faces == (False, False, False, False, True, True)


def labels():
    result = np.zeros((20, 21, 22), dtype=np.uint8)
    result[4:10, 4:17, 4:18] = 7
    result[10:16, 4:17, 4:18] = 9
    return result


def test_one_label_of_several_is_rendered_alone():
    volume = Volume(phantom(hu=500), np.eye(4), labels=labels())
    one = attenuation(volume, labels=[7])
    np.testing.assert_array_equal(one.mu > 0, labels() == 7)
    both = attenuation(volume, labels=(7, 9))
    np.testing.assert_array_equal(both.mu, attenuation(volume).mu)


def test_a_soft_border_keeps_the_inside_and_fades_over_millimetres_not_voxels():
    spacing = np.diag([1.0, 2.0, 0.5, 1.0])
    volume = Volume(np.full((20, 21, 22), 500.0), spacing, labels=labels())
    soft = attenuation(volume, AttenuationModel(label_softness_mm=1.0), labels=[7]).mu / (1.5 * WATER_60)
    assert soft[6, 10, 11] > 0.95 and soft[15, 10, 11] == 0
    np.testing.assert_allclose(soft[9, 10, 11], norm.cdf(0.5), atol=0.05)  # half a voxel of 1 mm inside the border
    np.testing.assert_allclose(soft[7, 4, 11], norm.cdf(1.0), atol=0.05)  # half a voxel of 2 mm
    np.testing.assert_allclose(soft[7, 10, 4], norm.cdf(0.25), atol=0.05)  # half a voxel of 0.5 mm


def test_contrast_agent_is_removed_from_what_is_labelled_and_its_rim_but_not_from_bone():
    hu = phantom(hu=40)
    hu[8:12, 8:12, 4:18] = 350  # an aorta with its rim
    hu[13:15, 8:12, 4:18] = 400  # a vertebra
    vessel = np.zeros(hu.shape, dtype=np.uint8)
    vessel[9:11, 9:11, 4:18] = 1
    vessel[13:15, 8:12, 4:18] = 2
    volume = Volume(hu, np.eye(4), labels=vessel)
    with_agent, without = attenuation(volume).mu, attenuation(volume, AttenuationModel(contrast_labels=(1,))).mu
    np.testing.assert_allclose(without[8:12, 8:12, 4:18], 1.04 * WATER_60, rtol=1e-5)
    rest = np.ones(hu.shape, dtype=bool)
    rest[8:12, 8:12, 4:18] = False
    np.testing.assert_array_equal(without[rest], with_agent[rest])


def test_what_is_asked_for_and_not_there():
    plain = Volume(phantom(), np.eye(4), name="thigh")
    with pytest.raises(InputError, match="thigh has no label map"):
        attenuation(plain, labels=[1])
    with pytest.raises(InputError, match="no label map"):
        attenuation(plain, AttenuationModel(contrast_labels=(1,)))
    with pytest.raises(InputError, match=r"no voxel with the labels \[3\]; it has \[7, 9\]"):
        attenuation(Volume(phantom(), np.eye(4), labels=labels()), labels=[3])
    with pytest.raises(InputError, match="Nothing in thigh attenuates"):
        attenuation(plain, AttenuationModel(bone_only=True))


def test_an_attenuation_made_by_hand_has_its_centre_and_order():
    made = Attenuation(np.zeros((3, 4, 5), order="F"), np.diag([2.0, 2, 2, 1]))
    np.testing.assert_allclose(made.centre_ras_mm, [2, 3, 4])
    assert made.mu.flags.c_contiguous and made.mu.dtype == np.float32


def test_the_pelvis_is_cut_above_and_below():
    result = attenuation(sample_volume("pelvis"))
    assert result.cut_faces[4:] == (True, True)
    assert 0.5 < (result.mu > 0).mean() < 0.8 and 0.01 < result.mu[result.mu > 0].mean() < 0.03


def test_it_remembers_what_it_was_made_with_in_plain_values():
    model = AttenuationModel(contrast_labels=np.array([9]))
    made = attenuation(Volume(phantom(), np.eye(4), labels=labels()), model, labels=np.array([7, 9]))
    assert made.model == AttenuationModel(contrast_labels=(9,)) and made.labels == (7, 9)
    assert json.loads(json.dumps({**asdict(model), "labels": made.labels})) == {**asdict(model), "contrast_labels": [9], "labels": [7, 9]}
    assert attenuation(Volume(phantom(), np.eye(4))).labels is None
    assert Attenuation(made.mu, np.eye(4)).model is None, "made by hand"
