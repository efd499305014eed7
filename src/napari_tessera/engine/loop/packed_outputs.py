"""Networks that give several tensors, or ask where their windows lie: packed into one tensor for the engine."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from napari_tessera.core.errors import ModelError
from napari_tessera.engine.loop.network import margins_of, scores, with_margins

if TYPE_CHECKING:
    from napari_tessera.engine.geometry.grid import WindowGrid
    from napari_tessera.engine.loop.network import Window

__all__ = ["OutputPacker"]


class OutputPacker:
    """Calls a network as MONAI's inferers do and gives its tensors as the channels of one.

    Parameters
    ----------
    network, args, kwargs
        The network and what it is called with beside the windows.
    dtype
        What windows are cast to.
    slices_of
        Gives a window's slices, which the network wants as its second argument; None if it does not.
    condition
        (C, *spatial) on the CPU, padded, that is cut into the same windows; None if there is none.
    grid
        Where the windows lie.
    """

    needs_windows = True

    def __init__(
        self,
        network: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        *,
        dtype: torch.dtype,
        slices_of: Callable[[Window], list[slice]] | None,
        condition: torch.Tensor | None,
        grid: WindowGrid,
    ) -> None:
        self._network, self._args, self._kwargs = network, args, dict(kwargs)
        self._dtype, self._slices_of, self._condition, self._grid = dtype, slices_of, condition, grid
        self._names: tuple[Any, ...] | None = None
        self._is_sequence = False
        self._channels: tuple[int, ...] = ()

    def __call__(self, tensor: torch.Tensor, windows: Sequence[Window]) -> torch.Tensor:
        """Return all outputs for *tensor*, (B, C, *window), side by side as channels."""
        return self._pack(self._predict(tensor, windows))

    def _predict(self, tensor: torch.Tensor, windows: Sequence[Window]) -> Any:
        kwargs = dict(self._kwargs)
        if self._condition is not None:
            parts = [self._condition[(slice(None), *self._spatial(window))] for window in windows]
            kwargs["condition"] = torch.stack(parts).to(tensor.device, self._dtype)
        coordinates = () if self._slices_of is None else ([self._slices_of(window) for window in windows],)
        return self._network(tensor.to(self._dtype), *coordinates, *self._args, **kwargs)

    def _spatial(self, window: Window) -> tuple[slice, ...]:
        return tuple(slice(a, a + side) for a, side in zip(window.start, self._grid.window, strict=True))

    def _pack(self, output: Any) -> torch.Tensor:
        if isinstance(output, torch.Tensor):
            tensors = [output]
        elif isinstance(output, Mapping):
            self._names, tensors = tuple(output), list(output.values())
        else:
            self._is_sequence, tensors = True, list(output)
        tensors = [self._placed(tensor) for tensor in tensors]
        self._channels = tuple(tensor.shape[1] for tensor in tensors)
        return tensors[0] if len(tensors) == 1 else torch.cat([scores(tensor).float() for tensor in tensors], 1)

    def _placed(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return an output as large as its window: with zeros where the window's halo is not in it."""
        margins = margins_of(tensor.shape[2:], self._grid.window)
        if margins is not None and all(margin <= halo for margin, halo in zip(margins, self._grid.halo, strict=True)):
            return with_margins(tensor, margins)
        remedy = f"; if it leaves out what convolutions without padding do, say halo={margins}" if margins else ""
        raise ModelError(
            f"the network gave an output of {tuple(tensor.shape[2:])} voxels for a window of {self._grid.window}: "
            f"SlabInferer stitches outputs that are as large as their window{remedy}"
        )

    def unpack(self, stitched: torch.Tensor) -> Any:
        """Return *stitched*, (B, all channels, *spatial), in the structure that the network gave."""
        tensors = torch.split(stitched, list(self._channels), 1)
        if self._names is not None:
            return dict(zip(self._names, tensors, strict=True))
        # As MONAI: a sequence of one comes back as the tensor itself.
        return tuple(tensors) if self._is_sequence and len(tensors) > 1 else tensors[0]
