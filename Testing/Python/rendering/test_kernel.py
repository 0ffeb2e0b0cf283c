"""The kernel itself: packets of any width agree, air is skipped without a trace, it compiles for GPUs."""

from __future__ import annotations

import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
import warp as wp

sys.path.insert(0, str(Path(__file__).parent))
import scenes

from SphericalRegLib.errors import InputError
from SphericalRegLib.geometry.camera import Camera
from SphericalRegLib.rendering import kernel
from SphericalRegLib.rendering.backends import warp_backend
from SphericalRegLib.rendering.layout import pack
from SphericalRegLib.rendering.projector import Projector

CAMERA = Camera(sdd_mm=1000.0, pixel_spacing_mm=(4.0, 5.0), size_px=(37, 35), principal_point_px=(20.0, 15.0))
CPU = torch.device("cpu")


def render(projector: Projector, pose: torch.Tensor, packet: kernel.Packet, monkeypatch) -> tuple[torch.Tensor, torch.Tensor]:
    monkeypatch.setattr(projector._backend, "_packet", packet)
    image, jacobian = projector.project_with_jacobian(pose)
    torch.testing.assert_close(projector.project(pose), image, rtol=1e-5, atol=1e-7)
    return image, jacobian


def test_the_scalar_packet_of_cuda_gives_what_the_cpu_packet_gives(monkeypatch):
    attenuation = scenes.smooth_attenuation("left-handed")
    pose = scenes.pose(attenuation)
    projector = Projector(attenuation, CAMERA)
    cpu = render(projector, pose, kernel.CPU_PACKET, monkeypatch)
    cuda = render(projector, pose, kernel.CUDA_PACKET, monkeypatch)
    assert scenes.relative_error(cuda[0], cpu[0]) < 1e-6
    assert scenes.relative_error(cuda[1], cpu[1]) < 1e-3  # a sample on a voxel's border may round to either side


@pytest.mark.parametrize("packet", [kernel.CPU_PACKET, kernel.CUDA_PACKET], ids=["cpu", "cuda"])
def test_skipping_air_loses_nothing(packet, monkeypatch):
    rng = np.random.default_rng(5)
    attenuation = scenes.smooth_attenuation("oblique", (90, 70, 80))
    attenuation.mu = np.zeros_like(attenuation.mu)
    for _ in range(25):  # specks, the hardest for skipping
        i, j, k = (int(rng.integers(0, n)) for n in attenuation.mu.shape)
        attenuation.mu[i, j, k] = rng.uniform(0.01, 0.05)
    pose = scenes.pose(attenuation)
    image, _ = render(Projector(attenuation, CAMERA, step_mm=0.7), pose, packet, monkeypatch)
    expected = scenes.reference_image(attenuation, CAMERA, pose, 0.7)
    assert (expected > 0).mean() > 0.02
    assert scenes.relative_error(image[0], expected) < 1e-3


def test_a_constant_box_on_the_central_ray_and_an_impulse():
    """Analytic: a box of n voxels adds its trilinear ramps to n mu h; an impulse's integral along an axis is mu h."""
    attenuation = scenes.smooth_attenuation("plain", (20, 20, 20))
    attenuation.mu = np.zeros_like(attenuation.mu)
    attenuation.mu[5:15, 5:15, 5:15] = 0.03
    camera = Camera(sdd_mm=1000.0, pixel_spacing_mm=(1.0, 1.0), size_px=(1, 1), principal_point_px=(0.0, 0.0))
    pose = torch.eye(4, dtype=torch.float64)[None].clone()
    pose[0, :3, 3] = torch.tensor([0.0, 0.0, 700.0]) - torch.as_tensor(attenuation.centre_ras_mm)
    assert float(Projector(attenuation, camera, step_mm=0.1).project(pose)) == pytest.approx(10 * 0.03 * 2.0, rel=1e-4)
    attenuation.mu[:] = 0.0
    attenuation.mu[10, 10, 7] = 0.02
    pose[0, :2, 3] -= 1.0  # from the grid's centre to the centre of voxel (10, 10)
    assert float(Projector(attenuation, camera, step_mm=0.1).project(pose)) == pytest.approx(0.02 * 2.0, rel=1e-4)


def test_volume_of_air_and_volume_behind_the_source_are_dark():
    attenuation = scenes.smooth_attenuation()
    behind = scenes.pose(attenuation, shift=(0.0, 0.0, -700.0))
    beyond = scenes.pose(attenuation, shift=(0.0, 0.0, 1500.0))
    image, jacobian = Projector(attenuation, CAMERA).project_with_jacobian(torch.cat([behind, beyond]))
    assert not image.any() and not jacobian.any()
    attenuation.mu = np.zeros_like(attenuation.mu)
    assert not Projector(attenuation, CAMERA).project(scenes.pose(attenuation)).any()


def test_source_inside_the_volume_counts_only_what_is_before_it():
    attenuation = scenes.smooth_attenuation("oblique")
    pose = scenes.pose(attenuation, shift=(1.0, -2.0, 3.0))
    image = Projector(attenuation, CAMERA, step_mm=0.5).project(pose)
    assert scenes.relative_error(image[0], scenes.reference_image(attenuation, CAMERA, pose, 0.5)) < 1e-4


def test_tiles_batches_and_threads_do_not_change_a_bit():
    attenuation = scenes.smooth_attenuation("oblique")
    camera = Camera(sdd_mm=1000.0, pixel_spacing_mm=(2.0, 2.0), size_px=(75, 66), principal_point_px=(37.0, 33.0))
    poses = torch.cat([scenes.pose(attenuation, (0.1 * n, 0.2, -0.3)) for n in range(7)])
    one = Projector(attenuation, camera, threads=1).project_with_jacobian(poses)
    many = Projector(attenuation, camera, threads=3).project_with_jacobian(poses)
    for a, b in zip(one, many):
        torch.testing.assert_close(a, b, rtol=0, atol=0)
    empty = Projector(attenuation, camera).project_with_jacobian(poses[:0])
    assert empty[0].shape == (0, 66, 75) and empty[1].shape == (0, 66, 75, 6)


def test_packing_keeps_every_corner_and_knows_where_air_is():
    rng = np.random.default_rng(0)
    mu = np.zeros((13, 11, 22), dtype=np.float32)
    mu[3:9, 2:10, 5:16] = rng.uniform(0.0, 0.05, (6, 8, 11))
    wp.init()
    packed = pack(mu, CPU)
    assert packed.shape == (10, 12, 15) and packed.origin.tolist() == [1, 0, 3]
    stride_i, stride_k = packed.strides
    words = packed.cells.view(-1).numpy().view(np.uint16)
    for i, j, k in rng.integers(0, np.array(packed.shape) - 1, (200, 3)):
        at = (k // 4) * stride_k + (i // 4) * stride_i + 32 * j + 6 * (i % 4) + k % 4
        for (a, b, c), offset in {(0, 0, 0): 0, (0, 0, 1): 1, (1, 0, 0): 6, (1, 0, 1): 7, (0, 1, 0): 32, (1, 1, 1): 39}.items():
            voxel = np.array([i + a, j + b, k + c]) + packed.origin
            inside = np.all((voxel >= 0) & (voxel < mu.shape))
            assert words[at + offset] * packed.scale == pytest.approx(float(mu[tuple(voxel)]) if inside else 0.0, abs=0.51 * packed.scale)
    sparse = np.zeros((60, 61, 62), dtype=np.float32)
    sparse[[5, 50], [7, 50], [3, 58]] = 0.02
    packed = pack(sparse, CPU)
    occupied = np.argwhere(sparse > 0) - packed.origin
    for block in np.ndindex(*packed.free_radius.shape):
        low = 4 * np.array(block)
        distance = np.maximum(np.maximum(low - occupied, occupied - (low + 4)), 0).max(axis=1).min()
        assert packed.free_radius[block] <= max(distance - 1, 0)
    assert packed.free_radius.max() > 10


@pytest.mark.parametrize("mu", [np.zeros((3, 3)), np.full((3, 3, 3), -0.1), np.full((3, 3, 3), np.nan), np.full((3, 3, 3), np.inf)])
def test_packing_refuses(mu):
    with pytest.raises(InputError, match="attenuation"):
        pack(mu.astype(np.float32), CPU)


def test_compiles_to_ptx_for_sm_80_and_sm_90(tmp_path):
    wp.init()
    for name, module in {
        "both": kernel.render_kernel(kernel.CUDA_PACKET, True).module,
        "image": kernel.render_kernel(kernel.CUDA_PACKET, False).module,
        "pack": kernel.pack_cells.module,
    }.items():
        (tmp_path / name).mkdir()
        wp.compile_aot_module(module, arch=[80, 90], module_dir=tmp_path / name, use_ptx=True)
        texts = [path.read_text() for path in sorted((tmp_path / name).glob("*.ptx"))]
        assert [("sm_80" in t, "sm_90" in t) for t in texts] == [(True, False), (False, True)]
        assert all(".entry" in t for t in texts)


def test_the_scenes_of_many_cameras_do_not_pile_up():
    attenuation = scenes.smooth_attenuation()
    projector = Projector(attenuation, CAMERA)
    pose = scenes.pose(attenuation)
    for n in range(1, 50):
        projector.with_camera(CAMERA.crop(0, 0, n % 30 + 1, 2)).project(pose)
    assert len(projector._backend._scenes) <= warp_backend._SCENES_KEPT


def test_a_camera_that_two_threads_ask_for_is_made_once(monkeypatch):
    projector = Projector(scenes.smooth_attenuation(), CAMERA)
    backend, made = projector._backend, []
    make = backend._make_scene

    def slowly(camera):
        made.append(camera)
        time.sleep(0.1)
        return make(camera)

    monkeypatch.setattr(backend, "_make_scene", slowly)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(backend._scene, [CAMERA] * 4))
    assert len(made) == 1


NOT_FINITE = """
import sys, torch
sys.path.insert(0, sys.argv[1])
import scenes
from SphericalRegLib.geometry.camera import Camera
from SphericalRegLib.rendering.projector import Projector

attenuation = scenes.smooth_attenuation()
projector = Projector(attenuation, Camera(1000.0, (4.0, 4.0), (35, 33), (17.0, 16.0)))
good = scenes.pose(attenuation)
expected, expected_jacobian = projector.project_with_jacobian(good)
for row, column, value in ((0, 0, float("nan")), (2, 3, float("nan")), (0, 3, float("inf")), (1, 1, -float("inf")), (2, 3, 1e300)):
    bad = good.clone()
    bad[0, row, column] = value
    image, jacobian = projector.project_with_jacobian(torch.cat((good, bad, good)))
    assert torch.isnan(image[1]).all() and torch.isnan(jacobian[1]).all(), (row, column, value)
    for n in (0, 2):
        assert torch.equal(image[n], expected[0]) and torch.equal(jacobian[n], expected_jacobian[0])
    assert torch.isnan(projector.project(bad)).all()
for value in (1e7, -1e12, 1e30):
    far = good.clone()
    far[0, 2, 3] = value
    image, jacobian = projector.project_with_jacobian(far)
    assert not image.any() and not jacobian.any(), value
"""


def test_a_pose_that_is_not_finite_has_an_image_that_is_no_number_and_ends():
    """In a process of its own: without its guard the kernel would march such rays for ever, or through memory that is not its own."""
    subprocess.run([sys.executable, "-c", NOT_FINITE, str(Path(__file__).parent)], check=True, timeout=300)
