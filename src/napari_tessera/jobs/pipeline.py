"""One run over any number of volumes: load ahead, sweep, decode, hand each result on as soon as it is there."""

from __future__ import annotations

import copy
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy.typing as npt

from napari_tessera.core.errors import CancelledError, OutOfMemoryError, host_memory_for
from napari_tessera.core.settings.settings import ProbabilityType
from napari_tessera.core.units import format_bytes
from napari_tessera.decode import get_decoder
from napari_tessera.decode.expected import ValueCheck
from napari_tessera.decode.reduce import UINT8_LEVELS, choose_reduction, keep_output
from napari_tessera.engine.devices.devices import Device, host_memory, open_devices
from napari_tessera.engine.loop.events import (
    DecodingFinished,
    DecodingStarted,
    Event,
    EventHandler,
    Noticed,
    PlanesFinished,
    RunFinished,
    RunStarted,
    VolumeFinished,
    VolumeStarted,
    raise_if_cancelled,
)
from napari_tessera.engine.loop.parallel import Worker, run_on_devices
from napari_tessera.engine.loop.pass_check import PassCheck
from napari_tessera.engine.sink import ArraySink
from napari_tessera.engine.source import ArraySource, estimate_cache_bytes
from napari_tessera.jobs.finished import FinishedPart
from napari_tessera.jobs.loading import Loaded, iter_loaded
from napari_tessera.memory.allocations import FirstPasses
from napari_tessera.models.model import Model
from napari_tessera.models.networks.training_mode import find_training_mode

if TYPE_CHECKING:
    import numpy as np

    from napari_tessera.decode import Decoder
    from napari_tessera.engine.loop.sweep import Sweep
    from napari_tessera.images.views.crop import Crop
    from napari_tessera.jobs.loading import Load, Measure
    from napari_tessera.models.spec.spec import ModelSpec
    from napari_tessera.planning.plan import Plan
    from napari_tessera.planning.resampling import Resampling

__all__ = ["VolumeResult", "iter_results"]


@dataclass(frozen=True, slots=True)
class VolumeResult:
    """What became of one volume.

    Parameters
    ----------
    volume
        Its number, from 0.
    array
        Labels, integers (*spatial), or probabilities (C, *spatial) in the type that the settings ask for.
    complete
        False when the run was cancelled: what is not *finished* is background.
    finished
        The part that is final, of *array*.
    resampling
        What is still to be done to bring results to the image's own voxels; None: nothing, also where they were
        decided there.
    crop
        The box of the image that results are still to be put back from; None: they are of all of it.
    background
        What is outside of the box, a number for each channel of the network's output.
    """

    volume: int
    array: npt.NDArray[Any]
    complete: bool
    finished: FinishedPart
    resampling: Resampling | None = None
    crop: Crop | None = None
    background: tuple[float, ...] = ()

    def bring_back(self, result: npt.NDArray[Any], *, is_labels: bool) -> npt.NDArray[Any]:
        """Return *result*, on the grid that the windows lie in, on the image's own: `array`, or labels made of it."""
        with host_memory_for("bringing the result back to the image's voxels"):
            if self.resampling is not None:
                result = self.resampling.bring_back(result, is_labels=is_labels)
            return result if self.crop is None else self.crop.put_back(result, () if is_labels else self.background)

    def brought_back(self, *, is_labels: bool) -> VolumeResult:
        """Return the same with its `array` on the image's own grid; *is_labels*: what it is of."""
        array = self.bring_back(self.array, is_labels=is_labels)
        return replace(self, array=array, resampling=None, crop=None)

    @property
    def axis(self) -> int:
        """The sweep axis."""
        return self.finished.axis

    @property
    def finished_planes(self) -> int:
        """Its planes that are final."""
        return self.finished.planes


def iter_results(
    loads: Sequence[Load],
    model: Model,
    plan: Plan,
    decoder: Decoder | None,
    *,
    on_event: EventHandler | None = None,
    cancel: threading.Event | None = None,
    keep_partial: bool = True,
    bring_back: bool = True,
    measure: Measure | None = None,
) -> Iterator[VolumeResult]:
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
    on_event, cancel
        Receives events, on the thread that iterates; stops the run within one forward pass.
    keep_partial
        Whether a cancelled run decodes and yields the finished part of the volume at hand before it ends.
    bring_back
        Whether results of resampled volumes are yielded in the image's own voxels; False leaves that to
        `VolumeResult.bring_back`, for labels that are still to be made of probabilities.
    measure
        Gives the intensities of a volume, by its number, as the network sees it; None reads it for them. Called on the
        thread that loads.

    Raises
    ------
    CancelledError
        After the partial result of the volume at hand has been yielded, if that is kept.
    TesseraError
        Whatever else goes wrong with a volume, the model or memory.
    """
    notify = on_event or (lambda event: None)
    devices = open_devices(plan.settings.device)
    # Only the host's allocator keeps no peak of its own.
    on_cpu = [device.torch_device.type for device in devices] == ["cpu"]
    first = FirstPasses() if on_cpu and plan.first_passes_decide else None
    if first is not None:
        notify = first.heard_by(notify)
    in_training = find_training_mode(model.network)
    check = _check_of(model.spec, plan, decoder, compares=not in_training)
    began, passes = time.perf_counter(), 0
    for device in devices:
        device.start_peak(model.bytes_on(device.torch_device))
    notify(RunStarted(len(loads), plan.windows, plan.forward_passes))
    for sentence in in_training:
        notify(Noticed(0, sentence))
    try:
        with (
            _lent(model, devices) as workers,
            closing(iter_loaded(loads, model, plan, measure)) as volumes,
        ):
            for number in range(len(loads)):
                # Nothing here may keep a volume while the next one is loaded: that would be one more than batch_size.
                run = _VolumeRun(number, next(volumes), model, plan, decoder, check, notify, cancel, keep_partial)
                with first if first is not None and number == 0 else nullcontext():
                    result = run.run(workers)
                if bring_back:
                    result = result.brought_back(is_labels=decoder is not None)
                passes += run.passes
                stopped = not result.complete
                del run
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


def _check_of(spec: ModelSpec, plan: Plan, decoder: Decoder | None, *, compares: bool) -> PassCheck:
    """Return what looks at the first passes; labels may be made of kept probabilities once the run is over."""
    settings, labels = plan.settings, decoder
    if labels is None and settings.decoder is not None:
        labels = get_decoder(settings.decoder, **dict(settings.decoder_parameters))
    return PassCheck(ValueCheck(spec, decoder, labels), settings.precision, compares=compares)


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


class _VolumeRun:
    """One volume: sweep, then decode."""

    def __init__(
        self,
        number: int,
        loaded: Loaded,
        model: Model,
        plan: Plan,
        decoder: Decoder | None,
        check: PassCheck,
        notify: EventHandler,
        cancel: threading.Event | None,
        keep_partial: bool,
    ) -> None:
        self._keep_partial = keep_partial
        self._check = check
        self._number = number
        self._loaded = loaded
        self._spec = model.spec
        self._plan = plan
        self._volume = plan.volumes[number]
        self._decoder = decoder
        self._notify = notify
        self._cancel = cancel
        # What the result is made of, and what is kept of the network's output until then.
        self._reduced = self._kept = choose_reduction(self._spec, decoder, plan.settings.probabilities)
        resampling = self._volume.resampling
        self._back = resampling if resampling is not None and resampling.keeps_output else None
        if self._back is not None:
            self._kept = keep_output(self._spec)
            self._reduced = choose_reduction(
                self._spec, decoder, plan.settings.probabilities, activated=self._spec.resampling.output_activated
            )
        self._finished = FinishedPart(
            self._volume.layout, result_shape=None if self._back is None else self._volume.seen_shape
        )
        self.passes = 0

    def run(self, workers: Sequence[Worker]) -> VolumeResult:
        began = time.perf_counter()
        self._check_host_memory()
        occupied = self._finished.occupied = self._loaded.occupied
        sweep = replace(self._plan.sweep(self._number, self._loaded.intensity), occupied=occupied, check=self._check)
        self._notify(VolumeStarted(self._number, sweep.forward_passes))
        with host_memory_for("the result"):
            shape = (self._kept.channels, *self._volume.shape)
            sink = ArraySink.filled(shape, self._kept.dtype, self._kept.reduction.background)
        complete = self._sweep(workers, sweep, sink)
        if not self._keep_partial:
            raise_if_cancelled(self._cancel)  # nobody waits for the labels any more
        array, still_to_do = sink.array, self._volume.resampling
        del sink  # what was kept is not needed beside the labels
        if self._back is not None:
            array, still_to_do = self._bring_back(array), None
        with host_memory_for("turning probabilities into labels"):
            array = self._decode(array) if self._decoder is not None else array
        if complete:
            self._notify(VolumeFinished(self._number, time.perf_counter() - began))
        return VolumeResult(
            self._number, array, complete, self._finished, still_to_do, self._volume.crop, self._background
        )

    @property
    def _background(self) -> tuple[float, ...]:
        """What the network would surely say of background: its first class where classes exclude each other, else 0."""
        spec, channels = self._spec, self._spec.out_channels
        if spec.output.kind != "semantic" or set(spec.activations) != {"softmax"}:
            return (0.0,) * channels
        full = UINT8_LEVELS if self._plan.settings.probabilities is ProbabilityType.UINT8 else 1
        return (float(full), *(0.0,) * (channels - 1))

    def _bring_back(self, output: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return what the result is made of, in the image's voxels, from the network's output in its own."""
        import torch

        assert self._back is not None
        function = self._reduced.reduction.function

        def finish(part: npt.NDArray[np.float32]) -> npt.NDArray[Any]:
            raise_if_cancelled(None if self._keep_partial else self._cancel)
            reduced: npt.NDArray[Any] = function(torch.from_numpy(part)).numpy()
            return reduced

        with host_memory_for("bringing the result back to the image's voxels"):
            found = self._back.bring_back_output(output, finish)
            missing = self._finished.missing()
            if missing is not None:
                found[:, missing] = self._reduced.reduction.background
        return found

    def _check_host_memory(self) -> None:
        """End before the first pass where the host cannot hold what the run needs: Linux would kill the program."""
        source, layout = self._loaded.source, self._volume.layout
        needed, free = self._plan.host.run_bytes, host_memory().free_bytes
        # Where the image is resampled, the plan counts the planes that are held.
        if self._volume.resampling is None and not (isinstance(source, ArraySource) and source.in_memory):
            blocks = self._volume.blocks[: self._plan.device.count]
            needed += sum(estimate_cache_bytes(source, layout.reach(block), layout) for block in blocks)
        if needed > free:
            kept_wide = self._decoder is None and self._reduced.dtype != "uint8" and self._spec.gives_probabilities
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
                cancel=self._cancel,
            )
        except CancelledError:
            if not self._keep_partial:
                raise
            return False
        self._check.conclude(lambda sentence: self._notify(Noticed(self._number, sentence)))
        return True

    def _observe(self, event: Event) -> None:
        if isinstance(event, PlanesFinished):
            self._finished.add(event.region)
        self._notify(event)

    def _decode(self, reduced: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return the labels; what a cancelled sweep did not reach, or no window covers, is background."""
        assert self._decoder is not None
        self._notify(DecodingStarted(self._number, self._decoder.name))
        began = time.perf_counter()
        labels = self._finished.decode(reduced, self._decoder.decode)
        self._notify(DecodingFinished(self._number, labels.size, time.perf_counter() - began))
        return labels
