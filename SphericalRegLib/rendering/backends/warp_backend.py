"""The fused renderer: image and pose Jacobian in one pass, CPU threads or CUDA from one kernel."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np
import torch
import warp as wp
from torch import Tensor

from .. import kernel
from ..jacobian import centre_in_camera

if TYPE_CHECKING:
    from ...geometry.camera import Camera
    from ...imaging.attenuation import Attenuation

_PAD = 1


class WarpBackend:
    def __init__(self, attenuation: Attenuation, step_mm: float, device: torch.device, threads: int | None = None) -> None:
        wp.init()
        self._device = device
        self._wp_device = wp.device_from_torch(device)
        self._step_mm = step_mm
        self._threads = threads or os.cpu_count() or 1
        self._pool = ThreadPoolExecutor(self._threads) if device.type == "cpu" and self._threads > 1 else None
        mu = torch.as_tensor(np.ascontiguousarray(attenuation.mu, dtype=np.float32))
        padded = torch.nn.functional.pad(mu, (_PAD,) * 6)
        self._shape = padded.shape
        # one more element: the last cell's upper neighbours may be read with weight zero
        size = padded.numel()
        self._volume = torch.zeros(size + padded.shape[1] * padded.shape[2] + padded.shape[2] + 1, device=device)
        self._volume[:size] = padded.flatten().to(device)
        self._voxel_from_world = np.linalg.inv(np.asarray(attenuation.world_from_voxel, dtype=np.float64))
        self._centre = torch.as_tensor(np.asarray(attenuation.centre_ras_mm), dtype=torch.float64)

    def _scene(self, camera: Camera) -> kernel.Scene:
        scene = kernel.Scene()
        scene.volume = wp.from_torch(self._volume, dtype=wp.float32)
        scene.stride_i = self._shape[1] * self._shape[2]
        scene.stride_j = self._shape[2]
        scene.upper = wp.vec3(*(float(n - 1) for n in self._shape))
        centre = self._voxel_from_world[:3, :3] @ self._centre.numpy() + self._voxel_from_world[:3, 3] + _PAD
        scene.centre_voxel = wp.vec3(*centre)
        scene.voxel_from_world_transposed = wp.mat33(*self._voxel_from_world[:3, :3].T.flatten())
        scene.spacing = wp.vec2(*camera.pixel_spacing_mm)
        scene.principal_point = wp.vec2(*camera.principal_point_px)
        scene.sdd = camera.sdd_mm
        scene.columns = camera.size_px[0]
        scene.pixels = camera.size_px[0] * camera.size_px[1]
        scene.step = self._step_mm
        return scene

    def project(self, camera: Camera, camera_from_world: Tensor) -> Tensor:
        return self._render(camera, camera_from_world, want_jacobian=False)[0]

    def project_with_jacobian(self, camera: Camera, camera_from_world: Tensor) -> tuple[Tensor, Tensor]:
        image, jacobian = self._render(camera, camera_from_world, want_jacobian=True)
        return image, jacobian

    def _render(self, camera: Camera, camera_from_world: Tensor, want_jacobian: bool) -> tuple[Tensor, Tensor]:
        pose = camera_from_world.detach().to(self._device, torch.float64)
        columns, rows = camera.size_px
        rays = pose.shape[0] * rows * columns
        image = torch.empty(rays, device=self._device)
        jacobian = torch.empty(rays if want_jacobian else 0, 6, device=self._device)
        rotation = pose[:, :3, :3].to(torch.float32).contiguous()
        centre = centre_in_camera(pose, self._centre).to(torch.float32).contiguous()
        scene = self._scene(camera)
        arrays = [wp.from_torch(rotation, dtype=wp.mat33), wp.from_torch(centre, dtype=wp.vec3)]
        outputs = [wp.from_torch(image), wp.from_torch(jacobian)]

        def launch(start: int, stop: int) -> None:
            wp.launch(kernel.render, dim=stop - start, inputs=[scene, *arrays, start], outputs=outputs, device=self._wp_device)

        if self._pool is None:
            launch(0, rays)
        else:
            wp.load_module(kernel, device=self._wp_device)
            edges = np.linspace(0, rays, 4 * self._threads + 1).astype(int)
            list(self._pool.map(launch, edges[:-1].tolist(), edges[1:].tolist()))
        return image.view(-1, rows, columns), jacobian.view(-1, rows, columns, 6)
