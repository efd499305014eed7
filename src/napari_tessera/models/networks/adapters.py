"""What stands around a network, between its axes and channels and the image's: made from a description, and written."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from napari_tessera.core.errors import ModelError, nearest
from napari_tessera.engine.loop.forward import scores
from napari_tessera.engine.loop.several_outputs import ChosenOutput, score_outputs, the_output
from napari_tessera.models.safety import allowed
from napari_tessera.models.spec.model_file import Adapter, Channels, Line, Reorder, Tensor, Turn

_NUMBERS: dict[str, torch.dtype] = {
    name: getattr(torch, becomes.removeprefix("torch.")) for name, becomes in allowed.BIOIMAGEIO_NUMBERS.names.items()
}


class AxesInOrder(torch.nn.Module):
    """Calls a network whose tensors have other axes, a letter each of b, c, z, y, x, or another number type.

    It may give several tensors of which one is the result for sure. *one_by_one*: it is given one window at a time.
    *dtype*: what it is given, and float32 is what it gives then; None: both as they come.
    """

    def __init__(
        self,
        network: torch.nn.Module,
        order_in: str,
        order_out: str,
        *,
        one_by_one: bool = False,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.training = False  # as the network within is, which may be a program that knows no such mode
        self.network = network
        self.order_in, self.order_out, self.one_by_one, self.dtype = order_in, order_out, one_by_one, dtype
        self._plain = "bc" + "".join(axis for axis in "zyx" if axis in order_in)

    @classmethod
    def turned(cls, network: torch.nn.Module, axes: str) -> AxesInOrder:
        """Return *network*, whose spatial axes are *axes*, such as ``xyz``, for windows in image order."""
        return cls(network, f"bc{axes}", f"bc{axes}")

    def forward(self, windows: torch.Tensor) -> torch.Tensor:
        """Return the output, (B, C', *window), for *windows*, (B, C, *window)."""
        if self.one_by_one and len(windows) > 1:
            return torch.cat([self._call(window[None]) for window in windows])
        return self._call(windows)

    def _call(self, windows: torch.Tensor) -> torch.Tensor:
        given, sides = self._plain, windows.shape[2:]
        if "c" not in self.order_in:
            windows, given = windows.squeeze(1), given.replace("c", "")
        windows = windows.permute([given.index(axis) for axis in self.order_in])
        windows = windows if self.dtype is None else windows.to(self.dtype)
        found = score_outputs(self.network(windows.contiguous()))
        turned = {name: self._turned(output) for name, output in found.items() if output.dim() == len(self.order_out)}
        output = scores(the_output(turned or found, out_channels=None, window=sides))
        return output if self.dtype is None else output.float()

    def _turned(self, output: torch.Tensor) -> torch.Tensor:
        got = self.order_out
        output = output.permute([got.index(axis) for axis in self._plain if axis in got])
        return output if "c" in got else output.unsqueeze(1)


class ChannelLines(torch.nn.Module):
    """A network whose output is ``x * gain + offset`` of the channels *kept*, one of each for every one of these."""

    gain: torch.Tensor
    offset: torch.Tensor

    def __init__(
        self,
        network: torch.nn.Module,
        gain: Sequence[float],
        offset: Sequence[float] | None = None,
        *,
        kept: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        self.training = False
        self.network, self.kept = network, None if kept is None else list(kept)
        self.register_buffer("gain", torch.tensor(tuple(gain)))
        self.register_buffer("offset", torch.zeros(len(gain)) if offset is None else torch.tensor(tuple(offset)))
        self.is_same = {*gain} == {1.0} and {*(offset or (0.0,))} == {0.0}

    def forward(self, windows: torch.Tensor) -> torch.Tensor:
        """Return the output, (B, C', *window)."""
        output: torch.Tensor = self.network(windows)
        output = output if self.kept is None else output[:, self.kept]
        if self.is_same:
            return output
        shape = (-1,) + (1,) * (output.ndim - 2)
        return output * self.gain.view(shape) + self.offset.view(shape)


def wrap(network: torch.nn.Module, around: Sequence[Adapter]) -> torch.nn.Module:
    """Return *network* within what stands *around* it, from the inside out."""
    for adapter in around:
        network = _made(network, adapter)
    return network


def take_off(network: torch.nn.Module) -> tuple[torch.nn.Module, list[dict[str, Any]]]:
    """Return the network within all that stands around *network*, and what that is, from the inside out."""
    around: list[dict[str, Any]] = []
    while isinstance(network, ChosenOutput | AxesInOrder | ChannelLines):
        if not isinstance(network, ChosenOutput):  # of which a description speaks elsewhere
            around = [*_written(network), *around]
        network = network.network
    return network, around


def _made(network: torch.nn.Module, adapter: Adapter) -> torch.nn.Module:
    match adapter:
        case Reorder():
            axes = "zyx"[-len(adapter.order) :]
            return AxesInOrder.turned(network, "".join(axes[axis] for axis in adapter.order))
        case Turn():
            return AxesInOrder.turned(network, adapter.axes)
        case Line():
            return ChannelLines(network, adapter.gain, adapter.offset)
        case Channels():
            return ChannelLines(network, adapter.scales, kept=adapter.kept)
        case Tensor():
            numbers = _NUMBERS.get(adapter.numbers)
            if numbers is None:
                raise ModelError(
                    f"the network is given '{adapter.numbers[:40]}', which is no type of numbers"
                    f"{nearest(adapter.numbers, _NUMBERS)} (Tessera knows {', '.join(_NUMBERS)})"
                )
            return AxesInOrder(network, adapter.axes_in, adapter.axes_out, one_by_one=adapter.one_by_one, dtype=numbers)


def _written(network: AxesInOrder | ChannelLines) -> list[dict[str, Any]]:
    if isinstance(network, ChannelLines):
        if network.kept is not None:
            return [{"do": "channels", "kept": network.kept, "scales": network.gain.tolist()}]
        return [{"do": "line", "gain": network.gain.tolist(), "offset": network.offset.tolist()}]
    if network.dtype is None:
        return [{"do": "turn", "axes": network.order_in.removeprefix("bc")}]
    name = next(name for name, numbers in _NUMBERS.items() if numbers == network.dtype)
    axes = {"axes_in": network.order_in, "axes_out": network.order_out}
    return [{"do": "tensor", **axes, "numbers": name, "one_by_one": network.one_by_one}]
