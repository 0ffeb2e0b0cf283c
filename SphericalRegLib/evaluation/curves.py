"""`sphericalreg benchmark curves`: what training time has bought, from the cards of models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from SphericalRegLib.errors import InputError
from SphericalRegLib.models.checkpoint import Model, load_model
from SphericalRegLib.visualization.figures import write_figure
from SphericalRegLib.visualization.trainings import Training, training_figure

from .tables import Table, Value

QUANTITIES = ("regressor_mtre_mm", "mtre_mm", "in_plane_mm")


@dataclass(frozen=True)
class TrainingCurves:
    """Models by name, each with the validations of its training in its card."""

    models: dict[str, Model]

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
        figure = training_figure(curves, [key for key in QUANTITIES if key in known])
        return [*self.table().write(out / "curves", heading=heading), write_figure(figure, out / "curves.png")]


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


def training_curves(paths: Sequence[Path]) -> TrainingCurves:
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
    return TrainingCurves(models)
