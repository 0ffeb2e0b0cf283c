"""What a user runs on a new machine, with or without a GPU: is everything there, right, and fast? About a minute."""

from __future__ import annotations

import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from typing import Any

import numpy as np
import torch

from SphericalRegLib import __version__
from SphericalRegLib.geometry.camera import Camera
from SphericalRegLib.geometry.se3 import retract
from SphericalRegLib.geometry.views import named_view
from SphericalRegLib.imaging.attenuation import Attenuation
from SphericalRegLib.progress import Progress, ProgressCallback, silent
from SphericalRegLib.rendering.projector import Projector

from .selftest_reference import blob, line_integrals, without_motion_along_rays

REQUIRED = (
    *("torch", "timm", "warp-lang", "numpy", "scipy", "SimpleITK", "pydicom", "safetensors", "matplotlib"),
    *("roma", "pillow", "rich", "typer"),
)
PACKAGES = (*REQUIRED, "diffdrr")
ANGLE_STEP, LENGTH_STEP_MM = 1e-6, 1e-4  # central differences so small that hardly a sample crosses a kink of the trilinear interpolant


@dataclass(frozen=True)
class Check:
    """One line of the table. `outcome`: "pass", "FAIL" or "skipped"."""

    name: str
    outcome: str
    detail: str
    seconds: float


@dataclass(frozen=True)
class SelftestReport:
    """All lines, and what they were run on."""

    checks: tuple[Check, ...]
    environment: dict[str, str]

    @property
    def passed(self) -> bool:
        """No check failed; what was skipped was said to be."""
        return all(check.outcome != "FAIL" for check in self.checks)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {"passed": self.passed, "environment": self.environment, "checks": [asdict(check) for check in self.checks]}


class Skip(Exception):
    """A check that cannot be run here says why."""


def run_selftest(device: str = "cpu", seed: int = 0, progress: ProgressCallback = silent) -> SelftestReport:
    """Run all checks on a torch device ("cpu", "cuda:0"). A check that raises has failed; the others still run."""
    tasks: dict[str, Callable[[], str]] = {
        "installation": check_installation,
        "renderer against reference": lambda: check_image(device),
        "Jacobian against central differences": lambda: check_jacobian(device),
        "CPU against GPU": lambda: check_devices(device),
        "speed": lambda: measure_speed(device),
        "one registration": lambda: check_registration(device, seed),
    }
    checks = []
    for done, (name, task) in enumerate(tasks.items()):
        progress(Progress("selftest", done, len(tasks), name))
        checks.append(_outcome(name, task))
    progress(Progress("selftest", len(tasks), len(tasks), ""))
    return SelftestReport(tuple(checks), describe_environment(device))


def describe_environment(device: str) -> dict[str, str]:
    """Versions and hardware that a report of a problem needs."""
    versions = {name: version for name in PACKAGES if (version := _version(name))}
    machine = {
        "sphericalreg": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu cores": str(os.cpu_count()),
        "device": device,
    }
    if device != "cpu":
        machine["gpu"] = torch.cuda.get_device_name(device)
    return machine | versions


def check_installation() -> str:
    missing = [name for name in REQUIRED if _version(name) is None]
    if missing:
        raise AssertionError(f"not installed: {', '.join(missing)}")
    optional = "with DiffDRR" if _version("diffdrr") else "without DiffDRR (the reference renderer, optional)"
    return f"Python {platform.python_version()} on {sys.platform}, {optional}"


def check_image(device: str) -> str:
    body, camera, pose = _scene()
    projector = Projector(body, camera, step_mm=1.0, device=device)
    image = projector.project(pose.to(device)).cpu().double()[0]
    reference = line_integrals(body, camera, pose[0].numpy(), step_mm=1.0)
    error = float((image - reference).norm() / reference.norm())
    return _within(error, 1e-3, "relative L2 difference of the image")


def check_jacobian(device: str) -> str:
    body, camera, pose = _scene()
    projector = Projector(body, camera, step_mm=1.0, device=device)
    jacobian = projector.project_with_jacobian(pose.to(device))[1].cpu().double()[0]
    centre = torch.as_tensor(body.centre_ras_mm)
    columns = []
    for axis in range(6):
        step = torch.zeros(6, dtype=torch.float64)
        step[axis] = ANGLE_STEP if axis < 3 else LENGTH_STEP_MM
        ahead, behind = (line_integrals(body, camera, retract(pose[0], sign * step, centre).numpy(), step_mm=1.0) for sign in (1, -1))
        columns.append((ahead - behind) / (2 * step[axis]))
    reference = without_motion_along_rays(torch.stack(columns, dim=-1), pose[0], camera, centre)
    errors = [float((jacobian[..., axis] - reference[..., axis]).norm() / reference[..., axis].norm()) for axis in range(6)]
    return _within(max(errors), 1e-3, "largest relative L2 difference of six columns")


def check_devices(device: str) -> str:
    if device == "cpu":
        raise Skip("no GPU in use (--device cuda where there is one)")
    body, camera, pose = _scene()
    images = [Projector(body, camera, device=where).project_with_jacobian(pose.to(where)) for where in ("cpu", device)]
    errors = [float((gpu.cpu() - cpu).norm() / cpu.norm()) for cpu, gpu in zip(*images)]
    return _within(max(errors), 1e-4, "relative L2 difference of image and Jacobian")


def measure_speed(device: str) -> str:
    from SphericalRegLib.imaging.attenuation import attenuation
    from SphericalRegLib.imaging.samples import sample_volume
    from SphericalRegLib.simulation.cases import flat_panel

    body = attenuation(sample_volume("pelvis"))
    camera = flat_panel(256, 256)
    pose = named_view("ap", camera, torch.as_tensor(body.centre_ras_mm))[None].to(device)
    projector = Projector(body, camera, device=device)
    image = statistics.median(_timed(lambda: projector.project(pose), device))
    both = statistics.median(_timed(lambda: projector.project_with_jacobian(pose), device))
    return f"256 x 256 pixels of the sample pelvis: image {1e3 * image:.1f} ms, with Jacobian {1e3 * both:.1f} ms"


def check_registration(device: str, seed: int) -> str:
    from SphericalRegLib.imaging.case import load_case
    from SphericalRegLib.imaging.samples import sample_volume
    from SphericalRegLib.registration.pipeline import register
    from SphericalRegLib.simulation.cases import SimulationOptions, flat_panel, simulate_cases
    from SphericalRegLib.simulation.difficulty import CLEAN

    from .metrics import pose_errors
    from .truth import load_truth

    options = SimulationOptions(level=CLEAN, camera=flat_panel(192, 192), seed=seed)
    with tempfile.TemporaryDirectory() as folder:
        path = simulate_cases(sample_volume("pelvis"), folder, 1, options, device=device)[0]
        case, truth = load_case(path), load_truth(path)
    begin = time.perf_counter()
    result = register(case.volume, case.views, case.initial_camera_from_world, device=device, seed=seed)
    seconds = time.perf_counter() - begin
    camera, centre = case.views[0].radiograph.camera, case.volume.centre_ras_mm
    poses = (case.initial_camera_from_world, result.camera_from_world)
    before, after = (pose_errors(truth.camera_from_world, np.asarray(pose), truth.fiducials, camera, centre).mtre_3d for pose in poses)
    detail = f"simulated X-ray of the sample pelvis: mTRE {before:.1f} mm at the start, {after:.2f} mm after {seconds:.1f} s"
    if not after < 2.0:
        raise AssertionError(f"{detail}; expected below 2 mm")
    return detail


def _scene() -> tuple[Attenuation, Camera, torch.Tensor]:
    """A smooth body on an oblique grid, an off-centre camera with non-square pixels, a pose (1, 4, 4): nothing aligned that could hide an error."""
    body = blob()
    camera = Camera(1000.0, (4.0, 3.0), (40, 48), (17.5, 26.0))
    return body, camera, named_view("pa", camera, torch.as_tensor(body.centre_ras_mm))[None]


def _outcome(name: str, task: Callable[[], str]) -> Check:
    begin = time.perf_counter()
    try:
        outcome, detail = "pass", task()
    except Skip as reason:
        outcome, detail = "skipped", str(reason)
    except Exception as error:  # a report of what is broken must not break itself
        outcome, detail = "FAIL", f"{error}" if isinstance(error, AssertionError) else f"{type(error).__name__}: {error}"
    return Check(name, outcome, " ".join(detail.split()), time.perf_counter() - begin)


def _within(error: float, limit: float, what: str) -> str:
    if not error < limit:
        raise AssertionError(f"{what} {error:.1e}; expected below {limit:.0e}")
    return f"{what} {error:.1e} (limit {limit:.0e})"


def _timed(work: Callable[[], Any], device: str, times: int = 7) -> Iterator[float]:
    """Seconds of each run after a first one that compiles and fills caches."""
    for number in range(times + 1):
        begin = time.perf_counter()
        work()
        if device != "cpu":
            torch.cuda.synchronize(device)
        if number:
            yield time.perf_counter() - begin


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
