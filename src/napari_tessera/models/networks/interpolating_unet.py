"""MONAI's networks with other layers, as PyTorch Connectomics has them. Imported only where a file asks for one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from monai.networks.blocks.convolutions import ResidualUnit
from monai.networks.blocks.mednext_block import MedNeXtDownBlock
from monai.networks.blocks.upsample import UpSample
from monai.networks.nets.mednext import MedNeXt as MonaisMedNeXt
from monai.networks.nets.unet import UNet

# Levels of a MedNeXt on the way down; with the bottom, and up again.
DEPTH, LEVELS = 4, 9


class InterpolatingUNet(UNet):
    """A UNet that enlarges as MONAI's ``UpSample`` does, by interpolation or pixel shuffle, and not by convolutions."""

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


class MedNeXt(MonaisMedNeXt):
    """A MedNeXt whose ways down expand as the level below them does; MONAI's expand as the level above.

    *expansion* and *blocks* are of nine levels, four down, the bottom and four up: how many times its blocks widen what
    comes, and how many there are. Each level has twice the channels of the one above it, *init_filters* the first.
    """

    def __init__(
        self,
        *,
        spatial_dims: int,
        in_channels: int,
        out_channels: int,
        init_filters: int,
        expansion: Sequence[int],
        blocks: Sequence[int],
        kernel_size: int,
        global_resp_norm: bool = False,
    ) -> None:
        if not len(expansion) == len(blocks) == LEVELS:
            raise ValueError(f"a MedNeXt has {LEVELS} levels, not {len(expansion)} and {len(blocks)}")
        super().__init__(
            spatial_dims=spatial_dims,
            init_filters=init_filters,
            in_channels=in_channels,
            out_channels=out_channels,
            encoder_expansion_ratio=list(expansion[:DEPTH]),
            bottleneck_expansion_ratio=expansion[DEPTH],
            decoder_expansion_ratio=list(expansion[DEPTH + 1 :]),
            blocks_down=list(blocks[:DEPTH]),
            blocks_bottleneck=blocks[DEPTH],
            blocks_up=list(blocks[DEPTH + 1 :]),
            kernel_size=kernel_size,
            use_residual_connection=True,
            global_resp_norm=global_resp_norm,
        )
        self.down_blocks = torch.nn.ModuleList(
            MedNeXtDownBlock(
                in_channels=init_filters << level,
                out_channels=init_filters << (level + 1),
                expansion_ratio=expansion[level + 1],
                kernel_size=kernel_size,
                use_residual_connection=True,
                dim=f"{spatial_dims}d",
                global_resp_norm=global_resp_norm and level > 0,  # its authors' first has none
            )
            for level in range(DEPTH)
        )
