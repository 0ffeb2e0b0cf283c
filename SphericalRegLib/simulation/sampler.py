"""Material line integrals by an own ray sampler, independent of the registration's renderer.

What differs from it, so that the same errors do not cancel: the Hounsfield volume (not attenuation) is interpolated, by a cubic B-spline that
passes through the voxels (Unser, IEEE Signal Processing Magazine 16(6), 1999) instead of linearly; each sample is split into water, bone and metal
*after* the interpolation; the step is finer; and where the CT cuts through the body, its end slices can be continued, as a patient is.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np
import warp as wp
from scipy.ndimage import maximum_filter1d, spline_filter

from SphericalRegLib.errors import InputError
from SphericalRegLib.rendering.device import start_warp
from SphericalRegLib.rendering.threads import available_threads

from .materials import tissue_densities

if TYPE_CHECKING:
    from SphericalRegLib.geometry.camera import Camera
    from SphericalRegLib.imaging.volume import Volume

_LUT_LOW_HU, _LUT_STEP_HU, _LUT_COUNT = -1000.0, 2.0, 2101
_AIR_HU = -900.0  # nothing above it within reach of the spline: nothing to add
_BLOCK = 4
_RAYS_PER_LAUNCH = 1 << 13
# An end slice with more tissue than this share cuts through the body. `attenuation.cut_faces` asks for a tenth of that: there a doubt costs some
# pixels, here it would make a hand or the crown of a head go on.
_CUT_SHARE, _CUT_HU = 0.05, -500.0

wp.set_module_options({"enable_backward": False, "fast_math": True})


@wp.func
def _spline_weights(t: float) -> wp.vec4:
    """Cubic B-spline at the four neighbours of a point `t` in [0, 1) behind the second."""
    s = 1.0 - t
    return wp.vec4(
        s * s * s / 6.0,
        2.0 / 3.0 - 0.5 * t * t * (2.0 - t),
        2.0 / 3.0 - 0.5 * s * s * (2.0 - s),
        t * t * t / 6.0,
    )


@wp.func
def _spline(coefficients: wp.array(dtype=wp.vec4), p: wp.vec3, stride_x: int, stride_y: int) -> float:
    """Spline at a point `p` >= 0 (voxels); the coefficients begin one voxel before the grid."""
    ix, iy, iz = int(p[0]), int(p[1]), int(p[2])
    wx, wy, wz = _spline_weights(p[0] - float(ix)), _spline_weights(p[1] - float(iy)), _spline_weights(p[2] - float(iz))
    corner = ix * stride_x + iy * stride_y + iz
    total = wp.float32(0.0)
    for a in range(4):
        plane = wp.float32(0.0)
        for b in range(4):
            plane += wy[b] * wp.dot(wz, coefficients[corner + a * stride_x + b * stride_y])
        total += wx[a] * plane
    return total


@wp.kernel
def _integrate(
    coefficients: wp.array(dtype=wp.vec4),
    size: wp.vec3i,
    occupied: wp.array3d(dtype=wp.uint8),
    lut: wp.array(dtype=wp.vec3),
    low: wp.vec3,
    high: wp.vec3,
    source: wp.vec3,
    directions: wp.array(dtype=wp.vec3),
    step_mm: float,
    lut_low: float,
    lut_scale: float,
    out: wp.array(dtype=wp.vec3),
):
    """One ray: `source` and `directions` in voxel units per mm; out in g/cm^3 mm."""
    ray = wp.tid()
    d = directions[ray]
    near, far = wp.float32(0.0), wp.float32(1.0e9)
    for axis in range(3):
        if wp.abs(d[axis]) > 1.0e-12:
            t0 = (low[axis] - source[axis]) / d[axis]
            t1 = (high[axis] - source[axis]) / d[axis]
            near = wp.max(near, wp.min(t0, t1))
            far = wp.min(far, wp.max(t0, t1))
        elif source[axis] < low[axis] or source[axis] > high[axis]:
            far = wp.float32(-1.0)
    total = wp.vec3(0.0, 0.0, 0.0)
    if far > near:
        top = wp.vec3(float(size[0] - 1), float(size[1] - 1), float(size[2] - 1))
        stride_y = size[2] + 3
        stride_x = stride_y * (size[1] + 3)
        count = int(wp.ceil((far - near) / step_mm))
        step = (far - near) / float(count)
        last = lut.shape[0] - 2
        for s in range(count):
            p = source + (near + (float(s) + 0.5) * step) * d
            q = wp.vec3(wp.clamp(p[0], 0.0, top[0]), wp.clamp(p[1], 0.0, top[1]), wp.clamp(p[2], 0.0, top[2]))
            if occupied[int(q[0]) / 4, int(q[1]) / 4, int(q[2]) / 4] != wp.uint8(0):
                x = (_spline(coefficients, q, stride_x, stride_y) - lut_low) * lut_scale
                if x > 0.0:
                    i = wp.min(int(x), last)
                    f = wp.min(x - float(i), 1.0)
                    total += (1.0 - f) * lut[i] + f * lut[i + 1]
        total = total * step
    out[ray] = total


class RaySampler:
    """Areal densities of a CT's materials along the rays of a camera.

    Args:
        volume: the CT; label maps and validity masks are not used: an X-ray sees everything.
        step_mm: distance of samples; default three quarters of the smallest voxel spacing, within .5-1 mm.
        extend_mm: how far the end slices are continued where the CT cuts through the body; 0 ends the patient with the CT.
        threads: how many cores share the rays (CPU only); the result does not depend on it.
        device: Warp device, "cpu" or "cuda:N".

    Raises:
        InputError: for a CT with fewer than four voxels along an axis.
    """

    def __init__(
        self, volume: Volume, *, step_mm: float | None = None, extend_mm: float = 0.0, threads: int | None = None, device: str = "cpu"
    ) -> None:
        hu = np.clip(np.nan_to_num(volume.hu, nan=-1000.0), -1000.0, 4000.0)
        if hu.ndim != 3 or min(hu.shape) < 4:
            raise InputError(f"the CT {volume.name!r} has {hu.shape} voxels: simulating an X-ray needs at least 4 along each axis")
        start_warp()
        self.volume = volume
        self.device = device
        self._threads = max(1, available_threads() if threads is None else threads) if device == "cpu" else 1
        self._voxel_from_world = np.linalg.inv(np.asarray(volume.world_from_voxel, float))
        spacing = np.linalg.norm(np.asarray(volume.world_from_voxel, float)[:3, :3], axis=0)
        self.step_mm = float(np.clip(0.75 * spacing.min(), 0.5, 1.0)) if step_mm is None else float(step_mm)
        cut = _cut_ends(hu, self._voxel_from_world)
        self._low = -0.5 - cut[:, 0] * extend_mm / spacing
        self._high = np.array(hu.shape) - 0.5 + cut[:, 1] * extend_mm / spacing
        coefficients = spline_filter(hu, order=3, output=np.float32, mode="mirror")
        densities = tissue_densities(_LUT_LOW_HU + _LUT_STEP_HU * np.arange(_LUT_COUNT)).astype(np.float32)
        densities[0] = 0.0  # exactly nothing in air
        padded = np.pad(coefficients, (1, 2), mode="reflect")  # mirrored about the outermost voxel centres, as the prefilter has it
        self._size = wp.vec3i(*hu.shape)
        self._memory = wp.array(padded.ravel(), dtype=wp.float32, device=device)
        # The same memory seen as overlapping runs of four along the last axis: sixteen loads a sample instead of sixty-four.
        self._coefficients = wp.array(ptr=self._memory.ptr, dtype=wp.vec4, shape=(padded.size - 3,), strides=(4,), device=device)
        self._occupied = wp.array(_occupied_blocks(hu), dtype=wp.uint8, device=device)
        self._lut = wp.array(densities, dtype=wp.vec3, device=device)

    def areal_densities(self, camera: Camera, camera_from_world: np.ndarray, tick: Callable[[], None] | None = None) -> np.ndarray:
        """Water, bone and titanium along each pixel's ray, (3, rows, columns) float32 in g/cm^2.

        Args:
            camera: intrinsics.
            camera_from_world: (4, 4) pose.
            tick: called several times a second; may raise to cancel.
        """
        source, directions = world_rays(camera, camera_from_world)
        rotation = self._voxel_from_world[:3, :3]
        start = rotation @ source + self._voxel_from_world[:3, 3]
        rays = np.ascontiguousarray((directions.reshape(-1, 3) @ rotation.T).astype(np.float32))
        result = np.empty((len(rays), 3), dtype=np.float32)
        box = (wp.vec3(*self._low), wp.vec3(*self._high), wp.vec3(*start))

        def integrate(first: int) -> None:
            part = wp.array(rays[first : first + _RAYS_PER_LAUNCH], dtype=wp.vec3, device=self.device)
            out = wp.empty(len(part), dtype=wp.vec3, device=self.device)
            scalars = (self.step_mm, _LUT_LOW_HU, 1.0 / _LUT_STEP_HU)
            inputs = [self._coefficients, self._size, self._occupied, self._lut, *box, part, *scalars, out]
            wp.launch(_integrate, dim=len(part), inputs=inputs, device=self.device)
            result[first : first + _RAYS_PER_LAUNCH] = out.numpy()

        wp.load_module(__name__, device=self.device)  # once, before several threads ask for it
        with ThreadPoolExecutor(self._threads) as pool:
            waiting = [pool.submit(integrate, first) for first in range(0, len(rays), _RAYS_PER_LAUNCH)]
            try:
                for part in waiting:
                    part.result()
                    if tick is not None:
                        tick()
            finally:
                for part in waiting:
                    part.cancel()
        return 0.1 * result.T.reshape(3, *directions.shape[:2])  # g/cm^3 mm -> g/cm^2


def world_rays(camera: Camera, camera_from_world: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Source (3,) in world mm and unit directions (rows, columns, 3) of the rays through the pixel centres, float64."""
    pose = np.asarray(camera_from_world, float)
    columns, rows = camera.size_px
    u = (np.arange(columns) - camera.principal_point_px[0]) * camera.pixel_spacing_mm[0]
    v = (np.arange(rows) - camera.principal_point_px[1]) * camera.pixel_spacing_mm[1]
    local = np.stack([*np.broadcast_arrays(u[None, :], v[:, None]), np.full((rows, columns), camera.sdd_mm)], axis=-1)
    local /= np.linalg.norm(local, axis=-1, keepdims=True)
    return -pose[:3, :3].T @ pose[:3, 3], local @ pose[:3, :3]


def _cut_ends(hu: np.ndarray, voxel_from_world: np.ndarray) -> np.ndarray:
    """(3, 2) bool: at which ends (first and last along each axis) the CT cuts through the body; only the axis nearest to head-foot counts."""
    axis = int(np.abs(voxel_from_world[:3, 2]).argmax())
    cut = np.zeros((3, 2), dtype=bool)
    cut[axis] = [(np.take(hu, end, axis=axis) > _CUT_HU).mean() > _CUT_SHARE for end in (0, -1)]
    return cut


def _occupied_blocks(hu: np.ndarray) -> np.ndarray:
    """uint8 grid of `_BLOCK`-sized cells: 0 where no voxel within three voxels of the cell holds more than air."""
    tissue = (hu > _AIR_HU).astype(np.uint8)
    for axis in range(3):
        tissue = maximum_filter1d(tissue, 7, axis=axis, mode="nearest")
    pad = [(0, -n % _BLOCK) for n in hu.shape]
    cells = np.pad(tissue, pad, mode="edge")
    shape = [side for n in cells.shape for side in (n // _BLOCK, _BLOCK)]
    return np.ascontiguousarray(cells.reshape(shape).max(axis=(1, 3, 5)))
