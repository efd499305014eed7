"""The U-Nets of pytorch-3dunet, written anew: the same layers under the same names. Imported only where asked for."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence

import torch
from torch import nn
from torch.nn import functional

from napari_tessera.models.safety import allowed

# The slope of leaky units that follow a sum; others have torch's.
SLOPE_AFTER_SUM = 0.1
DECONVOLVED, BY_KIND = "deconv", "default"


class Pytorch3DUNet(nn.Module):
    """A U-Net of pytorch-3dunet without its final activation; *features* are the channels of each level, at least two.

    Levels are two convolutions, or *residual* blocks, which may have squeeze and excitation in 3D (*squeezes*). Of two
    convolutions *conv_padding* is the padding of each, *conv_upscale* in which of them, 1 or 2, the channels of a level
    are reached. *layer_order* has a letter for each layer of a convolution, see `allowed.UNET3D_LAYERS`; of group norms
    there is one group where there are fewer channels than *num_groups*. *upsample* is ``default``: nearest for two
    convolutions, transposed convolutions for residual blocks; or ``deconv`` or a mode of torch's interpolation for the
    former.
    """

    def __init__(
        self,
        *,
        spatial_dims: int,
        in_channels: int,
        out_channels: int,
        features: Sequence[int],
        residual: bool = False,
        squeezes: bool = False,
        layer_order: str = "gcr",
        num_groups: int = 8,
        conv_padding: int = 1,
        conv_upscale: int = 2,
        upsample: str = BY_KIND,
    ) -> None:
        super().__init__()
        if spatial_dims not in (2, 3) or len(features) < 2 or (squeezes and (spatial_dims == 2 or not residual)):
            raise ValueError("it has 2 or 3 dimensions and 2 or more levels; squeezes go with residual blocks in 3D")
        if (
            not set(layer_order) <= set(allowed.UNET3D_LAYERS.names)
            or layer_order.count("c") != 1
            or layer_order[0] in "rle"
        ):
            raise ValueError(f"'{layer_order[:20]}' is no order of layers with one convolution")
        if upsample not in allowed.UNET3D_UPSAMPLING.names or (residual and upsample != BY_KIND):
            raise ValueError(f"'{upsample[:20]}' is no way up of such a network")
        layers = _Layers(spatial_dims, layer_order, num_groups)

        def block(n_in: int, n_out: int, *, down: bool) -> nn.Module:
            if residual:
                return _ResidualBlock(layers, n_in, n_out, squeezes=squeezes)
            middle = max(n_out // (2 if conv_upscale == 2 else 1), n_in) if down else n_out
            first = layers.convolved(n_in, middle, conv_padding)
            return nn.Sequential(
                OrderedDict({"SingleConv1": first, "SingleConv2": layers.convolved(middle, n_out, conv_padding)})
            )

        self.encoders = nn.ModuleList(
            _Level(block(n_in, n_out, down=True), layers.pool() if level else None)
            for level, (n_in, n_out) in enumerate(zip((in_channels, *features), features, strict=False))
        )
        transposes = DECONVOLVED if residual else upsample
        self.decoders = nn.ModuleList()
        for below, here in zip(features[:0:-1], features[-2::-1], strict=True):
            joined = here if residual else below if transposes == DECONVOLVED else below + here
            mode = "nearest" if transposes == BY_KIND else transposes
            self.decoders.append(_WayUp(layers, below, here, block(joined, here, down=False), mode, sums=residual))
        self.final_conv = layers.convolution(features[0], out_channels, 1)

    def forward(self, windows: torch.Tensor) -> torch.Tensor:
        """Return logits (B, out_channels, *window) of *windows* (B, in_channels, *window)."""
        levels: list[torch.Tensor] = []
        for encoder in self.encoders:
            windows = encoder(windows)
            levels.append(windows)
        for decoder, beside in zip(self.decoders, levels[-2::-1], strict=True):
            windows = decoder(beside, windows)
        logits: torch.Tensor = self.final_conv(windows)
        return logits


class _Layers:
    def __init__(self, dims: int, order: str, num_groups: int) -> None:
        self.order, self.num_groups, self.dims = order, num_groups, dims
        self.convolution: Callable[..., nn.Module] = nn.Conv3d if dims == 3 else nn.Conv2d
        self.transposed: Callable[..., nn.Module] = nn.ConvTranspose3d if dims == 3 else nn.ConvTranspose2d

    def pool(self) -> nn.Module:
        return nn.MaxPool3d(2) if self.dims == 3 else nn.MaxPool2d(2)

    def convolved(self, n_in: int, n_out: int, padding: int = 1, *, ends_with_unit: bool = True) -> nn.Sequential:
        """Return a convolution with what comes before and after it."""
        order = self.order if ends_with_unit else "".join(letter for letter in self.order if letter not in "rle")
        made: dict[str, nn.Module] = {}
        for place, letter in enumerate(order):
            channels = n_in if place < order.index("c") else n_out
            made[allowed.UNET3D_LAYERS.names[letter]] = self._layer(letter, channels, n_in, n_out, padding)
        return nn.Sequential(OrderedDict(made))

    def _layer(self, letter: str, channels: int, n_in: int, n_out: int, padding: int) -> nn.Module:
        if letter == "c":
            has_norm = "g" in self.order or "b" in self.order
            return self.convolution(n_in, n_out, 3, padding=padding, bias=not has_norm)
        if letter == "g":
            return nn.GroupNorm(self.num_groups if channels >= self.num_groups else 1, channels)
        if letter == "b":
            return nn.BatchNorm3d(channels) if self.dims == 3 else nn.BatchNorm2d(channels)
        return self.unit(letter)

    def unit(self, letter: str, slope: float = 0.01) -> nn.Module:
        units: dict[str, nn.Module] = {"r": nn.ReLU(), "l": nn.LeakyReLU(slope), "e": nn.ELU()}
        return units.get(letter, nn.Identity())  # dropout does nothing where nothing is trained


class _ResidualBlock(nn.Module):
    def __init__(self, layers: _Layers, n_in: int, n_out: int, *, squeezes: bool) -> None:
        super().__init__()
        self.conv1 = nn.Identity() if n_in == n_out else layers.convolution(n_in, n_out, 1)
        self.conv2 = layers.convolved(n_out, n_out)
        self.conv3 = layers.convolved(n_out, n_out, ends_with_unit=False)
        letter = next((letter for letter in "le" if letter in layers.order), "r")
        self.non_linearity = layers.unit(letter, SLOPE_AFTER_SUM)
        self.se_module = _SqueezeAndExcite(n_out) if squeezes else nn.Identity()

    def forward(self, windows: torch.Tensor) -> torch.Tensor:
        residual = self.conv1(windows)
        found: torch.Tensor = self.se_module(self.non_linearity(self.conv3(self.conv2(residual)) + residual))
        return found


class _SqueezeAndExcite(nn.Module):
    """The larger of what channels, and of what places, let through."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.cSE, self.sSE = _ByChannel(channels), _ByPlace(channels)

    def forward(self, windows: torch.Tensor) -> torch.Tensor:
        return torch.maximum(windows * self.cSE(windows), windows * self.sSE(windows))


class _ByChannel(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(channels, channels), nn.Linear(channels, channels)

    def forward(self, windows: torch.Tensor) -> torch.Tensor:
        squeezed = windows.mean((2, 3, 4))
        return torch.sigmoid(self.fc2(torch.relu(self.fc1(squeezed))))[:, :, None, None, None]


class _ByPlace(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv3d(channels, 1, 1)

    def forward(self, windows: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid(self.conv(windows))


class _Level(nn.Module):
    def __init__(self, block: nn.Module, pooling: nn.Module | None) -> None:
        super().__init__()
        self.pooling, self.basic_module = pooling, block

    def forward(self, windows: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.basic_module(windows if self.pooling is None else self.pooling(windows))
        return found


class _WayUp(nn.Module):
    """Enlarges what comes from below to the size beside it, and joins both."""

    def __init__(self, layers: _Layers, below: int, here: int, block: nn.Module, mode: str, *, sums: bool) -> None:
        super().__init__()
        self.mode, self.sums = mode, sums
        if mode == DECONVOLVED:
            enlarging = layers.transposed(below, here, kernel_size=3, stride=2, padding=1, bias=False)
            self.upsampling = nn.ModuleDict({"upsample": _Enlarged(enlarging)})
        self.basic_module = block

    def forward(self, beside: torch.Tensor, below: torch.Tensor) -> torch.Tensor:
        size = beside.shape[2:]
        if self.mode == DECONVOLVED:
            enlarged = self.upsampling["upsample"](below, size)
        else:
            enlarged = functional.interpolate(below, size=size, mode=self.mode)
        joined = beside + enlarged if self.sums else torch.cat((beside, enlarged), dim=1)
        found: torch.Tensor = self.basic_module(joined)
        return found


class _Enlarged(nn.Module):
    def __init__(self, convolution: nn.Module) -> None:
        super().__init__()
        self.conv_transposed = convolution

    def forward(self, windows: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
        return functional.interpolate(self.conv_transposed(windows), size=list(size))
