"""What the viewer shows, as the session takes it: an array, and how its axes are to be read."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import partial
from math import prod
from typing import TYPE_CHECKING, Any

from napari_tessera.core.errors import InputError
from napari_tessera.core.units import axis_letter, format_sides
from napari_tessera.engine.source import check_numbers

if TYPE_CHECKING:
    from napari_tessera.models.spec.spec import ModelSpec

_RGB_CHANNELS = (3, 4)


class AxisUse(StrEnum):
    """What an axis in front of the spatial ones counts."""

    AUTO = "auto"
    FRAMES = "frames"
    CURRENT = "current"
    CHANNELS = "channels"


@dataclass(frozen=True, slots=True, eq=False)
class ImageInput:
    """One image, captured from the viewer; later changes there do not reach it."""

    name: str  # the layer's
    data: Any  # full resolution: anything with shape, dtype and slicing; not copied, the viewer owns it
    axis_labels: tuple[str, ...] = ()  # without the axis of colours
    rgb: bool = False  # whether the last axis holds colours, or images that were joined as channels
    voxel_size_um: tuple[float | None, ...] = ()  # along every axis but the colours; None: no known length
    current: tuple[int, ...] = ()  # where the viewer's sliders stand along these axes, in voxels
    view: Any = None  # what the viewer needs to place the result; the session does not look at it

    @property
    def shape(self) -> tuple[int, ...]:
        """Lengths of all axes, colours included."""
        return tuple(int(side) for side in self.data.shape)

    @property
    def plain_shape(self) -> tuple[int, ...]:
        """Lengths of the axes without the colours."""
        return self.shape[:-1] if self.rgb else self.shape


@dataclass(frozen=True, slots=True)
class Reading:
    """How an image's axes are read for a model."""

    # One letter of TCZYX for each axis of the data, in its order. T is for every axis whose entries run one by one: for
    # a 2D model that is z, too, or whichever its planes lie along; Y and X are then the other two.
    axes: str
    use: AxisUse | None = None  # what the axes in front count; None where there is no choice
    note: str = ""  # what is done to the colours, and whether planes run one by one, for the user


def axis_uses(image: ImageInput, spec: ModelSpec) -> tuple[AxisUse, ...]:
    """Return what the axes in front may count; empty where there is no choice."""
    if _read_planes(image, spec):
        return (AxisUse.FRAMES, AxisUse.CURRENT)
    if len(image.plain_shape) != spec.spatial_dims + 1:
        return ()
    counts_channels = not image.rgb and image.shape[0] == spec.in_channels
    if counts_channels and spec.in_channels > 1:
        return (AxisUse.CHANNELS,)
    return (AxisUse.FRAMES, AxisUse.CURRENT, *((AxisUse.CHANNELS,) if counts_channels else ()))


def counts_planes(image: ImageInput, spec: ModelSpec) -> bool:
    """Whether z is in front of the axes of a 2D model, for all that the image says, and not time alone."""
    if spec.spatial_dims != 2:
        return False
    if front := _read_planes(image, spec):
        return front.count("T") > 1 or _label(image, front.index("T")) != "T"
    return len(image.plain_shape) == 3 and _label(image, 0) != "T"


def count_in_front(image: ImageInput, spec: ModelSpec) -> int:
    """Return how many frames, planes or channels the axes in front count, where `axis_uses` has a choice."""
    axes = (_read_planes(image, spec) or "T") + "ZYX"[-spec.spatial_dims :]
    if counts_planes(image, spec):
        axes = _with_planes_along(axes, spec)
    return prod(side for side, axis in zip(image.shape, axes, strict=False) if axis == "T")


def read_axes(image: ImageInput, spec: ModelSpec, use: AxisUse = AxisUse.AUTO) -> Reading:
    """Return how *image* is read for a model; `InputError` if its axes or channels do not suit.

    The last axes are the spatial ones, as many as the model has. One more axis in front counts channels where its
    label or its length says so, else frames; of a stack and a 2D model these are planes, which run one by one. So do
    all planes of a time series of stacks.
    """
    shape, dims = image.plain_shape, spec.spatial_dims
    if 0 in image.shape or not shape:
        raise InputError(f"'{image.name}' is empty: its shape is {image.shape}")
    extra = len(shape) - dims
    if extra < 0:
        raise InputError(
            f"'{image.name}' is {len(shape)}D ({format_sides(shape)}), but the model '{spec.name}' is {dims}D: "
            f"choose a stack, or a {len(shape)}D model"
        )
    check_numbers(image.data.dtype)
    _check_spatial_labels(image, extra)
    series = _read_series(image, spec)
    if not series and extra > (1 if image.rgb else 2):
        raise InputError(
            f"'{image.name}' has {len(image.shape)} axes ({format_sides(image.shape)}), more than the model "
            f"'{spec.name}' and a time axis need: slice it into layers of fewer axes"
        )
    note = _check_colours(image, spec) if image.rgb else ""
    front, chosen = _read_front(image, spec, use, extra)
    if chosen is AxisUse.FRAMES and counts_planes(image, spec):
        from napari_tessera.jobs.plane_stack import (
            how_planes_run,  # with readers of files, which a summary has no need of
        )

        by_planes = f"the {count_in_front(image, spec)} planes run {how_planes_run(spec)}, as the model is 2D"
        note = f"{note}; {by_planes}" if note else by_planes
    if "C" not in front and not image.rgb and spec.in_channels != 1:
        raise InputError(
            f"'{image.name}' has 1 channel, but the model '{spec.name}' needs {spec.in_channels}: "
            f"choose an image with a channel axis of that length in front, or a layer for each channel"
        )
    axes = front + "ZYX"[-dims:]
    if "T" in front and counts_planes(image, spec):
        axes = _with_planes_along(axes, spec)
    return Reading(axes + ("C" if image.rgb else ""), chosen, note)


def _with_planes_along(axes: str, spec: ModelSpec) -> str:
    """Return *axes*, whose last T counts planes along z, with that T where the model's planes lie along."""
    spatial = [axes.rindex("T"), axes.index("Y"), axes.index("X")]
    letters = dict(enumerate(axes)) | dict(zip(spatial, spec.of_stack("T", "YX"), strict=True))
    return "".join(letters[place] for place in range(len(axes)))


def join_channels(images: Sequence[ImageInput], spec: ModelSpec) -> ImageInput | None:
    """Return *images* as the channels of one, in their order, where there is one for each that the model needs.

    None where they are images of their own: another number of them, or with channels already. Raises `InputError` if
    their shapes or voxel sizes differ.
    """
    if len(images) < 2 or len(images) != spec.in_channels or any(map(partial(_has_channels, spec=spec), images)):
        return None
    from napari_tessera.images.channel_stack import (
        ChannelStack,  # with readers of files, which a summary has no need of
    )

    first = images[0]
    if any(image.voxel_size_um != first.voxel_size_um for image in images):
        raise InputError(
            f"{', '.join(repr(image.name) for image in images)} have different voxel sizes, so they are no channels of "
            "one image"
        )
    data = ChannelStack([image.data for image in images], axis=-1)
    return replace(first, name=" + ".join(image.name for image in images), data=data, rgb=True)


def channels_note(images: Sequence[ImageInput]) -> str:
    """Return what to tell about images that are taken as the channels of one."""
    return f"{len(images)} layers as the channels of one image: {', '.join(image.name for image in images)}"


def _has_channels(image: ImageInput, spec: ModelSpec) -> bool:
    if image.rgb:
        return True
    with suppress(InputError):
        return "C" in read_axes(image, spec).axes
    return False


def _check_spatial_labels(image: ImageInput, extra: int) -> None:
    """Refuse an image whose planes are frames or channels by its labels: they would be run as z without a word."""
    for axis in range(extra, len(image.plain_shape)):
        if (letter := _label(image, axis)) in ("T", "C"):
            kind = {"T": "frames", "C": "channels"}[letter]
            raise InputError(
                f"'{image.name}' has {image.shape[axis]} {kind} of single planes, for all that its labels say, but the "
                f"model is 3D: if they are the planes of a stack, label that axis z (double-click its name beside the "
                f"slider)"
            )


def _read_front(image: ImageInput, spec: ModelSpec, use: AxisUse, extra: int) -> tuple[str, AxisUse | None]:
    if extra == 0:
        return "", None
    if planes := _read_planes(image, spec):
        return planes, AxisUse.CURRENT if use is AxisUse.CURRENT else AxisUse.FRAMES
    if extra == 2:
        return _read_two(image, spec), None
    possible, label = axis_uses(image, spec), _label(image, 0)
    if use in possible:
        return ("C" if use is AxisUse.CHANNELS else "T"), use
    if AxisUse.CHANNELS in possible and (label == "C" or len(possible) == 1):
        return "C", AxisUse.CHANNELS
    if label == "C":
        raise InputError(
            f"'{image.name}' has {image.shape[0]} channels, but the model '{spec.name}' needs {spec.in_channels}: "
            f"split its channels into layers (right click, Split Stack) and choose one"
        )
    return "T", AxisUse.FRAMES


def _read_planes(image: ImageInput, spec: ModelSpec) -> str:
    """Return how the axes in front are read of a time series of stacks, or of planes with channels; else nothing."""
    if series := _read_series(image, spec):
        return series
    extra = len(image.plain_shape) - spec.spatial_dims
    if spec.spatial_dims != 2 or extra != 2 or image.rgb:
        return ""
    with suppress(InputError):
        return _read_two(image, spec)
    return ""


def _read_series(image: ImageInput, spec: ModelSpec) -> str:
    """Return how the axes in front of a time series of stacks are read for a 2D model; nothing if it is none."""
    extra = len(image.plain_shape) - spec.spatial_dims
    if spec.spatial_dims != 2 or extra not in (2, 3):
        return ""
    labels = [_label(image, axis) for axis in range(extra)]
    fits = [axis for axis in range(extra) if image.shape[axis] == spec.in_channels and labels[axis] in ("", "C")]
    channels = [axis for axis in fits if labels[axis] == "C"] or fits
    if image.rgb or extra == 2:
        counts_channels = "C" in labels or (bool(channels) and not image.rgb) or extra == 3
        suits = image.rgb or spec.in_channels == 1
        return "TT" if suits and not counts_channels else ""
    return "".join("C" if axis == channels[0] else "T" for axis in range(extra)) if len(channels) == 1 else ""


def _read_two(image: ImageInput, spec: ModelSpec) -> str:
    """Read two axes in front as time and channels, in the order that labels and lengths say."""
    first, second = image.shape[:2]
    if spec.in_channels == second and _label(image, 0) != "C":
        return "TC"
    if spec.in_channels == first and _label(image, 1) != "C":
        return "CT"
    raise InputError(
        f"'{image.name}' has {len(image.shape)} axes ({format_sides(image.shape)}), but none of the first two has "
        f"{spec.in_channels} channel(s) for the model '{spec.name}': split its channels into layers and choose one"
    )


def _check_colours(image: ImageInput, spec: ModelSpec) -> str:
    """Return what is done to the colours, or raise `InputError` if the model has no use for them."""
    colours = image.shape[-1]
    if spec.in_channels == colours:
        return ""
    if spec.in_channels == 3 and colours in _RGB_CHANNELS:
        return "the transparency is left out"
    if spec.in_channels == 1 and colours in _RGB_CHANNELS:
        return "colours become luminance"
    raise InputError(
        f"'{image.name}' has {colours} colour channels, but the model '{spec.name}' needs {spec.in_channels}: "
        f"choose an image with the channels it was trained on"
    )


def _label(image: ImageInput, axis: int) -> str:
    """Return T, C or Z where the viewer's label of *axis* says so, else nothing."""
    labels = image.axis_labels
    letter = axis_letter(labels[axis]) if axis < len(labels) else ""
    return letter if letter in "TCZ" else ""
