from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent))
import scenes

from SphericalRegLib.geometry.camera import Camera
from SphericalRegLib.rendering.projector import Projector

CAMERA = Camera(sdd_mm=1000.0, pixel_spacing_mm=(4.0, 4.0), size_px=(61, 61), principal_point_px=(30.0, 30.0))


def cylinder(length: int) -> SimpleNamespace:
    """A body along k, radius 20 mm, with a canal of air in it, through a grid of 2 mm voxels; centred on (30, -50, 70)."""
    attenuation = scenes.smooth_attenuation("plain", (40, 40, length))
    i, j = np.meshgrid(np.arange(40) - 19.5, np.arange(40) - 19.5, indexing="ij")
    radius = 2.0 * np.hypot(i, j)
    attenuation.mu = np.repeat(np.where((radius < 20) & (radius > 5), 0.02, 0.0)[:, :, None], length, axis=2).astype(np.float32)
    attenuation.cut_faces = (False, False, False, False, True, True)
    return attenuation


def across(attenuation) -> torch.Tensor:
    """Looking along world y; image rows run along -z (k)."""
    rotation = np.array([[1.0, 0.0, 0.0], [0.0, 0.0, -1.0], [0.0, 1.0, 0.0]])
    pose = np.eye(4)
    pose[:3, :3] = rotation
    pose[:3, 3] = np.array([0.0, 0.0, 700.0]) - rotation @ attenuation.centre_ras_mm
    return torch.as_tensor(pose)[None]


def test_what_a_longer_ct_would_show_is_invalid_and_little_else():
    short, long = cylinder(40), cylinder(140)
    pose = across(short)
    projector = Projector(short, CAMERA)
    valid = projector.validity(pose)
    assert valid.shape == (1, 61, 61) and valid.dtype == torch.bool
    seen, whole = projector.project(pose), Projector(long, CAMERA).project(pose)
    differs = (seen - whole).abs() > 0.1 * whole.max()
    assert differs.any() and not (differs & valid).any()
    assert not valid[0, 0, 30] and not valid[0, -1, 30]  # beyond the CT altogether, canal included
    assert valid[0, 30].all() and valid[0, :, :10].all()
    untouched = seen == whole
    assert (valid & untouched).sum() > 0.9 * untouched.sum()


def test_looking_along_the_body_and_faces_that_cut_nothing():
    attenuation = cylinder(40)
    along = torch.eye(4, dtype=torch.float64)[None].clone()
    along[0, :3, 3] = torch.tensor([0.0, 0.0, 700.0]) - torch.as_tensor(attenuation.centre_ras_mm)
    valid = Projector(attenuation, CAMERA).validity(along)[0]
    assert not valid[30, 30] and valid[0, 0]
    attenuation.cut_faces = (False,) * 6
    assert Projector(attenuation, CAMERA).validity(along).all()


def test_the_end_behind_the_source_cuts_nothing():
    attenuation = cylinder(40)
    attenuation.cut_faces = (False, False, False, False, True, False)
    inside = torch.eye(4, dtype=torch.float64)[None].clone()
    inside[0, :3, 3] = -torch.as_tensor(attenuation.centre_ras_mm)  # source at the centre, looking at +k; the low end lies behind
    assert Projector(attenuation, CAMERA).validity(inside).all()
