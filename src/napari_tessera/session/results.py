"""What a run made of one image: labels, probabilities, and where they come from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from napari_tessera.decode.classes import LabelClass, label_classes, makes_classes
from napari_tessera.engine.loop.events import MemoryRecovered, Noticed
from napari_tessera.jobs.result_stack import ResultStack

if TYPE_CHECKING:
    from napari_tessera.decode import Decoder
    from napari_tessera.models.spec.spec import ModelSpec
    from napari_tessera.session.image_input import ImageInput
    from napari_tessera.session.sources import VolumeInput

Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True, eq=False)
class ImageResult:
    """The result of one image, ready to become layers."""

    image: ImageInput  # what it was made of, as it was when the run started
    axes: tuple[int, ...]  # the image's axes (colours not counted) that the result has, ascending
    labels: Array | None  # integers, one dimension for each of *axes*
    probabilities: tuple[Array, ...]  # one array per channel, each as the labels; empty if not wanted
    channel_names: tuple[str, ...]
    classes: tuple[LabelClass, ...]  # what the labels stand for; empty where they are objects
    frame: tuple[int, ...]  # an index for each axis that runs frame by frame, if it is only one frame; else empty
    # Different labels other than 0: objects of all frames, which have numbers of their own in each, or classes.
    objects: int
    final: bool  # False while more of it is to come, into the same arrays
    complete: bool  # False while anything is missing, for good when the run was cut short: what was not reached is 0
    provenance: Mapping[str, Any]  # settings and origin, of anything that JSON can hold


class ImageResults:
    """Makes results of one image of what its *frames* volumes give, of which *volume* is the first.

    `stack` is what has come of them, with the axes in front that run frame by frame.
    """

    def __init__(self, volume: VolumeInput, frames: int, spec: ModelSpec, decoder: Decoder | None = None) -> None:
        self.volume, self.image = volume, volume.image
        self._spec, self._decoder = spec, decoder
        sides = zip(self.image.shape, volume.reading.axes, strict=True)
        in_image = tuple(side for side, axis in sides if axis == "T")
        self._has_frames = bool(in_image) and frames == prod(in_image)
        has_classes = decoder is not None and makes_classes(decoder.name)
        counts: Literal["objects", "classes"] = "classes" if has_classes else "objects"
        self.stack = ResultStack(in_image if self._has_frames else (), counts)

    def promise(self, *, labels: bool, probabilities: str | None) -> ImageResult:
        """Return a result of the shape to come, with nothing in it; *probabilities*: their type, None for none."""
        stack, shape = self.stack, self.volume.shape
        if labels:
            stack.labels = np.zeros((*stack.lengths, *shape), np.uint8)
        if probabilities is not None:
            stack.probabilities = np.zeros((*stack.lengths, self._spec.out_channels, *shape), probabilities)
        return self.result({}, (), final=False)

    def result(
        self, origin: Mapping[str, Any], told: Sequence[MemoryRecovered | Noticed], *, final: bool
    ) -> ImageResult:
        """Return the result of what has been added, or with *final* of all that ever will be.

        *origin* is known of it before the run; *told* is what the run has told that its user will want to know later.
        """
        frame = () if self._has_frames else self.volume.frame
        extra: dict[str, Any] = {"source": self.image.name, "complete": self.stack.is_complete}
        extra["voxel_size_um"] = self.volume.voxel_size_um or "unknown"
        extra |= {"frame": frame[0] if len(frame) == 1 else list(frame)} if frame else {}
        classes = () if self._decoder is None else label_classes(self._spec, self._decoder)
        labels = self.stack.labels
        if classes and labels is not None:
            extra["classes"] = [each.to_dict() for each in classes]
        if recoveries := [event for event in told if isinstance(event, MemoryRecovered)]:
            extra["memory_recoveries"] = [
                {"volume": r.volume, "failed_pass": r.failed_pass, "went_on_with": r.remedy}
                | {"sw_batch_size": r.sw_batch_size}
                for r in recoveries
            ]
        if noticed := [event.sentence for event in told if isinstance(event, Noticed)]:
            extra["noticed"] = list(dict.fromkeys(noticed))
        return ImageResult(
            image=self.image,
            axes=self._axes(),
            labels=None if labels is None else self._in_image_order(labels),
            probabilities=tuple(map(self._in_image_order, self._channels())),
            channel_names=_channel_names(self._spec),
            classes=classes,
            frame=frame,
            objects=self.stack.count,
            final=final,
            complete=self.stack.is_complete,
            provenance={**origin, **extra},
        )

    def _axes(self) -> tuple[int, ...]:
        kept = "TZYX" if self._has_frames else "ZYX"
        return tuple(i for i, axis in enumerate(self.volume.reading.axes) if axis in kept)

    def _in_image_order(self, values: Array) -> Array:
        """Return *values*, frames first, with their axes as the image has them; a view."""
        reading, kept = self.volume.reading.axes, self._axes()
        frames_first = sorted(kept, key=lambda axis: reading[axis] != "T")
        return values.transpose([frames_first.index(axis) for axis in kept])

    def _channels(self) -> tuple[Array, ...]:
        found = self.stack.probabilities
        return () if found is None else tuple(np.moveaxis(found, len(self.stack.lengths), 0))


def _channel_names(spec: ModelSpec) -> tuple[str, ...]:
    if len(spec.classes) == spec.out_channels:
        return spec.classes
    if spec.output.offsets:
        return tuple(f"affinity {' '.join(map(str, offset))}" for offset in spec.output.offsets)
    return tuple(f"channel {number}" for number in range(spec.out_channels))
