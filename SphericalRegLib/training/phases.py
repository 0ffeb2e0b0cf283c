"""The two parts of a training, the regressor's and the encoder's: each has a network, a loss, an optimiser and a learning rate of its own."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn

from SphericalRegLib.geometry.se3 import recentred
from SphericalRegLib.models.encoder import SphericalEncoder
from SphericalRegLib.models.regressor import PoseRegressor
from SphericalRegLib.models.trunk import ImageTrunk

from .batches import Batches
from .image_loss import image_loss
from .losses import Batch, gradient_loss, refinement_loss, spherical_loss
from .options import TrainingOptions
from .overrides import in_precision, overridden
from .paired import PairedProblem
from .scene import TrainingScene

GRADIENT_NORM = 1.0
"""Longer gradients are shortened to this."""


class Phase(ABC):
    """A network's turn.

    Args:
        network: what is trained, on its device.
        begins, ends: of the whole training, shares in [0, 1].
        options: see `TrainingOptions`.

    Attributes:
        began_at: how many steps lay behind when it began; None before.
    """

    name: str

    def __init__(self, network: nn.Module, begins: float, ends: float, options: TrainingOptions) -> None:
        self.network, self.begins, self.ends, self.options = network, begins, ends, options
        self.optimizer = torch.optim.AdamW(network.parameters(), options.learning_rate, weight_decay=options.weight_decay)
        self.began_at: int | None = None

    def begin(self, iteration: int) -> None:
        """Called before its first step, and not after a resume."""
        self.began_at = iteration

    @abstractmethod
    def loss(self, batches: Batches, alive: Callable[[], None]) -> tuple[Tensor, dict[str, float]]:
        """Of one batch, and the figures worth watching; `alive` is called on the way, and may raise `Cancelled`."""

    def set_learning_rate(self, share: float) -> None:
        """One cycle over the phase: a rise, then half a cosine."""
        share = (share - self.begins) / (self.ends - self.begins)
        rise = self.options.warm_up
        factor = share / rise if share < rise else 0.5 + 0.5 * math.cos(math.pi * (share - rise) / (1 - rise))
        for group in self.optimizer.param_groups:
            group["lr"] = self.options.learning_rate * max(factor, 1e-3)

    def shorten_gradient(self) -> bool:
        """To `GRADIENT_NORM`. Whether it was finite: one that is not becomes zero, as in the weights it would stay for good."""
        finite = bool(torch.isfinite(nn.utils.clip_grad_norm_(self.network.parameters(), GRADIENT_NORM)))
        if not finite:
            for parameter in self.network.parameters():
                if parameter.grad is not None:
                    parameter.grad.zero_()
        return finite


class RegressorPhase(Phase):
    """Poses of X-rays, by their likelihood and by what they look like."""

    name = "regressor"
    network: PoseRegressor

    def loss(self, batches: Batches, alive: Callable[[], None]) -> tuple[Tensor, dict[str, float]]:
        scene = batches.scene()
        xray, mask, truth = batches.xrays(scene)
        alive()
        centre = self.network.centre  # of the first CT: the pose is what it would be if this CT's centre lay there
        pose = recentred(truth, scene.centre, centre.to(truth)).float()
        with overridden(in_precision(self.options.precision, [self.network.trunk])):
            mixture = self.network(xray, mask)
        loss = mixture.negative_log_likelihood(pose, centre).mean()
        figures = {"pose nll": float(loss.detach())}
        if self.options.image_weight:
            alive()
            seen = recentred(mixture.likeliest_for(pose, centre), centre, scene.centre.to(pose))
            unlike = image_loss(scene.drr, seen, truth).mean()
            loss, figures["image off"] = loss + self.options.image_weight * unlike, float(unlike.detach())
        return loss, figures


class EncoderPhase(Phase):
    """Embeddings whose distance is that of the poses.

    Args:
        network, begins, ends, options: see `Phase`.
        trunk: of a regressor that has been trained before: the encoder begins with it where both are built alike.
    """

    name = "encoder"
    network: SphericalEncoder

    def __init__(self, network: SphericalEncoder, begins: float, ends: float, options: TrainingOptions, trunk: ImageTrunk | None) -> None:
        super().__init__(network, begins, ends, options)
        self._trunk = trunk

    def begin(self, iteration: int) -> None:
        super().begin(iteration)
        if self._trunk is not None and self._trunk.config == self.network.config.trunk:
            self.network.trunk.load_state_dict(self._trunk.state_dict())

    def loss(self, batches: Batches, alive: Callable[[], None]) -> tuple[Tensor, dict[str, float]]:
        options, encoder = self.options, self.network
        scene = batches.scene()
        batch = batches.pairs(scene)
        alive()
        with overridden(in_precision(options.precision, [encoder.trunk])):
            both = encoder(torch.cat((batch.xray, batch.drr[:, None])), torch.cat((batch.mask, batch.drr_mask)))
            fixed, moving = both.split(len(batch.xray))
            loss, figures = spherical_loss(fixed, moving, batch, encoder.config.embedding, options.loss)
        if options.loss.need_derivatives:  # in float32 whatever the precision: derivatives by forward mode know of no autocast
            alive()
            extra, more = self._derivative_loss(scene, batch)
            loss, figures = loss + extra, {**figures, **more}
        return loss, figures

    def _derivative_loss(self, scene: TrainingScene, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        """Of the first few of a batch."""
        encoder, weights, few = self.network, self.options.loss, slice(self.options.derivative_batch)
        part = replace(batch, **{name: getattr(batch, name)[few] for name in ("xray", "mask", "drr", "drr_mask", "true_pose", "drr_pose")})
        loss, figures = batch.drr.new_zeros(()), dict[str, float]()
        if weights.gradient:
            _, jacobian = scene.drr.project_with_jacobian(part.drr_pose)
            error, figures = gradient_loss(encoder, part, jacobian, weights)
            loss = loss + weights.gradient * error
        if weights.refinement:
            problem = PairedProblem(encoder, encoder(part.xray, part.mask), part.mask, scene.drr)
            left = refinement_loss(problem, part.drr_pose, part.true_pose, batch.places, weights)
            loss = loss + weights.refinement * left
            figures["left"] = float(left.detach())
        return loss, figures
