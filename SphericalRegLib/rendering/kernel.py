"""The Warp kernels: one pass along a ray gives its line integral and the sums its pose Jacobian is made of. One source for CPU and CUDA.

With x_cam = R (x_world - c) + t, a pixel's unit direction e in the camera and samples s_n = (n + 1/2) step from the source, sample n lies at
y_n = R^T (s_n e - t) from the CT's centre c. A tangent (omega, v) moves it by y_n x omega - v, so with g_n the gradient of mu there

    I = step sum mu(y_n),    dI/domega = step sum g_n x y_n = G x y_0 + H x u,    dI/dv = -step sum g_n = -G

where u = R^T e, n counts from a reference sample at y_0 near c, G = step sum g_n and H = step^2 sum n g_n: six sums beside the image's one.

A motion along the ray changes nothing: the integral of grad mu . u is mu at the ray's end less mu at its beginning, and both lie in air. Its sum over
samples is not zero but noise, on fine bone as large as the whole derivative by depth. So G . u is taken out of G at the end, and the Jacobian is that
of the integral, not of the sum.

The loop is in trace.inl, C++ that Warp compiles with Clang or NVRTC: Warp's own vectors do not become SIMD code, and the packets of 8 rays that do
are worth a factor of five on a CPU. CUDA runs the same text with packets of one ray.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import warp as wp

CELL_WORDS = 32
"""16-bit numbers in a cache line, which holds 4 x 4 cells in (i, k) at one j; see layout.py."""


@wp.struct
class Scene:
    """What all rays share. Voxel indices are those of the packed volume."""

    cells: wp.array(dtype=wp.uint16)
    stride_i: wp.int32  # words from a brick to the next along i
    stride_k: wp.int32
    upper: wp.vec3  # largest index inside the occupied box, per axis
    scale: wp.float32  # 1/mm for a word of 1
    free_radius: wp.array(dtype=wp.uint8)  # per block of 4 x 4 x 4 voxels: voxels around it, in Chebyshev's distance, that are air
    blocks_i: wp.int32
    blocks_j: wp.int32
    blocks_k: wp.int32
    centre_voxel: wp.vec3
    voxel_from_world: wp.mat33
    step: wp.float32
    spacing: wp.vec2
    principal_point: wp.vec2
    sdd: wp.float32
    columns: wp.int32
    rows: wp.int32


@dataclass(frozen=True)
class Packet:
    """How rays are grouped: packets of `rows` x `columns` pixels marched together, in tiles of `TILE` x `TILE` pixels for the caches' sake."""

    rows: int
    columns: int

    TILE = 32

    @property
    def width(self) -> int:
        return self.rows * self.columns

    def count(self, rows: int, columns: int) -> int:
        """Launch size for one image of that size."""
        return -(-rows // self.TILE) * -(-columns // self.TILE) * self.TILE * self.TILE // self.width


CPU_PACKET = Packet(2, 4)
CUDA_PACKET = Packet(1, 1)


@cache
def render_kernel(packet: Packet, with_jacobian: bool) -> wp.Kernel:
    """The kernel (scene, camera_from_world, centre_camera, first, image, jacobian), launched over packets `first` + tid of the batch.

    camera_from_world: rotations (B,) mat33; centre_camera: t (B,) vec3, mm; image: (B * rows * columns,); jacobian: six times as long, or empty.
    """
    source = (Path(__file__).parent / "trace.inl").read_text(encoding="utf-8")
    defines = {"WIDTH": packet.width, "COLUMNS": packet.columns, "JACOBIAN": int(with_jacobian)}
    snippet = "".join(f"\n#define {k} {v}" for k, v in defines.items()) + "\n" + source + "".join(f"\n#undef {k}" for k in defines) + "\n"
    packet_rows, packet_columns = packet.rows, packet.columns
    tile_rows, tile_columns = packet.TILE // packet.rows, packet.TILE // packet.columns

    @wp.func_native(snippet)
    def trace(
        scene: Scene,
        camera_from_world: wp.mat33,
        centre: wp.vec3,
        row: wp.int32,
        column: wp.int32,
        first_ray: wp.int64,
        image: wp.array(dtype=wp.float32),
        jacobian: wp.array(dtype=wp.float32),
    ): ...

    @wp.kernel(module="unique", enable_backward=False, module_options={"enable_backward": False})
    def render(
        scene: Scene,
        camera_from_world: wp.array(dtype=wp.mat33),
        centre_camera: wp.array(dtype=wp.vec3),
        first: wp.int32,
        image: wp.array(dtype=wp.float32),
        jacobian: wp.array(dtype=wp.float32),
    ):
        index = wp.tid() + first
        tiles_across = (scene.columns + wp.static(packet.TILE - 1)) / wp.static(packet.TILE)
        tiles_down = (scene.rows + wp.static(packet.TILE - 1)) / wp.static(packet.TILE)
        tile = index / wp.static(tile_rows * tile_columns)
        inside = index - tile * wp.static(tile_rows * tile_columns)
        pose = tile / (tiles_across * tiles_down)
        tile = tile - pose * (tiles_across * tiles_down)
        # down the columns of a tile first
        row = (tile / tiles_across) * wp.static(packet.TILE) + (inside % wp.static(tile_rows)) * wp.static(packet_rows)
        column = (tile % tiles_across) * wp.static(packet.TILE) + (inside / wp.static(tile_rows)) * wp.static(packet_columns)
        if row < scene.rows and column < scene.columns:
            first_ray = wp.int64(pose) * wp.int64(scene.rows * scene.columns)
            trace(scene, camera_from_world[pose], centre_camera[pose], row, column, first_ray, image, jacobian)

    return render


@wp.kernel(enable_backward=False, module="unique", module_options={"enable_backward": False, "max_unroll": 1})
def pack_cells(
    mu: wp.array3d(dtype=wp.float32),
    words_per_mu: wp.float32,
    bricks_i: wp.int32,
    low: wp.int32,
    cells: wp.array2d(dtype=wp.uint16),
    occupied: wp.array3d(dtype=wp.uint8),
):
    """Line `tid` of the packed volume from the occupied box of mu, and which blocks hold anything; see layout.py."""
    line = wp.tid()
    lines_j = mu.shape[1] + 2 * low
    brick = line / lines_j
    j = line - brick * lines_j
    brick_k = brick / bricks_i
    brick_i = brick - brick_k * bricks_i
    for a in range(5):
        for b in range(5):
            i = 4 * brick_i + a - low
            k = 4 * brick_k + b - low
            if i >= 0 and j >= low and k >= 0 and i < mu.shape[0] and j < mu.shape[1] + low and k < mu.shape[2]:
                word = wp.int32(mu[i, j - low, k] * words_per_mu + 0.5)
                cells[line, 6 * a + b] = wp.uint16(word)
                if word > 0 and a < 4 and b < 4:
                    occupied[brick_i, j / 4, brick_k] = wp.uint8(1)
