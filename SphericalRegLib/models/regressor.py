"""The pose regressor: one look at the X-ray gives several weighted pose hypotheses with their spread.

An X-ray can be explained by more than one pose (front or back, a turn by 180 degrees), so the head predicts a mixture: each component has a pose,
a rotational and a translational spread and a weight. The rotation is an unconstrained 3x3 matrix projected to the nearest rotation, which has no
discontinuity (Levinson et al., NeurIPS 2020; Bregier, 3DV 2021 for the implementation in roma).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import roma
import torch
from torch import Tensor, nn

from SphericalRegLib.errors import InputError
from SphericalRegLib.geometry.se3 import local, make_transform, orthonormalise, retract
from SphericalRegLib.models.trunk import REDUCED, ImageTrunk, TrunkConfig

OUTPUTS = 16
"""Numbers per component: a 3 x 3 matrix, a shift, a weight, three spreads."""


@dataclass(frozen=True)
class RegressorConfig:
    """What a regressor is made of; stored in its model card.

    Attributes:
        trunk: the shared image trunk.
        components: hypotheses of the mixture.
        translation_scale_mm: the unit of the predicted translations, in-plane and depth alike.
    """

    trunk: TrunkConfig = field(default_factory=TrunkConfig)
    components: int = 4
    translation_scale_mm: float = 50.0

    def __post_init__(self) -> None:
        if self.components < 1 or not 0 < self.translation_scale_mm < math.inf:
            raise InputError(
                f"The regressor has {self.components} hypotheses and shifts in units of {self.translation_scale_mm} mm; expected one or more, and a "
                "positive length."
            )


@dataclass(frozen=True)
class PoseMixture:
    """Hypotheses for a batch of X-rays.

    Attributes:
        pose: (B, M, 4, 4) camera_from_world.
        weight: (B, M), sums to one.
        rotation_spread: (B, M), rad, standard deviation per axis.
        in_plane_spread, depth_spread: (B, M), mm, standard deviations of the shift across and along the camera's z axis; an X-ray says far less of
            the latter, and one spread for both would drown what it says of the former.
    """

    pose: Tensor
    weight: Tensor
    rotation_spread: Tensor
    in_plane_spread: Tensor
    depth_spread: Tensor

    def negative_log_likelihood(self, camera_from_world: Tensor, centre: Tensor) -> Tensor:
        """-log p(pose) of poses (B, 4, 4) under mixtures of Gaussians in the tangent chart about `centre` (3,), shifts in camera axes; (B,)."""
        return -torch.logsumexp(self._log_likelihoods(camera_from_world, centre), dim=-1)

    def likeliest_for(self, camera_from_world: Tensor, centre: Tensor) -> Tensor:
        """The pose (B, 4, 4) of the component that most likely has made each of these (B, 4, 4)."""
        component = self._log_likelihoods(camera_from_world, centre).argmax(-1)
        return self.pose[torch.arange(len(component), device=component.device), component]

    def _log_likelihoods(self, camera_from_world: Tensor, centre: Tensor) -> Tensor:
        """(B, M): of each component, its weight included, up to a constant."""
        delta = local(self.pose, camera_from_world[:, None].expand_as(self.pose), centre)
        rotation = 0.5 * (delta[..., :3] / self.rotation_spread[..., None]).square().sum(-1) + 3 * self.rotation_spread.log()
        shift = (self.pose[..., :3, :3] @ delta[..., 3:, None])[..., 0]  # world to camera axes
        in_plane = 0.5 * (shift[..., :2] / self.in_plane_spread[..., None]).square().sum(-1) + 2 * self.in_plane_spread.log()
        depth = 0.5 * (shift[..., 2] / self.depth_spread).square() + self.depth_spread.log()
        return self.weight.clamp_min(1e-9).log() - rotation - in_plane - depth

    def sample(self, count: int, centre: Tensor, generator: torch.Generator) -> Tensor:
        """Poses (count, 4, 4) float64 drawn for the first X-ray of the batch."""
        weight, pose = self.weight[0].double(), self.pose[0].double()
        component = torch.multinomial(weight.cpu(), count, replacement=True, generator=generator).to(pose.device)
        normal = torch.randn(count, 6, dtype=torch.float64, generator=generator).to(pose.device)
        spread = torch.stack([self.in_plane_spread[0], self.in_plane_spread[0], self.depth_spread[0]], dim=-1).double()[component]
        omega = normal[:, :3] * self.rotation_spread[0].double()[component, None]
        shift = (pose[component, :3, :3].mT @ (normal[:, 3:] * spread)[..., None])[..., 0]  # camera to world axes
        return retract(orthonormalise(pose[component]), torch.cat((omega, shift), dim=1), centre.double())


class PoseRegressor(nn.Module):
    """(B, 1, S, S) X-ray and mask -> `PoseMixture`.

    Poses are predicted relative to `reference` (4, 4), the middle of the range the regressor was trained on: x_cam = R R_ref (x - c) + t_ref + dt.
    """

    reference: Tensor
    centre: Tensor

    def __init__(self, config: RegressorConfig, reference: Tensor, centre: Tensor) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("reference", reference.detach().to(torch.float32))
        self.register_buffer("centre", centre.detach().to(torch.float32))
        self.trunk = ImageTrunk(config.trunk)
        width = 2 * config.trunk.width
        self.hidden = nn.Sequential(nn.Linear(REDUCED * config.trunk.cells, width), nn.GELU())
        self.head = nn.Linear(width, config.components * OUTPUTS)
        nn.init.normal_(self.head.weight, std=0.02)
        nn.init.zeros_(self.head.bias)
        # Components start apart: identical ones would receive identical gradients and stay one.
        self.start = nn.Parameter(0.3 * torch.randn(config.components, OUTPUTS))

    def forward(self, image: Tensor, mask: Tensor | None = None) -> PoseMixture:
        config = self.config
        raw = self.head(self.hidden(self.trunk(image, mask))).view(len(image), config.components, OUTPUTS) + self.start
        turn = roma.special_procrustes(raw[..., :9].unflatten(-1, (3, 3)) + torch.eye(3, dtype=raw.dtype, device=raw.device))
        reference, centre = self.reference, self.centre
        rotation = turn @ reference[:3, :3]
        at_centre = reference[:3, :3] @ centre + reference[:3, 3] + config.translation_scale_mm * raw[..., 9:12]
        pose = make_transform(rotation, at_centre - (rotation @ centre))
        return PoseMixture(
            pose=pose,
            weight=raw[..., 12].softmax(-1),
            rotation_spread=(raw[..., 13] + math.log(0.2)).exp().clamp(1e-3, 3.0),
            in_plane_spread=(raw[..., 14] + math.log(10.0)).exp().clamp(0.1, 500.0),
            depth_spread=(raw[..., 15] + math.log(40.0)).exp().clamp(0.1, 500.0),
        )
