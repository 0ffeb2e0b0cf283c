"""Similarities in least-squares form: residual vectors with Jacobians, bound to a fixed image."""

from .base import Similarity
from .filters import box_kernel, gaussian_kernel
from .gradient_ncc import GradientNCC
from .local_ncc import LocalNCC
from .ncc import GlobalNCC
from .robust import Robust
from .stacked import Stacked

__all__ = ["GlobalNCC", "GradientNCC", "LocalNCC", "Robust", "Similarity", "Stacked", "box_kernel", "gaussian_kernel"]
