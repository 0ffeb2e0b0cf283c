"""How to train."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from SphericalRegLib.errors import InputError
from SphericalRegLib.geometry.metric import Places
from SphericalRegLib.geometry.pose_range import PoseRange
from SphericalRegLib.models.encoder import EncoderConfig
from SphericalRegLib.models.regressor import RegressorConfig

from .augmentation import DomainRandomization
from .camera import CameraRange
from .losses import LossWeights
from .overrides import PRECISIONS, Precision
from .poses import Perturbation
from .validation import ValidationOptions

if TYPE_CHECKING:
    from torch import Tensor

    from SphericalRegLib.geometry.camera import Camera
    from SphericalRegLib.models.checkpoint import Model


@dataclass(frozen=True)
class TrainingOptions:
    """How to train.

    Attributes:
        minutes: wall-clock time; the learning rate follows it, so that a short training also ends on a small one.
        iterations: so many steps in the minutes' place, where the same seed must give the same model.
        batch: X-rays per step, each with a DRR.
        derivative_batch: so many of them enter the encoder's losses that need the image Jacobian, which cost several times as much.
        regressor_share: share of the training that the regressor has, before the encoder: what tells poses apart is what a distance between poses
            needs, so the encoder begins with the regressor's trunk (or its own, with a base). Trained at once on one trunk, each gets less far.
        image_weight: of the regressor's image loss (training.image_loss) beside its likelihood; 0 leaves it out.
        goes_on_share: share of the batches in which the patient goes on beyond the CT's ends.
        learning_rate: peak of the one-cycle schedule.
        warm_up: share of the time in which the learning rate rises.
        weight_decay: of AdamW.
        seed: of everything random.
        checkpoint_seconds: how often the state is saved for a resume.
        accumulate: batches whose gradients are added up to one step.
        precision: "float32", or "bfloat16" for the convolutions and transformer blocks, but where losses need the image Jacobian.
        validation: how the training is watched.
        stop_below_mm: end as soon as the validation's median error after Levenberg-Marquardt is below this.
        patience: end after so many validations in a row in which that error did not fall below its lowest so far. Not before half of the encoder's
            part: the learning rate is still high there, and most of the gain comes as it falls.
        labels: labels of the CT that the DRRs show (one bone of several), in every CT; None shows all of it. The X-rays always show everything.
        poses, cameras, perturbation, look, loss: what is drawn and what is asked.
        encoder, regressor: the networks; no regressor when None.
    """

    minutes: float = 10.0
    iterations: int | None = None
    batch: int = 32
    derivative_batch: int = 8
    regressor_share: float = 0.45
    image_weight: float = 0.0
    goes_on_share: float = 0.75
    learning_rate: float = 1.5e-3
    warm_up: float = 0.05
    weight_decay: float = 1e-4
    seed: int = 0
    checkpoint_seconds: float = 60.0
    accumulate: int = 1
    precision: Precision = "float32"
    validation: ValidationOptions = field(default_factory=ValidationOptions)
    stop_below_mm: float | None = None
    patience: int | None = None
    labels: tuple[int, ...] | None = None
    poses: PoseRange = field(default_factory=PoseRange)
    cameras: CameraRange = field(default_factory=CameraRange)
    perturbation: Perturbation = field(default_factory=Perturbation)
    look: DomainRandomization = field(default_factory=DomainRandomization)
    loss: LossWeights = field(default_factory=LossWeights)
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    regressor: RegressorConfig | None = field(default_factory=RegressorConfig)

    def __post_init__(self) -> None:
        counts = (self.batch, self.derivative_batch, self.accumulate, 1 if self.iterations is None else self.iterations)
        if not 0 < self.minutes < math.inf or min(counts) < 1:
            raise InputError(
                f"A training takes {self.minutes} minutes or {self.iterations} steps of {self.accumulate} x {self.batch} X-rays; "
                "expected positive numbers."
            )
        if not 0 <= self.regressor_share < 1:
            raise InputError(f"The regressor's share of the training is {self.regressor_share}; expected at least 0 and less than 1.")
        if not 0 <= self.goes_on_share <= 1 or not 0 <= self.warm_up < 1:
            raise InputError(
                f"The patient goes on beyond the CT in a share of {self.goes_on_share}, and the learning rate rises for {self.warm_up} of the time; "
                "expected shares from 0 to 1, and some time for its fall."
            )
        rates = (self.learning_rate, self.weight_decay)
        if not all(0 <= rate < math.inf for rate in rates) or not self.learning_rate or not self.checkpoint_seconds >= 0 or self.seed < 0:
            raise InputError(
                f"The learning rate is {self.learning_rate}, the weight decay {self.weight_decay}, the time between saved states "
                f"{self.checkpoint_seconds} s and the seed {self.seed}; expected a positive rate, and nothing negative."
            )
        target, patience = self.stop_below_mm, self.patience
        in_mm = target is None or (isinstance(target, (int, float)) and target >= 0)
        if not in_mm or not (patience is None or (isinstance(patience, int) and patience >= 1)):
            raise InputError(
                f"The training ends below {self.stop_below_mm} mm, or after {self.patience} validations without a gain; expected no negative "
                "distance, and one validation or more."
            )
        if self.precision not in PRECISIONS:
            raise InputError(f"The precision is {self.precision!r}; expected one of {', '.join(PRECISIONS)}.")
        if not 0 <= self.image_weight < math.inf:
            raise InputError(f"The image loss has a weight of {self.image_weight}; expected zero or a positive number.")
        if not self.loss.fit(self.encoder.embedding):
            raise InputError(
                f"Embeddings of the kind {self.encoder.embedding!r} have no place for poses: the loss 'anchor' needs 'so4'; expected an anchor of 0 "
                "there, and another loss (gradient, say)."
            )

    def places(self, camera: Camera, centre: Tensor) -> Places:
        """Where embeddings of a CT with that centre (3,) are anchored."""
        return Places.around(self.poses, self.loss.metric, camera, centre)

    def based_on(self, base: Model | None) -> TrainingOptions:
        """The options with a base's networks; a regressor that it does not have is made with the trunk of its encoder."""
        if base is None:
            return self
        made = self.regressor and replace(self.regressor, trunk=base.encoder.config.trunk)
        return replace(self, encoder=base.encoder.config, regressor=base.regressor.config if base.regressor else made)
