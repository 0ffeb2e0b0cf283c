"""Similarities by name, with settings that suit images of 64 to 512 pixels: what options and command lines speak of."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from ..errors import InputError
from .filters import gaussian_kernel
from .gradient_ncc import GradientNCC
from .local_ncc import LocalNCC
from .ncc import GlobalNCC

SIMILARITIES: dict[str, Callable[[Tensor, Tensor | None], GlobalNCC]] = {
    "ncc": lambda fixed, mask: GlobalNCC(fixed, mask),
    "local_ncc": lambda fixed, mask: LocalNCC(fixed, mask, kernel=gaussian_kernel(3.0)),
    "gradient_ncc": lambda fixed, mask: GradientNCC(fixed, mask),
    "patch_gradient_ncc": lambda fixed, mask: GradientNCC(fixed, mask, window=gaussian_kernel(3.0)),
    "fine_gradient_ncc": lambda fixed, mask: GradientNCC(fixed, mask, window=gaussian_kernel(1.0)),
}
"""name -> maker of the similarity from the fixed image (H, W) and its mask (H, W)."""


def similarity(name: str, fixed: Tensor, mask: Tensor | None = None) -> GlobalNCC:
    """The similarity of that name; raises InputError for an unknown one."""
    if name not in SIMILARITIES:
        raise InputError(f"Unknown similarity {name!r}; expected one of {', '.join(SIMILARITIES)}.")
    return SIMILARITIES[name](fixed, mask)


