"""A pace: fitted to passes that were timed, and multiplied with exactly the passes of a plan."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from napari_tessera.decode import get_decoder
from napari_tessera.engine.grid import count_forward_passes
from napari_tessera.engine.settings import Settings
from napari_tessera.models.spec import ModelSpec, WindowRule
from napari_tessera.planning.pace import Pace
from napari_tessera.planning.plan import DeviceState, Plan
from napari_tessera.planning.profile import PassProfile
from napari_tessera.planning.resolve import Traced, resolve

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


@given(per_pass=st.floats(0, 10), per_window=st.floats(0, 10), batches=st.sets(st.integers(1, 32), min_size=2))
def test_fit_finds_the_pace_again(per_pass: float, per_window: float, batches: set[int]) -> None:
    found = Pace.fit([(n, per_pass + n * per_window) for n in batches for _ in range(3)])
    assert found.per_pass_s == pytest.approx(per_pass, abs=1e-6)
    assert found.per_window_s == pytest.approx(per_window, abs=1e-6)


@given(st.lists(st.tuples(st.integers(1, 32), st.floats(0, 100)), min_size=1))
def test_nothing_is_ever_negative(samples: list[tuple[int, float]]) -> None:
    found = Pace.fit(samples)
    assert found.per_pass_s >= 0
    assert found.per_window_s >= 0


@pytest.mark.parametrize(
    ("samples", "pace"),
    [
        (
            [(2, 1.0), (2, 1.2), (2, 1.1)],
            Pace(0, 0.55, compares_batches=False),
        ),  # a single batch: nothing is known of the pass itself
        ([(1, 0.3), (1, 90.0), (1, 0.3), (2, 0.5)], Pace(0.1, 0.2)),  # one accident
        ([(1, 0.1), (2, 0.4)], Pace(0, 0.18)),  # through zero: (1 x 0.1 + 2 x 0.4) / (1 + 4)
        ([(1, 0.4), (2, 0.2)], Pace(0.3, 0)),
    ],
)
def test_fit(samples: list[tuple[int, float]], pace: Pace) -> None:
    found = Pace.fit(samples)
    assert (found.per_pass_s, found.per_window_s) == pytest.approx((pace.per_pass_s, pace.per_window_s))


def test_no_sample() -> None:
    with pytest.raises(ValueError, match="at least one pass"):
        Pace.fit([])


@given(st.lists(st.integers(0, 50), max_size=4), st.integers(1, 9), st.integers(1, 8))
def test_seconds_are_those_of_every_pass_by_itself(blocks: list[int], batch: int, views: int) -> None:
    pace = Pace(0.5, 0.25)
    passes = [min(batch, n - at) for n in blocks for at in range(0, n, batch) for _ in range(views)]
    assert len(passes) == sum(count_forward_passes(n, sw_batch_size=batch, n_views=views) for n in blocks)
    assert pace.seconds(blocks, batch, views) == sum(0.5 + 0.25 * held for held in passes)


@pytest.mark.parametrize("tta_mode", ["full", "interleaved"])
def test_of_plan(tta_mode: str) -> None:
    plan = planned((40, 40, 40), (16, 16, 40), sw_batch_size=3, tta_num=4, tta_mode=tta_mode)
    views = 4 if tta_mode == "full" else 1
    assert [volume.windows for volume in plan.volumes] == [64, 4]
    assert Pace(1, 0).of_plan(plan) == plan.forward_passes == views * (22 + 2)
    assert Pace(0, 1).of_plan(plan) == views * (64 + 4)


def test_devices_share_the_blocks() -> None:
    plan = planned((40, 40, 40))
    two = replace(plan, device=replace(CPU, count=2))
    assert Pace(0, 1).of_plan(two) == 64, "a single block is one device's"
    halves = replace(two, volumes=(replace(plan.volumes[0], blocks=plan.volumes[0].blocks * 2),))
    assert Pace(0, 1).of_plan(halves) == 64, "twice the windows on two devices"


def test_scaled() -> None:
    assert Pace(0.5, 0.25).scaled(8) == Pace(0.5, 2.0)


def test_one_number_of_windows_says_nothing_of_others() -> None:
    assert not Pace.fit([(4, 1.0), (4, 1.1)]).compares_batches
    assert not Pace.fit([(4, 1.0)]).scaled(8).compares_batches
    assert Pace.fit([(4, 1.0), (1, 0.9)]).compares_batches
