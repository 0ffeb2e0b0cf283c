"""`sphericalreg benchmark register`: where the seconds of a registration go, on the sample CTs."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from SphericalRegLib.imaging.case import Case, load_case
from SphericalRegLib.imaging.samples import sample_volume
from SphericalRegLib.progress import Progress, ProgressCallback, silent
from SphericalRegLib.registration.pipeline import prepare, register
from SphericalRegLib.registration.result import RegistrationResult
from SphericalRegLib.rendering.threads import available_threads
from SphericalRegLib.simulation.cases import SimulationOptions, simulate_cases
from SphericalRegLib.simulation.difficulty import difficulty

from .demo import start_renderer
from .metrics import pose_errors
from .tables import Table, Value
from .truth import load_truth


@dataclass(frozen=True)
class Timing:
    """One CT: medians over its X-rays, seconds; `error_mm` is the median of metric (a), so that nobody reads a speed without it."""

    name: str
    start: str
    xrays: int
    prepare_s: float
    stages: dict[str, float]
    total_s: float
    longest_s: float
    error_mm: float


@dataclass(frozen=True)
class RegisterBenchmark:
    """All CTs and starts; `kernel_s` is the renderer's first use, its compilation included where it was not cached."""

    device: str
    threads: int
    kernel_s: float
    timings: tuple[Timing, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)

    def table(self) -> Table:
        """One row for each CT and start."""
        stages = list(dict.fromkeys(stage for timing in self.timings for stage in timing.stages))
        rows: list[tuple[Value, ...]] = [
            (t.name, t.start, t.xrays, t.prepare_s, *map(t.stages.get, stages), t.total_s, t.longest_s, t.error_mm) for t in self.timings
        ]
        return Table(("CT", "start", "X-rays", "prepare CT", *stages, "total", "longest", "mTRE 3D [mm]"), tuple(rows))


def run_register_benchmark(
    names: Sequence[str], count: int = 3, *, level: str = "realistic", device: str = "cpu", seed: int = 0, progress: ProgressCallback = silent
) -> RegisterBenchmark:
    """Register `count` simulated X-rays of each sample CT, from starts with 5 degrees and 10 mm standard deviation per axis and from the plain view.

    The CT is prepared once and the X-rays follow, as in an operating room. Reading, simulating and pictures are not in the times.
    """
    kernel_s = start_renderer(device)
    timings = []
    steps, done = len(names) * 2 * (count + 1), 0
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            options = SimulationOptions(level=difficulty(level), seed=seed)
            paths = simulate_cases(sample_volume(name), Path(folder) / name, count, options, device=device, progress=progress)
            cases = [load_case(path) for path in paths]
            for start in ("5 deg, 10 mm", "ap"):
                begin = time.perf_counter()
                pyramid = prepare(cases[0].volume, device=device)
                prepare_s = time.perf_counter() - begin
                results = []
                # the first X-ray goes twice: its first turn makes the coarse copies of the CT and fills caches
                for case in (cases[0], *cases):
                    progress(Progress("benchmark", done, steps, f"{name} from {start}"))
                    initial = case.initial_camera_from_world if start != "ap" else start
                    results.append(register(pyramid, case.views, initial, device=device, seed=seed))
                    done += 1
                timings.append(_timing(name, start, prepare_s, cases, results))
    progress(Progress("benchmark", steps, steps))
    return RegisterBenchmark(device, available_threads(), kernel_s, tuple(timings))


def _timing(name: str, start: str, prepare_s: float, cases: Sequence[Case], results: Sequence[RegistrationResult]) -> Timing:
    first, *measured = results
    seconds_of = [_seconds_of_stages(result) for result in measured]
    names = dict.fromkeys(name for of in seconds_of for name in of)  # some X-rays have a search that others can do without
    stages = {name: statistics.median(of.get(name, 0.0) for of in seconds_of) for name in names}
    seconds = [result.seconds for result in measured]
    errors = []
    for case, result in zip(cases, measured):
        truth = load_truth(case.path)
        camera = case.views[0].radiograph.camera
        found = pose_errors(truth.camera_from_world, result.camera_from_world, truth.fiducials, camera, case.volume.centre_ras_mm)
        errors.append(found.mtre_3d)
    prepared = prepare_s + first.seconds - measured[0].seconds
    return Timing(name, start, len(cases), max(prepared, prepare_s), stages, statistics.median(seconds), max(seconds), statistics.median(errors))


def _seconds_of_stages(result: RegistrationResult) -> dict[str, float]:
    """By name; a search or stage that was made again counts for both times."""
    seconds: dict[str, float] = {}
    for record in result.stages:
        seconds[record.name] = seconds.get(record.name, 0.0) + record.seconds
    return seconds
