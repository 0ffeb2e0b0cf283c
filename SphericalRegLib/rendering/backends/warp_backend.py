"""The fused renderer: image and pose Jacobian in one pass, CPU threads or CUDA from one kernel."""

from __future__ import annotations

import logging
import threading
import time
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import torch
import warp as wp
from torch import Tensor

from ...devices import numbered
from ...geometry.se3 import about_centre
from ..device import current_stream, start_warp, warp_device
from ..kernel import CPU_PACKET, CUDA_PACKET, Scene, render_kernel
from ..layout import PackedVolume, pack
from ..threads import available_threads, run_in_chunks

if TYPE_CHECKING:
    from ...geometry.camera import Camera
    from ...imaging.attenuation import Attenuation

_log = logging.getLogger(__name__)

_LEAST_PACKETS = 256  # per launch: below, starting a thread costs more than it brings
_SCENES_KEPT = 32


class WarpBackend:
    """A packed volume on a device.

    Args:
        attenuation: volume, affine, centre.
        step_mm: distance between samples.
        device: of the volume and the images.
        threads: on the CPU; None for all cores.
    """

    def __init__(self, attenuation: Attenuation, step_mm: float, device: torch.device, threads: int | None = None) -> None:
        start_warp()
        self._device = numbered(device)  # a plain "cuda" may mean another GPU by the next call
        self._wp_device = warp_device(self._device)
        self._packet = CUDA_PACKET if self._wp_device.is_cuda else CPU_PACKET
        self._threads = available_threads() if threads is None else threads
        self._step_mm = step_mm
        self._centre = np.asarray(attenuation.centre_ras_mm, dtype=np.float64)
        self._voxel_from_world = np.linalg.inv(np.asarray(attenuation.world_from_voxel, dtype=np.float64))
        self._volume: PackedVolume = pack(attenuation.mu, self._device)
        self._scenes: dict[Camera, Scene] = {}
        self._scenes_lock = threading.Lock()

    def project(self, camera: Camera, camera_from_world: Tensor) -> Tensor:
        return self._render(camera, camera_from_world, with_jacobian=False)[0]

    def project_with_jacobian(self, camera: Camera, camera_from_world: Tensor) -> tuple[Tensor, Tensor]:
        return self._render(camera, camera_from_world, with_jacobian=True)

    def _render(self, camera: Camera, camera_from_world: Tensor, with_jacobian: bool) -> tuple[Tensor, Tensor]:
        pose = camera_from_world.detach().to(self._device, torch.float64)
        columns, rows = camera.size_px
        image = torch.empty(pose.shape[0], rows, columns, device=self._device)
        jacobian = torch.empty((*image.shape, 6) if with_jacobian else (0, 0, 0, 6), device=self._device)
        if image.numel() == 0:
            return image, image.new_empty((*image.shape, 6))
        rotation, centre = (part.to(torch.float32).contiguous() for part in about_centre(pose, torch.as_tensor(self._centre)))
        kernel = render_kernel(self._packet, with_jacobian)
        _load(kernel, self._wp_device.alias)
        poses = [wp.from_torch(rotation, dtype=wp.mat33, return_ctype=True), wp.from_torch(centre, dtype=wp.vec3, return_ctype=True)]
        inputs = [self._scene(camera), *poses]
        outputs = [wp.from_torch(image.view(-1), return_ctype=True), wp.from_torch(jacobian.view(-1), return_ctype=True)]
        stream = current_stream(self._device)

        def launch(first: int, count: int) -> None:
            wp.launch(kernel, dim=count, inputs=[*inputs, first], outputs=outputs, device=self._wp_device, stream=stream)

        run_in_chunks(launch, pose.shape[0] * self._packet.count(rows, columns), 1 if stream else self._threads, _LEAST_PACKETS)
        return image, jacobian

    def _scene(self, camera: Camera) -> Scene:
        with self._scenes_lock:  # one CT may be rendered from several threads
            if camera not in self._scenes:
                while len(self._scenes) >= _SCENES_KEPT:
                    self._scenes.pop(next(iter(self._scenes)))
                self._scenes[camera] = self._make_scene(camera)
            return self._scenes[camera]

    def _make_scene(self, camera: Camera) -> Scene:
        volume, linear = self._volume, self._voxel_from_world[:3, :3]
        scene = Scene()
        scene.cells = wp.from_torch(volume.cells.view(-1), dtype=wp.uint16)
        scene.stride_i, scene.stride_k = volume.strides
        scene.upper = wp.vec3(*(float(n - 1) for n in volume.shape))
        scene.scale = volume.scale
        scene.free_radius = wp.from_torch(volume.free_radius.view(-1))
        scene.blocks_i, scene.blocks_j, scene.blocks_k = volume.free_radius.shape
        scene.centre_voxel = wp.vec3(*(linear @ self._centre + self._voxel_from_world[:3, 3] - volume.origin))
        scene.voxel_from_world = wp.mat33(*linear.flatten())
        scene.step = self._step_mm
        scene.spacing = wp.vec2(*camera.pixel_spacing_mm)
        scene.principal_point = wp.vec2(*camera.principal_point_px)
        scene.sdd = camera.sdd_mm
        scene.columns, scene.rows = camera.size_px
        return scene


@cache
def _load(kernel: wp.Kernel, device: str) -> None:
    """Compiles the kernel on first use, with one line in the log, before threads race for it. Warp caches it on disk."""
    start = time.perf_counter()
    wp.load_module(kernel.module, device=device)  # with the block size that launches on this device have
    _log.info("Renderer kernel ready on %s after %.1f s; cached in %s", device, time.perf_counter() - start, wp.config.kernel_cache_dir)
