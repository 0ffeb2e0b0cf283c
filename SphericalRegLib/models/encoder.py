"""The encoder xi: an image becomes K rotations of four-space.

A linear head on the image trunk gives K pairs of unit quaternions (p, q), that is K elements of SO(4) through its double cover S3 x S3. X-ray and
DRR go through the same network; the Riemannian distance between their embeddings is the similarity (a reconstruction of Chen & Kong, WACV 2026:
the paper's exact architecture is not public).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, get_args

from torch import Tensor, nn
from torch.nn import functional as F

from SphericalRegLib.errors import InputError
from SphericalRegLib.models.trunk import REDUCED, ImageTrunk, TrunkConfig

Embedding = Literal["so4", "cosine", "euclidean"]


@dataclass(frozen=True)
class EncoderConfig:
    """What an encoder is made of; stored in its model card.

    Attributes:
        trunk: the shared image trunk.
        elements: K, the number of quaternion pairs.
        embedding: the space the head projects to; ``"cosine"`` (one sphere) and ``"euclidean"`` are there for ablation.
    """

    trunk: TrunkConfig = field(default_factory=TrunkConfig)
    elements: int = 16
    embedding: Embedding = "so4"

    def __post_init__(self) -> None:
        if self.embedding not in get_args(Embedding):
            raise InputError(f"The embedding is {self.embedding!r}; expected one of {', '.join(get_args(Embedding))}.")
        if self.elements < 1:
            raise InputError(f"An embedding has {self.elements} elements; expected one or more.")


class SphericalEncoder(nn.Module):
    """xi: (B, 1, S, S) image and mask -> (B, K, 2, 4) pairs of unit quaternions (w, x, y, z)."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.trunk = ImageTrunk(config.trunk)
        self.head = nn.Linear(REDUCED * config.trunk.cells, 8 * config.elements)

    def forward(self, image: Tensor, mask: Tensor | None = None) -> Tensor:
        """Embed line-integral-like images; `mask` is 1 where they are valid (everywhere if omitted)."""
        flat = self.head(self.trunk(image, mask)).view(len(image), self.config.elements, 2, 4)
        if self.config.embedding == "so4":
            return F.normalize(flat, dim=-1)
        if self.config.embedding == "cosine":
            return F.normalize(flat.flatten(1), dim=-1).view_as(flat)
        return flat
