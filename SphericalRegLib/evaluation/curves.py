"""`sphericalreg benchmark curves`: what training time has bought, from the cards of models, and in registrations with them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from SphericalRegLib.errors import InputError
from SphericalRegLib.models.checkpoint import Model, load_model
from SphericalRegLib.progress import Progress, ProgressCallback, silent
from SphericalRegLib.visualization.figures import write_figure
from SphericalRegLib.visualization.trainings import MINUTES, Effort, Training, capture_figure, training_figure

from .benchmark_methods import MethodsBenchmark, MethodsOptions, in_words, run_methods_benchmark
from .methods import METHODS
from .metrics import summarise
from .tables import Table, Value

QUANTITIES = ("regressor_mtre_mm", "mtre_mm", "in_plane_mm")

CAPTURE_METHODS = ("full", "anchored LM")
"""What is registered with each model: the whole way, and one search from the start alone, as registrations make it, on its similarity."""


@dataclass(frozen=True)
class TrainingCurves:
    """Models by name, each with the validations of its training in its card; figures have them over the effort."""

    models: dict[str, Model]
    effort: Effort = MINUTES

    def table(self) -> Table:
        """The last validation of each model, in the order that they were given."""
        columns = (
            "model",
            "anatomy",
            "minutes",
            "steps",
            "regressor [deg]",
            "regressor, median [mm]",
            "after LM, median [mm]",
            "75 % [mm]",
            "in-plane, median [mm]",
            "gradient cosine",
        )
        figures = ("regressor_deg", "regressor_mtre_mm", "mtre_mm", "mtre_75_mm", "in_plane_mm", "cosine")
        rows: list[tuple[Value, ...]] = []
        for name, model in self.models.items():
            card, last = model.card, model.card["curve"][-1]
            rows.append((name, card.get("anatomy", ""), card["seconds"] / 60, card["iterations"], *(last.get(figure) for figure in figures)))
        return Table(columns, tuple(rows))

    def write(self, out: Path) -> list[Path]:
        """curves.md, .csv and .png."""
        heading = (
            "# Trainings\n\nThe last validation of each, from its model card, over X-rays that were not trained on. `regressor`: its "
            "likeliest pose; `after LM`: Levenberg-Marquardt on the spherical similarity from perturbed starts, with their spread as a prior. "
            "The figure leaves out where a network has not its turn."
        )
        curves = [Training(name, changing(model.card["curve"])) for name, model in self.models.items()]
        known = {key for curve in curves for point in curve.curve for key in point}
        figure = training_figure(curves, [key for key in QUANTITIES if key in known], effort=self.effort)
        return [*self.table().write(out / "curves", heading=heading), write_figure(figure, out / "curves.png")]


@dataclass(frozen=True)
class CaptureCurves:
    """Whole registrations of the same X-rays from the same starts with each model, by its name."""

    models: dict[str, Model]
    options: MethodsOptions
    device: str
    runs: dict[str, MethodsBenchmark]
    effort: Effort = MINUTES

    def table(self) -> Table:
        """A row for each model, spread and method."""
        tables = {name: run.table() for name, run in self.runs.items()}
        columns = ("model", "minutes", "steps", *next(iter(tables.values())).columns)
        cards = {name: model.card for name, model in self.models.items()}
        lengths = {name: (MINUTES.of(card), card["iterations"]) for name, card in cards.items()}
        return Table(columns, tuple((name, *lengths[name], *row) for name, table in tables.items() for row in table.rows))

    @property
    def notes(self) -> tuple[str, ...]:
        """What the reader should know beside the numbers, each once."""
        return tuple(dict.fromkeys(note for run in self.runs.values() for note in run.notes))

    def write(self, out: Path) -> list[Path]:
        """capture.md, .csv and .png."""
        heading = (
            "# What training time buys in registrations\n\nThe same X-rays from the same starts (standard deviations per axis) with each model, seed "
            f"{self.options.seed}, on {self.device}; columns as of `benchmark methods`. Errors: mean 3D "
            "displacement of the fiducials."
        ) + "".join(f"\n\n{note}" for note in self.notes)
        figure = capture_figure(self._shares(), effort=self.effort)
        return [*self.table().write(out / "capture", heading=heading), write_figure(figure, out / "capture.png")]

    def _shares(self) -> dict[str, dict[str, list[tuple[float, float]]]]:
        """method -> spread -> (length, share below 2 mm), the shorter trainings first."""
        lengths = {name: self.effort.of(model.card) for name, model in self.models.items()}
        ordered = sorted(self.runs, key=lengths.__getitem__)
        return {
            method: {
                in_words(spread): [
                    (lengths[name], summarise(outcome.end for outcome in self.runs[name].of(spread, method)).below_2mm) for name in ordered
                ]
                for spread, with_ in self.options.pairs
                if with_ == method
            }
            for method in self.options.methods
        }


def changing(curve: Sequence[Mapping[str, float]]) -> list[dict[str, float]]:
    """A curve without the figures of a network that is not at work: each begins at the last point before it changes, and repeats nothing after."""
    points = [dict(point) for point in curve]
    for key in QUANTITIES:
        values = [point.get(key) for point in points]
        begin = next((i for i, value in enumerate(values[1:]) if value != values[0]), len(values) - 1)
        for i in range(len(values)):
            if i < begin or (i > begin and values[i] == values[i - 1]):
                points[i].pop(key, None)
    return points


def training_curves(paths: Sequence[Path], effort: Effort = MINUTES) -> TrainingCurves:
    """Read models, named by their files.

    Raises:
        InputError: a model cannot be read, was never validated, or two have one name.
    """
    models: dict[str, Model] = {}
    for path in paths:
        if path.stem in models:
            raise InputError(f"two models are called {path.stem}; expected files of different names")
        model = load_model(path)
        if not model.card.get("curve"):
            raise InputError(f"the training of {path} was never validated: its card has no curve to draw")
        models[path.stem] = model
    return TrainingCurves(models, effort)


def capture_curves(
    models: dict[str, Model],
    cases: Sequence[Path],
    out: Path,
    options: MethodsOptions,
    *,
    device: str = "cpu",
    recompute: bool = False,
    progress: ProgressCallback = silent,
    effort: Effort = MINUTES,
) -> CaptureCurves:
    """`run_methods_benchmark` with each of the models (by name) of one CT; other arguments, errors and what is kept in the folder are those
    of that. `effort` is what the figure has them over.

    Raises:
        InputError: a method that uses no model, and so cannot depend on its training.
    """
    without = [name for name in options.methods if not METHODS[name].needs_model]
    if without:
        names = f"{' and '.join(without)} use{'s' if len(without) == 1 else ''} no model"
        raise InputError(f"{names}: there is no curve over its training; expected others of {', '.join(METHODS)}.")
    runs = {}
    for number, (name, model) in enumerate(models.items()):
        forget = recompute and number == 0  # one journal for all of them
        named = partial(_named, progress, name)
        runs[name] = run_methods_benchmark(cases, out, options, model=model, device=device, recompute=forget, progress=named)
    return CaptureCurves(models, options, device, runs, effort)


def _named(progress: ProgressCallback, name: str, step: Progress) -> None:
    progress(replace(step, message=f"{name} {step.message}".strip()))
