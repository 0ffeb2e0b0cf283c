"""`sphericalreg benchmark backbones`: what training time buys with one image backbone and another (the paper's Fig. 4, left).

Regressor and encoder have the same backbone and are trained one after the other, each backbone for the same time on the same CT with the same seed.
The errors are those of the training's own validation: X-rays of the CT at poses that were not trained on, their look drawn as the training's.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

from SphericalRegLib.errors import InputError
from SphericalRegLib.geometry.camera import Camera
from SphericalRegLib.imaging.volume import Volume
from SphericalRegLib.models.checkpoint import Model
from SphericalRegLib.models.trunk import TINY, timm_feature_map
from SphericalRegLib.progress import Progress, ProgressCallback, silent
from SphericalRegLib.training.options import TrainingOptions
from SphericalRegLib.training.session import About, trained
from SphericalRegLib.visualization.figures import write_figure
from SphericalRegLib.visualization.trainings import Training, training_figure

from .tables import Table, Value

DEFAULT_BACKBONES = (TINY, "resnet10t", "resnet18", "mobilenetv3_small_100", "regnetx_002", "efficientnet_lite0", "convnext_atto")
QUANTITIES = ("mtre_mm", "regressor_mtre_mm")


@dataclass(frozen=True)
class BackboneOptions:
    """What is compared.

    Attributes:
        backbones: "tiny" or names of timm CNNs.
        training: of each; its networks get the backbone in place of their own.
        criterion_mm: the median error after spherical LM that training time is measured to.
        regressor_criterion_mm: the regressor's.
    """

    backbones: tuple[str, ...] = DEFAULT_BACKBONES
    training: TrainingOptions = field(default_factory=TrainingOptions)
    criterion_mm: float = 5.0
    regressor_criterion_mm: float = 20.0

    def __post_init__(self) -> None:
        if not self.backbones or len(set(self.backbones)) < len(self.backbones):
            raise InputError(f"The backbones are {list(self.backbones)}; expected at least one, and none twice.")
        if self.training.validation.times < 1:
            raise InputError("The trainings are not validated; expected at least one validation of each.")
        for name in self.backbones:
            if name != TINY:
                timm_feature_map(name)  # refuses what it cannot use

    def of(self, backbone: str) -> TrainingOptions:
        """The training of one backbone."""
        encoder, regressor = self.training.encoder, self.training.regressor
        encoder = replace(encoder, trunk=replace(encoder.trunk, backbone=backbone))
        regressor = None if regressor is None else replace(regressor, trunk=replace(regressor.trunk, backbone=backbone))
        return replace(self.training, encoder=encoder, regressor=regressor)


@dataclass(frozen=True)
class BackboneBenchmark:
    """The models by backbone."""

    options: BackboneOptions
    models: dict[str, Model]

    def table(self) -> Table:
        """One row for each backbone."""
        options = self.options
        columns = (
            "backbone",
            "parameters [M]",
            "X-rays/s",
            f"min to {options.criterion_mm:g} mm",
            "after LM, median [mm]",
            "75 % [mm]",
            "< 2 mm [%]",
            f"regressor: min to {options.regressor_criterion_mm:g} mm",
            "regressor, median [mm]",
            "regressor [deg]",
            "gradient cosine",
        )
        rows: list[tuple[Value, ...]] = []
        for name, model in self.models.items():
            card, last = model.card, model.card["validation"]
            networks = [network for network in (model.encoder, model.regressor) if network is not None]
            of = options.of(name)
            rows.append(
                (
                    name,
                    sum(parameter.numel() for network in networks for parameter in network.parameters()) / 1e6,
                    card["iterations"] * of.batch * of.accumulate / card["seconds"],
                    minutes_to(card["curve"], "mtre_mm", options.criterion_mm),
                    last["mtre_mm"],
                    last["mtre_75_mm"],
                    100 * last["below_2_mm"],
                    minutes_to(card["curve"], "regressor_mtre_mm", options.regressor_criterion_mm),
                    last.get("regressor_mtre_mm"),
                    last.get("regressor_deg"),
                    last["cosine"],
                )
            )
        return Table(columns, tuple(rows))

    def write(self, out: Path) -> list[Path]:
        """backbones.md, .csv and .png."""
        options = self.options
        training = options.training
        length = f"{training.iterations} steps" if training.iterations else f"{training.minutes:g} minutes"
        device = next(iter(self.models.values())).card["device"]
        watched = training.validation
        heading = (
            f"# Backbones\n\nRegressor, then encoder, trained for {length} with each backbone, on {device}. Time to a criterion is that of "
            f"the first of {watched.times} validations below it; `-`: none was. Median errors over {watched.xrays} X-rays that were not trained on, "
            f"starts with {watched.sigma_deg:g} deg and {watched.sigma_mm:g} mm per axis."
        )
        named = {name: model.card["curve"] for name, model in self.models.items()}
        curves = [Training(name, curve, minutes_to(curve, "mtre_mm", options.criterion_mm)) for name, curve in named.items()]
        quantities = [key for key in QUANTITIES if training.regressor is not None or not key.startswith("regressor")]
        figure = training_figure(curves, quantities, options.criterion_mm)
        return [*self.table().write(out / "backbones", heading=heading), write_figure(figure, out / "backbones.png")]


def run_backbone_benchmark(
    volume: Volume, camera: Camera, out: Path, options: BackboneOptions, *, device: str = "cpu", progress: ProgressCallback = silent
) -> BackboneBenchmark:
    """Train with every backbone in turn; each model is kept in `<out>/<backbone>.safetensors`, and an interrupted training goes on.

    Raises:
        InputError: a model in the folder was trained with other options.
        Cancelled: out of `progress`; the state is saved.
    """
    models = {}
    for number, name in enumerate(options.backbones):

        def named(step: Progress, prefix: str = f"{name} ({number + 1} of {len(options.backbones)})") -> None:
            progress(replace(step, stage=f"{prefix}: {step.stage}"))

        about = About(volume.name, "sphericalreg benchmark backbones")
        models[name] = trained([volume], camera, options.of(name), out / f"{name}.safetensors", about=about, device=device, progress=named)
    return BackboneBenchmark(options, models)


def minutes_to(curve: list[dict[str, float]], key: str, limit: float) -> float | None:
    """Training time of the first validation below a limit."""
    return next((point["seconds"] / 60 for point in curve if point.get(key, limit) < limit), None)
