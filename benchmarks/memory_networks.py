"""The networks whose memory is predicted and measured, as wide as people train them, or thin for a quick check."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass
from importlib.util import find_spec

import torch
from plain_unet import PlainUNet

__all__ = ["BARE", "CLASSES", "EVERY", "NETWORKS", "Network", "Window"]

Window = tuple[int, int, int]
CLASSES = 3
WINDOWS: tuple[Window, ...] = ((32, 48, 48), (48, 64, 64), (64, 64, 64))
# Five halvings, as in nnU-Net, leave at least two voxels for its instance normalisation.
WIDER: tuple[Window, ...] = ((32, 64, 64), (64, 64, 64), (64, 64, 96))
SMALL: tuple[Window, ...] = ((16, 16, 32), (16, 32, 32), (32, 32, 32))
SMALL_WIDER: tuple[Window, ...] = ((32, 32, 64), (32, 64, 64), (64, 64, 64))


@dataclass(frozen=True)
class Network:
    """One architecture.

    Attributes
    ----------
    build
        Makes it, for a window, thin or not: a network of one input channel and `CLASSES` output channels.
    windows, small
        Those that it is measured at, and those of a quick check.
    one_window
        Whether it is made for one window and refuses others.
    needs
        Modules that must be there besides torch.
    """

    build: Callable[[Window, bool], torch.nn.Module]
    windows: tuple[Window, ...] = WINDOWS
    small: tuple[Window, ...] = SMALL
    one_window: bool = False
    needs: tuple[str, ...] = ("monai",)

    @property
    def missing(self) -> tuple[str, ...]:
        """The modules it needs that cannot be imported."""
        return tuple(name for name in self.needs if find_spec(name) is None)

    def built(
        self, windows: tuple[Window, ...] | None = None, *, thin: bool = False
    ) -> Iterator[tuple[torch.nn.Module, tuple[Window, ...]]]:
        """Yield networks with fixed random weights, in evaluation mode, each with those of *windows* that it is for."""
        windows = windows or (self.small if thin else self.windows)
        for group in [(window,) for window in windows] if self.one_window else [windows]:
            torch.manual_seed(0)
            with redirect_stdout(io.StringIO()):  # some say hello
                network = self.build(group[0], thin).eval()
            yield network, group


def _unet(window: Window, thin: bool) -> torch.nn.Module:
    from monai.networks.nets import UNet

    channels = (4, 8, 16) if thin else (32, 64, 128, 256)
    return UNet(3, 1, CLASSES, channels=channels, strides=(2,) * (len(channels) - 1), num_res_units=2)


def _basic_unet(window: Window, thin: bool) -> torch.nn.Module:
    from monai.networks.nets import BasicUNet

    return BasicUNet(3, 1, CLASSES, features=(4, 4, 8, 8, 16, 4) if thin else (32, 32, 64, 128, 256, 32))


def _dynunet(window: Window, thin: bool) -> torch.nn.Module:
    from monai.networks.nets import DynUNet

    filters = [4, 8, 16] if thin else [32, 64, 128, 256]
    levels = len(filters)
    return DynUNet(
        spatial_dims=3,
        in_channels=1,
        out_channels=CLASSES,
        kernel_size=[3] * levels,
        strides=[1] + [2] * (levels - 1),
        upsample_kernel_size=[2] * (levels - 1),
        filters=filters,
    )


def _segresnet(window: Window, thin: bool) -> torch.nn.Module:
    from monai.networks.nets import SegResNet

    return SegResNet(3, init_filters=8 if thin else 16, in_channels=1, out_channels=CLASSES)


def _unetr(window: Window, thin: bool) -> torch.nn.Module:
    from monai.networks.nets import UNETR

    if thin:
        return UNETR(1, CLASSES, window, feature_size=4, hidden_size=48, mlp_dim=96, num_heads=4)
    return UNETR(1, CLASSES, window)


def _swin_unetr(window: Window, thin: bool) -> torch.nn.Module:
    from monai.networks.nets import SwinUNETR

    return SwinUNETR(1, CLASSES, feature_size=12 if thin else 24)


def _attention_unet(window: Window, thin: bool) -> torch.nn.Module:
    from monai.networks.nets import AttentionUnet

    channels = (4, 8, 16) if thin else (16, 32, 64, 128)
    return AttentionUnet(3, 1, CLASSES, channels=channels, strides=(2,) * (len(channels) - 1))


def _vnet(window: Window, thin: bool) -> torch.nn.Module:
    from monai.networks.nets import VNet

    return VNet(3, 1, CLASSES)


def _nnunet(thin: bool) -> dict[str, object]:
    """Return what nnU-Net's plans for three dimensions say to both of its networks."""
    features = [4, 8, 16] if thin else [32, 64, 128, 256, 320, 320]
    levels = len(features)
    return {
        "input_channels": 1,
        "n_stages": levels,
        "features_per_stage": features,
        "conv_op": torch.nn.Conv3d,
        "kernel_sizes": 3,
        "strides": [1] + [2] * (levels - 1),
        "num_classes": CLASSES,
        "conv_bias": True,
        "norm_op": torch.nn.InstanceNorm3d,
        "norm_op_kwargs": {"eps": 1e-5, "affine": True},
        "nonlin": torch.nn.LeakyReLU,
        "nonlin_kwargs": {"inplace": True},
        "deep_supervision": False,
    }


def _plain_conv_unet(window: Window, thin: bool) -> torch.nn.Module:
    from dynamic_network_architectures.architectures.unet import PlainConvUNet

    network: torch.nn.Module = PlainConvUNet(**_nnunet(thin), n_conv_per_stage=2, n_conv_per_stage_decoder=2)
    return network


def _residual_encoder_unet(window: Window, thin: bool) -> torch.nn.Module:
    from dynamic_network_architectures.architectures.unet import ResidualEncoderUNet

    blocks = [1, 2, 2] if thin else [1, 3, 4, 6, 6, 6]
    widths = _nnunet(thin)
    network: torch.nn.Module = ResidualEncoderUNet(**widths, n_blocks_per_stage=blocks, n_conv_per_stage_decoder=1)
    return network


def _plain(window: Window, thin: bool) -> torch.nn.Module:
    return PlainUNet(CLASSES, (4, 8, 16) if thin else (32, 64, 128, 256))


_TRANSFORMER = ("monai", "einops")
_NNUNET = ("dynamic_network_architectures",)

NETWORKS: dict[str, Network] = {
    "MONAI UNet": Network(_unet),
    "MONAI BasicUNet": Network(_basic_unet),
    "MONAI DynUNet": Network(_dynunet),
    "MONAI SegResNet": Network(_segresnet),
    "MONAI UNETR": Network(_unetr, one_window=True, needs=_TRANSFORMER),
    "MONAI SwinUNETR": Network(_swin_unetr, WIDER, SMALL_WIDER, needs=_TRANSFORMER),
    "MONAI AttentionUnet": Network(_attention_unet),
    "MONAI VNet": Network(_vnet, WIDER, SMALL_WIDER),
    "nnU-Net PlainConvUNet": Network(_plain_conv_unet, WIDER, needs=_NNUNET),
    "nnU-Net ResidualEncoderUNet": Network(_residual_encoder_unet, WIDER, needs=_NNUNET),
}
# What there is where nothing but torch is.
BARE: dict[str, Network] = {"plain U-Net": Network(_plain, needs=())}
EVERY = NETWORKS | BARE
