"""The time of passes: fitted to passes that were timed, and multiplied with exactly the passes of a plan."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from napari_tessera.core.settings.settings import Settings
from napari_tessera.decode import get_decoder
from napari_tessera.engine.geometry.grid import count_forward_passes
from napari_tessera.memory.calibration.pass_time import DecodingTime, PassTime
from napari_tessera.memory.device_state import DeviceState
from napari_tessera.memory.estimate import PassProfile
from napari_tessera.models.spec.spec import ModelSpec, WindowRule
from napari_tessera.planning.needs import Traced
from napari_tessera.planning.resolve import resolve

if TYPE_CHECKING:
    from napari_tessera.planning.plan import Plan

GIB = 2**30
SPEC = ModelSpec("net", 3, 1, 2, WindowRule((16, 16, 16), (4, 4, 4), (4, 4, 4)))
CPU = DeviceState("cpu", "CPU", 64 * GIB, 60 * GIB, 64 * GIB, 60 * GIB)


def planned(*shapes: tuple[int, ...], **settings: object) -> Plan:
    return resolve(
        shapes,
        SPEC,
        Settings.from_mapping(settings),
        traced=Traced(1000, lambda window, batch: PassProfile(1000 * batch)),
        device=CPU,
        decoder=get_decoder("argmax"),
    )


def line(per_pass: float, per_window: float) -> PassTime:
    """Return what passes cost where each window costs as much, and each pass something by itself."""
    return PassTime(tuple((n, per_pass + n * per_window) for n in (1, 64)))


@given(per_pass=st.floats(0, 10), per_window=st.floats(0, 10), batches=st.sets(st.integers(1, 32), min_size=2))
def test_fit_finds_a_line_again_between_what_was_timed(per_pass: float, per_window: float, batches: set[int]) -> None:
    found = PassTime.fit([(n, per_pass + n * per_window) for n in batches for _ in range(3)])
    for windows in range(min(batches), max(batches) + 1):
        assert found.of_pass(windows) == pytest.approx(per_pass + windows * per_window, abs=1e-6)


@given(st.lists(st.tuples(st.integers(1, 32), st.floats(1e-3, 100)), min_size=1), st.integers(1, 100))
def test_windows_are_never_free(samples: list[tuple[int, float]], windows: int) -> None:
    found = PassTime.fit(samples)
    assert found.of_pass(windows) > 0
    largest = max(n for n, _ in samples)
    assert found.of_pass(10 * largest) == pytest.approx(10 * found.of_pass(largest)), "no gain that was not seen"


@pytest.mark.parametrize(
    ("samples", "points"),
    [
        ([(2, 1.0), (2, 1.2), (2, 1.1)], ((2, 1.1),)),
        ([(1, 0.3), (1, 90.0), (1, 0.3), (2, 0.5)], ((1, 0.3), (2, 0.5))),  # one accident
        ([(1, 0.4), (2, 0.2), (4, 0.3)], ((1, 0.4), (2, 0.2), (4, 0.3))),  # kernels of its own for one window
        ([(2, 0.4), (4, 0.3)], ((2, 0.4), (4, 0.4))),  # noise
        ([(2, 0.4), (2, 9.0)], ((2, 0.4),)),  # of two, what nothing disturbed
    ],
)
def test_fit(samples: list[tuple[int, float]], points: tuple[tuple[int, float], ...]) -> None:
    assert PassTime.fit(samples).points == points


@given(st.lists(st.integers(0, 50), max_size=4), st.integers(1, 9), st.integers(1, 8))
def test_seconds_are_those_of_every_pass_by_itself(blocks: list[int], batch: int, views: int) -> None:
    pass_time = line(0.5, 0.25)
    passes = [min(batch, n - at) for n in blocks for at in range(0, n, batch) for _ in range(views)]
    assert len(passes) == sum(count_forward_passes(n, sw_batch_size=batch, n_views=views) for n in blocks)
    assert pass_time.seconds(blocks, batch, views) == pytest.approx(sum(0.5 + 0.25 * held for held in passes))


@pytest.mark.parametrize("tta_mode", ["full", "interleaved"])
def test_of_plan(tta_mode: str) -> None:
    plan = planned((40, 40, 40), (16, 16, 40), sw_batch_size=3, tta_num=4, tta_mode=tta_mode)
    views = 4 if tta_mode == "full" else 1
    assert [volume.windows for volume in plan.volumes] == [64, 4]
    assert plan.seconds_at(line(1, 0)) == plan.forward_passes == views * (22 + 2)
    assert plan.seconds_at(line(0, 1)) == views * (64 + 4)


def test_devices_share_the_blocks() -> None:
    plan = planned((40, 40, 40))
    two = replace(plan, device=replace(CPU, count=2))
    assert two.seconds_at(line(0, 1)) == 64, "a single block is one device's"
    volumes = (replace(plan.volumes[0], blocks=plan.volumes[0].blocks * 2),)
    halves = replace(two, layout=replace(two.layout, volumes=volumes))
    assert halves.seconds_at(line(0, 1)) == 64, "twice the windows on two devices"


def test_scaled() -> None:
    assert PassTime(((1, 0.5), (4, 1.0))).scaled(8) == PassTime(((1, 4.0), (4, 8.0)))


def test_one_number_of_windows_says_nothing_of_others() -> None:
    assert not PassTime.fit([(4, 1.0), (4, 1.1)]).compares_batches
    assert not PassTime.fit([(4, 1.0)]).scaled(8).compares_batches
    assert PassTime.fit([(4, 1.0), (1, 0.9)]).compares_batches


# What a watershed took of volumes that are large enough to tell: 4 us a voxel, and half a second by itself.
HONEST = [(n, 0.5 + 4e-6 * n) for n in (2_000_000, 4_000_000, 12_500_000)]


@pytest.mark.parametrize(
    "tiny",
    [
        [(1, 0.32)],  # would be 0.32 s a voxel: 39 675 777 s of a volume of 500 x 500 x 496
        [(32 * 64 * 64, 3.2)] * 3,  # libraries were loaded meanwhile
        [(1, 0.3), (9, 0.4), (1000, 0.6), (131_072, 0.9), (1, 0.3)],
    ],
)
def test_small_volumes_hardly_change_what_large_ones_have_shown(tiny: list[tuple[int, float]]) -> None:
    time = DecodingTime.fit([*tiny, *HONEST])
    assert time is not None
    for voxels in (2_000_000, 12_500_000, 124_000_000):
        assert time.of(voxels) == pytest.approx(0.5 + 4e-6 * voxels, rel=0.2)
    assert time.of(1) == pytest.approx(sorted(seconds for _, seconds in tiny)[len(tiny) // 2], abs=0.01)


def test_one_volume_that_took_long_is_outvoted() -> None:
    time = DecodingTime.fit([*HONEST, (2_000_000, 900.0)])
    assert time is not None
    assert time.of(10_000_000) == pytest.approx(40.5, rel=0.1)


def test_small_volumes_alone_say_nothing_of_large_ones() -> None:
    time = DecodingTime.fit([(1, 0.3), (131_072, 0.9)])
    assert time is not None
    assert (time.of(131_072), time.of(10_000_000)) == (pytest.approx(0.6), None)
    assert DecodingTime.fit([]) is None


@given(st.lists(st.tuples(st.integers(1, 10**9), st.floats(0.001, 1e4)), min_size=1), st.integers(2**20, 10**10))
def test_a_larger_volume_never_takes_less_time(samples: list[tuple[int, float]], voxels: int) -> None:
    time = DecodingTime.fit(samples)
    assert time is not None
    fewer, more = time.of(voxels), time.of(2 * voxels)
    assert (fewer is None and more is None) or (fewer is not None and more is not None and 0 < fewer < more)
