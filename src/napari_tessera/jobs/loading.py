"""From what loads a volume to what its network sees: cut out, resampled, with its intensities measured."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Hashable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from napari_tessera.core.errors import InputError, host_memory_for
from napari_tessera.engine.intensity import Identity, Intensity
from napari_tessera.engine.source import ArraySource, Source
from napari_tessera.images.views.crop import Crop
from napari_tessera.images.views.normalised import NormalisedSource
from napari_tessera.images.views.window_mask import measure_window_mask
from napari_tessera.intensity.foreground import ForegroundSource, is_masked, measure_foreground
from napari_tessera.intensity.measure import measure_intensity, needs_values
from napari_tessera.jobs.plane_stack import StackPlane

if TYPE_CHECKING:
    from napari_tessera.models.model import Model
    from napari_tessera.planning.plan import Plan, VolumePlan

__all__ = ["Load", "Loaded", "Remember", "iter_loaded", "normalised_source"]

Load = Callable[[], Source]
Remember = Callable[[int, tuple[Hashable, ...], Callable[[], Any]], Any]
"""Gives what was measured of a volume before, by its number and what is measured, else measures it."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """A volume as the network sees it, and the windows that are computed of it; None: all of them."""

    source: Source
    intensity: Intensity
    window_mask: npt.NDArray[Any] | None


@dataclass(frozen=True, slots=True)
class _Measured:
    """What is known of the intensities of a volume, or of a stack that its planes share.

    *inside* is where its foreground is, boolean (*spatial); None where no channel asks for it. Of a stack it begins at
    plane number *first*.
    """

    intensity: Intensity
    inside: npt.NDArray[np.bool_] | None = None
    first: int = 0

    def of_plane(self, place: int) -> _Measured:
        """Return what holds for plane number *place* of a stack."""
        return _Measured(self.intensity, None if self.inside is None else self.inside[place - self.first])


def iter_loaded(
    loads: Sequence[Load], model: Model, plan: Plan, remember: Remember | None
) -> Generator[Callable[[], Loaded], None, None]:
    """Yield what gives a volume with its intensities, or raises what is wrong with it, for every volume.

    At most ``batch_size`` of them are in memory at once.
    """
    batch_size = plan.settings.batch_size
    prepare = _Preparation(model, plan, remember)
    waiting = deque(enumerate(loads))
    if batch_size == 1:
        while waiting:
            yield partial(prepare, waiting.popleft())
        return
    with ThreadPoolExecutor(1, thread_name_prefix="tessera-load") as pool:
        ahead: deque[Future[Loaded]] = deque()
        try:
            while waiting or ahead:
                # The volume that is being computed counts as one of the resident ones.
                while waiting and len(ahead) < batch_size:
                    ahead.append(pool.submit(prepare, waiting.popleft()))
                yield ahead.popleft().result
        finally:
            for future in ahead:
                future.cancel()


class _Preparation:
    """Prepares the volumes of a plan one after another; what the planes of a stack share is measured once."""

    def __init__(self, model: Model, plan: Plan, remember: Remember | None) -> None:
        self._spec = model.spec
        self._plan = plan
        self._remember = remember
        each = is_masked(model.spec.normalisation, model.spec.in_channels)
        self._masked = each if any(each) else ()
        # What loads the stack that is at hand, and what was measured of it.
        self._stack: tuple[object, _Measured] | None = None

    def __call__(self, numbered: tuple[int, Load]) -> Loaded:
        number, load = numbered
        planned, source = self._plan.volumes[number], load()
        expected = (self._spec.in_channels, *planned.image_shape)
        if source.shape != expected:
            raise InputError(f"volume {number} has the shape {source.shape}, but the plan was made for {expected}")
        shared = None
        if isinstance(source, StackPlane):
            shared = self._of_stack(number, source, planned)
            source = source.source
        if planned.crop is not None:
            source = planned.crop.of(source)
        window_mask = _window_mask(source, planned, self._plan.settings.skip_below)
        return Loaded(*self._as_seen(number, source, planned, shared), window_mask)

    def _as_seen(
        self, number: int, source: Source, planned: VolumePlan, shared: _Measured | None
    ) -> tuple[Source, Intensity]:
        """Return *source* as the network's windows are read from it, and what is then done to their intensities."""
        in_memory = self._plan.settings.batch_size > 1
        if self._masked or (planned.resampling is not None and planned.resampling.scheme.normalise_first):
            measured = self._measured(number, source) if shared is None else shared
            source = NormalisedSource(source, measured.intensity, measured.inside, self._masked)
            if planned.resampling is not None:
                source = planned.resampling.wrap(source)
            return _into_memory(source) if in_memory else source, Identity()
        if planned.resampling is not None:
            source = planned.resampling.wrap(source)
        if in_memory and not source.in_memory:
            source = _into_memory(source)
        return source, self._intensity(number, source) if shared is None else shared.intensity

    def _of_stack(self, number: int, plane: StackPlane, planned: VolumePlan) -> _Measured:
        """Return what holds for *plane*, measured of its stack with the first plane that is not empty."""
        if planned.crop is not None and planned.crop.is_empty:  # no window is computed
            nothing = np.zeros(planned.crop.shape, bool) if self._masked else None
            return _Measured(Identity(), nothing)
        if self._stack is None or self._stack[0] is not plane.stack.loads:
            self._stack = None  # its foreground is not kept beside the next one's
            self._stack = plane.stack.loads, self._measured_stack(number, plane.stack, planned.crop)
        return self._stack[1].of_plane(plane.place)

    def _measured_stack(self, number: int, stack: Source, crop: Crop | None) -> _Measured:
        """Return what its planes share; *crop*: the box of those that are not empty."""
        first = 0
        if crop is not None:
            planes = crop.planes or (0, stack.shape[1])
            stack, first = Crop(stack.shape[1:], (planes, *crop.box)).of(stack), planes[0]
        return replace(self._measured(number, stack), first=first)

    def _measured(self, number: int, source: Source) -> _Measured:
        return _measure(source, partial(self._intensity, number), self._masked)

    def _intensity(self, number: int, source: Source) -> Intensity:
        normalisation = self._spec.normalisation
        measure = partial(measure_intensity, source, normalisation)
        if self._remember is None or not needs_values(source, normalisation):
            return measure()
        found: Intensity = self._remember(number, (source.shape, source.dtype, normalisation), measure)
        return found


def normalised_source(source: Source, measure: Callable[[Source], Intensity], masked: tuple[bool, ...]) -> Source:
    """Return *source* normalised as it is read; *masked*: for each channel whether by its foreground; (): none is."""
    measured = _measure(source, measure, masked)
    return NormalisedSource(source, measured.intensity, measured.inside, masked)


def _measure(source: Source, intensity: Callable[[Source], Intensity], masked: tuple[bool, ...]) -> _Measured:
    if not masked:
        return _Measured(intensity(source))
    with host_memory_for("finding the foreground"):
        inside = measure_foreground(source)
    return _Measured(intensity(ForegroundSource(source, inside)), inside)


def _into_memory(source: Source) -> Source:
    whole = tuple(slice(None) for _ in source.shape[1:])
    return ArraySource(np.ascontiguousarray(source.read(whole)), channel_axis=0)


def _window_mask(source: Source, planned: VolumePlan, above: float | None) -> npt.NDArray[Any] | None:
    """Return the windows that are computed: as planned, else found now where empty ones are to be skipped."""
    if planned.window_mask is not None or above is None:
        return planned.window_mask
    return measure_window_mask(source, planned.layout, above=above)
