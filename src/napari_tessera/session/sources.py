"""From an image and the reading of its axes to volumes that a run can load, one by one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from napari_tessera.engine.source import ArraySource, Region, Source
from napari_tessera.jobs.plane_stack import load_in_stack
from napari_tessera.session.image_input import (
    AxisUse,
    ImageInput,
    Reading,
    channels_note,
    counts_planes,
    join_channels,
    read_axes,
)

if TYPE_CHECKING:
    from napari_tessera.models.spec.spec import ModelSpec

# Rec. 709, the weights of sRGB's primaries.
LUMINANCE = np.array([0.2126, 0.7152, 0.0722], np.float32)


@dataclass(frozen=True, slots=True, eq=False)
class VolumeInput:
    """One volume of a run: an image, or one frame of it."""

    image: ImageInput
    reading: Reading  # how its axes are read
    frame: tuple[int, ...]  # index along each axis that is read as T: time, for a 2D model also z; empty if none is
    in_channels: int  # that the model needs
    # Frames of all planes of the stack that it is cropped and normalised with, which lie along the last axis that is
    # read as T; empty where it is taken by itself.
    stack: tuple[Callable[[], Source], ...] = ()

    @property
    def shape(self) -> tuple[int, ...]:
        """Spatial shape, voxels."""
        return tuple(side for side, axis in zip(self.image.shape, self.reading.axes, strict=True) if axis in "ZYX")

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the values that `load` gives."""
        return np.dtype(np.float32) if _is_luminance(self.image, self.in_channels) else np.dtype(self.image.data.dtype)

    @property
    def voxel_size_um(self) -> tuple[float, ...] | None:
        """Micrometres along the spatial axes, or None where unknown."""
        plain = self.reading.axes.removesuffix("C") if self.image.rgb else self.reading.axes
        if len(self.image.voxel_size_um) != len(plain):
            return None
        sizes = [size for size, axis in zip(self.image.voxel_size_um, plain, strict=True) if axis in "ZYX"]
        return None if None in sizes else tuple(size for size in sizes if size is not None)

    @property
    def measured_frame(self) -> tuple[int, ...]:
        """Index of what is measured as one: the volume itself, or the stack that it is a plane of."""
        return self.frame[:-1] if self.stack else self.frame

    @property
    def measured_part(self) -> Any:
        """What of the image's data is measured as one: all, or a view of a frame or stack."""
        return _part(self.image, self.reading, self.measured_frame)

    def load(self) -> Source:
        """Return the volume for the engine; lazy arrays stay lazy where slicing them is."""
        if self.stack:
            return load_in_stack(self.stack, self.frame[-1])
        return _load(self.image, self.reading, self.in_channels, self.frame)


def _part(image: ImageInput, reading: Reading, frame: tuple[int, ...]) -> Any:
    if not frame:
        return image.data
    places = iter(frame)
    index = (next(places, slice(None)) if axis == "T" else slice(None) for axis in reading.axes)
    return image.data[tuple(index)]


def _load(image: ImageInput, reading: Reading, in_channels: int, frame: tuple[int, ...]) -> Source:
    data, axes = _part(image, reading, frame), reading.axes.replace("T", "")
    if _is_luminance(image, in_channels):
        return _LuminanceSource(data)
    if image.rgb:
        data = data[..., :in_channels]
    return ArraySource(data, channel_axis=axes.index("C") if "C" in axes else None)


def _is_luminance(image: ImageInput, in_channels: int) -> bool:
    return image.rgb and in_channels == 1


class _LuminanceSource(Source):
    """Colours, last, as one channel of brightness; computed for the region that is read."""

    def __init__(self, colours: Any) -> None:
        self._colours = colours

    @property
    def shape(self) -> tuple[int, ...]:
        """(1, *spatial)."""
        return (1, *(int(side) for side in self._colours.shape[:-1]))

    @property
    def dtype(self) -> np.dtype[Any]:
        """Float32."""
        return np.dtype(np.float32)

    def read(self, region: Region) -> npt.NDArray[Any]:
        """Return the voxels of the spatial *region*, (1, *region)."""
        colours = np.asarray(self._colours[(*region, slice(0, 3))])
        return np.asarray(colours @ LUMINANCE, np.float32)[np.newaxis]


def read_volumes(
    images: Sequence[ImageInput], spec: ModelSpec, use: AxisUse
) -> tuple[tuple[Reading, ...], tuple[VolumeInput, ...]]:
    """Return how *images* are read for a model, and the volumes that they make; several may be channels of one.

    Raises `InputError` if an image does not suit the model.
    """
    joined = join_channels(images, spec)
    taken = images if joined is None else (joined,)
    readings = tuple(read_axes(image, spec, use) for image in taken)
    volumes = [split_volumes(image, reading, spec) for image, reading in zip(taken, readings, strict=True)]
    if joined is not None:
        readings = (replace(readings[0], note=channels_note(images)),)
    return readings, tuple(chain(*volumes))


def split_volumes(image: ImageInput, reading: Reading, spec: ModelSpec) -> tuple[VolumeInput, ...]:
    """Return the volumes of *image*, frame by frame where it has a time axis, the last such axis fastest."""
    axes = [number for number, axis in enumerate(reading.axes) if axis == "T"]
    frames = list(np.ndindex(*(image.shape[axis] for axis in axes)))  # of no axis the one empty index
    if reading.use is AxisUse.CURRENT:
        frames = [tuple(_current(image, axis) for axis in axes)]
    together = spec.planes == "together" and bool(axes) and counts_planes(image, spec)
    if not together:
        return tuple(VolumeInput(image, reading, frame, spec.in_channels) for frame in frames)
    planes = range(image.shape[axes[-1]])
    stacks = {
        front: tuple(partial(_load, image, reading, spec.in_channels, (*front, plane)) for plane in planes)
        for front in dict.fromkeys(frame[:-1] for frame in frames)
    }
    return tuple(VolumeInput(image, reading, frame, spec.in_channels, stacks[frame[:-1]]) for frame in frames)


def _current(image: ImageInput, axis: int) -> int:
    return min(max(image.current[axis], 0), image.shape[axis] - 1) if axis < len(image.current) else 0
