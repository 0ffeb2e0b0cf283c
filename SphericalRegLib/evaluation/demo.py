"""The main job on real CTs: simulate an X-ray at a pose that is kept secret, register, and only then compare with the truth."""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from SphericalRegLib.geometry.views import named_view
from SphericalRegLib.imaging.case import Case, load_case
from SphericalRegLib.imaging.samples import sample_volume
from SphericalRegLib.models.checkpoint import Model, load_model
from SphericalRegLib.progress import Progress, ProgressCallback, silent
from SphericalRegLib.registration.pipeline import prepare, register
from SphericalRegLib.registration.result import RegistrationResult
from SphericalRegLib.rendering.projector import Projector
from SphericalRegLib.simulation.cases import SimulationOptions, flat_panel, simulate_cases
from SphericalRegLib.simulation.difficulty import difficulty
from SphericalRegLib.training.camera import training_camera
from SphericalRegLib.training.options import TrainingOptions
from SphericalRegLib.training.session import About, trained
from SphericalRegLib.visualization import output
from SphericalRegLib.visualization.figures import write_figure
from SphericalRegLib.visualization.panel import PanelRow, qualitative_panel
from SphericalRegLib.visualization.report_index import IndexEntry, write_index
from SphericalRegLib.visualization.report_pictures import thumbnail

from .metrics import PoseErrors, pose_errors
from .selftest_reference import blob
from .tables import Table
from .truth import load_truth

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from SphericalRegLib.imaging.volume import Volume

VIEW = "ap"


@dataclass(frozen=True, eq=False)
class DemoCase:
    """One CT: what was found, and how wrong it and its start were."""

    name: str
    result: RegistrationResult
    errors: PoseErrors
    initial: PoseErrors
    folder: Path
    start: str = VIEW


@dataclass(frozen=True, eq=False)
class Demo:
    """All of them, and how long the renderer took to start (where its kernel was not cached yet, to compile)."""

    cases: tuple[DemoCase, ...]
    kernel_seconds: float
    index: Path
    def table(self) -> Table:
        """Errors against the truth in mm, metric (a) first."""
        errors = ("(a) mTRE 3D", "in-plane", "depth", "(b) mRPE", "(c) mRPE x px", "(d) mPE 2D", "rotation [deg]")
        columns = ("CT", "start", "its (a)", *errors, "seconds")
        return Table(columns, tuple(_row(case) for case in self.cases))


def run_demo(
    out: Path,
    names: Sequence[str],
    *,
    level: str = "realistic",
    models: Mapping[str, Path] | None = None,
    device: str = "cpu",
    seed: int = 0,
    progress: ProgressCallback = silent,
) -> Demo:
    """Register sample CTs to simulated X-rays, and write a folder with cases, results, reports, errors.csv, errors.md, panel.png and index.html.

    Every X-ray is registered by intensity from the plain view; where there is a model of its CT, again from nothing.

    Args:
        out: the folder.
        names: of `imaging.samples.SAMPLE_NAMES`.
        level: difficulty of the X-rays.
        models: of these CTs, by name.
        device: "cpu" or "cuda:N".
        seed: of the poses, the X-rays and the search.
        progress: called several times a second.
    """
    kernel_seconds = start_renderer(device)
    options = SimulationOptions(level=difficulty(level), views=(VIEW,), camera=flat_panel(), seed=seed)
    cases, entries, rows = [], [], []
    for name in names:
        progress(Progress(f"{name}: read the CT", 0, 1))
        volume = sample_volume(name)
        progress(Progress(f"{name}: read the CT", 1, 1))

        def named(step: Progress, name: str = name) -> None:
            progress(Progress(f"{name}: {step.stage}", step.done, step.total, step.message, step.cost, step.pose))

        case = load_case(_simulate(volume, out / "cases" / name, options, device, named))
        pyramid = prepare(case.volume, device=device)
        runs: list[tuple[str, Any, Model | None]] = [(name, VIEW, None)]
        if models and name in models:
            runs.append((f"{name}, model", None, load_model(models[name], device)))
        for label, start, model in runs:

            def labelled(step: Progress, label: str = label) -> None:
                progress(replace(step, stage=f"{label}: {step.stage}"))

            result = register(pyramid, case.views, start, model=model, device=device, seed=seed, progress=labelled)
            errors, initial, truth = _compare(case, result)
            metrics = {**errors.to_dict(), "initial_mtre_3d": initial.mtre_3d}
            progress(Progress(f"{label}: pictures and report", 0, 1))
            folder = out / label.replace(", ", "-")
            views = output.write_result_folder(
                result,
                pyramid,
                case.views,
                folder,
                title=f"Demo: {label}",
                command=f"sphericalreg demo --level {level} --seed {seed}",
                inputs=output.describe_inputs(volume, case.views),
                truth=output.ShownTruth(truth, metrics),
            )
            progress(Progress(f"{label}: pictures and report", 1, 1))
            cases.append(DemoCase(label, result, errors, initial, folder, VIEW if model is None else "none"))
            title = f"{label}: mTRE {initial.mtre_3d:.0f} to {errors.mtre_3d:.2f} mm"
            rows.append(PanelRow(title, views[0].xray, views[0].drr, views[0].mask, views[0].truth_drr))
            values = {"mTRE at the start, mm": initial.mtre_3d, "mTRE, mm": errors.mtre_3d, "depth, mm": errors.depth, "seconds": result.seconds}
            entries.append(IndexEntry(label, f"{folder.name}/report.html", thumbnail(views[0]), values))
    note = (
        f"Simulated X-rays ({level}) of real CTs. The start is the plain {VIEW} view, or with a model what its regressor says; the true pose was "
        "used for the errors alone. Research software, not a medical device."
    )
    demo = Demo(tuple(cases), kernel_seconds, write_index("SphericalReg demo", entries, out / "index.html", note=note))
    write_figure(qualitative_panel(rows), out / "panel.png")
    demo.table().write(out / "errors", heading=f"# Errors against the truth, mm\n\n{note}")
    return demo


def train_demo_model(out: Path, name: str, minutes: float, *, device: str = "cpu", seed: int = 0, progress: ProgressCallback = silent) -> Path:
    """The demo's model of a sample CT, trained from scratch into `<out>/models` unless it is there already; an interrupted training goes on.

    Raises:
        InputError: what is there was trained with other options.
        Cancelled: out of `progress`; the state is saved.
    """
    path = out / "models" / f"{name}.safetensors"
    options = TrainingOptions(minutes=minutes, seed=seed)
    camera = training_camera(flat_panel(), options.encoder.trunk.image_size)
    about = About(name, f"sphericalreg demo --train --minutes {minutes:g} --seed {seed}")
    trained([sample_volume(name)], camera, options, path, about=about, device=device, progress=progress)
    return path


def start_renderer(device: str) -> float:
    """Render one small image with its Jacobian; seconds that it took, which is the kernel's compilation where it is not cached yet."""
    begin = time.perf_counter()
    body, camera = blob(), flat_panel(16, 16)
    pose = named_view(VIEW, camera, torch.as_tensor(body.centre_ras_mm))[None].to(device)
    projector = Projector(body, camera, device=device)
    projector.project(pose)
    projector.project_with_jacobian(pose)
    return time.perf_counter() - begin


def _simulate(volume: Volume, folder: Path, options: SimulationOptions, device: str, progress: ProgressCallback) -> Path:
    """One case; what an earlier demo with other options or of another version left is replaced."""
    if (folder / "case_000" / "simulation.json").is_file():
        shutil.rmtree(folder)
    return simulate_cases(volume, folder, 1, options, device=device, progress=progress)[0]


def _compare(case: Case, result: RegistrationResult) -> tuple[PoseErrors, PoseErrors, np.ndarray]:
    """The first place that opens the truth: errors of the result and of its start, and the true pose."""
    truth = load_truth(case.path)
    camera, centre = case.views[0].radiograph.camera, case.volume.centre_ras_mm
    poses = (result.camera_from_world, result.initial_camera_from_world)
    errors, initial = (pose_errors(truth.camera_from_world, pose, truth.fiducials, camera, centre) for pose in poses)
    return errors, initial, truth.camera_from_world


def _row(case: DemoCase) -> tuple[str | float, ...]:
    e = case.errors
    errors = (e.mtre_3d, e.in_plane, e.depth, e.mrpe, e.mrpe_scaled, e.mpe_2d, e.rotation_deg)
    return (case.name, case.start, case.initial.mtre_3d, *errors, case.result.seconds)
