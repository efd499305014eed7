"""MONAI's UNet with another way up, as PyTorch Connectomics offers it. Imported only where a file asks for it."""

from __future__ import annotations

from typing import Any

import torch
from monai.networks.blocks.convolutions import ResidualUnit
from monai.networks.blocks.upsample import UpSample
from monai.networks.nets.unet import UNet

__all__ = ["InterpolatingUNet"]


class InterpolatingUNet(UNet):
    """A UNet that enlarges by interpolation or pixel shuffle instead of transposed convolutions.

    Parameters
    ----------
    upsample_mode, upsample_interp_mode, upsample_align_corners
        As of MONAI's ``UpSample``: ``mode``, ``interp_mode``, ``align_corners``.
    arguments
        As of MONAI's ``UNet``.
    """

    def __init__(
        self, *, upsample_mode: str, upsample_interp_mode: str, upsample_align_corners: bool, **arguments: Any
    ) -> None:
        # The base class asks for the layers while it is made.
        self._up: dict[str, Any] = {
            "mode": upsample_mode,
            "interp_mode": upsample_interp_mode,
            "align_corners": upsample_align_corners,
        }
        super().__init__(**arguments)

    def _get_up_layer(self, in_channels: int, out_channels: int, strides: int, is_top: bool) -> torch.nn.Module:
        shared: dict[str, Any] = {
            "spatial_dims": self.dimensions,
            "in_channels": in_channels,
            "out_channels": out_channels,
        }
        up: torch.nn.Module = UpSample(**shared, scale_factor=strides, bias=self.bias, **self._up)
        if self.num_res_units == 0:
            return up
        refined = ResidualUnit(
            **{**shared, "in_channels": out_channels},
            strides=1,
            kernel_size=self.kernel_size,
            subunits=1,
            act=self.act,
            norm=self.norm,
            dropout=self.dropout,
            bias=self.bias,
            last_conv_only=is_top,
            adn_ordering=self.adn_ordering,
        )
        return torch.nn.Sequential(up, refined)
