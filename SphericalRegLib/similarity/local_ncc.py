"""Local (patch) normalised cross-correlation in least-squares form."""

from __future__ import annotations

from torch import Tensor

from ..errors import InputError
from .filters import Kernel, box_kernel
from .ncc import GlobalNCC
from .standardize import standardize_locally

NINE_PIXELS = box_kernel(9)


class LocalNCC(GlobalNCC):
    """Correlation of locally standardised images: blind to slow changes of brightness and contrast (scatter, beam hardening, display curves).

    Each image has the mean and the variance of an overlapping window around every pixel taken out; the residual compares what is left. Up to the
    windows' overlap this is the patch-wise NCC of xReg (Grupp et al., IEEE TBME 2018), as a smooth least-squares problem.

    Args:
        fixed, mask: see `GlobalNCC`.
        kernel: the window, see `filters.box_kernel` and `filters.gaussian_kernel`.
        floor: deviations below this share of the image's own standard deviation are damped as noise.
    """

    def __init__(self, fixed: Tensor, mask: Tensor | None = None, *, kernel: Kernel = NINE_PIXELS, floor: float = 0.1) -> None:
        if not floor > 0:
            raise InputError(f"The noise floor of a local correlation is {floor}; expected a positive share of the standard deviation.")
        self._kernel = kernel
        self._floor = floor
        super().__init__(fixed, mask)

    def _features(self, image: Tensor, image_weight: Tensor, weight: Tensor, tangent: Tensor | None) -> tuple[Tensor, Tensor | None]:
        return standardize_locally(image, weight, self._kernel, self._floor, tangent)
