"""What is timed: a volume, a window, a network."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from plain_unet import PlainUNet

__all__ = ["CASES", "CPU_CASES", "CUDA_CASES", "ENGINES", "Case"]

ENGINES = ("passes", "passes-tuned", "tessera", "monai", "monai-buffered", "nnunet", "torchio")


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
        ``pointwise``: a 1x1x1 convolution, so that stitching is all there is; ``unet``, ``dynunet``: MONAI's;
        ``plain``: a U-Net that needs torch alone.
    sw_batch_size, tta_num, overlap, precision
        See `napari_tessera.Settings`; precision ``default`` is what torch does unasked, TF32 in convolutions on CUDA.
    engines
        Those worth their time on this case.
    """

    shape: tuple[int, int, int]
    window: tuple[int, int, int]
    classes: int
    network: str
    sw_batch_size: int = 4
    tta_num: int = 1
    overlap: float = 0.5
    precision: str = "float32"
    engines: tuple[str, ...] = ENGINES

    @property
    def strides(self) -> tuple[int, ...]:
        """Step between windows, voxels, rounded as Tessera and MONAI do."""
        return tuple(max(1, int(w * (1 - self.overlap))) for w in self.window)

    def build_network(self) -> torch.nn.Module:
        """Return the network with fixed random weights, in evaluation mode."""
        torch.manual_seed(0)
        if self.network == "pointwise":
            return torch.nn.Conv3d(1, self.classes, 1).eval()
        return {"unet": _unet, "dynunet": _dynunet, "plain": PlainUNet}[self.network](self.classes).eval()

    def build_volume(self) -> torch.Tensor:
        """Return the image, float32 (Z, Y, X), fixed random values, in memory."""
        return torch.randn(self.shape, generator=torch.Generator().manual_seed(0))

    def for_warm_up(self) -> Case:
        """Return the case on a volume of one full batch of windows, without augmentation."""
        depth = self.window[0] + self.strides[0] * (self.sw_batch_size - 1)
        return replace(self, shape=(depth, *self.window[1:]), tta_num=1)


def _unet(classes: int) -> torch.nn.Module:
    from monai.networks.nets import UNet

    channels, strides = (16, 32, 64, 128), (2, 2, 2)
    return UNet(spatial_dims=3, in_channels=1, out_channels=classes, channels=channels, strides=strides)


def _dynunet(classes: int) -> torch.nn.Module:
    from monai.networks.nets import DynUNet

    return DynUNet(
        spatial_dims=3,
        in_channels=1,
        out_channels=classes,
        kernel_size=[3, 3, 3],
        strides=[1, 2, 2],
        upsample_kernel_size=[2, 2],
        filters=[16, 32, 64],
    )


LARGE = Case((165, 1024, 768), (112, 112, 112), 3, "unet")
LOWER = replace(LARGE, precision="bfloat16", engines=("passes", "passes-tuned", "tessera", "monai", "nnunet"))
# Memory is what the two long ones are for.
LONG = Case((504, 400, 384), (112, 112, 112), 3, "pointwise", engines=("tessera", "monai"))

CASES = {
    "stitching": Case((165, 512, 384), (112, 112, 112), 3, "pointwise"),
    "classes": Case((64, 256, 256), (64, 64, 64), 32, "pointwise"),
    "unet": Case((64, 192, 192), (32, 64, 64), 3, "unet"),
    "unet-tta": Case((64, 192, 192), (32, 64, 64), 3, "unet", tta_num=8),
    "long": LONG,
    "longer": replace(LONG, shape=(1008, 400, 384), engines=("tessera",)),
    "cuda-unet": LARGE,
    "cuda-dynunet": replace(LARGE, network="dynunet", engines=LOWER.engines),
    "cuda-unet-default": replace(LARGE, precision="default", engines=("monai",)),
    "cuda-dynunet-default": replace(LARGE, network="dynunet", precision="default", engines=("monai",)),
    "cuda-unet-bfloat16": LOWER,
    "cuda-dynunet-bfloat16": replace(LOWER, network="dynunet"),
}
CUDA_CASES = (*(name for name in CASES if name.startswith("cuda-")), "stitching")
CPU_CASES = tuple(name for name in CASES if not name.startswith("cuda-"))
