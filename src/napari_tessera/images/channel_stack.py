"""Channels of an image that lie apart, as one array: chosen from a file, or joined from several."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from napari_tessera.core.errors import InputError

if TYPE_CHECKING:
    from napari_tessera.images.volume import Volume

__all__ = ["ChannelStack", "join_volumes", "pick_channels"]


class ChannelStack:
    """Arrays of one shape as the channels of an array, along *axis*; lazy ones stay lazy until values are asked for."""

    def __init__(self, layers: Sequence[Any], axis: int = 0) -> None:
        shapes = {tuple(layer.shape) for layer in layers}
        if len(shapes) != 1:
            found = ", ".join(str(tuple(layer.shape)) for layer in layers)
            raise InputError(f"the channels have the shapes {found}: channels of one image are of one shape")
        self._layers, (shape,) = tuple(layers), shapes
        self._axis = axis % (len(shape) + 1)
        self.shape = (*shape[: self._axis], len(self._layers), *shape[self._axis :])
        self.dtype = np.result_type(*(layer.dtype for layer in layers))

    @property
    def ndim(self) -> int:
        """Number of dimensions."""
        return len(self.shape)

    @property
    def chunks(self) -> tuple[Any, ...] | None:
        """Those of the first channel, one channel at a time; None where it names none."""
        sides = getattr(self._layers[0], "chunks", None)
        if sides is None:
            return None
        return (*sides[: self._axis], 1, *sides[self._axis :])

    def __getitem__(self, key: Any, /) -> Any:
        places = key if isinstance(key, tuple) else (key,)
        if Ellipsis in places:
            at = places.index(Ellipsis)
            places = (*places[:at], *(slice(None),) * (self.ndim - len(places) + 1), *places[at + 1 :])
        places += (slice(None),) * (self.ndim - len(places))
        channel, rest = places[self._axis], (*places[: self._axis], *places[self._axis + 1 :])
        if not isinstance(channel, slice):
            return self._layers[channel][rest]
        axis = sum(isinstance(place, slice) for place in places[: self._axis])  # a whole number takes its axis away
        return ChannelStack([layer[rest] for layer in self._layers[channel]], axis)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> npt.NDArray[Any]:
        values = np.stack([np.asarray(layer, self.dtype) for layer in self._layers], self._axis)
        return values if dtype is None else values.astype(dtype, copy=False)


def pick_channels(data: Any, axis: int | None, channels: Sequence[int]) -> ChannelStack:
    """Return the *channels* of *data*, counted from 0, in their order, along the same *axis*.

    Where that is None there is one, and the first axis of the result counts it. Raises `InputError` if there is no such
    channel.
    """
    there = 1 if axis is None else int(data.shape[axis])
    wrong = [channel for channel in channels if not 0 <= channel < there]
    if wrong or not channels:
        raise InputError(
            f"there is no channel {', '.join(map(str, wrong)) or 'chosen'}: the image has {there}, counted from 0 to "
            f"{there - 1}"
        )
    if axis is None:
        return ChannelStack([data for _ in channels])
    before = (slice(None),) * axis
    return ChannelStack([data[(*before, channel)] for channel in channels], axis)


def join_volumes(volumes: Sequence[Volume], name: str) -> Volume:
    """Return *volumes* of one channel each as the channels of one, in their order; refuses those that differ."""
    first = volumes[0]
    for other in volumes:
        if "C" in other.axes:
            raise InputError(f"'{other.name}' has channels of its own, so it cannot be one of those of '{name}'")
        if (other.axes, other.shape) != (first.axes, first.shape) or not _agree(other, first):
            raise InputError(
                f"'{other.name}' and '{first.name}' are no channels of one image: they are {other.axes} {other.shape} "
                f"of {other.voxel_size_um} µm and {first.axes} {first.shape} of {first.voxel_size_um} µm"
            )
    axis = int("T" in first.axes)
    return replace(
        first,
        data=ChannelStack([volume.data for volume in volumes], axis),
        axes=f"{first.axes[:axis]}C{first.axes[axis:]}",
        name=name,
        notes=(
            f"{', '.join(repr(volume.name) for volume in volumes)} are the channels of one image, '{name}'",
            *(note for volume in volumes for note in volume.notes),
        ),
    )


def _agree(one: Volume, other: Volume) -> bool:
    if one.voxel_size_um is None or other.voxel_size_um is None:
        return one.voxel_size_um is other.voxel_size_um
    return np.allclose(one.voxel_size_um, other.voxel_size_um, rtol=1e-3, atol=0)
