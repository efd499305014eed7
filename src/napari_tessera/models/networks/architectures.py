"""The network classes that a model file may name. Nothing else is ever imported on a file's word."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from napari_tessera.core.errors import ModelError, OutOfMemoryError, nearest
from napari_tessera.models.safety import allowed

if TYPE_CHECKING:
    import torch

    from napari_tessera.models.networks.empty import StoredWeights

_MONAI = "monai.networks.nets"
_FLEXIBLE = f"{_MONAI}.FlexibleUNet"

INTERPOLATING, RESIDUAL = "napari_tessera.InterpolatingUNet", "napari_tessera.ResidualUNet"
MEDNEXT, UNET3D = "napari_tessera.MedNeXt", "napari_tessera.Pytorch3DUNet"

ARCHITECTURES = (*allowed.MONAI_NETWORKS.names, *allowed.OWN_NETWORKS.names)
# Constructors make lists as long as a number says, and levels as deep as a list is long, before they make any weights.
LARGEST_NUMBER, LONGEST_LIST, MOST_VALUES = 1_000_000, 64, 10_000


# What networks were built from, and how, for whoever writes them down again.
_BUILT: WeakKeyDictionary[torch.nn.Module, tuple[str, dict[str, Any], Callable[[], torch.nn.Module]]]
_BUILT = WeakKeyDictionary()


def built_from(network: torch.nn.Module) -> tuple[str, dict[str, Any]] | None:
    """Return the class and the arguments that *network* was built from, if it is still what they give; else None."""
    from napari_tessera.models.networks.empty import StoredWeights, build_empty

    if network not in _BUILT:
        return None
    name, arguments, construct = _BUILT[network]
    again = build_empty(construct, StoredWeights.of(network.state_dict(), "the network"))
    return (name, arguments) if _kinds(again) == _kinds(network) else None


def remember_built(
    network: torch.nn.Module, name: str, arguments: dict[str, Any], construct: Callable[[], torch.nn.Module]
) -> None:
    """Remember, for `built_from`, that *construct* made *network*, as a description with these values would again."""
    _BUILT[network] = (name, arguments, construct)


def _kinds(network: torch.nn.Module) -> list[tuple[str, type]]:
    return [(name, type(module)) for name, module in network.named_modules()]


def build(name: str, arguments: dict[str, Any], stored: StoredWeights) -> torch.nn.Module:
    """Return a network of the allow-listed class *name*, in evaluation mode, whose weights have no values yet."""
    from napari_tessera.models.networks.empty import build_empty

    if name not in ARCHITECTURES:
        raise ModelError(
            f"architecture '{name}' is not one that Tessera rebuilds{nearest(name, ARCHITECTURES)} "
            f"(it knows {', '.join(ARCHITECTURES)})"
        )
    _refuse_absurd(name, arguments)
    construct = partial(_construct, name, arguments)
    said = f"architecture '{name}' cannot be built from {str(arguments)[:300]}"
    try:
        network = build_empty(construct, stored).eval()
    except (RuntimeError, MemoryError) as error:
        if isinstance(error, RuntimeError) and "DefaultCPUAllocator: " not in str(error):
            raise ModelError(f"{said}: {error}") from error
        raise OutOfMemoryError(f"{said}: the host's memory did not suffice") from error
    except (TypeError, ValueError, LookupError, ArithmeticError, AssertionError, AttributeError, ImportError) as error:
        raise ModelError(f"{said}: {error}") from error
    remember_built(network, name, arguments, construct)
    return network


def only_window(name: str, arguments: dict[str, Any], spatial_dims: int) -> tuple[int, ...] | None:
    """Return the only window, in the network's order of axes, that a network takes; None if it takes several.

    UNETR's embedding of positions is of one size, its ``img_size``.
    """
    if name != f"{_MONAI}.UNETR":
        return None
    size = arguments.get("img_size")
    sides = (size,) * spatial_dims if isinstance(size, int) else tuple(size) if isinstance(size, (list, tuple)) else ()
    valid = all(type(side) is int and 1 <= side <= LARGEST_NUMBER for side in sides)
    return sides if valid and len(sides) == spatial_dims else None  # building will say what is wrong with others


def network_class(name: str) -> type[torch.nn.Module]:
    """Return the class of one of `ARCHITECTURES`; `LookupError` for any other name."""
    if name == RESIDUAL:
        from napari_tessera.models.networks.residual_unet import ResidualUNet

        return ResidualUNet
    if name == UNET3D:
        from napari_tessera.models.networks.unet3d import Pytorch3DUNet

        return Pytorch3DUNet
    if name == MEDNEXT:
        from napari_tessera.models.networks.interpolating_unet import MedNeXt

        return MedNeXt
    if name == INTERPOLATING:
        from napari_tessera.models.networks.interpolating_unet import InterpolatingUNet

        return InterpolatingUNet
    import monai.networks.nets as nets

    found: type[torch.nn.Module] = getattr(nets, allowed.MONAI_NETWORKS.names[name].removeprefix(f"{_MONAI}."))
    return found


def _construct(name: str, arguments: dict[str, Any]) -> torch.nn.Module:
    if name == _FLEXIBLE:  # all weights are in the model's file: none are to be fetched
        arguments = arguments | {"pretrained": False}
    return network_class(name)(**arguments)


def _refuse_absurd(name: str, arguments: dict[str, Any]) -> None:
    """Raise if *arguments* hold a number, or a list, beyond any network that fits a computer."""
    pending: list[Any] = [arguments]
    for _ in range(MOST_VALUES):
        if not pending:
            return
        value = pending.pop()
        if isinstance(value, (list, tuple, dict)):
            if len(value) > LONGEST_LIST:
                raise ModelError(
                    f"architecture '{name}' has a list of {len(value)} among its arguments, but no network that fits a "
                    f"computer has lists of more than {LONGEST_LIST}"
                )
            pending.extend(value.values() if isinstance(value, dict) else value)
        elif isinstance(value, (int, float)) and abs(value) > LARGEST_NUMBER:
            shown = value if abs(value) < 10**18 else "one of more than 18 digits"
            raise ModelError(
                f"architecture '{name}' has the number {shown} among its arguments, but no network that fits a "
                f"computer has numbers above {LARGEST_NUMBER}"
            )
    raise ModelError(f"architecture '{name}' has more than {MOST_VALUES} values as its arguments, which no network has")
