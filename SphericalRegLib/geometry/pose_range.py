"""A range of C-arm poses: what a model is made for, and what X-rays are simulated over."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import InputError
from .camera import Camera
from .rigid import checked_rigid
from .se3 import make_transform, so3_exp
from .views import NAMED_VIEWS, c_arm_view


@dataclass(frozen=True)
class PoseRange:
    """Poses around named views, each parameter uniform in +- its range; stored in the model card.

    Attributes:
        views: named views the ranges are centred on; drawn with equal weight.
        primary_deg: C-arm primary angle (LAO/RAO).
        secondary_deg: C-arm secondary angle (cranial/caudal).
        in_plane_deg: turn about the central ray.
        in_plane_mm: shift of the CT's centre along camera x and y.
        depth_mm: shift along camera z.
        sod_fraction: source-to-object over source-to-detector distance of the views.
        about: rows of a camera_from_world (4, 4) that the ranges are centred on instead of the views: the angles then turn the CT about its own
            centre, primary about the camera's y axis and secondary about its x axis.
    """

    views: tuple[str, ...] = ("ap",)
    primary_deg: float = 45.0
    secondary_deg: float = 25.0
    in_plane_deg: float = 10.0
    in_plane_mm: float = 30.0
    depth_mm: float = 100.0
    sod_fraction: float = 0.75
    about: tuple[tuple[float, ...], ...] | None = None

    def __post_init__(self) -> None:
        if self.about is not None:
            rigid = checked_rigid(self.about, "The pose that a pose range lies about")
            object.__setattr__(self, "about", tuple(tuple(row) for row in rigid.tolist()))
        if not 0 < self.sod_fraction < 1:
            raise InputError(f"The pose range has sod_fraction {self.sod_fraction}: expected a number between 0 and 1.")
        unknown = [view for view in self.views if view not in NAMED_VIEWS]
        if unknown or not self.views:
            raise InputError(f"The pose range names the views {list(self.views)}: expected some of {', '.join(NAMED_VIEWS)}.")

    def sample(self, count: int, camera: Camera, centre: Tensor | Sequence[float], generator: torch.Generator) -> Tensor:
        """Draw camera_from_world (count, 4, 4), float64 on the CPU."""
        centre = torch.as_tensor(centre, dtype=torch.float64, device="cpu")
        angles = (self.primary_deg, self.secondary_deg, math.radians(self.in_plane_deg))
        spans = torch.tensor((*angles, self.in_plane_mm, self.in_plane_mm, self.depth_mm), dtype=torch.float64)
        draws = (2 * torch.rand(count, 6, dtype=torch.float64, generator=generator) - 1) * spans
        chosen = torch.randint(len(self.views), (count,), generator=generator)
        if self.about is None:
            about_each = [c_arm_view(draws[:, 0], draws[:, 1], camera, centre, self.sod_fraction, base=view) for view in self.views]
            poses = torch.stack(about_each)[chosen, torch.arange(count)]
        else:
            poses = self._turned(draws[:, :2], camera, centre)
        in_plane = torch.eye(4, dtype=torch.float64).repeat(count, 1, 1)
        in_plane[:, :3, :3] = so3_exp(draws[:, 2:3] * torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64))
        in_plane[:, :3, 3] = draws[:, 3:]
        return in_plane @ poses

    def _turned(self, angles_deg: Tensor, camera: Camera, centre: Tensor) -> Tensor:
        """The pose `about`, turned in camera axes by (primary, secondary) (B, 2); the CT's centre stays where it is."""
        middle = self.middle(camera, centre)
        up_and_across = torch.deg2rad(angles_deg)[:, :, None] * torch.eye(3, dtype=torch.float64)[[1, 0]]
        turn = so3_exp(up_and_across[:, 1]) @ so3_exp(up_and_across[:, 0])
        rotation = turn @ middle[:3, :3]
        return make_transform(rotation, middle[:3, :3] @ centre + middle[:3, 3] - rotation @ centre)

    def middle(self, camera: Camera, centre: Tensor | Sequence[float]) -> Tensor:
        """camera_from_world (4, 4) of `about`, or of the first view, unperturbed."""
        if self.about is not None:
            return torch.tensor(self.about, dtype=torch.float64)
        return c_arm_view(0.0, 0.0, camera, centre, self.sod_fraction, base=self.views[0])
