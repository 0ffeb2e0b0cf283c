"""`sphericalreg benchmark patients`: what a model of other patients is worth on a new one, and how much training on the new one closes the gap.

With several CTs each is the new patient once and the others are trained on (leave-one-out); with one, the new patient is made up from the same CT, as
those that are trained on are: that shows what shape and density cost, not what another anatomy does.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from SphericalRegLib.errors import InputError
from SphericalRegLib.geometry.camera import Camera
from SphericalRegLib.imaging.attenuation import attenuation
from SphericalRegLib.imaging.case import load_case
from SphericalRegLib.imaging.identity import ct_identity
from SphericalRegLib.imaging.volume import Volume
from SphericalRegLib.models.checkpoint import Model, load_model
from SphericalRegLib.progress import Progress, ProgressCallback, pace, silent
from SphericalRegLib.registration.pipeline import prepare, register
from SphericalRegLib.simulation.cases import SimulationOptions, simulate_cases
from SphericalRegLib.training.options import TrainingOptions
from SphericalRegLib.training.patients import made_up_patients
from SphericalRegLib.training.scene import TrainingScene
from SphericalRegLib.training.session import About, trained
from SphericalRegLib.training.validation import Validation
from SphericalRegLib.visualization.figures import write_figure
from SphericalRegLib.visualization.trainings import Training, training_figure

from .journal import Journal
from .metrics import pose_errors, summarise
from .tables import Table, Value
from .truth import load_truth

NEW_PATIENT_SEED = 1_000_000
"""Of the made-up patient that no training has seen."""

OTHERS, TUNED, OWN = "model of others", "fine-tuned", "from scratch"
QUANTITIES = ("mtre_mm", "regressor_mtre_mm")


@dataclass(frozen=True)
class PatientsOptions:
    """What is compared.

    Attributes:
        training: of the model of other patients, and, but for its length, of all.
        made_up: made-up patients beside each CT that is trained on.
        minutes: lengths of the trainings on the new patient, with the model of others as base and from scratch.
        cases: X-rays of the new patient, over the training's range of poses, that are registered without an initial pose.
    """

    training: TrainingOptions = field(default_factory=TrainingOptions)
    made_up: int = 8
    minutes: tuple[float, ...] = (1.0, 2.0, 5.0)
    cases: int = 10

    def __post_init__(self) -> None:
        if self.made_up < 0 or self.cases < 1 or not self.minutes or min(self.minutes) <= 0:
            raise InputError(
                f"There are {self.made_up} made-up patients, {self.cases} cases and trainings of {list(self.minutes)} minutes; expected at least 0, "
                "at least 1, and positive lengths."
            )


@dataclass(frozen=True)
class PatientOutcome:
    """One model on one new patient: validation figures, mean 3D displacements after registration (mm; infinite for a failed case)."""

    patient: str
    kind: str
    minutes: float
    figures: dict[str, float]
    errors: tuple[float, ...]


@dataclass(frozen=True)
class PatientsBenchmark:
    """All outcomes, patient by patient."""

    options: PatientsOptions
    outcomes: tuple[PatientOutcome, ...]

    def table(self) -> Table:
        """One row for each patient and model."""
        columns = (
            "new patient",
            "model",
            "minutes on this patient",
            "regressor, median [mm]",
            "after LM, median [mm]",
            "registered, median [mm]",
            "< 2 mm [%]",
        )
        rows: list[tuple[Value, ...]] = []
        for outcome in self.outcomes:
            s = summarise(outcome.errors)
            figures = outcome.figures
            rows.append(
                (outcome.patient, outcome.kind, outcome.minutes, figures.get("regressor_mtre_mm"), figures["mtre_mm"], s.p50, 100 * s.below_2mm)
            )
        return Table(columns, tuple(rows))

    def write(self, out: Path) -> list[Path]:
        """patients.md, .csv and .png."""
        options = self.options
        length = f"{options.training.iterations} steps" if options.training.iterations else f"{options.training.minutes:g} minutes"
        heading = (
            f"# New patients\n\nThe model of others was trained for {length}, with {options.made_up} made-up patients beside each CT. Medians "
            f"over {options.training.validation.xrays} X-rays of the training's look, and {options.cases} simulated ones registered without an "
            "initial pose."
        )
        curves: dict[str, list[dict[str, float]]] = {}
        for outcome in self.outcomes:
            kind = TUNED if outcome.kind == OTHERS else outcome.kind  # fine-tuning begins with what the others taught
            curves.setdefault(f"{outcome.patient}, {kind}", []).append({"seconds": 60 * outcome.minutes, **outcome.figures})
        figure = training_figure([Training(name, curve) for name, curve in curves.items()], QUANTITIES)
        return [*self.table().write(out / "patients", heading=heading), write_figure(figure, out / "patients.png")]


def run_patients_benchmark(
    volumes: Sequence[Volume], camera: Camera, out: Path, options: PatientsOptions, *, device: str = "cpu", progress: ProgressCallback = silent
) -> PatientsBenchmark:
    """Train on others, then on the new patient, and judge; models and outcomes stay in the folder, and a later run goes on.

    Raises:
        InputError: the folder holds models, cases or outcomes made with other options.
        Cancelled: out of `progress`; what is done stays.
    """
    volumes = _named_apart(volumes)
    cts = [ct_identity(attenuation(volume), volume.name).to_dict() for volume in volumes]
    header = {"training": asdict(options.training), "made_up": options.made_up, "cases": options.cases, "device": device, "cts": cts}
    journal = Journal(out / "outcomes.jsonl", header)
    done = {(entry["patient"], entry["kind"], entry["minutes"]): entry for entry in journal.entries}
    outcomes = []
    for new, others in _split(volumes):
        folder = out / new.name.replace(" ", "_").replace(",", "")
        tell = partial(_named, progress, new.name)
        for kind, minutes in ((OTHERS, 0.0), *((kind, minutes) for minutes in options.minutes for kind in (TUNED, OWN))):
            key = (new.name, kind, minutes)
            if key not in done:
                model = _model(new, others, camera, folder, kind, minutes, options, device, tell)
                figures, errors = _judge(model, new, camera, folder, options, device, tell)
                plain = [error if math.isfinite(error) else None for error in errors]
                journal.add({"patient": new.name, "kind": kind, "minutes": minutes, "figures": figures, "errors": plain})
                done[key] = journal.entries[-1]
            entry = done[key]
            outcomes.append(PatientOutcome(*key, entry["figures"], tuple(math.inf if error is None else error for error in entry["errors"])))
    return PatientsBenchmark(options, tuple(outcomes))


def _named_apart(volumes: Sequence[Volume]) -> list[Volume]:
    """The names of files are often the same: then they are numbered."""
    names = [volume.name for volume in volumes]
    if len(set(names)) == len(names):
        return list(volumes)
    return [replace(volume, name=f"{volume.name} {number}") for number, volume in enumerate(volumes, start=1)]


def _split(volumes: Sequence[Volume]) -> list[tuple[Volume, list[Volume]]]:
    """Each new patient with the CTs that are trained on."""
    if len(volumes) == 1:
        return [(made_up_patients(volumes[0], 1, NEW_PATIENT_SEED)[0], [volumes[0]])]
    return [(volume, [other for other in volumes if other is not volume]) for volume in volumes]


def _model(
    new: Volume,
    others: Sequence[Volume],
    camera: Camera,
    folder: Path,
    kind: str,
    minutes: float,
    options: PatientsOptions,
    device: str,
    progress: ProgressCallback,
) -> Model:
    about = partial(About, command="sphericalreg benchmark patients")
    of_others, base = folder / "others.safetensors", None
    if kind == OTHERS:
        known = [patient for other in others for patient in (other, *made_up_patients(other, options.made_up))]
        anatomy = ", ".join(other.name for other in others)
        told = partial(_named, progress, OTHERS)
        return trained(known, camera, options.training, of_others, about=about(anatomy), device=device, progress=told)
    if kind == TUNED:
        base = load_model(of_others)
    training = replace(options.training, minutes=minutes, iterations=None)
    path = folder / f"{kind.replace(' ', '_').replace('-', '_')}_{minutes:g}min.safetensors"
    told = partial(_named, progress, f"{kind}, {minutes:g} min")
    return trained([new], camera, training, path, about=about(new.name, base=of_others.name if base else ""), base=base, device=device, progress=told)


def _judge(
    model: Model, new: Volume, camera: Camera, folder: Path, options: PatientsOptions, device: str, progress: ProgressCallback
) -> tuple[dict[str, float], list[float]]:
    """Validation figures, and errors of registrations with nothing but the model."""
    training, here = options.training, model.to(device)
    scene = TrainingScene.of(new, camera, device)
    figures = Validation([scene], training)(here.encoder, here.regressor, progress)
    simulation = SimulationOptions(c_arm=training.poses, views=training.poses.views, seed=training.seed)
    paths = simulate_cases(new, folder / "cases", options.cases, simulation, device=device, progress=progress)
    pyramid, errors, began = prepare(new, device=device), [], time.perf_counter()
    for number, path in enumerate(paths):
        message = pace(time.perf_counter() - began, number, len(paths))
        progress(Progress("register", number, len(paths), message))
        case, truth = load_case(path), load_truth(path)
        try:
            found = register(pyramid, case.views, model=here, device=device, progress=lambda step: progress(replace(step, pose=None)))
            camera_of_case, centre = case.views[0].radiograph.camera, np.asarray(new.centre_ras_mm)
            errors.append(pose_errors(truth.camera_from_world, found.camera_from_world, truth.fiducials, camera_of_case, centre).mtre_3d)
        except InputError:  # no proposed pose shows the CT: a failed case
            errors.append(math.inf)
    del pyramid, scene
    if torch.device(device).type == "cuda":
        torch.cuda.empty_cache()
    return figures, errors


def _named(progress: ProgressCallback, name: str, step: Progress) -> None:
    progress(replace(step, stage=f"{name}: {step.stage}"))
