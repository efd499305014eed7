"""The residual U-Nets of PyTorch Connectomics 1, in 2D and 3D: names of weights and results are those of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from napari_tessera.models.safety import allowed

GROUPS = {2: 16, 3: 8}
# Channels of a layer for each one within its squeeze and excitation.
REDUCTION = {2: 16, 3: 4}

_CONVOLUTIONS: dict[int, type[nn.Module]] = {2: nn.Conv2d, 3: nn.Conv3d}
_POOLS: dict[int, type[nn.Module]] = {2: nn.MaxPool2d, 3: nn.MaxPool3d}
_BATCH_NORMS: dict[int, type[nn.Module]] = {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
_INSTANCE_NORMS: dict[int, type[nn.Module]] = {2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}

# (spatial_dims, channels) to a layer. Statistics that several devices shared are applied like those of one.
NORMS: dict[str, Callable[[int, int], nn.Module]] = allowed.RESIDUAL_NORMS.handled(
    {
        "bn": lambda dims, channels: _BATCH_NORMS[dims](channels),
        "sync_bn": lambda dims, channels: _BATCH_NORMS[dims](channels),
        "in": lambda dims, channels: _INSTANCE_NORMS[dims](channels),
        "gn": lambda dims, channels: nn.GroupNorm(GROUPS[dims], channels),
        "none": lambda dims, channels: nn.Identity(),
    }
)
# Most work in place, as in the original: without a norm, a block that activates first also changes what it adds to.
ACTIVATIONS: dict[str, Callable[[], nn.Module]] = allowed.RESIDUAL_ACTIVATIONS.handled(
    {
        "relu": lambda: nn.ReLU(inplace=True),
        "leaky_relu": lambda: nn.LeakyReLU(0.2, inplace=True),
        "elu": lambda: nn.ELU(inplace=True),
        "gelu": nn.GELU,
        "silu": lambda: nn.SiLU(inplace=True),
        "swish": nn.SiLU,
        "efficient_swish": nn.SiLU,
        "none": nn.Identity,
    }
)
PADDINGS = tuple(allowed.RESIDUAL_PADDINGS.names)


@dataclass(frozen=True, slots=True)
class _Kind:
    """A kind of block: whether it normalises and activates before it convolves, and whether it weighs channels."""

    activates_first: bool = False
    excites: bool = False


BLOCKS: dict[str, _Kind] = allowed.RESIDUAL_BLOCKS.handled(
    {
        "residual": _Kind(),
        "residual_pa": _Kind(activates_first=True),
        "residual_se": _Kind(excites=True),
        "residual_se_pa": _Kind(activates_first=True, excites=True),
    }
)


class ResidualUNet(nn.Module):
    """A U-Net of residual blocks that adds, not joins, what it enlarges to what it kept; windows of any size go.

    Its levels have *filters* channels, the finest first. *isotropy* says of each whether kernels and strides reach
    along z, without a meaning in 2D; *isotropic* that they do on all levels, the first and last convolution included.
    Levels are made smaller by strides, or by their maximum (*pooling*). With *attention* the coarsest level attends to
    all of itself, and is added to every other one (``unet_plus``). *outputs* are the channels that are returned, in
    this order; one may be returned twice.
    """

    def __init__(
        self,
        *,
        spatial_dims: int,
        in_channels: int,
        out_channels: int,
        filters: Sequence[int],
        block: str = "residual",
        isotropy: Sequence[bool] = (),
        isotropic: bool = False,
        padding: str = "replicate",
        act: str = "elu",
        norm: str = "bn",
        pooling: bool = False,
        attention: bool = False,
        outputs: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        layers = _Layers(spatial_dims, padding, act, norm)
        deep = [True] * len(filters) if isotropic or spatial_dims == 2 else list(isotropy)
        if not filters or len(deep) != len(filters):
            raise ValueError(f"isotropy has {len(deep)} levels, but filters has {len(filters)}")
        if outputs is not None and not all(0 <= channel < out_channels for channel in outputs):
            raise ValueError(f"outputs is {list(outputs)}, but there are the channels 0 to {out_channels - 1}")
        self.outputs = None if outputs is None else list(outputs)
        self.align_corners = not pooling
        kind = _chosen(BLOCKS, "block", block)
        self.conv_in = layers.unit(in_channels, filters[0], 5, deep=isotropic)
        self.conv_out = nn.Sequential(layers.convolution(filters[0], out_channels, 5, deep=isotropic, bias=True))
        pairs = list(pairwise(filters))
        self.down_layers = nn.ModuleList(
            _down(layers, finer, coarser, kind, deep=deep[level], smaller=level > 0, pooling=pooling)
            for level, (finer, coarser) in enumerate([(filters[0], filters[0]), *pairs])
        )
        self.up_layers = nn.ModuleList(
            nn.ModuleList([layers.unit(coarser, finer, 3, deep=deep[level]), _Block(layers, finer, kind)])
            for level, (finer, coarser) in enumerate(pairs, start=1)
        )
        self.non_local = _Attention(layers, filters[-1]) if attention else None
        # A kernel of one voxel with a border around: the original enlarges what is larger by that.
        self.feat_layers = nn.ModuleList(
            layers.unit(filters[-1], finer, 1, deep=True, border=1) for finer, _ in pairs if attention
        )

    def forward(self, windows: torch.Tensor) -> torch.Tensor:
        """Return (B, out_channels, *window), or of those channels the *outputs*."""
        values, kept = self.conv_in(windows), []
        for down in self.down_layers:
            values = down(values)
            kept.append(values)
        kept.pop()
        if self.non_local is not None:
            values = self.non_local(values)
        coarsest = values
        for level in reversed(range(len(kept))):
            merge, refine = self.up_layers[level].children()
            values = self._enlarged(merge(values), kept.pop())
            if self.non_local is not None:
                values = self._enlarged(self.feat_layers[level](coarsest), values)
            values = refine(values)
        found: torch.Tensor = self.conv_out(values)
        return found if self.outputs is None else found[:, self.outputs]

    def _enlarged(self, values: torch.Tensor, added: torch.Tensor) -> torch.Tensor:
        mode = "trilinear" if added.dim() == 5 else "bilinear"
        enlarged = functional.interpolate(values, added.shape[2:], mode=mode, align_corners=self.align_corners)
        return enlarged + added


@dataclass(frozen=True, slots=True)
class _Layers:
    dims: int
    padding: str
    act: str
    norm: str

    def __post_init__(self) -> None:
        _chosen(_CONVOLUTIONS, "spatial_dims", self.dims)
        _chosen(ACTIVATIONS, "act", self.act)
        _chosen(NORMS, "norm", self.norm)
        _chosen(dict.fromkeys(PADDINGS, True), "padding", self.padding)

    def sides(self, side: int, along_z: int) -> tuple[int, ...]:
        """Return *side* for y and x, and *along_z* before them in 3D."""
        return (along_z, side, side)[-self.dims :]

    def convolution(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        *,
        deep: bool,
        smaller: bool = False,
        border: int | None = None,
        bias: bool = False,
    ) -> nn.Module:
        around = kernel // 2 if border is None else border
        return _CONVOLUTIONS[self.dims](
            inputs,
            outputs,
            self.sides(kernel, kernel if deep else 1),
            stride=self.sides(2, 2 if deep else 1) if smaller else 1,
            padding=self.sides(around, around if deep else 0),
            padding_mode=self.padding,
            bias=bias,
        )

    def activation(self) -> nn.Module:
        return ACTIVATIONS[self.act]()

    def normalisation(self, channels: int) -> nn.Module:
        return NORMS[self.norm](self.dims, channels)

    def unit(
        self, inputs: int, outputs: int, kernel: int, *, deep: bool, smaller: bool = False, border: int | None = None
    ) -> nn.Sequential:
        """Return a convolution, a norm and an activation."""
        convolution = self.convolution(inputs, outputs, kernel, deep=deep, smaller=smaller, border=border)
        return nn.Sequential(convolution, self.normalisation(outputs), self.activation())


def _down(
    layers: _Layers, inputs: int, outputs: int, kind: _Kind, *, deep: bool, smaller: bool, pooling: bool
) -> nn.Sequential:
    pool = _POOLS[layers.dims](layers.sides(2, 2 if deep else 1)) if smaller and pooling else nn.Identity()
    unit = layers.unit(inputs, outputs, 3, deep=deep, smaller=smaller and not pooling)
    return nn.Sequential(pool, unit, _Block(layers, outputs, kind))


class _Block(nn.Module):
    """Two convolutions within y and x, whatever the level's isotropy, whose result is added to what they were given."""

    def __init__(self, layers: _Layers, channels: int, kind: _Kind) -> None:
        super().__init__()
        first, second = (layers.unit(channels, channels, 3, deep=False) for _ in range(2))
        if kind.activates_first:
            first, second = (nn.Sequential(norm, act, convolution) for convolution, norm, act in (first, second))
        else:
            second[2] = nn.Identity()
        body = nn.Sequential(first, second)
        self.conv = nn.Sequential(body, _Excitation(layers, channels)) if kind.excites else body
        self.act = nn.Identity() if kind.activates_first else layers.activation()

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        change = self.conv(values)
        found: torch.Tensor = self.act(change + values)
        return found


class _Excitation(nn.Module):
    """Weighs channels by what all of the window says of them."""

    def __init__(self, layers: _Layers, channels: int) -> None:
        super().__init__()
        few = channels // REDUCTION[layers.dims]
        self.fc = nn.Sequential(
            nn.Linear(channels, few, bias=False),
            layers.activation(),
            nn.Linear(few, channels, bias=False),
            nn.Sigmoid(),
        )

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        weights: torch.Tensor = self.fc(values.flatten(2).mean(2))
        return values * weights.reshape(*weights.shape, *(1,) * (values.dim() - 2))


class _Attention(nn.Module):
    """Adds to every voxel what all others are, by how alike they are."""

    def __init__(self, layers: _Layers, channels: int) -> None:
        super().__init__()
        few, convolution = max(channels // 2, 1), _CONVOLUTIONS[layers.dims]
        self.g, self.theta, self.phi = (convolution(channels, few, 1) for _ in range(3))
        self.W = nn.Sequential(convolution(few, channels, 1), layers.normalisation(channels))

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        asked, given, told = (layer(values).flatten(2) for layer in (self.theta, self.phi, self.g))
        alike = (asked.transpose(1, 2) @ given).softmax(-1)
        found = (alike @ told.transpose(1, 2)).transpose(1, 2)
        change: torch.Tensor = self.W(found.reshape(*found.shape[:2], *values.shape[2:]))
        return change + values


def _chosen(choices: Mapping[Any, Any], name: str, value: object) -> Any:
    if value not in choices:
        raise ValueError(f"{name} is {value!r}, but it must be one of {', '.join(map(str, choices))}")
    return choices[value]
