"""Computing a network's layers in another way for a while, without touching the network."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn

from SphericalRegLib.models.trunk import ImageTrunk

Precision = Literal["float32", "bfloat16"]
PRECISIONS: tuple[Precision, ...] = ("float32", "bfloat16")


@contextmanager
def overridden(forwards: Mapping[nn.Module, Callable[[Tensor], Any]]) -> Iterator[None]:
    """Within it these modules compute by these functions."""
    hidden = {module: module.__dict__["forward"] for module in forwards if "forward" in module.__dict__}
    try:
        for module, forward in forwards.items():
            module.__dict__["forward"] = forward  # hides the class's method on this instance
        yield
    finally:
        for module in forwards:
            module.__dict__.pop("forward", None)
        for module, forward in hidden.items():
            module.__dict__["forward"] = forward


def in_precision(precision: Precision, trunks: Sequence[ImageTrunk]) -> Mapping[nn.Module, Callable[[Tensor], Any]]:
    """bfloat16 where it pays and does no harm: in backbones and transformer blocks, not in the head that makes small angles of their features.

    Weights, and what the modules return, stay float32.
    """
    modules = [] if precision == "float32" else [module for trunk in trunks for module in (trunk.backbone, trunk.blocks)]
    return {module: _autocast(module.forward) for module in modules}


def layer_norms_with_all_derivatives(network: nn.Module) -> Mapping[nn.Module, Callable[[Tensor], Tensor]]:
    """LayerNorm as a GroupNorm of one group: the same numbers.

    Reverse mode through the forward-mode derivative of torch's LayerNorm silently takes mean and variance for constants (torch 2.4 to 2.15 at
    least); through that of GroupNorm it is right. Variants of LayerNorm inside timm's backbones are left as they are.
    """
    return {module: _as_group_norm(module) for module in network.modules() if type(module) is nn.LayerNorm and len(module.normalized_shape) == 1}


def _autocast(inner: Callable[[Tensor], Any]) -> Callable[[Tensor], Any]:
    def forward(x: Tensor) -> Any:
        with torch.autocast(x.device.type, torch.bfloat16):
            made = inner(x)
        return [part.float() for part in made] if isinstance(made, (list, tuple)) else made.float()

    return forward


def _as_group_norm(norm: nn.LayerNorm) -> Callable[[Tensor], Tensor]:
    def forward(x: Tensor) -> Tensor:
        return nn.functional.group_norm(x.flatten(0, -2), 1, norm.weight, norm.bias, norm.eps).view_as(x)

    return forward
