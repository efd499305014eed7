"""nnU-Net's networks from what its plans say: reviewed classes, literal arguments, no weights of their own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from napari_tessera.core.errors import ModelError, nearest
from napari_tessera.models.networks import architectures
from napari_tessera.models.networks.empty import StoredWeights, build_empty
from napari_tessera.models.safety import allowed

if TYPE_CHECKING:
    from napari_tessera.models.formats.nnunet.trained_folder import Architecture

ARCHITECTURES = allowed.NNUNET_NETWORKS.names
# The classes that an argument may name, each under the names that it goes by.
LAYERS: dict[str, type[torch.nn.Module]] = {
    name: getattr(torch.nn, cls.removeprefix("torch.nn.")) for name, cls in allowed.NNUNET_LAYERS.names.items()
}

_NAMED = ("conv_op", "norm_op", "dropout_op", "nonlin", "block")
_COUNTS = (
    "n_stages",
    "features_per_stage",
    "kernel_sizes",
    "strides",
    "n_conv_per_stage",
    "n_blocks_per_stage",
    "n_conv_per_stage_decoder",
    "bottleneck_channels",
    "stem_channels",
)
_OPTIONS = ("norm_op_kwargs", "dropout_op_kwargs", "nonlin_kwargs")
_FLAGS = ("conv_bias", "nonlin_first", "deep_supervision")
# Far beyond any network that fits a device: without a limit a line of text could keep a computer busy for ever.
MOST_LAYERS, MOST_FEATURES = 64, 1_000_000
# Of an option such as eps: what float32, in which networks compute, can hold.
LARGEST_NUMBER = 3e38


class FoldAverage(torch.nn.Module):
    """The mean of several networks, before activation, as nnU-Net takes it; of windows stitched it is the same."""

    def __init__(self, folds: Iterable[torch.nn.Module]) -> None:
        super().__init__()
        self.folds = torch.nn.ModuleList(folds)

    def forward(self, windows: torch.Tensor) -> torch.Tensor:
        """Return the mean of all folds, (B, C', *window)."""
        first, *others = self.folds
        total: torch.Tensor = first(windows)
        for fold in others:
            total = total + fold(windows)
        return total / len(self.folds)


def build_network(
    architecture: Architecture, in_channels: int, out_channels: int, path: Path, stored: StoredWeights
) -> torch.nn.Module:
    """Return the network that plans describe, its weights without values yet."""
    name = architecture.network_class_name
    if name not in ARCHITECTURES:
        raise ModelError(
            f"{path}: the architecture '{name}' is not one that Tessera rebuilds{nearest(name, ARCHITECTURES)} "
            f"(it knows {', '.join(ARCHITECTURES)})"
        )
    try:
        from dynamic_network_architectures.architectures import unet
        from dynamic_network_architectures.building_blocks import residual
    except ImportError as error:
        raise ModelError(
            f'{path} needs nnU-Net\'s networks, which are not installed ({error}): pip install "napari-tessera[nnunet]"'
        ) from error
    arguments = _check_arguments(architecture, path)
    if "block" in arguments:
        arguments["block"] = getattr(residual, allowed.NNUNET_BLOCKS.names[arguments["block"]].rpartition(".")[2])
    channels = {"input_channels": in_channels, "num_classes": out_channels}
    # The layers of deep supervision are made, and their weights loaded, either way; off means one output, the finest.
    arguments |= channels | {"deep_supervision": False}
    construct = partial(getattr(unet, ARCHITECTURES[name].rpartition(".")[2]), **arguments)
    try:
        network = build_empty(construct, stored).eval()
    except (TypeError, ValueError, LookupError, AssertionError, RuntimeError, AttributeError) as error:
        raise ModelError(f"{path}: '{name}' cannot be built from its arguments: {error}") from error
    architectures.remember_built(network, name, {**architecture.arch_kwargs, **channels}, construct)
    return network


def _check_arguments(architecture: Architecture, path: Path) -> dict[str, Any]:
    """Return the arguments with the names of layers resolved; `block` stays a name."""
    checked: dict[str, Any] = {}
    for key, value in architecture.arch_kwargs.items():
        if value is None:
            continue
        if key in _NAMED:
            checked[key] = _resolve(key, value, path)
        elif key in _OPTIONS and isinstance(value, dict):
            checked[key] = _check_options(key, value, path)
        elif (key in _COUNTS and _is_count(value)) or (key in _FLAGS and isinstance(value, bool)):
            checked[key] = value
        else:
            raise ModelError(f"{path}: the architecture has the argument {key} = {value!r}, which is unknown or wrong")
    unknown = set(architecture.requires_import) - set(_NAMED)
    if unknown:
        raise ModelError(f"{path} wants '{sorted(unknown)[0]}' imported; Tessera resolves only {', '.join(_NAMED)}")
    return checked


def _resolve(key: str, name: object, path: Path) -> Any:
    table: Mapping[str, Any] = allowed.NNUNET_BLOCKS.names if key == "block" else LAYERS
    if not isinstance(name, str) or name not in table:
        raise ModelError(
            f"{path}: the architecture names {key} = {name!r}, which is not one of the layers that Tessera rebuilds "
            f"({', '.join(table)}); nothing was imported"
        )
    return name if key == "block" else table[name]


def _is_count(value: object, levels: int = 2) -> bool:
    """Whether it is a number of 1 or more, or at most two *levels* of lists of such."""
    if isinstance(value, (list, tuple)):
        return levels > 0 and len(value) <= MOST_LAYERS and all(_is_count(one, levels - 1) for one in value)
    return type(value) is int and 0 < value <= MOST_FEATURES


def _check_options(key: str, options: dict[Any, Any], path: Path) -> dict[Any, Any]:
    for name, number in options.items():
        # Not `isfinite`, which fails on a whole number that no float can hold.
        if not isinstance(number, (bool, int, float)) or not abs(number) <= LARGEST_NUMBER:
            shown = number if isinstance(number, float) else repr(number)[:40]
            raise ModelError(
                f"{path}: the architecture's {key} says {str(name)[:40]} = {shown}, but it must be true, false or a "
                f"number of at most {LARGEST_NUMBER:g}"
            )
    return options
