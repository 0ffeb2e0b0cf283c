"""`project` as a differentiable function: backward and forward mode contract the image Jacobian; there is no graph through the renderer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .jacobian import matrix_from_tangent_gradient, tangent_from_matrix

Renderer = Callable[[Tensor], tuple[Tensor, Tensor]]
"""camera_from_world (B, 4, 4) -> image (B, H, W), image_jacobian (B, H, W, 6)."""

NO_SECOND_DERIVATIVE = (
    "Projector.project has no second derivative by the pose: take the image Jacobian from project_with_jacobian, detach it and contract it instead."
)


class _Pullback(torch.autograd.Function):
    """The gradient by the pose; a node of its own so that differentiating it again is an error rather than silently wrong."""

    @staticmethod
    def forward(grad_image: Tensor, camera_from_world: Tensor, jacobian: Tensor, centre: Tensor) -> Tensor:
        by_tangent = torch.einsum("bhw,bhwd->bd", grad_image.to(jacobian), jacobian).to(camera_from_world)
        return matrix_from_tangent_gradient(camera_from_world, by_tangent, centre)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        raise RuntimeError(NO_SECOND_DERIVATIVE)

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor) -> Any:
        raise RuntimeError(NO_SECOND_DERIVATIVE)


class DifferentiableProjection(torch.autograd.Function):
    """(camera_from_world (B, 4, 4), centre (3,), renderer) -> image (B, H, W), image_jacobian (B, H, W, 6; not differentiable)."""

    generate_vmap_rule = False

    @staticmethod
    def forward(camera_from_world: Tensor, centre: Tensor, renderer: Renderer) -> tuple[Tensor, Tensor]:
        return renderer(camera_from_world)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        camera_from_world, centre, _ = inputs
        _, jacobian = output
        ctx.mark_non_differentiable(jacobian)
        ctx.save_for_backward(camera_from_world, centre, jacobian)
        ctx.save_for_forward(camera_from_world, centre, jacobian)

    @staticmethod
    def backward(ctx: Any, grad_image: Tensor, _: Tensor) -> tuple[Tensor | None, None, None]:
        camera_from_world, centre, jacobian = ctx.saved_tensors
        return _Pullback.apply(grad_image, camera_from_world, jacobian, centre), None, None

    @staticmethod
    def jvp(ctx: Any, change: Tensor, *_: Any) -> tuple[Tensor, None]:
        camera_from_world, centre, jacobian = ctx.saved_tensors
        tangent = tangent_from_matrix(camera_from_world, change, centre).to(jacobian)
        return torch.einsum("bhwd,bd->bhw", jacobian, tangent), None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], camera_from_world: Tensor, centre: Tensor, renderer: Renderer) -> Any:
        poses = camera_from_world.movedim(in_dims[0], 0)
        outputs = DifferentiableProjection.apply(poses.flatten(0, 1), centre, renderer)
        return tuple(o.unflatten(0, poses.shape[:2]) for o in outputs), (0, 0)


def is_differentiated(pose: Tensor) -> bool:
    """Whether anything follows derivatives by the pose: reverse mode, forward mode, or a transform of torch.func."""
    if pose.requires_grad and torch.is_grad_enabled():
        return True
    return torch._C._functorch.maybe_current_level() is not None or torch.autograd.forward_ad.unpack_dual(pose).tangent is not None
