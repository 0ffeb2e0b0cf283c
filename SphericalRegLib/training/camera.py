"""The cameras of a training: the one that images are rendered through, and those that its X-rays are taken with.

Cameras at one place with the same axes see the same rays: distance to the detector, pixels and principal point are an affine map of pixels, which
`models.canonical` undoes before a network looks. What is left of another camera then is how much of the field it shows, and where in it: that is what
`CameraRange` draws.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from SphericalRegLib.errors import InputError
from SphericalRegLib.geometry.camera import Camera


@dataclass(frozen=True)
class CameraRange:
    """The cameras that X-rays are taken with.

    Attributes:
        field: least share of the training camera's field that the longer side of a detector covers; 1 leaves all X-rays that camera's own. A camera
            with a detector of 230 mm at the same distance as one of 400 mm, or with one of 400 mm at 1.7 times its distance, has a share of 0.58.
        share: share of the X-rays that are taken with another camera than the training's.
        round: share of those whose field is a disc, as an image intensifier's is.
        longer_side: of a detector over the shorter one, at most.
    """

    field: float = 1.0
    share: float = 0.75
    round: float = 0.3
    longer_side: float = 4 / 3

    def __post_init__(self) -> None:
        if not 0.1 <= self.field <= 1 or not 0 <= self.share <= 1 or not 0 <= self.round <= 1:
            raise InputError(
                f"The cameras of a training show {self.field} of the field at least, in a share of {self.share} of the X-rays, {self.round} of them "
                "round; expected 0.1 to 1, and 0 to 1 for the shares."
            )
        if not 1 <= self.longer_side <= 4:
            raise InputError(f"A detector's longer side is up to {self.longer_side} times the shorter one; expected 1 to 4.")

    def fields(self, count: int, size_px: int, generator: torch.Generator) -> Tensor:
        """Masks (count, 1, size_px, size_px), 1 where a drawn camera's detector is: its longer side from `field` to 1 of the training camera's
        field, the shorter one down to that over `longer_side`, or a disc; its middle (and so the principal point) anywhere that keeps it within the
        field. Drawn on the CPU; nothing is drawn where `field` is 1."""
        if self.field == 1:
            return torch.ones(count, 1, size_px, size_px)
        draws = torch.rand(count, 6, generator=generator)
        other, disc = draws[:, 4] < self.share, draws[:, 5] < self.round
        longer = self.field + (1 - self.field) * draws[:, 0]
        squeezed = torch.stack((draws[:, 1], 1 - draws[:, 1]), dim=1).mul(2).sub(1).clamp_min(0)
        sides = longer[:, None] * torch.where(disc[:, None], 1.0, self.longer_side**-squeezed)
        middle = (draws[:, 2:4] - 0.5) * (1 - sides)
        pixels = (torch.arange(size_px) + 0.5) / size_px - 0.5
        off = ((pixels - middle[:, :, None]) / (0.5 * sides[:, :, None])).abs()  # (count, axis, size), 1 at the edges
        down, across = off[:, 1, :, None], off[:, 0, None, :]
        inside = torch.where(disc[:, None, None], down.square() + across.square() <= 1, (down <= 1) & (across <= 1))
        return (inside | ~other[:, None, None])[:, None].float()


def training_camera(camera: Camera, size_px: int) -> Camera:
    """`size_px` x `size_px` square pixels that cover the whole detector of `camera`, at its distance and about its middle; the same rays."""
    longer = max(count * spacing for count, spacing in zip(camera.size_px, camera.pixel_spacing_mm))
    pixel = longer / size_px
    middle = [
        (size_px - 1) / 2 + (point - (count - 1) / 2) * spacing / pixel
        for point, count, spacing in zip(camera.principal_point_px, camera.size_px, camera.pixel_spacing_mm)
    ]
    return Camera(camera.sdd_mm, (pixel, pixel), (size_px, size_px), (middle[0], middle[1]))
