"""What stands around a network, between its axes and channels and Tessera's: made from a description, and written down.

Each kind is the class of one format, so that a packed model computes what the model of that format did.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from napari_tessera.core.errors import ModelError, nearest
from napari_tessera.engine.loop.several_outputs import ChosenOutput
from napari_tessera.models.formats.bioimageio.axes import InOrder
from napari_tessera.models.formats.bioimageio.postprocessing import OnLine
from napari_tessera.models.formats.connectomics.network import Head
from napari_tessera.models.formats.monai_bundle.monai_bundle_format import TurnedNetwork
from napari_tessera.models.formats.nnunet.network import Reordered
from napari_tessera.models.safety import allowed
from napari_tessera.models.spec.file import Channels, Line, Reorder, Tensor, Turn

if TYPE_CHECKING:
    from napari_tessera.models.spec.file import Adapter

_NUMBERS: dict[str, torch.dtype] = {
    name: getattr(torch, becomes.removeprefix("torch.")) for name, becomes in allowed.BIOIMAGEIO_NUMBERS.names.items()
}


def wrap(network: torch.nn.Module, around: Sequence[Adapter]) -> torch.nn.Module:
    """Return *network* within what stands *around* it, from the inside out."""
    for adapter in around:
        network = _made(network, adapter)
        network.training = False  # as the network within is, which may be a program that knows no such mode
    return network


def take_off(network: torch.nn.Module) -> tuple[torch.nn.Module, list[dict[str, Any]]]:
    """Return the network within all that stands around *network*, and what that is, from the inside out."""
    around: list[dict[str, Any]] = []
    while isinstance(network, ChosenOutput) or _written(network) is not None:
        if (found := _written(network)) is not None:  # of a chosen output a description speaks elsewhere
            around.insert(0, found)
        network = network.network  # type: ignore[assignment]
    return network, around


def _made(network: torch.nn.Module, adapter: Adapter) -> torch.nn.Module:
    match adapter:
        case Reorder():
            return Reordered(network, adapter.order)
        case Turn():
            return TurnedNetwork(network, adapter.axes)
        case Line():
            return OnLine(network, adapter.gain, adapter.offset)
        case Channels():
            return Head(network, adapter.kept, adapter.scales)
        case Tensor():
            numbers = _NUMBERS.get(adapter.numbers)
            if numbers is None:
                raise ModelError(
                    f"the network is given '{adapter.numbers[:40]}', which is no type of numbers"
                    f"{nearest(adapter.numbers, _NUMBERS)} (Tessera knows {', '.join(_NUMBERS)})"
                )
            return InOrder(network, adapter.axes_in, adapter.axes_out, one_by_one=adapter.one_by_one, dtype=numbers)


def _written(network: torch.nn.Module) -> dict[str, Any] | None:
    """Return the outermost adapter as a description has it; None if *network* is none."""
    match network:
        case Reordered():
            return {"do": "reorder", "order": list(network.order)}
        case TurnedNetwork():
            return {"do": "turn", "axes": network.order}
        case OnLine():
            return {"do": "line", "gain": network.gain.tolist(), "offset": network.offset.tolist()}
        case Head():
            return {"do": "channels", "kept": list(network.channels), "scales": list(network.scales)}
        case InOrder():
            name = next(name for name, numbers in _NUMBERS.items() if numbers == network.dtype)
            axes = {"axes_in": network.order_in, "axes_out": network.order_out}
            return {"do": "tensor", **axes, "numbers": name, "one_by_one": network.one_by_one}
    return None
