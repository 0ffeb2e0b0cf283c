"""The image trunk that encoder and regressor share: local contrast, a CNN feature map, a few transformer blocks over its cells."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import timm
import torch
from torch import Tensor, nn

from SphericalRegLib.errors import InputError
from SphericalRegLib.models.local_contrast import normalize_local_contrast

TINY = "tiny"
"""The default backbone: small enough to train on a laptop's CPU. Any other name is a timm model with a feature map."""

GROUPS = 8
"""Of the tiny backbone's GroupNorms."""

REDUCED = 16
"""Channels kept per cell before the cells are joined into one vector."""


@dataclass(frozen=True)
class TrunkConfig:
    """What a trunk is made of; stored in the model card.

    Attributes:
        image_size: side of the square input, pixels; a multiple of 8.
        backbone: ``"tiny"`` or the name of a timm CNN.
        width: channels of the transformer's tokens.
        blocks: transformer blocks; 0 leaves a plain CNN.
        heads: attention heads.
        contrast_sigma: window of the local contrast normalisation, as a fraction of `image_size`.
    """

    image_size: int = 64
    backbone: str = TINY
    width: int = 128
    blocks: int = 2
    heads: int = 4
    contrast_sigma: float = 0.125

    def __post_init__(self) -> None:
        if self.image_size < 8 or self.image_size % 8:
            raise InputError(f"The networks' images have {self.image_size} pixels a side; expected a multiple of 8.")
        if self.heads < 1 or self.blocks < 0 or self.width < 1 or (self.blocks and self.width % self.heads):
            raise InputError(
                f"The networks have {self.blocks} transformer blocks of {self.width} channels with {self.heads} attention heads; expected no block "
                "or more, and a number of channels that the heads divide."
            )
        if self.backbone == TINY and self.width % (2 * GROUPS):
            raise InputError(f"The networks have {self.width} channels; with the backbone {TINY!r} expected a multiple of {2 * GROUPS}.")
        if not 0 < self.contrast_sigma <= 1:
            raise InputError(f"The window of the local contrast is {self.contrast_sigma} of the image's side; expected more than 0, at most 1.")

    @property
    def cells(self) -> int:
        """Cells of the feature map, 1/8 of the image's resolution."""
        return (self.image_size // 8) ** 2


NETWORKS = {"tiny": TrunkConfig(), "large": TrunkConfig(image_size=128, backbone="resnet18", width=256, blocks=4, heads=8)}
"""By the machine that they are trained on: a laptop's CPU, a GPU."""


class TransformerBlock(nn.Module):
    """Pre-norm self-attention and MLP, written out: fused attention kernels lack forward-mode and second derivatives."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm = nn.LayerNorm(width)
        self.query_key_value = nn.Linear(width, 3 * width)
        self.attention_out = nn.Linear(width, width)
        self.mlp_norm = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, tokens: Tensor) -> Tensor:
        batch, count, width = tokens.shape
        shape = (batch, count, 3, self.heads, width // self.heads)
        query, key, value = self.query_key_value(self.attention_norm(tokens)).view(shape).permute(2, 0, 3, 1, 4)
        weights = (query @ key.transpose(-1, -2) * (width // self.heads) ** -0.5).softmax(-1)
        tokens = tokens + self.attention_out((weights @ value).transpose(1, 2).reshape(batch, count, width))
        return tokens + self.mlp(self.mlp_norm(tokens))


class TinyBackbone(nn.Sequential):
    """A patch stem and three convolutions, 1/8 resolution: most of its work is done where the image is already small."""

    def __init__(self, width: int) -> None:
        def stage(inputs: int, outputs: int, kernel: int, stride: int) -> list[nn.Module]:
            return [nn.Conv2d(inputs, outputs, kernel, stride, padding=(kernel - stride + 1) // 2), nn.GroupNorm(GROUPS, outputs), nn.GELU()]

        half = width // 2
        super().__init__(*stage(1, half, 4, 4), *stage(half, half, 3, 1), *stage(half, width, 3, 2), *stage(width, width, 3, 1))


def adapt_layers(module: nn.Module) -> None:
    """Make a timm CNN fit for gradient matching, in place.

    BatchNorm becomes GroupNorm: tiny batches make poor statistics, and X-ray and DRR would share them. Piecewise-linear gates become their smooth
    originals: torch has no second derivative of the former.
    """
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            groups = next(g for g in (8, 4, 2, 1) if child.num_features % g == 0)
            norm: nn.Module = nn.GroupNorm(groups, child.num_features)
            activation = getattr(child, "act", None)  # timm fuses norm and activation in some families
            if activation is not None:
                norm = nn.Sequential(norm, activation)
                adapt_layers(norm)
            setattr(module, name, norm)
        elif isinstance(child, nn.Hardswish):
            setattr(module, name, nn.SiLU())
        elif isinstance(child, nn.Hardsigmoid):
            setattr(module, name, nn.Sigmoid())
        else:
            adapt_layers(child)


def timm_feature_map(name: str, reduction: int = 8) -> tuple[nn.Module, int]:
    """A timm CNN cut at the stage whose cells cover `reduction` pixels: (module that maps (B, 1, H, W) to one feature map, channels).

    Raises:
        InputError: timm has no such model, or it has no feature map at that scale.
    """
    try:
        probe: Any = timm.create_model(name, pretrained=False, features_only=True, in_chans=1)
    except RuntimeError as error:
        raise InputError(f"The backbone {name!r} is not a timm model with feature maps: {error}.") from error
    reductions = probe.feature_info.reduction()
    if reduction not in reductions:
        raise InputError(f"The backbone {name!r} has feature maps at 1/{reductions} of the image's side; expected one at 1/{reduction}.")
    level = reductions.index(reduction)
    backbone: Any = timm.create_model(name, pretrained=False, features_only=True, in_chans=1, out_indices=(level,))
    adapt_layers(backbone)
    return backbone, backbone.feature_info.channels()[0]


class ImageTrunk(nn.Module):
    """(B, 1, S, S) image and mask -> (B, 16 * cells) features, every cell's in its place."""

    def __init__(self, config: TrunkConfig) -> None:
        super().__init__()
        self.config = config
        if config.backbone == TINY:
            self.backbone: nn.Module = TinyBackbone(config.width)
            self.project: nn.Module = nn.Identity()
        else:
            self.backbone, channels = timm_feature_map(config.backbone)
            self.project = nn.Conv2d(channels, config.width, 1)
        self.position = nn.Parameter(0.02 * torch.randn(1, config.cells, config.width))
        self.blocks = nn.Sequential(*(TransformerBlock(config.width, config.heads) for _ in range(config.blocks)))
        self.reduce = nn.Linear(config.width, REDUCED)

    def forward(self, image: Tensor, mask: Tensor | None = None) -> Tensor:
        """Features of line-integral-like images of any positive scale and any offset; `mask` is 1 where they are valid (everywhere if omitted)."""
        if mask is None:
            mask = torch.ones_like(image)
        x = normalize_local_contrast(image, mask, self.config.contrast_sigma * self.config.image_size)
        features = self.backbone(x.contiguous(memory_format=torch.channels_last))
        if isinstance(features, list):  # timm's feature extractors return one map per stage asked for
            features = features[0]
        tokens = self.project(features).flatten(2).transpose(1, 2) + self.position
        return self.reduce(self.blocks(tokens)).flatten(1)
