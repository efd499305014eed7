"""One block: its windows through the network into its slab, and what is tried when memory runs out.

In this order, each step an event:

1. the forward pass does not fit: its windows again with half the batch, down to one window;
2. finished planes do not fit beside the rest while they are reduced: fewer of them at once;
3. either still does not fit, and the slab is on the device: the slab moves to the host;
4. or the slab does not fit anywhere: `NoRoomError`, and the caller goes on with smaller blocks.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Self

import torch

from napari_tessera.core.settings.choices import AccumulatorType
from napari_tessera.core.settings.views import View
from napari_tessera.engine.geometry.grid import count_forward_passes
from napari_tessera.engine.loop.events import Recovery
from napari_tessera.engine.loop.tta import ViewAverage
from napari_tessera.engine.loop.window_reader import WindowPrefetcher
from napari_tessera.engine.stitching.stitch import Finished, SlabStitcher

if TYPE_CHECKING:
    from napari_tessera.engine.devices.protocol import Device, Stream
    from napari_tessera.engine.geometry.grid import Block
    from napari_tessera.engine.loop.forward import Forward, Window
    from napari_tessera.engine.loop.pass_count import Passes
    from napari_tessera.engine.loop.plane_writer import PlaneWriter
    from napari_tessera.engine.loop.sweep import Sweep
    from napari_tessera.engine.loop.window_reader import WindowReader
    from napari_tessera.engine.sink import Reduction

DTYPES = {AccumulatorType.FLOAT32: torch.float32, AccumulatorType.FLOAT16: torch.float16}
HOST = torch.device("cpu")


class NoRoomError(Exception):
    """Memory does not suffice for this block, whatever is tried; it never leaves the engine.

    *first_unfinished* is the first plane of the image that is not in the sink, *failed_batch* the windows of the pass
    that failed, 0 if it was not a pass.
    """

    def __init__(self, first_unfinished: int, failed_batch: int) -> None:
        super().__init__("no room for the block")
        self.first_unfinished, self.failed_batch = first_unfinished, failed_batch

    @property
    def in_pass(self) -> bool:
        """Whether it was a forward pass that failed."""
        return self.failed_batch > 0


class LackOfMemory:
    """Catches a device's lack of memory, and keeps the error without the frames that keep tensors alive."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self.error: BaseException | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, frames: TracebackType | None
    ) -> bool:
        if not isinstance(error, (RuntimeError, MemoryError)) or not self._device.is_out_of_memory(error):
            return False
        self.error = error.with_traceback(None)
        return True


@dataclass(frozen=True, slots=True)
class _SeenPartly:
    """Windows that some views have been computed for when memory ran out: those are not computed again.

    *total* is the sum over the first *views* of them, (B, C', *window); *first* the number of the first window.
    """

    first: int
    total: torch.Tensor
    views: int

    @property
    def stop(self) -> int:
        return self.first + self.total.shape[0]

    def split(self, windows: int) -> tuple[_SeenPartly, _SeenPartly | None]:
        head = _SeenPartly(self.first, self.total[:windows], self.views)
        tail = _SeenPartly(self.first + windows, self.total[windows:], self.views)
        return head, tail if tail.total.shape[0] else None


@dataclass(frozen=True, slots=True)
class Shared:
    """What the blocks of a run share; *importance* are the weights of a window."""

    sweep: Sweep
    device: Device
    stream: Stream
    forward: Forward
    passes: Passes
    importance: torch.Tensor
    reduction: Reduction
    writer: PlaneWriter


class BlockRun:
    """Runs one block, whose slab it has from the start: on the device or else on the host.

    *batch* is the windows per pass, as many as fitted until now; *on_host* whether the accumulator has had to move to
    the host. *on_recovery* is called with the step, the windows of the failed pass, the batch to go on with and the
    passes left. Raises `NoRoomError` if there is no room for the slab.
    """

    def __init__(
        self,
        block: Block,
        reader: WindowReader,
        shared: Shared,
        *,
        batch: int,
        on_host: bool,
        on_recovery: Callable[[Recovery, int, int, int], None],
    ) -> None:
        self._block, self._reader = block, reader
        self._sweep, self._device, self._stream = shared.sweep, shared.device, shared.stream
        self._forward, self._passes = shared.forward, shared.passes
        self._batch, self._on_host, self._on_recovery = batch, on_host, on_recovery
        self._windows = self._sweep.windows_of(block)
        self._stitched = 0
        self._predicted = 0
        self._partly: deque[_SeenPartly] = deque()
        self._average = ViewAverage(self._sweep.views, self._sweep.grid.window, self._sweep.offsets)
        self._valid_weights: dict[View, torch.Tensor | None] = {}
        self._stitcher = self._open_stitcher(shared.importance, shared.reduction, shared.writer)

    @property
    def _accumulator_device(self) -> torch.device:
        return HOST if self._on_host else self._device.torch_device

    @property
    def _may_move(self) -> bool:
        """Whether the accumulator would find other memory on the host."""
        return not self._on_host and not self._device.shares_host_memory

    def _open_stitcher(self, importance: torch.Tensor, reduction: Reduction, writer: PlaneWriter) -> SlabStitcher:
        def emit(finished: Finished) -> None:
            writer.put(finished.region, reduction.apply(finished.values, finished.missing))

        weighting = self._sweep.weighting(normalised=reduction.normalised)
        dtype, channels = DTYPES[self._sweep.accumulator], self._sweep.out_channels
        for on_host in (False, True) if self._may_move else (self._on_host,):
            where = HOST if on_host else self._device.torch_device
            with LackOfMemory(self._device) as lack:
                stitcher = SlabStitcher(
                    self._sweep.grid,
                    self._block,
                    channels,
                    importance.to(where),
                    weighting,
                    emit,
                    dtype=dtype,
                    device=where,
                )
            if lack.error is None:
                if on_host != self._on_host:
                    self._on_host = True
                    self._tell(Recovery.HOST_ACCUMULATOR, 0)
                return stitcher
            self._device.release_cached()
        raise NoRoomError(self._block.start[self._sweep.grid.sweep_axis], 0) from lack.error

    def run(self) -> None:
        """Compute and stitch all windows, and emit all planes; after a `NoRoomError` what has been emitted is final."""
        predict = self._predict_interleaved if self._sweep.is_interleaved else self._predict
        while self._stitched < len(self._windows):
            with LackOfMemory(self._device) as lack, self._prefetch() as batches:
                for windows in batches:
                    # No name is given to tensors here: they would outlive the pass, or its failure.
                    self._stitch(windows, predict(windows, batches.values))
                    batches.used()
            if lack.error is not None:
                self._shrink(lack.error)
        self._with_relief(self._stitcher.finish)

    def _prefetch(self) -> WindowPrefetcher:
        """Read the windows that are left; of partly seen ones only these, as no batch may mix them with others."""
        return WindowPrefetcher(
            self._reader,
            self._windows[self._stitched : self._end],
            self._batch,
            device=self._device,
            stream=self._stream,
            read_ahead=self._device.read_ahead if self._sweep.read_ahead is None else self._sweep.read_ahead,
        )

    @property
    def _end(self) -> int:
        """The window after the last that is read next."""
        return self._partly[0].stop if self._partly else len(self._windows)

    def _stitch(self, windows: Sequence[Window], predictions: torch.Tensor) -> None:
        self._predicted = self._stitched + len(windows)
        for window, prediction in zip(windows, predictions, strict=True):
            self._with_relief(partial(self._add, window, prediction))
            self._stitched += 1

    def _add(self, window: Window, prediction: torch.Tensor) -> None:
        valid_weights = None
        if self._sweep.is_interleaved:
            prediction = self._average.restored(prediction[None], window.view)[0]
            valid_weights = self._valid_weights_of(window.view)
        self._stitcher.add(window.start, prediction, valid_weights)

    def _valid_weights_of(self, view: View) -> torch.Tensor | None:
        """Return a view's valid mask as weights, kept where the sums are: a copy per window would hold them up."""
        if view not in self._valid_weights:
            valid_weights = self._average.valid_weights(view)
            moved = None if valid_weights is None else valid_weights.to(self._accumulator_device)
            self._valid_weights[view] = moved
        return self._valid_weights[view]

    def _predict(self, windows: Sequence[Window], tensor: torch.Tensor) -> torch.Tensor:
        """Return the prediction for every window, (B, C', *window) in the window's own axes."""
        views = self._sweep.views
        seen = self._resume(len(windows))
        total, done = (None, 0) if seen is None else (seen.total, seen.views)
        try:
            for view in views[done:]:
                self._passes.raise_if_cancelled()
                prediction = self._forward(self._seen(tensor, view), windows)
                if total is None:
                    # The network's output may be its own buffer (or its input): the sum needs memory of its own.
                    total = prediction if len(views) == 1 else prediction.clone()
                else:
                    self._average.add(total, prediction, view)
                del prediction
                done += 1
                self._passes.issued(len(windows))
            assert total is not None
            return self._average.finish(total)
        except (RuntimeError, MemoryError):
            if total is not None:
                self._partly.appendleft(_SeenPartly(self._stitched, total, done))
            raise

    def _resume(self, windows: int) -> _SeenPartly | None:
        if not self._partly:
            return None
        seen, others = self._partly.popleft().split(windows)
        if others is not None:
            self._partly.appendleft(others)
        return seen

    def _predict_interleaved(self, windows: Sequence[Window], tensor: torch.Tensor) -> torch.Tensor:
        """Return the predictions of one pass in which every window is seen through its own view, in the view's axes."""
        self._passes.raise_if_cancelled()
        for place, window in enumerate(windows):
            if window.view != View():
                tensor[place : place + 1] = window.view.apply(tensor[place : place + 1]).clone()
        predictions = self._forward(tensor, windows)
        self._passes.issued(len(windows))
        return predictions

    def _seen(self, windows: torch.Tensor, view: View) -> torch.Tensor:
        """Return *windows* through *view*, in memory of its own while other views need them.

        A network may write into its input (an in-place activation as the first layer does); a flip is a copy anyway.
        """
        seen = view.apply(windows)
        if view.transpose:  # in the windows' own layout, which the network has shown that it takes
            return torch.empty_like(windows).copy_(seen)
        return seen if view.flips or len(self._sweep.views) == 1 else seen.clone()

    def _with_relief(self, work: Callable[[], None]) -> None:
        """Do some stitching; where memory does not suffice, make room and do the rest of it."""
        while True:
            with LackOfMemory(self._device) as lack:
                work()
            if lack.error is None:
                return
            self._device.release_cached()
            if self._stitcher.smaller_pieces():
                self._tell(Recovery.SMALLER_PIECES, 0)
            else:
                self._to_host(lack.error, failed_batch=0)

    def _shrink(self, failure: BaseException) -> None:
        """Make room after a pass did not fit."""
        self._device.release_cached()
        self._predicted = self._stitched
        failed = min(self._batch, self._end - self._stitched)
        if failed > 1:
            self._batch = failed // 2
            self._tell(Recovery.SMALLER_PASSES, failed)
        else:
            self._to_host(failure, failed_batch=1)

    def _to_host(self, failure: BaseException, *, failed_batch: int) -> None:
        if not self._may_move:
            raise NoRoomError(self._stitcher.first_unfinished, failed_batch) from failure
        with LackOfMemory(self._device) as lack:
            self._stitcher.move_to(HOST)
        self._device.release_cached()
        if lack.error is not None:
            raise NoRoomError(self._stitcher.first_unfinished, failed_batch) from lack.error
        self._on_host = True
        self._valid_weights.clear()
        self._tell(Recovery.HOST_ACCUMULATOR, failed_batch)

    def _tell(self, step: Recovery, failed_batch: int) -> None:
        self._on_recovery(step, failed_batch, self._batch, self._passes_left())

    def _passes_left(self) -> int:
        """Return the passes that the windows without a prediction still need."""
        views = self._sweep.views_per_pass
        first = max(self._predicted, self._stitched)
        passes = 0
        for seen in self._partly:
            passes += count_forward_passes(seen.stop - first, sw_batch_size=self._batch, n_views=views - seen.views)
            first = seen.stop
        return passes + count_forward_passes(len(self._windows) - first, sw_batch_size=self._batch, n_views=views)
