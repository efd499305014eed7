"""One forward pass: the network's answer to a batch of windows, checked and as float32."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from napari_tessera.core.errors import ModelError, TesseraError
from napari_tessera.core.settings.choices import Precision
from napari_tessera.engine.loop.several_outputs import the_output

if TYPE_CHECKING:
    from napari_tessera.core.settings.views import View
    from napari_tessera.engine.devices.protocol import Device
    from napari_tessera.engine.loop.pass_check import FirstPassCheck
Network = Callable[..., Any]


class UnusableWeightsError(ModelError):
    """The network gives what is no number, and weights of it are none either."""


@dataclass(frozen=True, slots=True)
class Window:
    """One window of a run: where it lies, padded, and through which view it is seen where it sees only one."""

    start: tuple[int, ...]
    view: View


class Forward:
    """Calls the network with float32 (B, C, *window) on the device, and answers for what it gives.

    That is (B, C', *window), or several tensors of which one is that for sure (see `choose_output`). A network whose
    attribute ``needs_windows`` is true gets the windows as a second argument. *out_channels* None: as many as the first
    pass gives. *halo*: voxels per axis along each side of a window that the network may leave out of its output.
    """

    def __init__(
        self,
        network: Network,
        out_channels: int | None,
        window: Sequence[int],
        device: Device,
        halo: Sequence[int] | None = None,
        check: FirstPassCheck | None = None,
    ) -> None:
        self._network, self._device, self._check = network, device, check
        self._out_channels, self._window = out_channels, tuple(window)
        self._halo = tuple(halo or (0,) * len(self._window))
        self._probed: torch.Tensor | None = None
        self._contiguous = not device.channels_last
        self._needs_windows = getattr(network, "needs_windows", False)
        self._has_run = False

    def __call__(self, tensor: torch.Tensor, windows: Sequence[Window], *, looks: bool = True) -> torch.Tensor:
        """Return the network's output for *windows*, whose values are *tensor*, as float32 (B, C', *window).

        Raises
        ------
        ModelError
            If the network raises (kept as ``__cause__``), gives an output of another shape or of class numbers, or, in
            the first pass, what is no number because weights of it are none. A lack of memory is raised as it is.
        """
        if self._probed is not None:
            output, self._probed = self._probed, None
            if output.shape[0] == tensor.shape[0]:
                return output
        look = self._check.begin(self, tensor, windows) if self._check is not None and looks else None
        if self._contiguous:
            tensor = tensor.contiguous()
        # A network that flattens with `view` refuses channels that lie last in memory: it gets them first from now on.
        other = None if self._has_run or self._contiguous else tensor.clone(memory_format=torch.contiguous_format)
        while True:
            try:
                output = self._network(tensor, windows) if self._needs_windows else self._network(tensor)
                output = scores(the_output(output, out_channels=self._out_channels, window=self._window))
                break
            except Exception as error:
                lacks_memory = self._device.is_out_of_memory(error)
                if other is None or lacks_memory or not _is_about_layout(error):
                    if lacks_memory or isinstance(error, TesseraError):
                        raise
                    raise _failure(error, tensor) from error
            tensor, other, self._contiguous = other, None, True
        shape = tuple(tensor.shape)
        del tensor, other  # before the output is copied
        output = self._checked(output, shape)
        output = output.float()
        if look is not None:
            look(output)
        return output

    def probe(self, tensor: torch.Tensor, windows: Sequence[Window]) -> int:
        """Call the network for its number of channels; the output is kept for the first call, if that is as large."""
        self._probed = self(tensor, windows)
        return int(self._probed.shape[1])

    def _checked(self, output: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
        """Return the *output* for windows of *shape*, (B, C, *window), as large as they are."""
        if self._out_channels is None:
            self._out_channels = int(output.shape[1])
        expected = (shape[0], self._out_channels, *self._window)
        margins = margins_of(output.shape[2:], self._window)
        if margins is not None and all(margin <= halo for margin, halo in zip(margins, self._halo, strict=True)):
            output = with_margins(output, margins)
        if tuple(output.shape) != expected:
            raise ModelError(
                f"the network gave an output of shape {tuple(output.shape)} for an input of shape {shape}, but "
                f"{expected} was expected: check out_channels of the model's description"
            )
        if not self._has_run:
            _refuse_unusable(self._network, output)
        self._has_run = True
        return output


def _failure(error: Exception, tensor: torch.Tensor) -> ModelError:
    return ModelError(
        f"the network failed on an input of shape {tuple(tensor.shape)}: "
        f"{type(error).__name__}: {_last_line(error)}{precision_remedy(error)}"
    )


def _refuse_unusable(network: Network, output: torch.Tensor) -> None:
    """Raise if *output* has values that are no numbers because weights of *network* are none.

    Weights are looked at only then: reading them all beforehand would cost what mapping them into memory saves. Other
    reasons, such as a window without contrast that a network divides by, are the network's own and no error.
    """
    # A sum takes no memory beside the output, and is no number where any value is none.
    if math.isfinite(output.sum(dtype=torch.float32).item()):
        return
    for name, tensor in _iter_weights(network):
        if tensor.is_meta or not tensor.is_floating_point() or tensor.isfinite().all():
            continue
        kind = "NaN" if tensor.isnan().any() else "infinite values"
        raise UnusableWeightsError(
            f"the network gives values that are no numbers, as its weights '{name[:80]}' hold {kind}: training had "
            f"failed by then, so take an earlier checkpoint"
        )


def _iter_weights(network: Network) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield what a network has learned, by name; modules whose weights torch does not hold yield them themselves."""
    if not isinstance(network, torch.nn.Module):
        return
    yield from network.named_parameters()
    # Masks of attention are infinite for good reason, but what normalisation layers have counted is not.
    yield from ((name, tensor) for name, tensor in network.named_buffers() if "running_" in name)
    for module in network.modules():
        if (own := getattr(module, "iter_weights", None)) is not None:
            yield from own()


def _is_about_layout(error: Exception) -> bool:
    """Whether a network's error may come from where the channels lie; torch has no type of its own for it."""
    cause = error.__cause__ if isinstance(error, ModelError) else error
    return isinstance(cause, AssertionError) or (
        isinstance(cause, RuntimeError) and ("view size is not compatible" in str(cause) or "contiguous" in str(cause))
    )


def _last_line(error: BaseException) -> str:
    """Return what *error* comes down to: TorchScript puts its traceback before it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1].removeprefix(f"{type(error).__name__}: ") if lines else "no more is known"


def precision_remedy(error: BaseException) -> str:
    """Return what to do about weights of another type than the windows; torch has no type of its own for that."""
    for name, precision in (("BFloat16", Precision.BFLOAT16), ("Half", Precision.FLOAT16)):
        if name in _last_line(error):
            return f"; it holds weights of {precision}: choose precision {precision} (--precision {precision})"
    if "double" in _last_line(error).lower():
        return "; it holds weights of float64, and windows are float32: save it again after network.float()"
    return ""


def scores(output: torch.Tensor) -> torch.Tensor:
    """Return *output* if it holds scores; raise `ModelError` for class numbers, masks or complex numbers."""
    if output.is_floating_point():
        return output
    kind = str(output.dtype).removeprefix("torch.")
    raise no_scores(f"{kind}, such as class numbers or a mask")


def no_scores(found: str) -> ModelError:
    """Return the error of a network that gives *found* where scores are averaged."""
    return ModelError(
        f"the network gives {found}, of which overlapping windows have no average: let it give a floating-point score "
        f"for each class, without the arg-max or the threshold at its end"
    )


def margins_of(shape: Sequence[int], window: Sequence[int]) -> tuple[int, ...] | None:
    """Return how much smaller an output of *shape* is than its *window* along each side, voxels per axis.

    None if it is larger, or not smaller by as much on both sides: nobody knows then where in the window it lies.
    """
    if len(shape) != len(window):
        return None
    missing = [side - found for side, found in zip(window, shape, strict=True)]
    if any(each < 0 or each % 2 for each in missing):
        return None
    return tuple(each // 2 for each in missing)


def with_margins(output: torch.Tensor, margins: Sequence[int]) -> torch.Tensor:
    """Return *output*, (B, C, *spatial), with so many zeros along each side of every axis; itself for none."""
    sides = [margin for each in reversed(margins) for margin in (each, each)]
    return torch.nn.functional.pad(output, sides) if any(sides) else output
