"""One volume of a run: swept, decoded, and put back into the image's own voxels; which part of it is final."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from napari_tessera.core.errors import CancelledError, OutOfMemoryError, host_memory_for
from napari_tessera.core.settings.choices import ProbabilityType
from napari_tessera.core.units import format_bytes
from napari_tessera.decode.reduction import UINT8_LEVELS, choose_reduction, keep_output, restore_probabilities
from napari_tessera.engine.devices.host_memory import host_memory
from napari_tessera.engine.loop.events import (
    DecodingFinished,
    DecodingStarted,
    Event,
    EventHandler,
    Noticed,
    PlanesFinished,
    VolumeFinished,
    VolumeStarted,
    raise_if_cancelled,
)
from napari_tessera.engine.loop.sweep_run import run_sweep
from napari_tessera.engine.sink import ArraySink
from napari_tessera.engine.source import estimate_cache_bytes
from napari_tessera.images.views.resample import resample_labels
from napari_tessera.images.views.window_mask import covered_voxels
from napari_tessera.jobs.result_stack import VolumeResult

if TYPE_CHECKING:
    from napari_tessera.decode import Decoder
    from napari_tessera.engine.geometry.grid import WindowGrid
    from napari_tessera.engine.loop.parallel import Worker
    from napari_tessera.engine.loop.pass_check import PassCheck
    from napari_tessera.jobs.loading import Loaded
    from napari_tessera.models.model import Model
    from napari_tessera.planning.plan import Plan

Array = npt.NDArray[Any]
Limits = tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Job:
    """What all volumes of a run share."""

    model: Model
    plan: Plan
    decoder: Decoder | None
    keeps_probabilities: bool
    check: PassCheck
    notify: EventHandler
    cancel: threading.Event | None
    keep_partial: bool


class VolumeRun:
    """One volume: sweep, then decode."""

    def __init__(self, number: int, loaded: Loaded, job: Job) -> None:
        self._job, self._number, self._loaded = job, number, loaded
        self._spec, self._plan, self._volume = job.model.spec, job.plan, job.plan.volumes[number]
        # Labels are made on the way where nobody asks for the probabilities.
        reducer = None if job.keeps_probabilities else job.decoder
        kept_as = self._plan.settings.probabilities
        # What the result is made of, and what is kept of the network's output until then.
        self._reduced = self._kept = choose_reduction(self._spec, reducer, kept_as)
        resampling = self._volume.resampling
        self._inverse = resampling if resampling is not None and resampling.keeps_output else None
        if self._inverse is not None:
            self._kept = keep_output(self._spec)
            self._reduced = choose_reduction(
                self._spec, reducer, kept_as, activated=self._spec.resampling.output_activated
            )
        self._finished = FinishedPart(
            self._volume.layout, result_shape=None if self._inverse is None else self._volume.seen_shape
        )

    def run(self, workers: Sequence[Worker]) -> VolumeResult:
        """Return what becomes of the volume."""
        job, began = self._job, time.perf_counter()
        self._check_host_memory()
        window_mask = self._finished.window_mask = self._loaded.window_mask
        sweep = replace(
            self._plan.sweep(self._number, self._loaded.intensity), window_mask=window_mask, check=job.check
        )
        job.notify(VolumeStarted(self._number, sweep.forward_passes, sweep.window_passes))
        with host_memory_for("the result"):
            shape = (self._kept.channels, *self._volume.shape)
            sink = ArraySink.filled(shape, self._kept.dtype, self._kept.reduction.background)
        complete, passes = True, 0
        try:
            passes = run_sweep(
                workers,
                self._loaded.source,
                sweep,
                reduction=self._kept.reduction,
                sink=sink,
                volume=self._number,
                on_event=self._observe,
                cancel=job.cancel,
            )
        except CancelledError:
            if not job.keep_partial:
                raise
            complete = False
        else:
            job.check.conclude(lambda sentence: job.notify(Noticed(self._number, sentence)))
        if not job.keep_partial:
            raise_if_cancelled(job.cancel)  # nobody waits for the labels any more
        array = sink.array
        del sink  # what was kept is not needed beside the labels
        if self._inverse is not None:
            array = self._to_image_grid(array)
        labels = probabilities = None
        if job.decoder is not None:
            labels = self._in_image(self._decode(array, job.decoder), is_labels=True)
        if job.keeps_probabilities:
            probabilities = self._in_image(array, is_labels=False)
        if complete:
            job.notify(VolumeFinished(self._number, time.perf_counter() - began))
        return VolumeResult(self._number, labels, probabilities, complete, self._finished, forward_passes=passes)

    def _in_image(self, result: Array, *, is_labels: bool) -> Array:
        """Return *result*, on the grid that the windows lie in, on the image's own."""
        with host_memory_for("resampling the result to the image grid"):
            if self._volume.resampling is not None and self._inverse is None:
                result = self._volume.resampling.to_image_grid(result, is_labels=is_labels)
            crop = self._volume.crop
            return result if crop is None else crop.put_back(result, () if is_labels else self._background)

    @property
    def _background(self) -> tuple[float, ...]:
        """What the network would surely say of background: its first class where classes exclude each other, else 0."""
        spec, channels = self._spec, self._spec.out_channels
        if spec.output.kind != "semantic" or set(spec.activations) != {"softmax"}:
            return (0.0,) * channels
        full = UINT8_LEVELS if self._plan.settings.probabilities is ProbabilityType.UINT8 else 1
        return (float(full), *(0.0,) * (channels - 1))

    def _to_image_grid(self, output: Array) -> Array:
        """Return what the result is made of, in the image's voxels, from the network's output in its own."""
        import torch

        assert self._inverse is not None
        function = self._reduced.reduction.function

        def finish(part: npt.NDArray[np.float32]) -> Array:
            raise_if_cancelled(None if self._job.keep_partial else self._job.cancel)
            reduced: Array = function(torch.from_numpy(part)).numpy()
            return reduced

        with host_memory_for("resampling the result to the image grid"):
            found = self._inverse.output_to_image_grid(output, finish)
            missing = self._finished.missing()
            if missing is not None:
                found[:, missing] = self._reduced.reduction.background
        return found

    def _check_host_memory(self) -> None:
        """End before the first pass where the host cannot hold what the run needs: Linux would kill the program."""
        source, layout = self._loaded.source, self._volume.layout
        needed, free = self._plan.host.run_bytes, host_memory().free_bytes
        # Where the image is resampled, the plan counts the planes that are held.
        if self._volume.resampling is None and not source.in_memory:
            blocks = self._volume.blocks[: self._plan.device.count]
            needed += sum(estimate_cache_bytes(source, layout.reach(block), layout) for block in blocks)
        if needed > free:
            kept_wide = self._job.decoder is None and self._reduced.dtype != "uint8" and self._spec.gives_probabilities
            narrower = ", or keep probabilities as uint8" if kept_wide else ""
            raise OutOfMemoryError(
                f"the run needs {format_bytes(needed)} of the host's memory beside the image, and {format_bytes(free)} "
                f"are free: crop the image, or close other programs{narrower}"
            )

    def _observe(self, event: Event) -> None:
        if isinstance(event, PlanesFinished):
            self._finished.add(event.region)
        self._job.notify(event)

    def _decode(self, reduced: Array, decoder: Decoder) -> Array:
        """Return the labels; what a cancelled sweep did not reach, or no window covers, is background."""

        def decode(part: Array) -> Array:
            if self._job.keeps_probabilities:
                part = decoder.reduce(restore_probabilities(part), self._spec.output).numpy()
            return decoder.decode(part)

        self._job.notify(DecodingStarted(self._number, decoder.name))
        began = time.perf_counter()
        with host_memory_for("turning probabilities into labels"):
            labels = self._finished.decode(reduced, decode)
        self._job.notify(DecodingFinished(self._number, labels.size, time.perf_counter() - began))
        return labels


@dataclass(slots=True)
class FinishedPart:
    """The finished part of one volume, whose windows lie as *layout* says.

    *window_mask*, boolean of ``layout.counts``, says which are computed; None: all of them. Of a result that has been
    resampled to the image grid *result_shape* is its shape. A voxel of it is final if the one of the layout that its
    middle lies in is: the next one counts less.
    """

    layout: WindowGrid
    window_mask: Array | None = None
    result_shape: tuple[int, ...] | None = None
    _regions: list[Limits] = field(default_factory=list)

    @property
    def shape(self) -> tuple[int, ...]:
        """The result's, (*spatial)."""
        return self.result_shape or self.layout.shape

    @property
    def axis(self) -> int:
        """The sweep axis."""
        return self.layout.sweep_axis

    def add(self, region: Limits) -> None:
        """Take note of a region of the layout, (start, stop) per axis; no two overlap."""
        pairs = zip(region, self.layout.shape, self.shape, strict=True)
        self._regions.append(tuple((_moved(a, old, new), _moved(b, old, new)) for (a, b), old, new in pairs))

    @property
    def planes(self) -> int:
        """Planes along the sweep axis, from the first, that are final across the whole volume."""
        across = int(np.prod([side for axis, side in enumerate(self.shape) if axis != self.axis]))
        done = np.zeros(self.shape[self.axis], np.int64)
        for region in self._regions:
            area = np.prod([stop - start for axis, (start, stop) in enumerate(region) if axis != self.axis])
            done[slice(*region[self.axis])] += int(area)
        return int(np.argmax(np.append(done, 0) != across))

    @property
    def is_all(self) -> bool:
        """Whether nothing is missing."""
        return self.planes == self.shape[self.axis]

    @property
    def is_empty(self) -> bool:
        """Whether nothing is there yet."""
        return not self._regions

    def missing(self) -> npt.NDArray[np.bool_] | None:
        """Return where nothing is final or no window is computed, boolean, of the result's shape; None: nowhere."""
        missing = None if self.is_all else ~self.mask()
        uncovered = self._uncovered()
        if missing is None or uncovered is None:
            return uncovered if missing is None else missing
        missing |= uncovered
        return missing

    def _uncovered(self) -> npt.NDArray[np.bool_] | None:
        if self.window_mask is None or self.window_mask.all():
            return None
        return resample_labels(~covered_voxels(self.layout, self.window_mask), self.shape)

    def mask(self) -> npt.NDArray[np.bool_]:
        """Return which voxels are final, boolean, of the volume's shape."""
        final = np.zeros(self.shape, bool)
        for region in self._regions:
            final[tuple(slice(*limits) for limits in region)] = True
        return final

    def decode(self, reduced: Array, decode: Callable[[Array], Array]) -> Array:
        """Return the labels that *decode* makes of the finished part of *reduced*, (C, *spatial).

        They are 0 elsewhere, and where no window is computed.
        """
        labels = self._decode(reduced, decode)
        uncovered = self._uncovered()
        if uncovered is not None:
            labels[uncovered] = 0
        return labels

    def _decode(self, reduced: Array, decode: Callable[[Array], Array]) -> Array:
        if self.is_all:
            return decode(reduced)
        if self.is_empty:
            return np.zeros(self.shape, np.int32)
        end = max(region[self.axis][1] for region in self._regions)
        part = tuple(slice(0, end) if axis == self.axis else slice(None) for axis in range(len(self.shape)))
        found = decode(reduced[(slice(None), *part)])
        labels = np.zeros(self.shape, found.dtype)
        labels[part] = found
        if self.planes < end:  # stitched in blocks, and not all of them have got that far
            labels[~self.mask()] = 0
        return labels


def _moved(edge: int, size: int, new_size: int) -> int:
    """Return the first of *new_size* voxels whose middle lies behind voxel *edge* - 1 of *size*."""
    # The least i with (2 i + 1) * size // (2 * new_size) >= edge, in whole numbers.
    return max(-(-(2 * edge * new_size - size) // (2 * size)), 0)
