"""Image files as the run sees them: facts at once, values frame by frame and only while they are needed."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_tessera.api import as_source
from napari_tessera.core.errors import InputError
from napari_tessera.images.channels import join_volumes
from napari_tessera.images.open import open_volume
from napari_tessera.images.views.plane_stack import in_stacks
from napari_tessera.jobs.request import RequestedVolume
from napari_tessera.planning.as_source import check_planes
from napari_tessera.planning.resampling import resampling_of
from napari_tessera.planning.stacked_planes import plane_of_volume, planes_note, without_axes
from napari_tessera.planning.volume_facts import check_mask, find_masked

if TYPE_CHECKING:
    from napari_tessera import ModelSpec, Settings
    from napari_tessera.engine.source import Source
    from napari_tessera.images.volume import ArrayLike, Volume

FRAME_WORDS = {"T": "frame", **dict.fromkeys("ZYX", "plane")}


class ImageFile:
    """One image file that suits the model. A time axis makes several volumes of it, its frames; so does z in 2D.

    Parameters
    ----------
    path
        The file.
    spec
        The model that it is opened for.
    axes
        What the axes mean, where the file does not say.
    voxel_size_um
        Micrometres along the spatial axes, where the file does not say or is wrong; None: as the file says.
    channels
        Which of its channels the model is to see, in this order; None: all.
    files
        Where each channel is a file of its own, these, in order; *path* is what to call the image.

    Attributes
    ----------
    spatial_shape, spatial_axes, voxel_size_um, dtype
        Of every frame.
    file_shape, file_voxel_size_um
        Of the file: where a 2D model runs planes one by one, with z.
    stack
        Lengths of the axes along which its frames lie: time, and z for a 2D model; empty where it is one volume.
    notes
        Sentences for the user on how the file was understood.

    Raises
    ------
    InputError
        If the file cannot be opened, or has the wrong axes or channels for the model.
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
        self._plane_axis = spec.plane_axis.upper()
        planes = self.stack.get(self._plane_axis)
        self.notes = (*volume.notes, *(() if planes is None else (planes_note(f"'{path.name}'", planes, spec),)))

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
        return in_stacks(loads, self._planes) if self._takes_planes_together else loads

    @property
    def _planes(self) -> int:
        """How many planes a stack has; 1 where the model takes it as it is."""
        return self.stack.get(self._plane_axis, 1)

    @property
    def _takes_planes_together(self) -> bool:
        return self._plane_axis in self.stack and self._spec.planes == "together"

    def check_resampling(self, settings: Settings) -> None:
        """Raise `InputError` if the image is to be resampled and its voxel size does not allow it."""
        try:
            resampling_of(self.spatial_shape, self.voxel_size_um, self._spec, settings)
        except InputError as error:
            raise InputError(f"{self.path.name}: {error}") from error

    def volumes(self, mask: ArrayLike | None = None) -> list[RequestedVolume]:
        """Return every frame as a run takes it; a *mask*, of the file's spatial shape, counts for all times."""
        finds: list[Any] = [None]
        if mask is not None:
            # Frames of one box and one mask are looked at once.
            along = (slice(None),) * self._spec.plane_place
            parts = [mask[*along, plane] for plane in range(self._planes)] if self._plane_axis in self.stack else [mask]
            finds = [cache(partial(find_masked, part)) for part in parts]
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
    """Open the mask of *image*; its values are read when they are needed.

    Raises
    ------
    InputError
        If the file cannot be opened, or has another shape than the image.
    """
    mask = open_volume(path).data
    check_mask(mask, image.file_shape, f"the mask '{path.name}'")
    return mask
