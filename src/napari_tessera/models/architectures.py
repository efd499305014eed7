"""The network classes that a model file may name. Nothing else is ever imported on a file's word."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from napari_tessera.errors import ModelError, OutOfMemoryError, nearest

if TYPE_CHECKING:
    import torch

__all__ = ["ARCHITECTURES", "build", "built_from"]

_MONAI = "monai.networks.nets"

# Reviewed: constructors of these classes neither run code given as an argument nor read or fetch files.
ARCHITECTURES = tuple(
    f"{_MONAI}.{name}"
    for name in ("AttentionUnet", "BasicUNet", "DynUNet", "SegResNet", "SwinUNETR", "UNETR", "UNet", "VNet")
)


# What networks were built from, for whoever writes them down again.
_BUILT: WeakKeyDictionary[torch.nn.Module, tuple[str, dict[str, Any]]] = WeakKeyDictionary()


def built_from(network: torch.nn.Module) -> tuple[str, dict[str, Any]] | None:
    """Return the class and the arguments that `build` made *network* of, if it is still what they give; else None."""
    import torch

    built = _BUILT.get(network)
    if built is None:
        return None
    with torch.device("meta"):
        again = _construct(*built)
    return built if _kinds(again) == _kinds(network) else None


def _kinds(network: torch.nn.Module) -> list[tuple[str, type]]:
    return [(name, type(module)) for name, module in network.named_modules()]


def build(name: str, arguments: dict[str, Any]) -> torch.nn.Module:
    """Return a network of the allow-listed class *name*, with the weights of its initialisation.

    Raises
    ------
    ModelError
        If the class is not allowed or refuses the arguments.
    """
    if name not in ARCHITECTURES:
        raise ModelError(
            f"architecture '{name}' is not one that Tessera rebuilds{nearest(name, ARCHITECTURES)} "
            f"(it knows {', '.join(ARCHITECTURES)})"
        )
    try:
        network = _construct(name, arguments)
    except (TypeError, ValueError, KeyError, AssertionError, NotImplementedError) as error:
        raise ModelError(f"architecture '{name}' cannot be built from {_short(arguments)}: {error}") from error
    except (RuntimeError, MemoryError) as error:
        if isinstance(error, RuntimeError) and "DefaultCPUAllocator: " not in str(error):
            raise ModelError(f"architecture '{name}' cannot be built from {_short(arguments)}: {error}") from error
        raise OutOfMemoryError(
            f"the host's memory did not suffice to build '{name}' from {_short(arguments)}"
        ) from error
    _BUILT[network] = (name, arguments)
    return network


def _short(arguments: dict[str, Any]) -> str:
    text = repr(arguments)
    return text if len(text) <= 200 else f"{text[:200]}..."


def _construct(name: str, arguments: dict[str, Any]) -> torch.nn.Module:
    import monai.networks.nets as nets

    network: torch.nn.Module = getattr(nets, name.removeprefix(f"{_MONAI}."))(**arguments)
    return network
