"""One run over any number of volumes: load ahead, sweep, decode, hand each result on as soon as it is there."""

from __future__ import annotations

import copy
import logging
import threading
import time
import traceback
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

from napari_tessera.core.errors import CancelledError, OutOfMemoryError
from napari_tessera.core.units import format_bytes
from napari_tessera.core.version import __version__
from napari_tessera.decode.reduction import ValueCheck
from napari_tessera.engine.devices.choice import open_devices
from napari_tessera.engine.loop.block import LackOfMemory
from napari_tessera.engine.loop.events import (
    Event,
    EventHandler,
    Noticed,
    RunFinished,
    RunStarted,
    VolumeCounts,
    VolumeFailed,
    raise_if_cancelled,
)
from napari_tessera.engine.loop.parallel import Worker
from napari_tessera.engine.loop.pass_check import PassCheck
from napari_tessera.jobs.loading import iter_loaded
from napari_tessera.jobs.remember import RunMemory
from napari_tessera.jobs.result_stack import VolumeResult
from napari_tessera.jobs.volume_run import Job, VolumeRun
from napari_tessera.memory.allocations import FirstPasses
from napari_tessera.memory.calibration.store import CalibrationStore
from napari_tessera.models.model import Model
from napari_tessera.models.networks.training_mode import find_training_mode

if TYPE_CHECKING:
    from napari_tessera.decode import Decoder
    from napari_tessera.engine.devices.protocol import Device
    from napari_tessera.jobs.loading import Load, Remember
    from napari_tessera.planning.plan import Plan

logger = logging.getLogger(__name__)


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
    """Run *plan* and yield each volume's result as soon as it is done; see `Request.run`.

    *loads* give the volumes of the plan. While one is computed, as many of the next are loaded as ``batch_size``
    allows, on a thread of their own. No *decoder* keeps the *probabilities*, which may be kept beside labels, too.
    *calibrations* keeps what the run takes, for later estimates; the user's own if None.
    """
    notify: EventHandler = RunMemory(model.network, plan, calibrations or CalibrationStore(), on_event or _log_noticed)
    devices = open_devices(plan.settings.device)
    # Only the host's allocator keeps no peak of its own.
    on_cpu = [device.torch_device.type for device in devices] == ["cpu"]
    first = FirstPasses() if on_cpu and plan.first_passes_decide else None
    if first is not None:
        notify = first.heard_by(notify)
    in_training = find_training_mode(model.network)
    job = Job(
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
    notify(RunStarted(_counts(plan), plan.settings.sw_batch_size))
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
                        # Nothing keeps the run of a volume, and the volume with it, once its result is there.
                        result = VolumeRun(number, next(volumes)(), job).run(workers)
                except CancelledError:
                    raise
                except Exception as error:
                    if not keep_going:
                        raise
                    result = _failed(number, error, notify)
                    for device in devices:
                        device.release_cached()
                passes += result.forward_passes
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
            with LackOfMemory(device) as lack:
                workers.append(Worker(device, stack.enter_context(here.ready_on(device.torch_device))))
            if lack.error is not None:
                free = format_bytes(device.memory().free_bytes)
                raise OutOfMemoryError(
                    f"the weights of '{model.spec.name}' do not fit into the memory of {device.name} ({free} free): "
                    f"close other programs, or choose another device"
                ) from lack.error
        yield tuple(workers)


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
