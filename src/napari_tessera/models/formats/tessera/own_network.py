"""The networks of Tessera's own format: of a reviewed class, filled with weights, several folds averaged."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from napari_tessera.core.errors import ModelError, first_line, nearest
from napari_tessera.models.formats.saved_weights import SavedWeights, fill
from napari_tessera.models.networks import architectures
from napari_tessera.models.networks.empty import WithoutValues
from napari_tessera.models.safety import allowed
from napari_tessera.models.spec.spec import MAX_CHANNELS

if TYPE_CHECKING:
    import torch

    from napari_tessera.models.networks.empty import StoredWeights
    from napari_tessera.models.spec.file import Architecture

CLASSES = (*architectures.ARCHITECTURES, *allowed.NNUNET_NETWORKS.names)
# nnU-Net's plans say these two elsewhere; a description says them among the arguments, as its classes do.
_SIZES = ("input_channels", "num_classes")


def build_network(
    architecture: Architecture,
    saved: SavedWeights,
    description: Path,
    own: Callable[..., torch.nn.Module] | None = None,
) -> tuple[torch.nn.Module, tuple[str, ...]]:
    """Return the network that *architecture* names, filled with its weights, and notes on which were taken.

    Parameters
    ----------
    architecture
        Several folds are averaged; the weights of fold ``i`` have names that begin with ``folds.i.``
    saved
        Its weights; those that the network holds under several names may be there once.
    description
        Where *architecture* was read, for errors.
    own
        The class, where it is one of a person's own (see `custom_class`).
    """
    label = saved.label
    weights = max(saved.places.values(), key=len)
    if architecture.folds == 1:
        # Any prefix may stand before names, so the weights of one fold of several would fit.
        if of_folds := [name for name in weights if name.startswith("folds.")]:
            raise ModelError(
                f"the weights {label} do not fit the architecture: names such as '{of_folds[0][:80]}' are of several "
                f"folds, but {description} says 1"
            )
        return _build(architecture, saved, description, own)
    from napari_tessera.models.formats.nnunet.network import FoldAverage

    folds, known = [], 0
    for number in range(architecture.folds):
        prefix = f"folds.{number}."
        part = {name.removeprefix(prefix): each for name, each in weights.items() if name.startswith(prefix)}
        known += len(part)
        network, _ = _build(architecture, SavedWeights(f"of fold {number} in {label}", {"": part}), description, own)
        folds.append(network)
    if known < len(weights):
        wrong = min(name for name in weights if not name.startswith(_prefixes(architecture)))
        raise ModelError(
            f"the weights {label} do not fit the architecture: {description} says {architecture.folds} folds, of none "
            f"of which '{wrong[:80]}' is"
        )
    return FoldAverage(folds).eval(), ()


def _prefixes(architecture: Architecture) -> tuple[str, ...]:
    return tuple(f"folds.{number}." for number in range(architecture.folds))


def _build(
    architecture: Architecture,
    saved: SavedWeights,
    description: Path,
    own: Callable[..., torch.nn.Module] | None,
) -> tuple[torch.nn.Module, tuple[str, ...]]:
    try:
        if own is None:
            network = _build_empty(architecture, saved.size, description)
        else:
            network = _build_own(own, architecture, saved.size)
    except ModelError as error:
        if str(description) in str(error):
            raise
        raise ModelError(f"{description}: {error}") from error
    return network, fill(network, saved, what="the architecture")


def _build_own(
    own: Callable[..., torch.nn.Module], architecture: Architecture, stored: StoredWeights
) -> torch.nn.Module:
    try:
        with WithoutValues(stored):
            return own(**architecture.arguments).eval()
    except ModelError:
        raise
    except Exception as error:  # whatever a person's own code raises
        raise ModelError(
            f"architecture '{architecture.name}' cannot be built from {str(architecture.arguments)[:300]}: "
            f"{type(error).__name__}: {first_line(error)[:300]}"
        ) from error


def _build_empty(architecture: Architecture, stored: StoredWeights, description: Path) -> torch.nn.Module:
    """Return the network before it is filled."""
    name, arguments = architecture.name, architecture.arguments
    if name in allowed.NNUNET_NETWORKS.names:
        return _build_nnunet(architecture, stored, description)
    if name not in CLASSES:
        raise ModelError(
            f"architecture '{name[:200]}' is not one that Tessera rebuilds{nearest(name, CLASSES)} "
            f"(it knows {', '.join(CLASSES)}), and none of your own (docs/models/tessera.md)"
        )
    return architectures.build(name, arguments, stored)


def _build_nnunet(architecture: Architecture, stored: StoredWeights, description: Path) -> torch.nn.Module:
    from napari_tessera.models.formats.nnunet import network, plans

    arguments = dict(architecture.arguments)
    in_channels, out_channels = sizes = [arguments.pop(key, None) for key in _SIZES]
    for key, size in zip(_SIZES, sizes, strict=True):
        if type(size) is not int or not 1 <= size <= MAX_CHANNELS:
            raise ModelError(
                f"the architecture's {key} is {str(size)[:40]}, but it must be a whole number from 1 to {MAX_CHANNELS}"
            )
    described = plans.Architecture(network_class_name=architecture.name, arch_kwargs=arguments)
    return network.build_network(described, in_channels, out_channels, description, stored)
