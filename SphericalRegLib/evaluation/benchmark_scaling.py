"""How the renderer's cost grows with the image and the volume, and how near it is to what the machine can gather from memory."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
import warp as wp
from matplotlib.figure import Figure
from torch import Tensor

from SphericalRegLib.geometry.camera import Camera
from SphericalRegLib.imaging.attenuation import Attenuation
from SphericalRegLib.rendering.kernel import CPU_PACKET
from SphericalRegLib.rendering.layout import pack
from SphericalRegLib.rendering.projector import Projector
from SphericalRegLib.rendering.rays import pixel_targets
from SphericalRegLib.rendering.threads import available_threads, run_in_chunks
from SphericalRegLib.visualization.figures import PAPER, dress, new_figure

EDGE_MM = 300.0
_ADDRESSES_PER_TASK = 8192


@dataclass(frozen=True)
class ScalingPoint:
    """Image and Jacobian of a cube of `volume_edge`^3 voxels without air, on `image_edge`^2 pixels; the step is the voxel's edge."""

    volume_edge: int
    image_edge: int
    milliseconds: float
    samples: int

    @property
    def ns_per_ray(self) -> float:
        return self.milliseconds * 1e6 / self.image_edge**2

    @property
    def ns_per_sample(self) -> float:
        return self.milliseconds * 1e6 / self.samples


@dataclass(frozen=True)
class GatherRate:
    """Samples per second on the same cube and the same cells in the same order: all cores, 1e6 / s.

    `eight_loads` reads a cell's eight corners one by one, `two_loads` the way the renderer does, 16 bytes twice; neither computes anything.
    """

    eight_loads: float
    two_loads: float
    renderer: float

    @property
    def fraction_of_eight(self) -> float:
        return self.renderer / self.eight_loads

    @property
    def fraction_of_two(self) -> float:
        return self.renderer / self.two_loads


def solid_cube(edge: int, seed: int = 0) -> Attenuation:
    """A cube of `EDGE_MM`, seen corner-on nowhere, filled with random tissue: there is nothing to skip."""
    mu = np.random.default_rng(seed).random((edge, edge, edge), dtype=np.float32)
    mu *= 0.02
    mu += 0.01
    spacing = EDGE_MM / edge
    return Attenuation(mu, np.diag([spacing, spacing, spacing, 1.0]))


def cube_camera(edge_px: int) -> Camera:
    """320 mm of detector at 1000 mm: every ray meets the cube."""
    return Camera(1000.0, (320.0 / edge_px,) * 2, (edge_px, edge_px), ((edge_px - 1) / 2,) * 2)


def cube_pose(cube: Attenuation) -> Tensor:
    """(1, 4, 4): the cube's centre 700 mm from the source, turned by about 20 degrees about each axis."""
    from SphericalRegLib.geometry.se3 import so3_exp

    pose = torch.eye(4, dtype=torch.float64)
    pose[:3, :3] = so3_exp(torch.tensor([0.3, -0.4, 0.35], dtype=torch.float64))
    pose[:3, 3] = torch.tensor([0.0, 0.0, 700.0], dtype=torch.float64) - pose[:3, :3] @ torch.as_tensor(cube.centre_ras_mm)
    return pose[None]


def measure_scaling(
    images: Sequence[int], volumes: Sequence[int], fixed_image: int, fixed_volume: int, report: Callable[[str], None]
) -> list[ScalingPoint]:
    """Image sizes on one volume, then volumes under one image size; the best of several calls, on all cores."""
    points = []
    for edge in sorted({*volumes, fixed_volume}):
        cube = solid_cube(edge)
        projector = Projector(cube, cube_camera(fixed_image))
        for pixels in sorted({*images, fixed_image}) if edge == fixed_volume else [fixed_image]:
            report(f"{edge}^3 voxels, {pixels}^2 pixels")
            points.append(_measure(projector.with_camera(cube_camera(pixels)), cube_pose(cube), edge, pixels))
    return points


def _measure(projector: Projector, pose: Tensor, volume_edge: int, image_edge: int) -> ScalingPoint:
    first, last = _sample_interval(projector, pose)
    samples = int((last - first + 1).clamp(min=0).sum())
    return ScalingPoint(volume_edge, image_edge, best_milliseconds(lambda: projector.project_with_jacobian(pose)), samples)


def best_milliseconds(work: Callable[[], object], seconds: float = 0.5, least: int = 3) -> float:
    """The fastest of at least `least` calls and of as many as `seconds` hold, after one to warm up."""
    work()
    best, spent, calls = float("inf"), 0.0, 0
    while calls < least or spent < seconds:
        start = time.perf_counter()
        work()
        taken = time.perf_counter() - start
        best, spent, calls = min(best, taken), spent + taken, calls + 1
    return best * 1e3


def measure_gather(edge: int, pixels: int) -> GatherRate:
    """The machine's rate at the cells that an image of `pixels`^2 of a cube of `edge`^3 visits, and the renderer's at the same."""
    cube = solid_cube(edge)
    projector, pose = Projector(cube, cube_camera(pixels)), cube_pose(cube)
    words = torch.from_numpy(cell_words(projector, pose))
    packed = pack(cube.mu, torch.device("cpu"))
    cells = wp.from_torch(packed.cells.view(-1), dtype=wp.uint16)
    tasks = words.numel() // _ADDRESSES_PER_TASK
    at, sums = wp.from_torch(words), wp.zeros(tasks, dtype=wp.int32, device="cpu")

    def rate(kernel: wp.Kernel) -> float:
        wp.load_module(kernel.module, device="cpu")

        def launch(first: int, count: int) -> None:
            wp.launch(kernel, dim=count, inputs=[cells, at, _ADDRESSES_PER_TASK, first], outputs=[sums], device="cpu")

        seconds = best_milliseconds(lambda: run_in_chunks(launch, tasks, available_threads(), 1)) * 1e-3
        return tasks * _ADDRESSES_PER_TASK / seconds * 1e-6

    rendered = _measure(projector, pose, edge, pixels)
    return GatherRate(rate(_gather_kernel(_EIGHT_LOADS)), rate(_gather_kernel(_TWO_LOADS)), rendered.samples / rendered.milliseconds * 1e-3)


def cell_words(projector: Projector, pose: Tensor) -> np.ndarray:
    """Words in the packed volume, int32, of all cells that one pose's image visits, in the renderer's order: packet, sample, ray."""
    packed = pack(projector.attenuation.mu, torch.device("cpu"))
    stride_i, stride_k = packed.strides
    source, ray = _rays_in_voxels(projector, pose)
    first, last = _sample_interval(projector, pose)
    rays, low, high = (_by_packet(values.numpy()) for values in (ray, first[..., None], last[..., None]))
    offset = source.numpy() - packed.origin
    parts = []
    for packet in range(len(rays)):
        n = np.arange(low[packet].min(), high[packet].max() + 1)[:, None]
        inside = (n >= low[packet].T) & (n <= high[packet].T)
        at = offset + (n[..., None] + 0.5) * projector.step_mm * rays[packet]
        i, j, k = at[inside].astype(np.int32).T
        parts.append((k // 4) * stride_k + (i // 4) * stride_i + 32 * j + 6 * (i % 4) + k % 4)
    return np.concatenate(parts).astype(np.int32)


def _by_packet(image: np.ndarray) -> np.ndarray:
    """(H, W, C) -> (packets, rays, C); rows and columns that fill no packet are left out."""
    rows, columns = CPU_PACKET.rows, CPU_PACKET.columns
    down, across = image.shape[0] // rows, image.shape[1] // columns
    whole = image[: down * rows, : across * columns].reshape(down, rows, across, columns, -1)
    return whole.swapaxes(1, 2).reshape(down * across, rows * columns, -1)


def _rays_in_voxels(projector: Projector, pose: Tensor) -> tuple[Tensor, Tensor]:
    """Source (3,) and change per mm (H, W, 3) in the original volume's voxel indices."""
    voxel_from_camera = torch.linalg.inv(pose[0] @ torch.as_tensor(projector.attenuation.world_from_voxel))
    targets = pixel_targets(projector.camera, pose.device)
    return voxel_from_camera[:3, 3], (targets / targets.norm(dim=-1, keepdim=True)) @ voxel_from_camera[:3, :3].T


def _sample_interval(projector: Projector, pose: Tensor) -> tuple[Tensor, Tensor]:
    """First and last sample (H, W) inside the cube and the voxel of air around it."""
    source, ray = _rays_in_voxels(projector, pose)
    ends = torch.stack([(-1.0 - source) / ray, (torch.tensor(projector.attenuation.mu.shape) - source) / ray]) / projector.step_mm - 0.5
    return ends.amin(dim=0).amax(dim=-1).ceil().clamp(min=0), ends.amax(dim=0).amin(dim=-1).floor()


@cache
def _gather_kernel(read: str) -> wp.Kernel:
    """A kernel that reads cells and does no more; `read` adds to the integers `total` what it finds from the words at `v` on."""
    snippet = f"""
    typedef int Quad __attribute__((vector_size(16)));
    Quad total = {{}};
    for (int n = first; n < last; ++n) {{
        const wp::uint16* v = cells.data + (unsigned)at.data[n];
        {read}
    }}
    return total[0] ^ total[1] ^ total[2] ^ total[3];
    """

    @wp.func_native(snippet)
    def sweep(cells: wp.array(dtype=wp.uint16), at: wp.array(dtype=wp.int32), first: wp.int32, last: wp.int32) -> wp.int32: ...

    @wp.kernel(module="unique", enable_backward=False, module_options={"enable_backward": False})
    def gather(
        cells: wp.array(dtype=wp.uint16), at: wp.array(dtype=wp.int32), per_task: wp.int32, start: wp.int32, sums: wp.array(dtype=wp.int32)
    ):
        task = wp.tid() + start
        sums[task] = sweep(cells, at, task * per_task, (task + 1) * per_task)

    return gather


_EIGHT_LOADS = "total[0] += v[0], total[1] += v[1], total[2] += v[6], total[3] += v[7];\n" + (
    "        total[0] += v[32], total[1] += v[33], total[2] += v[38], total[3] += v[39];"
)
_TWO_LOADS = "Quad near, far; __builtin_memcpy(&near, v, 16); __builtin_memcpy(&far, v + 32, 16); total ^= near ^ far;"


def scaling_figure(points: Sequence[ScalingPoint], fixed_image: int, fixed_volume: int) -> Figure:
    """Time over rays beside a line through the origin, and nanoseconds per sample over the volume."""
    figure = new_figure(9.0, 3.8)
    by_image, by_volume = figure.subplots(1, 2)
    images = [p for p in points if p.volume_edge == fixed_volume]
    volumes = [p for p in points if p.image_edge == fixed_image]
    rays = np.array([p.image_edge**2 for p in images])
    slope = images[-1].ns_per_ray * 1e-6
    by_image.loglog(rays, rays * slope, color=PAPER.others, linewidth=1, label=f"{slope * 1e6:.0f} ns a ray")
    by_image.loglog(rays, [p.milliseconds for p in images], "o-", color=PAPER.estimate, label="image + Jacobian")
    by_image.set_xticks(rays, [f"{p.image_edge}²" for p in images])
    by_image.minorticks_off()
    by_image.legend(frameon=False)
    dress(by_image, PAPER, f"{fixed_volume}³ voxels", "rays", "ms")
    by_volume.plot(range(len(volumes)), [p.ns_per_sample for p in volumes], "o-", color=PAPER.estimate, label=f"over volumes, {fixed_image}² rays")
    by_volume.set_xticks(range(len(volumes)), [f"{p.volume_edge}³" for p in volumes])
    by_volume.set_ylim(bottom=0)
    dress(by_volume, PAPER, f"{fixed_image}² rays", "voxels", "ns a sample, all cores")
    return figure
