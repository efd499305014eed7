"""What a run made of one image: labels, probabilities, and where they come from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from napari_tessera.decode.classes import LabelClass, label_classes, makes_classes
from napari_tessera.engine.loop.events import MemoryRecovered, Noticed

if TYPE_CHECKING:
    from napari_tessera.decode import Decoder
    from napari_tessera.jobs.pipeline import VolumeResult
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


@dataclass(slots=True, eq=False)
class ResultStack:
    """Collects the volumes of one image; axes that run frame by frame are put together again.

    Parameters
    ----------
    volume
        The first of them.
    frames
        How many there are.
    spec
        The model.
    decoder
        What makes the labels; None where there are none.
    """

    volume: VolumeInput
    frames: int
    spec: ModelSpec
    decoder: Decoder | None = None
    _labels: Array | None = field(default=None, init=False)
    _probabilities: Array | None = field(default=None, init=False)
    _found: list[Array] = field(default_factory=list, init=False)
    _added: int = field(default=0, init=False)
    _complete: bool = field(default=True, init=False)
    _planes: int = field(default=0, init=False)

    @property
    def image(self) -> ImageInput:
        """The image."""
        return self.volume.image

    @property
    def is_full(self) -> bool:
        """Whether every volume is there, finished or cut short."""
        return self._added == self.frames

    @property
    def has_content(self) -> bool:
        """Whether any plane was finished."""
        return self._planes > 0

    def promise(self, *, labels: bool, probabilities: str | None) -> ImageResult:
        """Return a result of the shape to come, with nothing in it; *probabilities*: their type, None for none."""
        frames = self._frames_in_image if self._has_frames else ()
        shape = self.volume.shape
        if labels:
            self._labels = np.zeros((*frames, *shape), np.uint8)
        if probabilities is not None:
            self._probabilities = np.zeros((*frames, self.spec.out_channels, *shape), probabilities)
        return self.result({}, (), final=False)

    def add(self, result: VolumeResult) -> None:
        """Add the next volume's result."""
        if result.labels is not None:
            self._labels = self._put(self._labels, result.labels)
            self._found.append(_find_labels(result.labels))
        if result.probabilities is not None:
            self._probabilities = self._put(self._probabilities, result.probabilities)
        self._added += 1
        self._planes += result.finished_planes
        self._complete &= result.complete

    def _put(self, stack: Array | None, values: Array) -> Array:
        if not self._has_frames:
            return values
        if stack is None:
            stack = np.zeros((*self._frames_in_image, *values.shape), values.dtype)
        elif not np.can_cast(values.dtype, stack.dtype):
            stack = stack.astype(np.promote_types(values.dtype, stack.dtype))
        stack[np.unravel_index(self._added, self._frames_in_image)] = values
        return stack

    @property
    def _has_frames(self) -> bool:
        """Whether the result has the image's axes that run frame by frame."""
        return bool(self._frames_in_image) and self.frames == prod(self._frames_in_image)

    @property
    def _frames_in_image(self) -> tuple[int, ...]:
        """How many frames the image has along each of those axes."""
        sides = zip(self.image.shape, self.volume.reading.axes, strict=True)
        return tuple(side for side, axis in sides if axis == "T")

    def result(
        self, origin: Mapping[str, Any], told: Sequence[MemoryRecovered | Noticed], *, final: bool
    ) -> ImageResult:
        """Return the result of what has been added; *final*: nothing will be added to it any more.

        Parameters
        ----------
        origin
            What is known of it before the run.
        told
            What the run has told until now that its user will want to know later.
        final
            Whether this is the last of it.
        """
        complete = self._complete and self.is_full
        frame = () if self._has_frames else self.volume.frame
        extra: dict[str, Any] = {"source": self.image.name, "complete": complete}
        extra["voxel_size_um"] = self.volume.voxel_size_um or "unknown"
        extra |= {"frame": frame[0] if len(frame) == 1 else list(frame)} if frame else {}
        classes = self._classes()
        if classes and self._labels is not None:
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
            labels=None if self._labels is None else self._in_image_order(self._labels),
            probabilities=tuple(map(self._in_image_order, self._channels())),
            channel_names=_channel_names(self.spec),
            classes=classes,
            frame=frame,
            objects=self._count(),
            final=final,
            complete=complete,
            provenance={**origin, **extra},
        )

    def _classes(self) -> tuple[LabelClass, ...]:
        return () if self.decoder is None else label_classes(self.spec, self.decoder)

    def _count(self) -> int:
        if self.decoder is not None and makes_classes(self.decoder.name):
            return len(set().union(*(found.tolist() for found in self._found)))
        return sum(len(found) for found in self._found)

    def _axes(self) -> tuple[int, ...]:
        kept = "TZYX" if self._has_frames else "ZYX"
        return tuple(i for i, axis in enumerate(self.volume.reading.axes) if axis in kept)

    def _in_image_order(self, values: Array) -> Array:
        """Return *values*, frames first, with their axes as the image has them; a view."""
        reading, kept = self.volume.reading.axes, self._axes()
        frames_first = sorted(kept, key=lambda axis: reading[axis] != "T")
        return values.transpose([frames_first.index(axis) for axis in kept])

    def _channels(self) -> tuple[Array, ...]:
        if self._probabilities is None:
            return ()
        return tuple(np.moveaxis(self._probabilities, len(self._frames_in_image) if self._has_frames else 0, 0))


def _channel_names(spec: ModelSpec) -> tuple[str, ...]:
    if len(spec.classes) == spec.out_channels:
        return spec.classes
    if spec.output.offsets:
        return tuple(f"affinity {' '.join(map(str, offset))}" for offset in spec.output.offsets)
    return tuple(f"channel {number}" for number in range(spec.out_channels))


def _find_labels(labels: Array) -> Array:
    """Return the labels other than 0 that there are, plane by plane: indexing holds the interpreter's lock."""
    present = np.zeros(int(labels.max(initial=0)) + 1, bool)
    for plane in labels:
        present[plane] = True
    present[0] = False
    return np.flatnonzero(present)
