"""One run, fixed when it starts: what is planned is what is run."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_tessera.engine.loop.events import (
    Event,
    EventHandler,
    MemoryRecovered,
    Noticed,
    raise_if_cancelled,
)
from napari_tessera.session.intensity_cache import is_taken_to_stay
from napari_tessera.session.results import ImageResult, ImageResults

if TYPE_CHECKING:
    from napari_tessera import Plan
    from napari_tessera.core.settings.settings import Settings
    from napari_tessera.jobs.job import Request
    from napari_tessera.models.model import Model
    from napari_tessera.session.intensity_cache import IntensityCache
    from napari_tessera.session.mask import MaskInput
    from napari_tessera.session.sources import VolumeInput

# Windows that are timed in search of the fastest, besides the default.
MOST_WINDOWS_TIMED = 4


@dataclass(frozen=True, slots=True)
class Outputs:
    """What a run gives; at least one of them."""

    labels: bool = True
    probabilities: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Task:
    """Volumes, model and settings of one plan or run. Its methods belong on a thread: they load torch."""

    volumes: tuple[VolumeInput, ...]  # those of one image follow one another
    model: Model
    settings: Settings
    outputs: Outputs
    mask: MaskInput | None = None  # where to compute; None: everywhere
    intensities: IntensityCache | None = None  # remembers what was measured of images that have not changed since

    @property
    def trace_key(self) -> tuple[object, ...]:
        """What takes time to find out before a plan: the network's memory, and the windows that a mask leaves."""
        settings = self.settings
        # One window is traced by itself, several together.
        traced = settings.window_size, settings.sw_batch_size > 1, settings.precision, settings.device
        if self.mask is None or settings.skip_below is not None:
            return traced
        resampled = settings.resample, settings.resolution
        images = ((volume.shape, volume.frame, volume.voxel_size_um) for volume in self.volumes)
        return (*traced, *resampled, self.mask.number, settings.overlap, *images)

    def resolve(self) -> Plan:
        """Return the plan of this task; where empty windows are to be skipped, it still counts all of them."""
        request = self._request()
        return request.plan(None if self.settings.skip_below is not None else request.find_windows())

    def fit(self, cancel: threading.Event, *, choose_window: bool = False) -> Plan:
        """Return the plan with the ``sw_batch_size`` that is fastest within what is free, and the window if asked.

        A network of which nothing is known here is measured first, over one window at a time and over two.
        """
        from napari_tessera.jobs.tuning import calibrate
        from napari_tessera.planning.autotune import fit_batch, fit_window

        def plan_of(settings: Settings) -> Plan:
            raise_if_cancelled(cancel)
            return replace(self, settings=settings).resolve()

        rule = self.model.spec.window
        start = self.settings.replace(window_size=rule.default) if choose_window else self.settings
        pair = plan_of(start.replace(sw_batch_size=2))
        if not _is_measured(pair):
            calibrate(self.model, start.replace(sw_batch_size=2 if pair.fits else 1), cancel=cancel)
        if not choose_window:
            return fit_batch(plan_of, start)
        found = fit_window(plan_of, start, rule)
        for _ in range(MOST_WINDOWS_TIMED):  # what was chosen by voxels may turn out slower once it is timed
            pair = plan_of(found.settings.replace(sw_batch_size=2))
            if _is_measured(pair):
                break
            calibrate(self.model, found.settings.replace(sw_batch_size=2 if pair.fits else 1), cancel=cancel)
            found = fit_window(plan_of, start, rule)
        return found

    def _request(self) -> Request:
        from napari_tessera.jobs.job import Request, RequestedVolume

        def requested(volume: VolumeInput) -> RequestedVolume:
            find_masked = None
            if self.mask is not None:
                self.mask.check(volume)
                find_masked = partial(self.mask.find_windows, volume)
            return RequestedVolume(volume.shape, volume.dtype, volume.voxel_size_um, volume.load, find_masked)

        return Request(
            [requested(volume) for volume in self.volumes],
            self.model,
            self.settings,
            decoder=None if self.outputs.labels else "probabilities",
            keep_probabilities=self.outputs.probabilities,
            results_held=len(self.volumes),  # they become layers
            remember=self._remember,
        )

    def promises(self) -> tuple[ImageResult, ...]:
        """Return for every image an empty result of the shape that `execute` will fill."""
        firsts = {id(volume.image): volume for volume in reversed(self.volumes)}
        return tuple(
            self._results_of(volume).promise(
                labels=self.outputs.labels,
                probabilities=self.settings.probabilities.value if self.outputs.probabilities else None,
            )
            for volume in reversed(firsts.values())
        )

    def execute(
        self,
        plan: Plan | None,
        *,
        on_plan: Callable[[Plan], object],
        on_event: EventHandler,
        on_result: Callable[[ImageResult], object],
        cancel: threading.Event,
    ) -> None:
        """Run, and give the result of every image as soon as it is there; the callbacks are called on this thread.

        *plan* is from `resolve`; resolved now if None. It is counted anew where a mask says, or what is empty decides,
        what is computed: painting goes on until the run starts, and what is empty is only looked for then. *cancel*
        stops the run within one forward pass; what was finished is given too, marked incomplete.
        """
        from napari_tessera.jobs.pipeline import provenance

        request = self._request().with_crops(cancel)
        if plan is None or self.mask is not None or request.looks_at_images:
            plan = request.plan(request.find_windows(cancel=cancel))
        on_plan(plan)
        told: list[MemoryRecovered | Noticed] = []

        def observe(event: Event) -> None:
            if isinstance(event, MemoryRecovered | Noticed):
                told.append(event)
            on_event(event)

        origin = provenance(plan, self.model) | ({} if self.mask is None else {"mask": self.mask.name})
        image: ImageResults | None = None
        try:
            with closing(request.run(plan, on_event=observe, cancel=cancel)) as results:
                # The generator first: its last step, after the last volume, closes the run.
                for result, volume in zip(results, self.volumes, strict=True):
                    if image is None or image.image is not volume.image:
                        image = self._results_of(volume)
                    image.stack.add(image.stack.n_added, result)
                    if image.stack.finished_planes or not image.stack.is_full:
                        on_result(image.result(origin, told, final=image.stack.is_full))
        except Exception:
            if image is not None and not image.stack.is_full and image.stack.finished_planes:
                on_result(image.result(origin, told, final=True))
            raise

    def _results_of(self, volume: VolumeInput) -> ImageResults:
        """Return what collects the results of the image that *volume* is the first of."""
        from napari_tessera.api import choose_decoder

        frames = sum(other.image is volume.image for other in self.volumes)
        decoder = choose_decoder(self.model, self.settings) if self.outputs.labels else None
        return ImageResults(volume, frames, self.model.spec, decoder)

    def _remember(self, number: int, what: tuple[Hashable, ...], measure: Callable[[], Any]) -> Any:
        """Return what *measure* gives of volume *number*, or gave before, of the same values."""
        volume = self.volumes[number]
        data = volume.image.data
        # Values that are not where they were would shift a normalisation; a box would leave them out.
        if self.intensities is None or (what[0] == "crop" and is_taken_to_stay(data)):
            return measure()
        # A frame of a lazy array would be read here; of those nothing is looked at.
        part = volume.measured_part if isinstance(data, np.ndarray) else None
        return self.intensities.measure(data, (volume.reading.axes, volume.measured_frame, *what), measure, part=part)


def _is_measured(plan: Plan) -> bool:
    """Whether it is known what passes like those of *plan* take; Apple's GPU counts no memory."""
    timed = plan.time.pass_time is not None and plan.time.pass_time.compares_batches
    return timed and (plan.measured is not None or plan.device.kind == "mps")
