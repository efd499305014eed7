"""What is timed: a volume, a window, a network."""

from __future__ import annotations

from dataclasses import dataclass

import torch

__all__ = ["CASES", "Case"]


@dataclass(frozen=True)
class Case:
    """One benchmark case.

    Attributes
    ----------
    shape, window
        Voxels, zyx.
    classes
        Output channels.
    network
        ``pointwise``: a 1x1x1 convolution, so that stitching is all there is; ``unet``: MONAI's UNet.
    sw_batch_size, tta_num, overlap
        See `napari_tessera.Settings`.
    """

    shape: tuple[int, int, int]
    window: tuple[int, int, int]
    classes: int
    network: str
    sw_batch_size: int = 4
    tta_num: int = 1
    overlap: float = 0.5

    def build_network(self) -> torch.nn.Module:
        """Return the network with fixed random weights, in evaluation mode."""
        torch.manual_seed(0)
        if self.network == "pointwise":
            return torch.nn.Conv3d(1, self.classes, 1).eval()
        from monai.networks.nets import UNet

        channels, strides = (16, 32, 64, 128), (2, 2, 2)
        return UNet(spatial_dims=3, in_channels=1, out_channels=self.classes, channels=channels, strides=strides).eval()

    def build_volume(self) -> torch.Tensor:
        """Return the image, float32 (Z, Y, X), fixed random values."""
        return torch.randn(self.shape, generator=torch.Generator().manual_seed(0))


CASES = {
    "stitching": Case((165, 512, 384), (112, 112, 112), 3, "pointwise"),
    "classes": Case((64, 256, 256), (64, 64, 64), 32, "pointwise"),
    "unet": Case((64, 192, 192), (32, 64, 64), 3, "unet"),
    "unet-tta": Case((64, 192, 192), (32, 64, 64), 3, "unet", tta_num=8),
    "long": Case((504, 400, 384), (112, 112, 112), 3, "pointwise"),
    "longer": Case((1008, 400, 384), (112, 112, 112), 3, "pointwise"),
}
