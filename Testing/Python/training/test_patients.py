"""Made-up patients: like the one they are made of, and not the same."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "registration"))
import registration_phantom as phantom

from SphericalRegLib.errors import InputError
from SphericalRegLib.imaging.attenuation import attenuation
from SphericalRegLib.imaging.grid import apply
from SphericalRegLib.imaging.identity import ct_identity
from SphericalRegLib.training.patients import PatientVariation, another_patient

STILL = PatientVariation(stretch=0.0, bend_mm=0.0, bone_gain=(1.0, 1.0))


def test_without_variation_it_is_the_same_patient() -> None:
    volume = phantom.volume()
    same = another_patient(volume, 3, STILL)
    np.testing.assert_allclose(same.hu, volume.hu, atol=1e-2)
    np.testing.assert_allclose(same.world_from_voxel, volume.world_from_voxel)


def test_seeds_make_patients() -> None:
    volume = phantom.volume()
    one, again, other = (another_patient(volume, seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one.hu, again.hu)
    assert np.abs(one.hu - other.hu).mean() > 1
    identities = [ct_identity(attenuation(each)) for each in (volume, one, other)]
    assert identities[0].differs_from(identities[1]) and identities[1].differs_from(identities[2])
    assert 0.5 < identities[1].mass_mm2 / identities[0].mass_mm2 < 2
    np.testing.assert_allclose(one.centre_ras_mm, volume.centre_ras_mm)
    assert "made-up patient 1" in one.name


def test_stretching_keeps_the_middle_and_scales_the_rest() -> None:
    volume = phantom.volume()
    stretched = another_patient(volume, 5, replace(STILL, stretch=0.2))
    middle = (np.array(volume.shape) - 1) / 2
    np.testing.assert_allclose(apply(stretched.world_from_voxel, middle), apply(volume.world_from_voxel, middle), atol=1e-9)
    ratio = stretched.spacing_mm / volume.spacing_mm
    assert (abs(ratio - 1) <= 0.2).all() and len(set(ratio.round(6))) == 3


def test_bone_alone_changes_density() -> None:
    volume = phantom.volume()
    denser = another_patient(volume, 0, replace(STILL, bone_gain=(1.5, 1.5)))
    bone = volume.hu > 151
    np.testing.assert_allclose(denser.hu[bone], 150 + 1.5 * (volume.hu[bone] - 150), rtol=1e-3)
    np.testing.assert_allclose(denser.hu[volume.hu < 149], volume.hu[volume.hu < 149], atol=1e-2)


def test_bending_moves_by_what_it_says_and_does_not_fold() -> None:
    """A CT whose values are its own voxel numbers shows where each voxel came from."""
    volume = phantom.volume().resample(4.0)
    ramp = np.broadcast_to(np.arange(volume.shape[0], dtype=np.float32)[:, None, None], volume.shape)
    bent = another_patient(replace(volume, hu=ramp.copy()), 7, replace(STILL, bend_mm=5.0, knots_mm=60.0))
    inside = (slice(6, -6),) * 3
    moved_mm = ((bent.hu - ramp) * volume.spacing_mm[0])[inside]
    assert 1.0 < moved_mm.std() < 10.0
    assert np.diff(bent.hu[inside], axis=0).min() > 0


def test_labels_and_padding_go_along() -> None:
    volume = phantom.volume()
    labels = np.zeros(volume.shape, np.uint8)
    labels[: volume.shape[0] // 2] = 7
    valid = np.ones(volume.shape, bool)
    valid[:, :3] = False
    made = another_patient(replace(volume, labels=labels, valid=valid), 4)
    assert set(np.unique(made.labels)) == {0, 7} and made.labels.dtype == np.uint8 and made.valid.dtype == bool
    assert 0.4 < (made.labels == 7).mean() < 0.6 and 0 < (~made.valid).mean() < 0.3


@pytest.mark.parametrize("wrong", [{"stretch": 0.6}, {"bend_mm": 20.0}, {"bone_gain": (0.0, 1.0)}, {"bone_gain": (1.2, 1.0)}])
def test_what_folds_is_refused(wrong) -> None:
    with pytest.raises(InputError, match="Made-up patients"):
        PatientVariation(**wrong)
