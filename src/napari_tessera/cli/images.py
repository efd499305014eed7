"""Image files as the run sees them: facts at once, values frame by frame and only while they are needed."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_tessera.api import as_source
from napari_tessera.core.errors import InputError, SettingsError
from napari_tessera.decode.classes import makes_classes
from napari_tessera.images.channel_stack import join_volumes
from napari_tessera.images.open import open_volume
from napari_tessera.images.views.window_mask import check_mask
from napari_tessera.images.volume import standard_order
from napari_tessera.images.writers.tiff import write_tiff
from napari_tessera.jobs.as_source import check_planes
from napari_tessera.jobs.job import Request, RequestedVolume
from napari_tessera.jobs.plane_stack import in_stacks, masked_finders, plane_of_volume, planes_note, without_axes
from napari_tessera.jobs.result_stack import ResultStack
from napari_tessera.planning.resampling import resampling_of

if TYPE_CHECKING:
    from napari_tessera import Model, ModelSpec, Settings
    from napari_tessera.cli.outcome import Outcome
    from napari_tessera.decode import Decoder
    from napari_tessera.engine.source import Source
    from napari_tessera.images.volume import ArrayLike, Volume
    from napari_tessera.images.writers.output import TiffOptions

FRAME_WORDS = {"T": "frame", **dict.fromkeys("ZYX", "plane")}


class ImageFile:
    """One image file that suits the model. A time axis makes several volumes of it, its frames; so does z in 2D.

    *axes*, *voxel_size_um* and *channels* are what the user says of it. Where each channel is a file of its own,
    *files* are these, in order, and *path* is what to call the image.

    `spatial_shape`, `spatial_axes`, `voxel_size_um` and `dtype` are those of every frame, `file_shape` and
    `file_voxel_size_um` of the file: where a 2D model runs planes one by one, with z. `stack` has the lengths of the
    axes along which its frames lie: time, and z for a 2D model.
    """

    def __init__(
        self,
        path: Path,
        spec: ModelSpec,
        axes: str | None = None,
        voxel_size_um: tuple[float, ...] | None = None,
        *,
        channels: tuple[int, ...] | None = None,
        files: Sequence[Path] = (),
    ) -> None:
        self.path = path
        self.channels = channels
        self._spec = spec
        self._open_files = partial(_open_files, path, tuple(files) or (path,), axes, voxel_size_um)
        self._open: Volume | None = None
        volume = self._open_files()
        try:
            check_planes(volume, spec)
            self.stack = _stack_of(volume, spec)
            frame = _frame_facts(volume, self.stack, spec)
            as_source(frame, spec, channels)
        except InputError as error:
            raise InputError(f"{path.name}: {error}") from error
        self.file_shape = volume.spatial_shape
        self.file_voxel_size_um = volume.voxel_size_um
        self.spatial_shape = frame.spatial_shape
        self.spatial_axes = "".join(axis for axis in volume.spatial_axes if axis not in self.stack)
        self.voxel_size_um = frame.voxel_size_um
        self.dtype = np.dtype(volume.dtype)
        of_planes = () if self._planes is None else (planes_note(f"'{path.name}'", self._planes, spec),)
        self.notes = (*volume.notes, *of_planes)

    @property
    def n_frames(self) -> int:
        """How many volumes it makes."""
        return prod(self.stack.values())

    @property
    def names(self) -> tuple[str, ...]:
        """What to call each frame."""
        numbers = itertools.product(*(range(length) for length in self.stack.values()))
        words = [FRAME_WORDS[axis] for axis in self.stack]
        return tuple(
            ", ".join([self.path.name, *(f"{word} {number}" for word, number in zip(words, each, strict=True))])
            for each in numbers
        )

    @property
    def loads(self) -> tuple[Callable[[], Source], ...]:
        """One function per frame that gives its values; to be called in order."""
        loads = tuple(partial(self._load, frame) for frame in range(self.n_frames))
        if self._planes is None or self._spec.planes != "together":
            return loads
        return in_stacks(loads, self._planes)

    @property
    def _planes(self) -> int | None:
        """How many planes a stack has; None where the model takes it as it is."""
        return self.stack.get(self._spec.plane_axis.upper())

    def check_resampling(self, settings: Settings) -> None:
        """Raise `InputError` if the image is to be resampled and its voxel size does not allow it."""
        try:
            resampling_of(self.spatial_shape, self.voxel_size_um, self._spec, settings)
        except InputError as error:
            raise InputError(f"{self.path.name}: {error}") from error

    def volumes(self, mask: ArrayLike | None = None) -> list[RequestedVolume]:
        """Return every frame as a run takes it; a *mask*, of the file's spatial shape, counts for all times."""
        finds: Sequence[Any] = [None] if mask is None else masked_finders(mask, self._planes, self._spec)
        return [
            RequestedVolume(self.spatial_shape, self.dtype, self.voxel_size_um, load, finds[frame % len(finds)])
            for frame, load in enumerate(self.loads)
        ]

    def _load(self, frame: int) -> Source:
        # Opened again, and let go with the last frame: many files must not stay in memory until the end of the run.
        volume = self._open or self._open_files()
        self._open = volume if frame + 1 < self.n_frames else None
        part = _frame_of(volume, self.stack, frame, self._spec) if self.stack else volume
        return as_source(part, self._spec, self.channels)


def _open_files(
    path: Path, files: tuple[Path, ...], axes: str | None, voxel_size_um: tuple[float, ...] | None
) -> Volume:
    volumes = [open_volume(file, axes=axes, voxel_size_um=voxel_size_um) for file in files]
    return volumes[0] if len(volumes) == 1 else join_volumes(volumes, path.name)


def _stack_of(volume: Volume, spec: ModelSpec) -> dict[str, int]:
    """Return the lengths of the axes of *volume* that the model does not have, but for channels."""
    stacked = "T" + (spec.plane_axis.upper() if spec.spatial_dims == 2 and "Z" in volume.axes else "")
    return {axis: n for axis, n in zip(volume.axes, volume.shape, strict=True) if axis in stacked}


def _frame_of(volume: Volume, stack: Mapping[str, int], frame: int, spec: ModelSpec) -> Volume:
    """Return frame number *frame*, counted along the last axis of *stack* first."""
    place = np.unravel_index(frame, tuple(stack.values()))
    return plane_of_volume(volume, dict(zip(stack, map(int, place), strict=True)), spec)


def _frame_facts(volume: Volume, stack: Mapping[str, int], spec: ModelSpec) -> Volume:
    """Return a stand-in for one frame, of its shape and type, without reading any value."""
    lengths = [n for axis, n in zip(volume.axes, volume.shape, strict=True) if axis not in stack]
    return without_axes(volume, stack, np.broadcast_to(np.zeros((), volume.dtype), lengths), spec)


def open_mask(path: Path, image: ImageFile) -> ArrayLike:
    """Open the mask of *image*, of the same shape; its values are read when they are needed."""
    mask = open_volume(path).data
    check_mask(mask, image.file_shape, f"the mask '{path.name}'")
    return mask


@dataclass(frozen=True, slots=True)
class Item:
    """One image file that is run; *volumes* are the numbers of its frames among the volumes of the run."""

    image: ImageFile
    result: ResultStack
    volumes: range
    outcome: Outcome

    @property
    def count(self) -> int:
        """How many objects, classes or channels the result has."""
        return self.result.count if self.result.counts else self.result.array.shape[len(self.image.stack)]

    def write(
        self, path: Path, metadata: Mapping[str, Any], options: TiffOptions | None = None, *, overwrite: bool
    ) -> None:
        """Write the result to the file *path*."""
        axes = "".join(self.image.stack) + ("" if self.result.counts else "C") + self.image.spatial_axes
        order = standard_order(axes)
        write_tiff(
            path,
            np.transpose(self.result.array, order),
            axes="".join(axes[axis] for axis in order),
            voxel_size_um=self.image.file_voxel_size_um,
            metadata=metadata,
            options=options,
            overwrite=overwrite,
        )


def open_items(
    outcomes: Sequence[Outcome],
    model: Model,
    settings: Settings,
    decoder: Decoder | None,
    *,
    axes: str | None = None,
    voxel_size_um: tuple[float, ...] | None = None,
    channels: tuple[int, ...] | None = None,
) -> list[Item]:
    """Open the images; one that cannot be used is said and marked, so that the others still run.

    Raises
    ------
    InputError
        If the only image cannot be used.
    SettingsError
        If the settings do not suit the model, whatever the image.
    """
    items: list[Item] = []
    for outcome in outcomes:
        try:
            image = ImageFile(outcome.image, model.spec, axes, voxel_size_um, channels=channels, files=outcome.files)
            image.check_resampling(settings)
        except SettingsError:
            raise
        # Whatever one file's header makes of its reader, the others still run.
        except Exception as error:
            if len(outcomes) == 1:
                raise
            outcome.fail(outcome.image.name, error)
            continue
        result = _empty_result(image, decoder)
        outcome.counted = result.counts or "channels"
        items.append(Item(image, result, range(image.n_frames), outcome))
    return renumbered(items)


def renumbered(items: Sequence[Item]) -> list[Item]:
    """Return *items* with the numbers that their frames have when these are run, and no others."""
    stops = itertools.accumulate(len(item.volumes) for item in items)
    return [
        replace(item, volumes=range(stop - len(item.volumes), stop)) for item, stop in zip(items, stops, strict=True)
    ]


def request_of(
    items: Sequence[Item], model: Model, settings: Settings, decoder: str | None, mask: ArrayLike | None
) -> Request:
    """Return the request for all frames of *items*; a *mask* is of the only one."""
    volumes = [volume for item in items for volume in item.image.volumes(mask)]
    return Request(volumes, model, settings, decoder, results_held=max(len(item.volumes) for item in items))


def part_of(request: Request, items: Sequence[Item]) -> Request:
    """Return the part of *request* that is for *items*, by the numbers that their frames have in it."""
    return request.of([number for item in items for number in item.volumes], max(len(item.volumes) for item in items))


def _empty_result(image: ImageFile, decoder: Decoder | None) -> ResultStack:
    lengths = tuple(image.stack.values())
    if decoder is None:
        return ResultStack(lengths)
    return ResultStack(lengths, "classes" if makes_classes(decoder.name) else "objects")
