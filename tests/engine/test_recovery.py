"""A lack of memory anywhere, at any moment: what is tried, in which order, and that the result is the same."""

from __future__ import annotations

import gc
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import torch
from tests.refusals import raises
from torch.utils._python_dispatch import TorchDispatchMode

from napari_tessera.core.errors import CancelledError, OutOfMemoryError, TesseraError
from napari_tessera.core.settings.choices import AccumulatorType, TtaMode
from napari_tessera.engine.devices.cpu import CpuDevice
from napari_tessera.engine.geometry.blocks import split_blocks
from napari_tessera.engine.geometry.grid import WindowGrid
from napari_tessera.engine.loop import block as block_run
from napari_tessera.engine.loop.events import (
    CancelToken,
    Event,
    MemoryRecovered,
    PassFinished,
    PlanesFinished,
    Recovery,
)
from napari_tessera.engine.sink import Reduction
from napari_tessera.engine.stitching.stitch import RingSlab

Make = Callable[..., Any]
FULL = torch.OutOfMemoryError("CUDA out of memory (simulated)")
HOST_FULL = RuntimeError("DefaultCPUAllocator: can't allocate memory (simulated)")


def pointwise(x: torch.Tensor) -> torch.Tensor:
    """Three channels, to the bit the same in any batch."""
    return torch.cat([x, x * 0.5 + 1, 1 - x], 1)


class FailsAt:
    """Calls *function*, but raises the lack of memory at some calls (from 0)."""

    def __init__(self, function: Callable[..., Any], *calls: int, error: Exception = FULL) -> None:
        self.function, self.at, self.error = function, set(calls), error
        self.calls = 0
        self.windows = 0

    def __call__(self, x: torch.Tensor) -> Any:
        call, self.calls = self.calls, self.calls + 1
        if call in self.at:
            raise self.error
        self.windows += x.shape[0]
        return self.function(x)


def steps(events: list[Event]) -> list[Recovery]:
    return [event.step for event in events if isinstance(event, MemoryRecovered)]


@pytest.fixture
def volume(volume_of: Make) -> np.ndarray:
    return volume_of(9, 21, 18)


@pytest.mark.parametrize("tta_num", [1, 3])
@pytest.mark.parametrize("error", [FULL, HOST_FULL, MemoryError()])
def test_out_of_memory_at_every_pass_in_turn(
    run_engine: Make, beside: Make, volume: np.ndarray, tta_num: int, error: Exception
) -> None:
    knobs = {"tta_num": tta_num, "sw_batch_size": 4}  # 40 windows: all passes hold four
    expected = run_engine(pointwise, volume, (8, 8, 8), **knobs)
    windows = expected.sweep.grid.n_windows
    for device in (CpuDevice(), beside()):
        for call in range(len(expected.passes)):
            network = FailsAt(pointwise, call, error=error)
            found = run_engine(network, volume, (8, 8, 8), devices=(device,), **knobs)
            np.testing.assert_array_equal(found.array, expected.array)
            assert steps(found.events) == [Recovery.SMALLER_PASSES]
            assert found.passes[-1].done == found.passes[-1].total
            assert network.windows == windows * tta_num, "a window was computed twice in the same view"
            assert [event.done for event in found.passes] == list(range(1, len(found.passes) + 1))


def test_out_of_memory_at_every_reduction_in_turn(run_engine: Make, beside: Make, volume: np.ndarray) -> None:
    expected = run_engine(pointwise, volume, (8, 8, 8))
    for device, last_step in ((CpuDevice(), Recovery.BLOCKS), (beside(), Recovery.HOST_ACCUMULATOR)):
        for call in range(3):
            network = FailsAt(pointwise)
            reduce = FailsAt(lambda planes: planes * 1, call)
            found = run_engine(network, volume, (8, 8, 8), devices=(device,), reduction=Reduction(reduce))
            np.testing.assert_array_equal(found.array, expected.array)
            assert steps(found.events) == [Recovery.SMALLER_PIECES]
            assert network.windows == expected.sweep.grid.n_windows, "a finished window was computed twice"
            assert found.passes[-1].done == found.passes[-1].total == len(found.passes)
        always = set(range(1, 12))
        found = run_engine(
            pointwise, volume, (8, 8, 8), devices=(device,), reduction=Reduction(FailsAt(lambda p: p * 1, *always))
        )
        np.testing.assert_array_equal(found.array, expected.array)
        assert steps(found.events)[0] is Recovery.SMALLER_PIECES
        assert last_step in steps(found.events)


class SlabLimit:
    """Refuses slabs of more than *values*, on a device or anywhere."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, values: int, *, times: int = 10**6) -> None:
        self.refused = 0
        allocate = RingSlab.__init__

        def limited(slab: RingSlab, channels: int, shape: tuple[int, ...], axis: int, **where: Any) -> None:
            if channels * int(np.prod(shape)) > values and self.refused < times:
                self.refused += 1
                raise FULL
            allocate(slab, channels, shape, axis, **where)

        monkeypatch.setattr(RingSlab, "__init__", limited)


def test_a_slab_that_does_not_fit_the_device_lies_on_the_host(
    run_engine: Make, beside: Make, volume: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = run_engine(pointwise, volume, (8, 8, 8))
    SlabLimit(monkeypatch, 10, times=1)
    network = FailsAt(pointwise)
    found = run_engine(network, volume, (8, 8, 8), devices=(beside(),))
    np.testing.assert_array_equal(found.array, expected.array)
    assert steps(found.events) == [Recovery.HOST_ACCUMULATOR]
    assert network.windows == expected.sweep.grid.n_windows


def test_a_slab_that_fits_nowhere_is_cut_into_blocks(
    run_engine: Make, beside: Make, volume: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = run_engine(pointwise, volume, (8, 8, 8))
    SlabLimit(monkeypatch, 3 * 9 * 8 * 7)
    for device in (CpuDevice(), beside()):
        found = run_engine(pointwise, volume, (8, 8, 8), devices=(device,))
        np.testing.assert_array_equal(found.array, expected.array)
        assert steps(found.events)[-1] is Recovery.BLOCKS
        assert found.passes[-1].done == found.passes[-1].total == len(found.passes)


@pytest.mark.parametrize("allocation", range(1, 4))
def test_the_accumulator_moves_to_the_host_in_the_middle(
    run_engine: Make, beside: Make, volume: np.ndarray, allocation: int
) -> None:
    """A single window does not fit beside the slab: the slab goes, and the windows after it are not run again."""
    expected = run_engine(pointwise, volume, (8, 8, 8), sw_batch_size=1)
    network = FailsAt(pointwise, 4 * allocation)
    found = run_engine(network, volume, (8, 8, 8), sw_batch_size=1, devices=(beside(),))
    np.testing.assert_array_equal(found.array, expected.array)
    assert steps(found.events) == [Recovery.HOST_ACCUMULATOR]
    assert network.windows == expected.sweep.grid.n_windows


def test_blocks_in_the_middle_keep_the_planes_that_are_finished(run_engine: Make, volume_of: Make) -> None:
    volume = volume_of(40, 30, 26)
    expected = run_engine(pointwise, volume, (8, 8, 8), sw_batch_size=1)
    network = FailsAt(pointwise, 300)
    found = run_engine(network, volume, (8, 8, 8), sw_batch_size=1)
    np.testing.assert_array_equal(found.array, expected.array)
    assert steps(found.events) == [Recovery.BLOCKS]
    assert found.passes[-1].done == found.passes[-1].total == len(found.passes)
    windows = expected.sweep.grid.n_windows
    assert windows < network.windows < 1.5 * windows, "only what was not finished is computed again"


def test_one_window_that_does_not_fit_ends_with_numbers(run_engine: Make, beside: Make, volume: np.ndarray) -> None:
    for device in (CpuDevice(), beside()):
        never = FailsAt(pointwise, *range(1000))
        with raises(OutOfMemoryError, "8 x 8 x 8", "CPU", "window_size") as caught:
            run_engine(never, volume, (8, 8, 8), devices=(device,))
        assert caught.value.__cause__ is FULL


def test_a_slab_that_fits_nowhere_even_in_blocks_ends_with_numbers(
    run_engine: Make, volume: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    SlabLimit(monkeypatch, 0)
    with raises(OutOfMemoryError, 3, "accumulator", "CPU", "window_size"):
        run_engine(pointwise, volume, (8, 8, 8))


def test_an_importance_map_that_does_not_fit(
    run_engine: Make, volume: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise FULL

    monkeypatch.setattr("napari_tessera.engine.loop.sweep_run.importance_map", refuse)
    with raises(OutOfMemoryError, "8 x 8 x 8"):
        run_engine(pointwise, volume, (8, 8, 8))


def test_windows_that_do_not_fit_halve_the_batch(
    run_engine: Make, beside: Make, volume: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = run_engine(pointwise, volume, (8, 8, 8), sw_batch_size=8)

    class Prefetcher(block_run.WindowPrefetcher):
        def __init__(self, reader: Any, windows: Any, batch: int, **where: Any) -> None:
            if batch > 3:
                raise FULL
            super().__init__(reader, windows, batch, **where)

    monkeypatch.setattr(block_run, "WindowPrefetcher", Prefetcher)
    found = run_engine(pointwise, volume, (8, 8, 8), sw_batch_size=8, devices=(beside(),))
    np.testing.assert_array_equal(found.array, expected.array)
    assert steps(found.events) == [Recovery.SMALLER_PASSES] * 2


@pytest.mark.parametrize("tta_num", [1, 3])
@pytest.mark.parametrize("read_ahead", [0, 2])
def test_the_windows_of_a_pass_that_failed_are_freed_before_fewer_are_read(
    run_engine: Make, beside: Make, volume: np.ndarray, monkeypatch: pytest.MonkeyPatch, tta_num: int, read_ahead: int
) -> None:
    alive = []

    class Prefetcher(block_run.WindowPrefetcher):
        def __init__(self, reader: Any, windows: Any, batch: int, **where: Any) -> None:
            tensors = (thing for thing in gc.get_objects() if issubclass(type(thing), torch.Tensor))
            alive.append(sum(tensor.shape == (8, 1, 8, 8, 8) for tensor in tensors))
            super().__init__(reader, windows, batch, **where)

    def network(x: torch.Tensor) -> torch.Tensor:
        if len(x) == 8:
            raise FULL
        return pointwise(x)

    monkeypatch.setattr(block_run, "WindowPrefetcher", Prefetcher)
    found = run_engine(
        network, volume, (8, 8, 8), sw_batch_size=8, tta_num=tta_num, devices=(beside(),), read_ahead=read_ahead
    )
    assert steps(found.events) == [Recovery.SMALLER_PASSES]
    assert alive == [0, 0]


def live_tensors() -> int:
    gc.collect()
    # By type: asking an object itself would load what lazy modules hold.
    return sum(issubclass(type(thing), torch.Tensor) for thing in gc.get_objects())


@pytest.mark.parametrize("how", ["ends", "fails", "is cancelled", "recovers"])
@pytest.mark.parametrize("is_beside", [False, True])
def test_no_tensor_survives_a_run(
    run_engine: Make, beside: Make, volume: np.ndarray, how: str, is_beside: bool
) -> None:
    cancel, calls = CancelToken(), 0

    def network(x: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += 1
        if how == "fails" and calls > 3:
            raise ValueError("broken")
        if how == "is cancelled" and calls == 3:
            cancel.cancel()
        if how == "recovers" and calls in (3, 4):
            raise FULL
        return pointwise(x)

    before = live_tensors()
    ends_early = pytest.raises(TesseraError) if how in ("fails", "is cancelled") else nullcontext()
    with ends_early:
        run_engine(network, volume, (8, 8, 8), devices=(beside() if is_beside else CpuDevice(),), cancel=cancel)
    del ends_early
    assert calls >= 3
    assert live_tensors() == before


@pytest.mark.parametrize("tta_num", [1, 2])
def test_cancel_at_every_pass_leaves_finished_planes_exact(
    run_engine: Make, beside: Make, convolution: Make, volume_of: Make, tta_num: int
) -> None:
    volume, network = volume_of(40, 9, 9), convolution()
    full = run_engine(network, volume, (8, 8, 8), tta_num=tta_num)
    for device in (CpuDevice(), beside()):
        for stop_at in range(1, len(full.passes)):
            cancel, calls = CancelToken(), 0

            def on_event(event: Event, stop_at: int = stop_at, cancel: CancelToken = cancel) -> None:
                if isinstance(event, PassFinished) and event.done == stop_at:
                    cancel.cancel()

            def counted(x: torch.Tensor) -> torch.Tensor:
                nonlocal calls
                calls += 1
                return network(x)

            partial = np.full((3, 40, 9, 9), np.nan, np.float32)
            all_on_their_way = stop_at + device.passes_ahead >= len(full.passes)
            with nullcontext() if all_on_their_way else pytest.raises(CancelledError):
                run_engine(
                    counted,
                    volume,
                    (8, 8, 8),
                    tta_num=tta_num,
                    devices=(device,),
                    cancel=cancel,
                    on_event=on_event,
                    into=partial,
                )
            assert calls <= stop_at + device.passes_ahead, "it went on for more passes than may be on their way"
            finished = ~np.isnan(partial).any(axis=(0, 2, 3))
            assert np.isnan(partial[:, ~finished]).all(), "a plane is final as a whole or not at all"
            np.testing.assert_array_equal(partial[:, finished], full.array[:, finished])


def test_an_error_of_the_sink_or_the_source_comes_through(run_engine: Make, beside: Make, volume: np.ndarray) -> None:
    class Disk:
        def __setitem__(self, region: Any, planes: Any) -> None:
            raise OSError("disk full")

    for device in (CpuDevice(), beside()):
        with raises(OSError, "disk full"):
            run_engine(pointwise, volume, (8, 8, 8), devices=(device,), into=Disk())


class FailsAtOperation(TorchDispatchMode):
    """Raises the lack of memory at one of the operations that allocate: all that do not work in place."""

    # Works in place, but allocates where its operands are of different types.
    ALLOCATE_IN_PLACE = ("aten.addcmul_.default",)

    def __init__(self, at: int) -> None:
        super().__init__()
        self.at, self.count = at, 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if not function._schema.is_mutable or str(function) in self.ALLOCATE_IN_PLACE:
            self.count += 1
            if self.count == self.at:
                raise FULL
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    "knobs",
    [
        {},
        {"tta_num": 3},
        {"accumulator": AccumulatorType.FLOAT16},
        {"tta_num": 4, "tta_mode": TtaMode.INTERLEAVED, "offsets": ((-1, 0, 0), (0, -1, 0), (0, 0, -1))},
        {"window_mask": np.arange(2 * 4 * 3).reshape(2, 4, 3) % 3 > 0},
    ],
    ids=["plain", "views", "float16", "interleaved", "skipping"],
)
def test_out_of_memory_at_every_operation_in_turn(
    run_engine: Make, beside: Make, volume_of: Make, knobs: dict[str, Any]
) -> None:
    volume, window = volume_of(6, 9, 8), (4, 4, 4)
    expected = run_engine(pointwise, volume, window, **knobs)
    for device in (CpuDevice(), beside()):
        with FailsAtOperation(0) as counting:
            run_engine(pointwise, volume, window, devices=(device,), **knobs)
        ended = 0
        for at in range(1, counting.count + 1):
            try:
                with FailsAtOperation(at):
                    found = run_engine(pointwise, volume, window, devices=(device,), **knobs)
            except OutOfMemoryError:
                ended += 1
                continue
            np.testing.assert_array_equal(found.array, expected.array, err_msg=f"operation {at}")
            assert found.passes[-1].done == found.passes[-1].total == len(found.passes), f"operation {at}"
        # Nothing is left to try only where the weights of one window do not fit: the few steps that make them.
        assert ended < 30 < counting.count


class ForgetfulSink:
    """Raises the lack of memory once, in the write that is asked for."""

    def __init__(self, array: np.ndarray, at: int, times: int = 1) -> None:
        self.array, self.at, self.times, self.calls = array, at, times, 0

    def __setitem__(self, region: Any, planes: np.ndarray) -> None:
        self.calls += 1
        if self.at <= self.calls < self.at + self.times:
            raise MemoryError("sink")
        self.array[region] = planes


@pytest.mark.parametrize("at", [1, 2, 3])
def test_a_sink_that_runs_out_of_memory_once_loses_no_plane(
    run_engine: Make, beside: Make, volume_of: Make, at: int
) -> None:
    volume = volume_of(24, 9, 8)
    expected = run_engine(pointwise, volume, (4, 4, 4))
    for device in (CpuDevice(), beside()):
        sink = ForgetfulSink(np.full_like(expected.array, np.nan), at)
        found = run_engine(pointwise, volume, (4, 4, 4), devices=(device,), into=sink)
        np.testing.assert_array_equal(sink.array, expected.array)
        planes = sorted(
            p for event in found.events if isinstance(event, PlanesFinished) for p in range(*event.region[0])
        )
        assert planes == list(range(24))


def test_a_sink_that_stays_out_of_memory_ends_the_run(run_engine: Make, beside: Make, volume_of: Make) -> None:
    sink = ForgetfulSink(np.zeros((3, 24, 9, 8), np.float32), 2, times=10**6)
    with raises(OutOfMemoryError, "4-6 x 0-9 x 0-8"):
        run_engine(pointwise, volume_of(24, 9, 8), (4, 4, 4), devices=(beside(),), into=sink)


def test_devices_that_share_a_volume_remember_what_did_not_fit(run_engine: Make, volume_of: Make) -> None:
    volume = volume_of(40, 12, 12)
    grid = WindowGrid.regular(volume.shape, (4, 4, 4), 0.5)
    blocks = split_blocks(grid, (grid.whole,), 6)
    failed: list[int] = []

    def network(x: torch.Tensor) -> torch.Tensor:
        if x.shape[0] > 2:
            failed.append(x.shape[0])
            raise FULL
        return pointwise(x)

    expected = run_engine(pointwise, volume, (4, 4, 4))
    found = run_engine(network, volume, (4, 4, 4), sw_batch_size=8, blocks=blocks, devices=(CpuDevice(), CpuDevice()))
    np.testing.assert_array_equal(found.array, expected.array)
    assert sorted(failed) == [4, 4, 8, 8], "each device tries each size once"
    assert found.passes[-1].done == found.passes[-1].total == len(found.passes)
