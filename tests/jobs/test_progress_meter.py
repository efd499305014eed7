"""Passes and time left, from events."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from napari_tessera.engine.geometry.grid import count_forward_passes
from napari_tessera.engine.loop.events import (
    DecodingFinished,
    DecodingStarted,
    MemoryRecovered,
    Noticed,
    PassFinished,
    Recovery,
    RunFinished,
    RunStarted,
    VolumeCounts,
    VolumeFinished,
    VolumeStarted,
)
from napari_tessera.jobs.progress_meter import ProgressMeter
from napari_tessera.memory.calibration.pass_time import DecodingTime
from napari_tessera.session.status import progress_text


def after(*events: Any) -> Any:
    meter = ProgressMeter()
    for event in events:
        meter.observe(event)
    return meter.progress


START = (RunStarted((VolumeCounts(5, 10),) * 2, 2), VolumeStarted(0, 5, 10))


def test_first_pass_is_not_the_pace() -> None:
    assert after(*START).seconds_left is None
    assert after(*START, PassFinished(0, 1, 5, 2, 9.0)).seconds_left == pytest.approx(81)
    now = after(*START, PassFinished(0, 1, 5, 2, 9.0), PassFinished(0, 2, 5, 2, 1.0))
    assert (now.done, now.total, now.seconds_left) == (2, 10, pytest.approx(8))


def test_volumes_add_up() -> None:
    first = [PassFinished(0, n, 5, 2, 1.0) for n in range(1, 6)]
    now = after(*START, *first, VolumeFinished(0, 5.0), VolumeStarted(1, 5, 10), PassFinished(1, 1, 5, 2, 1.0))
    assert (now.done, now.total) == (6, 10)


def test_recovery_makes_more_passes() -> None:
    now = after(*START, PassFinished(0, 1, 5, 2, 1.0), MemoryRecovered(0, 2, 2, 1), PassFinished(0, 2, 9, 1, 0.5))
    assert (now.done, now.total) == (2, 14)
    assert now.recovered == MemoryRecovered(0, 2, 2, 1)
    assert now.seconds_per_pass == 0.5


def test_what_is_noticed_is_kept_once() -> None:
    noticed = [Noticed(0, "one"), Noticed(0, "two"), Noticed(1, "one")]
    assert after(*START, *noticed, RunFinished(10, 1.0, None)).noticed == ("one", "two")


def test_decoding_and_the_end() -> None:
    assert after(*START, DecodingStarted(0, "watershed")).decoding == "watershed"
    assert after(*START, DecodingStarted(0, "watershed"), VolumeFinished(0, 1.0)).decoding is None
    assert after(*START, RunFinished(10, 12.0, None)).finished == RunFinished(10, 12.0, None)


def meter_of(*voxels: int, decoding: DecodingTime | None = None) -> ProgressMeter:
    times = (None if decoding is None else decoding.of(each) for each in voxels)
    counts = [VolumeCounts(1, 1, each, seconds) for each, seconds in zip(voxels, times, strict=True)]
    meter = ProgressMeter()
    meter.observe(RunStarted(tuple(counts), 1))
    return meter


def labels_of(meter: ProgressMeter, volume: int, voxels: int, seconds: float, *, later: bool = False) -> float:
    """Return the seconds that are left for labels after those of *volume*, made after it is finished where *later*."""
    meter.observe(VolumeStarted(volume, 0, 0))
    order: list[Any] = [DecodingStarted(volume, "watershed"), DecodingFinished(volume, voxels, seconds)]
    for event in [VolumeFinished(volume, 0.0), *order] if later else [*order, VolumeFinished(volume, 0.0)]:
        meter.observe(event)
    return meter.decoding_left_s


@pytest.mark.parametrize("later", [False, True])
def test_labels_of_a_small_volume_do_not_decide_on_the_large_ones(later: bool) -> None:
    known = DecodingTime(0.5, 4e-6)
    meter = meter_of(1, 10_000_000, 10_000_000, decoding=known)
    assert meter.decoding_left_s == pytest.approx(0.5 + 2 * 40.5)
    assert labels_of(meter, 0, 1, 0.9, later=later) == pytest.approx(2 * 40.5)
    assert labels_of(meter, 1, 10_000_000, 20.0, later=later) == pytest.approx(20.9, rel=0.1), "as this run shows"
    assert labels_of(meter, 2, 10_000_000, 20.0, later=later) == 0
    assert meter.progress.decoding_s == pytest.approx(40.9)


def test_labels_that_were_never_timed_are_learnt_by_their_voxels() -> None:
    meter = meter_of(2_000_000, 8_000_000, 1)
    assert meter.decoding_left_s == 0
    assert labels_of(meter, 0, 2_000_000, 3.0) == pytest.approx(12, abs=0.1)


def test_no_labels_are_awaited_of_a_volume_that_failed() -> None:
    meter = meter_of(10_000_000, 10_000_000, decoding=DecodingTime(0.0, 1e-6))
    meter.observe(VolumeStarted(0, 1, 1))
    assert meter.decoding_left_s == pytest.approx(20)
    meter.observe(VolumeStarted(1, 1, 1))
    assert meter.decoding_left_s == pytest.approx(10)


def test_text() -> None:
    now = after(*START, PassFinished(0, 1, 5, 2, 9.0), PassFinished(0, 2, 5, 2, 10.0))
    runner = SimpleNamespace(progress=now, active=True)
    assert progress_text(runner) == "2 / 10 · 1 min 20 s left"  # type: ignore[arg-type]


Cost = Callable[[int, int], float]
"""Seconds of a pass, by the windows it holds and its number in the run, from 0."""


def steady(windows: int, number: int) -> float:
    return 0.01 + 0.1 * windows


def events_of(
    volumes: Sequence[Sequence[int]],
    batch: int,
    *,
    cost: Cost = steady,
    views: int = 1,
    halved_at: int | None = None,
    planned: Sequence[Sequence[int]] | None = None,
) -> list[Any]:
    """Return what a run tells over *volumes*, each the windows of its blocks.

    In pass *halved_at* (from 0) memory runs out. *planned* are the volumes before empty windows were found.
    """

    def passes_of(blocks: Sequence[int], batch: int) -> int:
        return sum(count_forward_passes(n, sw_batch_size=batch, n_views=views) for n in blocks)

    promised = planned or volumes
    counts = [VolumeCounts(passes_of(blocks, batch), views * sum(blocks)) for blocks in promised]
    events: list[Any] = [RunStarted(tuple(counts), batch)]
    number = 0
    for volume, blocks in enumerate(volumes):
        here, done, late = batch, 0, 0.0
        events.append(VolumeStarted(volume, passes_of(blocks, batch), views * sum(blocks)))
        for block, left in enumerate(blocks):
            while left:
                held = min(here, left)
                if number == halved_at:
                    halved_at, here, late = None, here // 2, cost(held, number)
                    events.append(MemoryRecovered(volume, done + 1, held, here))
                    continue
                left -= held
                for view in range(views):
                    done += 1
                    rest = (views - view - 1) + passes_of((left, *blocks[block + 1 :]), here)
                    events.append(PassFinished(volume, done, done + rest, held, late + cost(held, number)))
                    number, late = number + 1, 0.0
        events.append(VolumeFinished(volume, 0.0))
    return events


def error_at(events: Sequence[Any], share: float = 0.05, *, after_recovery: bool = False) -> float:
    """Return how far the time left is from the truth, as a fraction of it, once *share* of the passes are done."""
    meter, since = ProgressMeter(), 0
    passes = [event for event in events if isinstance(event, PassFinished)]
    for event in events:
        meter.observe(event)
        if after_recovery and isinstance(event, MemoryRecovered):
            since = meter.progress.done
        if meter.progress.done - since >= max(2, share * len(passes)) and (since or not after_recovery):
            break
    truth = sum(event.seconds for event in passes[meter.progress.done :])
    assert meter.progress.seconds_left is not None
    return abs(meter.progress.seconds_left / truth - 1)


def noisy(windows: int, number: int) -> float:
    return steady(windows, number) * (0.85 + 0.3 * np.random.default_rng(number).random())


@pytest.mark.parametrize("cost", [steady, noisy])
@pytest.mark.parametrize(
    "run",
    [
        {"volumes": [[800]], "batch": 8},
        {"volumes": [[801]], "batch": 8},
        {"volumes": [[9]], "batch": 8, "views": 8},  # half of all passes hold one window
        {"volumes": [[40, 41, 43]] * 3, "batch": 4, "views": 2},
        {"volumes": [[9]] * 60, "batch": 8},
        {"volumes": [[9]] * 10, "batch": 8, "views": 8},
        {"volumes": [[60], [250], [9], [480]], "batch": 6},
        {"volumes": [[1]] * 8 + [[800]], "batch": 8},  # until the last volume, no pass is full
        {"volumes": [[801]], "batch": 8, "halved_at": 2},
        {"volumes": [[801]] * 2, "batch": 8, "halved_at": 0},
        {"volumes": [[90]], "batch": 1, "planned": [[300]]},
    ],
    ids=str,
)
def test_time_left_is_right_early(run: dict[str, Any], cost: Cost) -> None:
    assert error_at(events_of(**run, cost=cost)) <= 0.2


@pytest.mark.parametrize("slow_passes", [[60], [4.3, 3.3, 1.8, 1.2]])
def test_time_left_after_slow_first_passes(slow_passes: list[float]) -> None:
    factor = dict(enumerate(slow_passes))
    cost: Cost = lambda n, number: factor.get(number, 1) * steady(n, number)  # noqa: E731
    assert error_at(events_of([[200]], 2, cost=cost)) <= 0.2


@pytest.mark.parametrize("slow", range(1, 5))
def test_time_left_with_one_slow_pass(slow: int) -> None:
    cost: Cost = lambda n, number: (30 if number == slow else 1) * steady(n, number)  # noqa: E731
    assert error_at(events_of([[200]], 2, cost=cost)) <= 0.2


def test_slow_passes_that_come_again_count() -> None:
    cost: Cost = lambda n, number: (20 if number % 30 == 7 else 1) * steady(n, number)  # noqa: E731
    assert error_at(events_of([[2000]], 2, cost=cost), 0.1) <= 0.2


def test_time_left_follows_a_change_of_pace_after_recovery() -> None:
    cost: Cost = lambda n, number: 0.9 if n == 8 else 0.8  # noqa: E731 - half a batch takes nearly as long
    assert error_at(events_of([[801]], 8, cost=cost, halved_at=50), after_recovery=True) <= 0.2


def test_smaller_blocks_repeat_windows() -> None:
    eight_of_fifty = events_of([[100]], 2)[: 2 + 8]
    more = [PassFinished(0, 8 + n, 8 + 120, 2, 0.21) for n in range(1, 121)]  # 42 would have been left
    run = [*eight_of_fifty, MemoryRecovered(0, 9, 2, 2, Recovery.BLOCKS), *more]
    assert error_at(run, after_recovery=True) <= 0.2


@given(
    windows=st.lists(st.integers(1, 60), min_size=1, max_size=6),
    batch=st.integers(1, 9),
    views=st.sampled_from([1, 2, 3, 8]),
    late=st.none() | st.integers(0, 20),
)
def test_ends_at_zero(windows: list[int], batch: int, views: int, late: int | None) -> None:
    events = events_of([[n] for n in windows], batch, views=views, halved_at=late if batch > 1 else None)
    now = after(*events)
    assert (now.done, now.seconds_left) == (now.total, 0)
