"""What is asked for: volumes, a model and settings, completed once for the plan and the run."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import numpy.typing as npt

from napari_tessera.core.errors import CancelledError, SettingsError
from napari_tessera.engine.loop.events import EventHandler, raise_if_cancelled
from napari_tessera.images.views.crop import Crop, measure_crop
from napari_tessera.images.views.window_mask import check_mask, measure_window_mask
from napari_tessera.images.volume import Volume
from napari_tessera.jobs.as_source import as_image, as_source
from napari_tessera.jobs.pipeline import iter_results
from napari_tessera.jobs.plane_stack import StackPlane, masked_finders, plane_crop, plane_loads, split_planes
from napari_tessera.models.load import as_model, as_settings
from napari_tessera.planning.request import PROBABILITIES, choose_decoder, plan
from napari_tessera.planning.resampling import lay_windows, sizes_of_volumes

if TYPE_CHECKING:
    from napari_tessera.core.settings.settings import Settings
    from napari_tessera.engine.geometry.grid import WindowGrid
    from napari_tessera.engine.source import Source
    from napari_tessera.jobs.loading import Remember
    from napari_tessera.jobs.result_stack import VolumeResult
    from napari_tessera.models.load import GivenModel, GivenSettings
    from napari_tessera.models.model import Model
    from napari_tessera.models.spec.spec import ModelSpec
    from napari_tessera.planning.plan import Plan
    from napari_tessera.planning.resampling import VoxelSize

    Found = TypeVar("Found")
    Windows = npt.NDArray[np.bool_] | None
    OnError = Callable[[int, Exception], None]


@dataclass(frozen=True, slots=True, eq=False)
class RequestedVolume:
    """One volume to run on, of a spatial *shape*: an image, a frame of it, or a plane of a stack for a 2D model.

    *load* gives it in its own voxels: a `StackPlane` where its stack is cropped and normalised as one. *find_masked*
    says which windows of a grid, of the volume or of a box of it, hold a voxel of the mask; None: there is no mask.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    voxel_size_um: VoxelSize | None
    load: Callable[[], Source]
    find_masked: Callable[[WindowGrid, Crop | None], npt.NDArray[np.bool_]] | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Request:
    """What is to be run, the same for its plan and its run.

    Parameters
    ----------
    volumes
        In order; planes of a stack follow one another.
    model, settings
        What to run, and how.
    decoder
        Name of a decoder, ``"probabilities"`` for none, or None for the settings' or the model's own.
    keep_probabilities
        Whether they are kept beside the labels.
    results_held
        Volumes whose results are in the host's memory at the same time.
    crops
        The box of every volume that the network sees, None for all of it; None where they are not known yet.
    remember
        Gives what was measured of a volume before, by its number and what is measured, else measures it.
    """

    volumes: Sequence[RequestedVolume]
    model: Model
    settings: Settings
    decoder: str | None = None
    keep_probabilities: bool = False
    results_held: int = 1
    crops: Sequence[Crop | None] | None = None
    remember: Remember | None = None

    @property
    def looks_at_images(self) -> bool:
        """Whether the images decide what is computed."""
        return self.model.spec.crop != "none" or self.settings.skip_below is not None

    def of(self, numbers: Sequence[int], results_held: int) -> Request:
        """Return the same of some of its volumes."""
        crops = None if self.crops is None else [self.crops[number] for number in numbers]
        volumes = [self.volumes[number] for number in numbers]
        return replace(self, volumes=volumes, crops=crops, results_held=results_held)

    def with_crops(self, cancel: threading.Event | None = None, on_error: OnError | None = None) -> Request:
        """Return the same with its `crops`; reads the images once if the model crops.

        *on_error* is called with what goes wrong with a volume, which then counts whole; None: that is raised.
        """
        if self.crops is not None:
            return self
        find = _CropFinder(self.model.spec, self.remember)
        return replace(self, crops=self._each(lambda number, volume: find(number, volume.load), cancel, on_error))

    def find_windows(
        self,
        settings: Settings | None = None,
        *,
        cancel: threading.Event | None = None,
        on_error: OnError | None = None,
    ) -> list[Windows] | None:
        """Return which windows of every volume are computed, None for all; reads what *settings* ask to look at.

        *on_error* as for `with_crops`.
        """
        settings = settings or self.settings
        if settings.skip_below is None and all(volume.find_masked is None for volume in self.volumes):
            return None
        return self._each(partial(self._windows_of, settings), cancel, on_error)

    def _windows_of(self, settings: Settings, number: int, volume: RequestedVolume) -> Windows:
        crop = None if self.crops is None else self.crops[number]
        shape = volume.shape if crop is None else crop.shape
        _, grid = lay_windows(shape, volume.voxel_size_um, self.model.spec, settings)
        found = None if volume.find_masked is None else volume.find_masked(grid, crop)
        if settings.skip_below is not None:
            source = volume.load()
            full = measure_window_mask(source if crop is None else crop.of(source), grid, above=settings.skip_below)
            found = full if found is None else full & found
        return found

    def _each(
        self,
        find: Callable[[int, RequestedVolume], Found | None],
        cancel: threading.Event | None,
        on_error: OnError | None,
    ) -> list[Found | None]:
        found: list[Found | None] = []
        for number, volume in enumerate(self.volumes):
            raise_if_cancelled(cancel)
            try:
                found.append(find(number, volume))
            except (CancelledError, SettingsError):
                raise
            except Exception as error:
                if on_error is None:
                    raise
                on_error(number, error)
                found.append(None)
        return found

    def facts(self) -> dict[str, Any]:
        """Return what `plan` and `autotune` are told of the volumes, apart from their shapes and windows."""
        return {
            "decoder": self.decoder,
            "dtype": max((volume.dtype for volume in self.volumes), key=lambda dtype: dtype.itemsize),
            "voxel_size_um": [volume.voxel_size_um for volume in self.volumes],
            "crops": self.crops,
            "results_held": self.results_held,
        }

    def plan(self, window_masks: Sequence[Windows] | None = None) -> Plan:
        """Return the plan, where *window_masks* say which windows are computed; None: all.

        Raises
        ------
        SettingsError, InputError, ModelError
            If volumes, settings and model do not fit together.
        """
        shapes = [volume.shape for volume in self.volumes]
        kept = self.keep_probabilities
        return plan(
            shapes, self.model, self.settings, window_masks=window_masks, keep_probabilities=kept, **self.facts()
        )

    def run(
        self,
        plan: Plan,
        *,
        on_event: EventHandler | None = None,
        cancel: threading.Event | None = None,
        keep_partial: bool = True,
        keep_going: bool = False,
    ) -> Generator[VolumeResult, None, None]:
        """Run by *plan* and yield the result of each volume as soon as it is done.

        Parameters
        ----------
        plan
            Of this request: made for this model and for volumes of these shapes.
        on_event, cancel
            Receives events, on the thread that iterates; None: what is `Noticed` is logged as a warning. Stops the run
            within one forward pass.
        keep_partial
            Whether a cancelled run decodes and yields the finished part of the volume at hand before it ends.
        keep_going
            Whether what goes wrong with a volume ends that volume alone: its result then has the error.

        Raises
        ------
        CancelledError
            After the partial result of the volume at hand has been yielded, if that is kept.
        TesseraError
            Whatever else goes wrong with a volume, the model or memory.
        """
        return iter_results(
            [volume.load for volume in self.volumes],
            self.model,
            plan,
            None if self.decoder == PROBABILITIES else choose_decoder(self.model, self.settings, self.decoder),
            probabilities=self.keep_probabilities,
            on_event=on_event,
            cancel=cancel,
            keep_partial=keep_partial,
            keep_going=keep_going,
            remember=self.remember,
        )


class _CropFinder:
    """Finds the boxes of volumes in order; a stack that is cropped as one is read once for all of its planes."""

    def __init__(self, spec: ModelSpec, remember: Remember | None = None) -> None:
        self._spec, self._remember = spec, remember
        self._stack: tuple[object, Crop] | None = None

    def __call__(self, number: int, load: Callable[[], Source]) -> Crop | None:
        if self._spec.crop == "none":
            return None
        source = load()
        if not isinstance(source, StackPlane):
            return self._measure(number, source)
        if self._stack is None or self._stack[0] is not source.stack.loads:
            self._stack = source.stack.loads, self._measure(number, source.stack)
        return plane_crop(self._stack[1], source.place)

    def _measure(self, number: int, source: Source) -> Crop:
        above = self._spec.crop_limit
        measure = partial(measure_crop, source, above)
        found: Crop = measure() if self._remember is None else self._remember(number, ("crop", above), measure)
        return found


def request_of_image(
    image: Any,
    model: GivenModel,
    settings: GivenSettings = None,
    *,
    decoder: str | None = None,
    mask: Any = None,
    voxel_size_um: VoxelSize | None = None,
) -> tuple[Request, bool]:
    """Return the request for one image as `predict` takes it, and whether it is a stack of planes for a 2D model."""
    image, model = as_image(image), as_model(model)
    spec, settings = model.spec, as_settings(settings, model)
    mask = None if mask is None else as_image(mask)
    mask = mask.data if isinstance(mask, Volume) else mask
    size = image.voxel_size_um if isinstance(image, Volume) else None
    if voxel_size_um is not None:
        (size,) = sizes_of_volumes(voxel_size_um, 1)
    planes = split_planes(image, spec)
    if planes is None:
        source = as_source(image, spec)
        loads: Sequence[Callable[[], Source]] = [lambda: source]
    else:
        loads = plane_loads(planes, spec)
        source, size = loads[0](), None if size is None else spec.of_plane(size)
    shape = source.shape[1:]
    finds: Sequence[Any] = [None] * len(loads)
    if mask is not None:
        check_mask(mask, shape if planes is None else spec.of_stack(len(loads), shape))
        finds = masked_finders(mask, None if planes is None else len(planes), spec)
    volumes = [RequestedVolume(shape, source.dtype, size, load, find) for load, find in zip(loads, finds, strict=True)]
    return Request(volumes, model, settings, decoder, results_held=len(volumes)), planes is not None


def find_crop(volume: Any, model: GivenModel) -> Crop | tuple[Crop, ...] | None:
    """Return the box of *volume* that the network sees, None for all of it; reads the image once if the model crops.

    Parameters
    ----------
    volume, model
        As for `predict`.

    Returns
    -------
    Crop, tuple of Crop or None
        Of a stack for a 2D model one for each plane, in order.
    """
    model = as_model(model)
    if model.spec.crop == "none":
        return None
    request, is_stack = request_of_image(volume, model)
    crops = [crop for crop in request.with_crops().crops or () if crop is not None]
    return tuple(crops) if is_stack else crops[0]


def find_window_mask(
    volume: Any,
    model: GivenModel,
    settings: GivenSettings = None,
    *,
    mask: Any = None,
    voxel_size_um: VoxelSize | None = None,
    crop: Crop | tuple[Crop, ...] | None = None,
) -> npt.NDArray[np.bool_] | list[npt.NDArray[np.bool_]] | None:
    """Return which windows of *volume* a run computes, None for all of them; reads the image, or the mask, once.

    Parameters
    ----------
    volume, model, settings
        As for `predict`; windows without a voxel above ``settings.skip_below`` are left out.
    mask
        An array of the volume's spatial shape; windows in which it is 0 everywhere are left out, too.
    voxel_size_um
        As for `predict`.
    crop
        From `find_crop`: windows are those of the box.

    Returns
    -------
    numpy.ndarray, list of numpy.ndarray or None
        Boolean, one per window, shape of the plan's grid; of a stack for a 2D model with its planes in front, and a
        list of them where they are cropped.

    Raises
    ------
    InputError
        If the mask has another shape than the image.
    SettingsError
        If the window does not suit the model.
    """
    request, is_stack = request_of_image(volume, model, settings, mask=mask, voxel_size_um=voxel_size_um)
    boxes = [crop] if isinstance(crop, Crop) else crop
    found = replace(request, crops=boxes).find_windows()
    if found is None or not is_stack:
        return None if found is None else found[0]
    windows = [each for each in found if each is not None]
    return np.stack(windows) if boxes is None else windows
