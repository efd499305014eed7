"""Image files as the run sees them: facts at once, values frame by frame and only while they are needed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from napari_tessera.api import as_source
from napari_tessera.errors import InputError
from napari_tessera.planning.occupied import check_mask, find_masked, find_windows, window_grid
from napari_tessera.planning.resampling import resampling_of
from napari_tessera.volumes import Volume, open_volume

if TYPE_CHECKING:
    import numpy.typing as npt

    from napari_tessera import Model, ModelSpec, Plan, Settings
    from napari_tessera.cli.choice import Choice
    from napari_tessera.engine.source import Source
    from napari_tessera.volumes.volume import ArrayLike

    Windows = npt.NDArray[np.bool_] | None

__all__ = ["ImageFile", "open_mask", "plan_images"]


class ImageFile:
    """One image file that suits the model. A time axis makes several volumes of it, its frames.

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

    Attributes
    ----------
    spatial_shape, spatial_axes, voxel_size_um, dtype
        Of every frame.
    n_frames
        Length of the time axis; None where there is none.
    notes
        Sentences for the user on how the file was understood.

    Raises
    ------
    InputError
        If the file cannot be opened, or has the wrong axes or channels for the model.
    """

    def __init__(
        self, path: Path, spec: ModelSpec, axes: str | None = None, voxel_size_um: tuple[float, ...] | None = None
    ) -> None:
        self.path = path
        self._spec = spec
        self._axes = axes
        self._open: Volume | None = None
        volume = open_volume(path, axes=axes)
        try:
            if voxel_size_um is not None:
                volume = replace(volume, voxel_size_um=voxel_size_um)
            as_source(_frame_facts(volume), spec)
        except InputError as error:
            raise InputError(f"{path.name}: {error}") from error
        self.spatial_shape = volume.spatial_shape
        self.spatial_axes = volume.spatial_axes
        self.voxel_size_um = volume.voxel_size_um
        self.dtype = np.dtype(volume.dtype)
        self.n_frames = volume.shape[0] if "T" in volume.axes else None
        self.notes = volume.notes

    @property
    def names(self) -> tuple[str, ...]:
        """What to call each frame."""
        if self.n_frames is None:
            return (self.path.name,)
        return tuple(f"{self.path.name}, frame {frame}" for frame in range(self.n_frames))

    @property
    def loads(self) -> tuple[Callable[[], Source], ...]:
        """One function per frame that gives its values; to be called in order."""
        return tuple(partial(self._load, frame) for frame in range(self.n_frames or 1))

    def check_resampling(self, settings: Settings) -> None:
        """Raise `InputError` if the image is to be resampled and its voxel size does not allow it."""
        try:
            resampling_of(self.spatial_shape, self.voxel_size_um, self._spec, settings)
        except InputError as error:
            raise InputError(f"{self.path.name}: {error}") from error

    def find_windows(self, settings: Settings, mask: ArrayLike | None = None) -> list[Windows]:
        """Return, frame by frame, which windows a run computes, None for all of them.

        Reads every frame once where *settings* skip empty windows. A *mask*, of the frames' spatial shape, counts for
        all frames.

        Raises
        ------
        InputError
            If the file cannot be read.
        SettingsError
            If the window does not suit the model.
        """
        if settings.skip_below is None:
            grid = window_grid(self.spatial_shape, self._spec, settings, self.voxel_size_um)
            return [None if mask is None else find_masked(mask, grid)] * len(self.names)
        try:
            return [find_windows(load(), self._spec, settings, mask, self.voxel_size_um) for load in self.loads]
        except InputError as error:
            raise InputError(f"{self.path.name}: {error}") from error

    def _load(self, frame: int) -> Source:
        # Opened again, and let go with the last frame: many files must not stay in memory until the end of the run.
        volume = self._open or open_volume(self.path, axes=self._axes)
        self._open = volume if frame + 1 < (self.n_frames or 1) else None
        return as_source(volume if self.n_frames is None else _frame_of(volume, frame), self._spec)


def _frame_of(volume: Volume, frame: int) -> Volume:
    return Volume(volume.data[frame], volume.axes[1:], volume.voxel_size_um, volume.name)


def _frame_facts(volume: Volume) -> Volume:
    """Return a stand-in for one frame, of its shape and type, without reading any value."""
    lengths = [(axis, n) for axis, n in zip(volume.axes, volume.shape, strict=True) if axis != "T"]
    blank = np.broadcast_to(np.zeros((), volume.dtype), [n for _, n in lengths])
    return Volume(blank, "".join(axis for axis, _ in lengths), volume.voxel_size_um, volume.name)


def open_mask(path: Path, image: ImageFile) -> ArrayLike:
    """Open the mask of *image*; its values are read when they are needed.

    Raises
    ------
    InputError
        If the file cannot be opened, or has another shape than the image.
    """
    mask = open_volume(path).data
    check_mask(mask, image.spatial_shape, f"the mask '{path.name}'")
    return mask


def plan_images(
    images: Sequence[ImageFile],
    model: Model,
    settings: Settings,
    decoder: str | None,
    *,
    find: Callable[[Settings], Sequence[Windows]],
    choice: Choice,
) -> Plan:
    """Return the plan of a run over all frames of all *images*, in order.

    Parameters
    ----------
    images, model, settings, decoder
        What is run.
    find
        Finds for settings which windows of every frame are computed: see `ImageFile.find_windows`.
    choice
        What of the settings is chosen.

    Raises
    ------
    SettingsError, InputError, ModelError
        If settings, images and model do not fit together.
    """
    return choice.plan(
        [image.spatial_shape for image in images for _ in image.loads],
        model,
        settings,
        decoder=decoder,
        dtype=max((image.dtype for image in images), key=lambda dtype: dtype.itemsize),
        voxel_size_um=[image.voxel_size_um for image in images for _ in image.loads],
        find=find,
        results_held=max(len(image.loads) for image in images),
    )
