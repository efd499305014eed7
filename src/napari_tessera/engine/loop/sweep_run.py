"""The loop: windows in, the network on every view, predictions stitched, finished planes out.

Memory that runs out costs one pass: see `BlockRun` for what is tried, step by step. What a failed pass has computed is
not stitched, and what has been stitched is not computed again, so the result does not change.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator, Sequence
from functools import partial
from math import prod
from typing import TYPE_CHECKING, Self

from napari_tessera.core.errors import OutOfMemoryError
from napari_tessera.core.settings.choices import AccumulatorType
from napari_tessera.core.units import format_bytes, format_sides
from napari_tessera.engine.geometry.blocks import halve_block
from napari_tessera.engine.geometry.grid import Tiling
from napari_tessera.engine.loop.block import BlockRun, LackOfMemory, NoRoomError, Shared
from napari_tessera.engine.loop.events import EventHandler, MemoryRecovered, Noticed, PlanesFinished, Recovery
from napari_tessera.engine.loop.forward import Forward
from napari_tessera.engine.loop.parallel import Worker, run_together
from napari_tessera.engine.loop.pass_check import FirstPassCheck
from napari_tessera.engine.loop.pass_count import Passes
from napari_tessera.engine.loop.plane_writer import PlaneWriter
from napari_tessera.engine.loop.window_reader import WindowReader
from napari_tessera.engine.stitching.importance_map import MINIMUM, importance_map
from napari_tessera.engine.stitching.stitch import FLOAT_BYTES, estimate_slab_bytes

if TYPE_CHECKING:
    import torch

    from napari_tessera.engine.geometry.grid import Block
    from napari_tessera.engine.loop.sweep import Sweep
    from napari_tessera.engine.sink import Reduction, Sink
    from napari_tessera.engine.source import Region, Source


def run_sweep(
    workers: Sequence[Worker],
    source: Source,
    sweep: Sweep,
    *,
    reduction: Reduction,
    sink: Sink,
    volume: int = 0,
    on_event: EventHandler | None = None,
    cancel: threading.Event | None = None,
    assigned: Iterator[Block] | None = None,
) -> int:
    """Run one volume on all *workers* and return the number of forward passes that succeeded.

    Of several workers each takes the next block of ``sweep.blocks`` when it is free. Source and sink are used by one
    thread at a time, and the first error of any device ends the others within one pass.

    Parameters
    ----------
    source, sweep
        The image, of the grid's shape, and what to do.
    reduction, sink
        What becomes of finished planes on the device, and what takes the result.
    volume
        Number that the events carry; these come on the calling thread.
    cancel
        Stops the run within one pass.
    assigned
        Gives the next block to one of several workers; None: all of the sweep's are run here.

    Raises
    ------
    CancelledError
        If *cancel* was set; finished planes are in the sink.
    ModelError, OutOfMemoryError
        If the network fails, or memory does not suffice, whatever is tried.
    """
    notify = on_event or (lambda event: None)
    if len(workers) > 1:
        return run_together(
            partial(run_sweep, reduction=reduction, volume=volume), workers, source, sweep, sink, notify, cancel
        )
    (worker,) = workers
    with (
        worker.device.running(sweep.precision),
        _SweepRun(worker, source, sweep, reduction, sink, volume, notify, cancel) as run,
    ):
        for block in run.iter_blocks(assigned):
            failure = None
            try:
                run.open_block(block).run()
            except NoRoomError as error:
                failure = error.with_traceback(None)  # whose frames keep tensors alive
            if failure is not None:
                run.split(block, failure)
        return run.finish()


class _SweepRun:
    """The state of one `run_sweep`: the blocks that are left, and what they share."""

    def __init__(
        self,
        worker: Worker,
        source: Source,
        sweep: Sweep,
        reduction: Reduction,
        sink: Sink,
        volume: int,
        notify: EventHandler,
        cancel: threading.Event | None,
    ) -> None:
        device, network = worker.device, worker.network
        self._source, self._sweep, self._device = source, sweep, device
        self._volume, self._notify = volume, notify
        self._pending: deque[Block] = deque()
        self._batch = sweep.sw_batch_size
        self._on_host = False
        stream = device.open_stream(main=True)
        self._passes = Passes(device, stream, volume, notify, cancel)
        axis = sweep.grid.sweep_axis

        def written(region: Region) -> None:
            # Not a method: the writer would hold this object, and the image with it, in a cycle.
            limits = tuple((part.start, part.stop) for part in region)
            notify(PlanesFinished(volume, axis, limits))

        if not isinstance(network, Forward):
            check = None
            if sweep.check is not None:
                check = FirstPassCheck(sweep.check, lambda sentence: notify(Noticed(volume, sentence)))
            network = Forward(network, sweep.out_channels, sweep.grid.window, device, sweep.grid.halo, check)
        importance = self._importance()
        self._writer = PlaneWriter(device, stream, sink, written)
        self._shared = Shared(sweep, device, stream, network, self._passes, importance, reduction, self._writer)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        """Write what is finished, also after a cancel or an error, and end the threads."""
        try:
            self._writer.flush()
        finally:
            self._writer.close()

    def iter_blocks(self, assigned: Iterator[Block] | None) -> Iterator[Block]:
        """Yield the blocks to run: all of the sweep, or those that are *assigned*, and what was left of them."""
        if assigned is None:
            assigned = iter(())
            self._pending.extend(self._sweep.all_blocks)
            self._expect(0)
        while True:
            while self._pending:
                yield self._pending.popleft()
            block = next(assigned, None)
            if block is None:
                return
            self._passes.total += self._sweep.passes_of(block, self._batch)
            yield block

    def finish(self) -> int:
        """Wait until all is computed and written, and return the passes made."""
        self._passes.settle()
        self._writer.flush()
        return self._passes.done

    def open_block(self, block: Block) -> BlockRun:
        """Return the run of one block, with its slab."""
        return BlockRun(
            block,
            WindowReader(self._source, self._sweep.grid, self._sweep.intensity, block),
            self._shared,
            batch=self._batch,
            on_host=self._on_host,
            on_recovery=self._recovered,
        )

    def _importance(self) -> torch.Tensor:
        sweep = self._sweep
        # Sums in float16 have no room for what falls to nearly nothing.
        coarse = sweep.accumulator is AccumulatorType.FLOAT16
        with LackOfMemory(self._device) as lack:
            return importance_map(
                sweep.grid.window,
                sweep.blend,
                sigma_scale=sweep.sigma_scale,
                tiling=Tiling.MONAI if coarse else sweep.grid.tiling,
                halo=sweep.grid.halo,
                minimum=MINIMUM if coarse else 0.0,
                device=self._device.torch_device,
            )
        raise self._window_error() from lack.error

    def _recovered(self, step: Recovery, failed: int, batch: int, passes_left: int) -> None:
        self._batch = batch
        self._on_host |= step is Recovery.HOST_ACCUMULATOR
        self._expect(passes_left)
        self._notify(MemoryRecovered(self._volume, self._passes.done + 1, failed, batch, step))

    def _expect(self, passes_left: int) -> None:
        """Say how many passes there are in all, with those left in this block and the blocks after it."""
        self._passes.settle()
        later = sum(self._sweep.passes_of(block, self._batch) for block in self._pending)
        self._passes.total = self._passes.done + passes_left + later

    def split(self, block: Block, failure: NoRoomError) -> None:
        """Go on with the unfinished part of *block* in two halves, or end the run."""
        self._device.release_cached()
        axis = self._sweep.grid.sweep_axis
        rest = block.with_axis(axis, failure.first_unfinished, block.stop[axis])
        halves = halve_block(self._sweep.grid, rest)
        if halves is None or not self._is_worth_halving(rest, failure):
            raise (self._window_error() if failure.in_pass else self._slab_error(rest)) from failure.__cause__
        self._notify(
            MemoryRecovered(self._volume, self._passes.done + 1, failure.failed_batch, self._batch, Recovery.BLOCKS)
        )
        self._pending.extendleft(reversed(halves))
        self._expect(0)

    def _is_worth_halving(self, block: Block, failure: NoRoomError) -> bool:
        """Whether a smaller slab makes room: not for a pass on another memory, nor once the slab is small beside it."""
        if failure.in_pass and not self._device.shares_host_memory:
            return False
        grid, sweep = self._sweep.grid, self._sweep
        one_pass = FLOAT_BYTES * (self._source.shape[0] + sweep.out_channels) * prod(grid.window)
        return self._slab_bytes(block) > one_pass

    def _slab_bytes(self, block: Block) -> int:
        sweep = self._sweep
        return estimate_slab_bytes(
            sweep.grid,
            sweep.out_channels,
            block=block,
            weighting=sweep.weighting(normalised=self._shared.reduction.normalised),
            accumulator=sweep.accumulator,
        )

    def _window_error(self) -> OutOfMemoryError:
        window = format_sides(self._sweep.grid.window)
        return OutOfMemoryError(
            f"one window of {window} voxels does not fit into the memory of {self._free_memory()}: "
            f"choose a smaller window_size"
        )

    def _slab_error(self, block: Block) -> OutOfMemoryError:
        slab = format_sides(self._sweep.grid.slab_shape(self._sweep.grid.sweep_axis, block))
        return OutOfMemoryError(
            f"the accumulator of {self._sweep.out_channels} channels x {slab} voxels "
            f"({format_bytes(self._slab_bytes(block))}) does not fit into the memory of {self._free_memory()}: "
            f"choose a smaller window_size, or close other programs"
        )

    def _free_memory(self) -> str:
        memory = self._device.memory()
        return f"{self._device.name} ({format_bytes(memory.free_bytes)} of {format_bytes(memory.total_bytes)} free)"
