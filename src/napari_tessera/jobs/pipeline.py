"""One run over any number of volumes: load ahead, sweep, decode, hand each result on as soon as it is there."""

from __future__ import annotations

import copy
import logging
import threading
import time
import traceback
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy.typing as npt

from napari_tessera.core.errors import CancelledError, OutOfMemoryError, host_memory_for
from napari_tessera.core.settings.choices import ProbabilityType
from napari_tessera.core.units import format_bytes
from napari_tessera.core.version import __version__
from napari_tessera.decode.reduction import (
    UINT8_LEVELS,
    ValueCheck,
    choose_reduction,
    keep_output,
    restore_probabilities,
)
from napari_tessera.engine.devices.choice import open_devices
from napari_tessera.engine.devices.host_memory import host_memory
from napari_tessera.engine.loop.events import (
    DecodingFinished,
    DecodingStarted,
    Event,
    EventHandler,
    Noticed,
    PlanesFinished,
    RunFinished,
    RunStarted,
    VolumeCounts,
    VolumeFailed,
    VolumeFinished,
    VolumeStarted,
    raise_if_cancelled,
)
from napari_tessera.engine.loop.parallel import Worker, run_on_devices
from napari_tessera.engine.loop.pass_check import PassCheck
from napari_tessera.engine.sink import ArraySink
from napari_tessera.engine.source import estimate_cache_bytes
from napari_tessera.jobs.finished import FinishedPart
from napari_tessera.jobs.loading import Loaded, iter_loaded
from napari_tessera.jobs.remember import RunMemory
from napari_tessera.memory.allocations import FirstPasses
from napari_tessera.memory.calibration.store import CalibrationStore
from napari_tessera.models.model import Model
from napari_tessera.models.networks.training_mode import find_training_mode

if TYPE_CHECKING:
    import numpy as np

    from napari_tessera.decode import Decoder
    from napari_tessera.engine.devices.protocol import Device
    from napari_tessera.engine.loop.sweep import Sweep
    from napari_tessera.jobs.loading import Load, Remember
    from napari_tessera.planning.plan import Plan

__all__ = ["VolumeResult", "iter_results", "provenance"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class VolumeResult:
    """What became of one volume, in the image's own voxels.

    Parameters
    ----------
    volume
        Its number, from 0.
    labels
        Integers (*spatial); None where none are made.
    probabilities
        (C, *spatial) in the type that the settings ask for; None where they are not kept.
    complete
        False when the run was cancelled: what is not *finished* is background.
    finished
        The part that is final; None of a volume that failed.
    error
        What went wrong, where that does not end the run.
    """

    volume: int
    labels: npt.NDArray[Any] | None
    probabilities: npt.NDArray[Any] | None
    complete: bool
    finished: FinishedPart | None
    error: Exception | None = None

    @property
    def array(self) -> npt.NDArray[Any]:
        """The labels, the probabilities where there are none."""
        array = self.probabilities if self.labels is None else self.labels
        assert array is not None
        return array

    @property
    def finished_planes(self) -> int:
        """Planes that are final, along the sweep axis."""
        return 0 if self.finished is None else self.finished.planes


def iter_results(
    loads: Sequence[Load],
    model: Model,
    plan: Plan,
    decoder: Decoder | None,
    *,
    probabilities: bool = False,
    on_event: EventHandler | None = None,
    cancel: threading.Event | None = None,
    keep_partial: bool = True,
    keep_going: bool = False,
    remember: Remember | None = None,
    calibrations: CalibrationStore | None = None,
) -> Generator[VolumeResult, None, None]:
    """Run *plan* and yield each volume's result as soon as it is done.

    Parameters
    ----------
    loads
        One function per volume of the plan that gives its `Source`. While one volume is computed, as many of the next
        are loaded as ``batch_size`` allows, on a thread of their own.
    model, plan
        What to run; the plan must have been made for this model and for volumes of these shapes.
    decoder
        What makes labels of probabilities; None keeps the probabilities.
    probabilities
        Whether they are kept beside the labels.
    on_event, cancel
        Receives events, on the thread that iterates; None: what is `Noticed` is logged as a warning. Stops the run
        within one forward pass.
    keep_partial
        Whether a cancelled run decodes and yields the finished part of the volume at hand before it ends.
    keep_going
        Whether what goes wrong with a volume ends that volume alone: its result then has the error.
    remember
        Gives the intensities of a volume where they were measured before, on the thread that loads; None: reads it.
    calibrations
        Where it is kept what the run takes, for later estimates; the user's own if None.

    Raises
    ------
    CancelledError
        After the partial result of the volume at hand has been yielded, if that is kept.
    TesseraError
        Whatever else goes wrong with a volume, the model or memory.
    """
    notify: EventHandler = RunMemory(model.network, plan, calibrations or CalibrationStore(), on_event or _log_noticed)
    devices = open_devices(plan.settings.device)
    # Only the host's allocator keeps no peak of its own.
    on_cpu = [device.torch_device.type for device in devices] == ["cpu"]
    first = FirstPasses() if on_cpu and plan.first_passes_decide else None
    if first is not None:
        notify = first.heard_by(notify)
    in_training = find_training_mode(model.network)
    job = _Job(
        model,
        plan,
        decoder,
        probabilities or decoder is None,
        PassCheck(
            ValueCheck(model.spec, None if probabilities else decoder, decoder),
            plan.settings.precision,
            compares=not in_training,
        ),
        notify,
        cancel,
        keep_partial,
    )
    began, passes = time.perf_counter(), 0
    for device in devices:
        device.start_peak(model.bytes_on(device.torch_device))
    notify(RunStarted(_counts(plan), plan.windows, plan.memory.total_bytes, plan.host_bytes))
    for sentence in in_training:
        notify(Noticed(0, sentence))
    try:
        with ExitStack() as stack:
            try:
                workers = stack.enter_context(_lent(model, devices))
            except Exception as error:
                if not keep_going:
                    raise
                yield from (_failed(number, error, notify) for number in range(len(loads)))
                return
            volumes = stack.enter_context(closing(iter_loaded(loads, model, plan, remember)))
            for number in range(len(loads)):
                try:
                    with first if first is not None and number == 0 else nullcontext():
                        result, made = _run_volume(number, next(volumes), job, workers)
                except CancelledError:
                    raise
                except Exception as error:
                    if not keep_going:
                        raise
                    result, made = _failed(number, error, notify), 0
                    for device in devices:
                        device.release_cached()
                passes += made
                stopped = not result.complete
                yield result
                del result
                if stopped or number < len(loads) - 1:
                    raise_if_cancelled(cancel)
    finally:
        peaks = [device.peak_bytes() for device in devices]
        for device in devices:
            device.release_cached()
    if first is not None and first.peak_bytes is not None:
        peaks.append(plan.memory.weights_bytes + first.peak_bytes)
    peak = max((peak for peak in peaks if peak is not None), default=None)
    notify(RunFinished(passes, time.perf_counter() - began, peak))


def _log_noticed(event: Event) -> None:
    if isinstance(event, Noticed):
        logger.warning(event.sentence)


def _failed(number: int, error: Exception, notify: EventHandler) -> VolumeResult:
    """Return the result of a volume that failed; its traceback keeps neither the volume nor tensors alive."""
    traceback.clear_frames(error.__traceback__)
    notify(VolumeFailed(number, error))
    return VolumeResult(number, None, None, True, None, error)


def _counts(plan: Plan) -> tuple[VolumeCounts, ...]:
    decodes, timed = bool(plan.settings.decoder), plan.time.decoding
    return tuple(
        VolumeCounts(
            forward_passes=volume.forward_passes,
            window_passes=sum(volume.block_windows) * plan.views_per_pass,
            planes=volume.image_shape[volume.layout.sweep_axis],
            decoded_voxels=volume.decoded_voxels if decodes else 0,
            decoding_s=timed.of(volume.decoded_voxels) if decodes and timed is not None else None,
        )
        for volume in plan.volumes
    )


@contextmanager
def _lent(model: Model, devices: Sequence[Device]) -> Iterator[tuple[Worker, ...]]:
    """Lend the network on every device, or say that not even its weights fit."""
    workers = []
    with ExitStack() as stack:
        for number, device in enumerate(devices):
            # The first device takes the user's own network, the others a copy of it.
            here = model if number == 0 else Model(copy.deepcopy(model.network), model.spec, model.origin)
            try:
                workers.append(Worker(device, stack.enter_context(here.ready_on(device.torch_device))))
            except (RuntimeError, MemoryError) as error:
                if not device.is_out_of_memory(error):
                    raise
                free = format_bytes(device.memory().free_bytes)
                raise OutOfMemoryError(
                    f"the weights of '{model.spec.name}' do not fit into the memory of {device.name} ({free} free): "
                    f"close other programs, or choose another device"
                ) from error
        yield tuple(workers)


@dataclass(frozen=True, slots=True)
class _Job:
    """What all volumes of a run share."""

    model: Model
    plan: Plan
    decoder: Decoder | None
    keeps_probabilities: bool
    check: PassCheck
    notify: EventHandler
    cancel: threading.Event | None
    keep_partial: bool


def _run_volume(
    number: int, load: Callable[[], Loaded], job: _Job, workers: Sequence[Worker]
) -> tuple[VolumeResult, int]:
    """Return what becomes of one volume, and its forward passes; nothing keeps the volume afterwards."""
    run = _VolumeRun(number, load(), job)
    return run.run(workers), run.passes


class _VolumeRun:
    """One volume: sweep, then decode."""

    def __init__(self, number: int, loaded: Loaded, job: _Job) -> None:
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
        self.passes = 0

    def run(self, workers: Sequence[Worker]) -> VolumeResult:
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
        complete = self._sweep(workers, sweep, sink)
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
        return VolumeResult(self._number, labels, probabilities, complete, self._finished)

    def _in_image(self, result: npt.NDArray[Any], *, is_labels: bool) -> npt.NDArray[Any]:
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

    def _to_image_grid(self, output: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return what the result is made of, in the image's voxels, from the network's output in its own."""
        import torch

        assert self._inverse is not None
        function = self._reduced.reduction.function

        def finish(part: npt.NDArray[np.float32]) -> npt.NDArray[Any]:
            raise_if_cancelled(None if self._job.keep_partial else self._job.cancel)
            reduced: npt.NDArray[Any] = function(torch.from_numpy(part)).numpy()
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

    def _sweep(self, workers: Sequence[Worker], sweep: Sweep, sink: ArraySink) -> bool:
        """Fill *sink* and return whether all of it was filled: False after a cancel."""
        try:
            self.passes = run_on_devices(
                workers,
                self._loaded.source,
                sweep,
                reduction=self._kept.reduction,
                sink=sink,
                volume=self._number,
                on_event=self._observe,
                cancel=self._job.cancel,
            )
        except CancelledError:
            if not self._job.keep_partial:
                raise
            return False
        self._job.check.conclude(lambda sentence: self._job.notify(Noticed(self._number, sentence)))
        return True

    def _observe(self, event: Event) -> None:
        if isinstance(event, PlanesFinished):
            self._finished.add(event.region)
        self._job.notify(event)

    def _decode(self, reduced: npt.NDArray[Any], decoder: Decoder) -> npt.NDArray[Any]:
        """Return the labels; what a cancelled sweep did not reach, or no window covers, is background."""

        def decode(part: npt.NDArray[Any]) -> npt.NDArray[Any]:
            if self._job.keeps_probabilities:
                part = decoder.reduce(restore_probabilities(part), self._spec.output).numpy()
            return decoder.decode(part)

        self._job.notify(DecodingStarted(self._number, decoder.name))
        began = time.perf_counter()
        with host_memory_for("turning probabilities into labels"):
            labels = self._finished.decode(reduced, decode)
        self._job.notify(DecodingFinished(self._number, labels.size, time.perf_counter() - began))
        return labels


def provenance(planned: Plan, model: Model) -> dict[str, Any]:
    """Return what a reader of the result needs to make it again: version, model, settings, counts."""
    crop = next((volume.crop for volume in planned.volumes if volume.crop is not None), None)
    resampled = next((volume.resampling for volume in planned.volumes if volume.resampling is not None), None)
    return (
        {
            "software": f"napari-tessera {__version__}",
            "model": model.spec.name,
            "model_origin": model.origin,
            "settings": planned.settings.to_dict(),
            "windows": planned.windows,
            "skipped_windows": planned.skipped_windows,
            "forward_passes": planned.forward_passes,
            "device": planned.device.name,
        }
        | ({"assumed": list(model.spec.assumed)} if model.spec.assumed else {})
        | ({} if resampled is None else {"resampled": resampled.to_dict()})
        | ({} if crop is None else {"crop": crop.to_dict()})
    )
