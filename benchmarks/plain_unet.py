"""A U-Net that needs torch alone, for machines without MONAI."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

__all__ = ["PlainUNet"]


class PlainUNet(nn.Module):
    """Two convolutions with instance normalisation at each level, halving and doubling between levels."""

    def __init__(self, classes: int, features: Sequence[int] = (16, 32, 64, 128)) -> None:
        super().__init__()
        self.down = nn.ModuleList(_level(*sides) for sides in zip((1, *features), features, strict=False))
        upwards = list(zip(features[:0:-1], features[-2::-1], strict=True))
        self.up = nn.ModuleList(nn.ConvTranspose3d(deep, high, 2, stride=2) for deep, high in upwards)
        self.merge = nn.ModuleList(_level(2 * high, high) for _, high in upwards)
        self.head = nn.Conv3d(features[0], classes, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits of the windows (B, 1, Z, Y, X), sides multiples of 2 to the number of halvings."""
        skipped: list[torch.Tensor] = []
        for number, level in enumerate(self.down):
            x = level(nn.functional.max_pool3d(x, 2) if number else x)
            skipped.append(x)
        skipped.pop()
        for up, merge in zip(self.up, self.merge, strict=True):
            x = merge(torch.cat([skipped.pop(), up(x)], 1))
        return self.head(x)


def _level(channels: int, features: int) -> nn.Sequential:
    steps: list[nn.Module] = []
    for width in (channels, features):
        steps += [nn.Conv3d(width, features, 3, padding=1), nn.InstanceNorm3d(features), nn.LeakyReLU(0.01)]
    return nn.Sequential(*steps)
