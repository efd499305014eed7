"""The batch that is chosen for a budget: it fits, it is large enough or fast enough, and what does not fit is told."""

from __future__ import annotations

import re
from dataclasses import replace
from math import prod
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from tests.refusals import Kind, raises

import napari_tessera as nt
from napari_tessera.api import measure_device
from napari_tessera.core.units import parse_bytes
from napari_tessera.memory.calibration.pass_time import PassTime

MIB = 2**20
SHAPE = (40, 70, 90)
SETTINGS = nt.Settings(window_size=(16, 16, 16), overlap=0.25, device="cpu")


@pytest.fixture(scope="module")
def model() -> nt.Model:
    layers = torch.nn.Conv3d(1, 8, 3, padding=1), torch.nn.ReLU(), torch.nn.Conv3d(8, 2, 3, padding=1)
    return nt.Model.from_network(torch.nn.Sequential(*layers).eval(), in_channels=1, out_channels=2)


def line(per_pass: float, per_window: float) -> PassTime:
    return PassTime(tuple((n, per_pass + n * per_window) for n in (1, 64)))


def needed(model: nt.Model, batch: int, budget_bytes: int) -> int:
    device = replace(measure_device("cpu"), budget_bytes=budget_bytes)
    return nt.plan(SHAPE, model, SETTINGS.replace(sw_batch_size=batch), device=device).most_bytes


@given(share=st.floats(0.0, 1.0))
@hypothesis_settings(max_examples=25, deadline=None)
def test_the_choice_fits_and_is_near_the_largest_that_does(model: nt.Model, share: float) -> None:
    least, most = (needed(model, batch, 100 * MIB) for batch in (1, 40))
    budget = round(least + share * (most - least))
    chosen = nt.autotune(SHAPE, model, SETTINGS, budget)
    batch = chosen.settings.sw_batch_size
    assert chosen.most_bytes <= budget
    largest = max(b for b in range(1, 200) if needed(model, b, budget) <= budget)
    assert 0.8 * largest <= batch <= largest
    assert chosen.settings.window_size == SETTINGS.window_size


def test_the_plan_is_that_of_the_chosen_settings(model: nt.Model) -> None:
    chosen = nt.autotune(SHAPE, model, SETTINGS, 20 * MIB)
    again = nt.plan(SHAPE, model, chosen.settings)
    assert (again.forward_passes, again.memory) == (chosen.forward_passes, chosen.memory)


def test_without_a_budget_what_is_free_decides(model: nt.Model) -> None:
    chosen = nt.autotune((32, 32, 32), model, SETTINGS)
    assert chosen.device.budget_bytes is None
    assert chosen.forward_passes == 1


def test_a_known_pass_time_prefers_the_least_memory_of_those_as_fast(model: nt.Model) -> None:
    by_window = nt.autotune(SHAPE, model, SETTINGS, 20 * MIB, pass_time=line(0.0, 1.0))
    by_pass = nt.autotune(SHAPE, model, SETTINGS, 20 * MIB, pass_time=line(1.0, 0.0))
    assert by_window.settings.sw_batch_size == 1
    assert by_pass.forward_passes == min(
        nt.autotune(SHAPE, model, SETTINGS, 20 * MIB).forward_passes, by_pass.forward_passes
    )
    assert by_pass.settings.sw_batch_size > 1


def test_a_budget_below_the_weights_is_told(model: nt.Model) -> None:
    with raises(nt.SettingsError, Kind.BELOW_THE_WEIGHTS, "64 B", "CPU"):
        nt.autotune(SHAPE, model, SETTINGS, 64)


def test_a_budget_below_one_window_is_told(model: nt.Model) -> None:
    weights = nt.plan(SHAPE, model, SETTINGS).memory.weights_bytes
    with raises(nt.SettingsError, "CPU", "sw_batch_size", "window_size"):
        nt.autotune(SHAPE, model, SETTINGS, weights + 1000)


def test_the_least_that_would_do_is_told(model: nt.Model) -> None:
    with pytest.raises(nt.SettingsError) as refused:
        nt.autotune(SHAPE, model, SETTINGS, 1 << 16)
    told = re.search(r"(?:needs|at least) ([\d.]+ [KMG]iB)", str(refused.value))
    assert told is not None
    least = 1.01 * parse_bytes(told[1])  # it is rounded
    assert nt.autotune(SHAPE, model, SETTINGS, round(least)).fits
    with pytest.raises(nt.SettingsError):
        nt.autotune(SHAPE, model, SETTINGS, round(0.97 * least))


def test_the_least_that_is_told_suffices(model: nt.Model) -> None:
    nt.autotune(SHAPE, model, SETTINGS, needed(model, 1, 64))


def chosen_window(model: nt.Model, budget: int, **settings: object) -> nt.Plan:
    return nt.autotune(SHAPE, model, SETTINGS.replace(window_size=None, **settings), budget, choose_window=True)  # type: ignore[arg-type]


def test_a_larger_window_is_chosen_where_it_saves_work(model: nt.Model) -> None:
    default = nt.autotune(SHAPE, model, nt.Settings(overlap=0.5, device="cpu"), 10**9)
    chosen = chosen_window(model, 10**9, overlap=0.5)
    work = [plan.windows * prod(plan.settings.window_size or ()) for plan in (chosen, default)]
    assert work[0] <= work[1]
    assert chosen.most_bytes <= 10**9
    default_window, window = model.spec.window.default, chosen.settings.window_size or ()
    assert all(side <= max(extent, base) for side, extent, base in zip(window, SHAPE, default_window, strict=True)), (
        "no larger than the volume needs"
    )


def test_a_smaller_window_is_chosen_only_where_the_default_does_not_fit(model: nt.Model) -> None:
    default = model.spec.window.default
    least = min(
        nt.plan(SHAPE, model, nt.Settings(window_size=default, sw_batch_size=n, overlap=0.25, device="cpu")).most_bytes
        for n in (1, 2)
    )
    enough, too_little = least * 11 // 10, least * 9 // 10
    assert prod(chosen_window(model, enough).settings.window_size or ()) >= prod(default)
    smaller = chosen_window(model, too_little)
    assert prod(smaller.settings.window_size or ()) < prod(default)
    assert smaller.most_bytes <= too_little


def test_no_window_at_all_is_told_as_without_the_choice(model: nt.Model) -> None:
    with raises(nt.SettingsError, Kind.BELOW_THE_WEIGHTS):
        chosen_window(model, 64)


def test_a_network_for_one_window_keeps_it() -> None:
    class OneWindow(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if x.shape[2:] != (64, 64, 64):
                raise ValueError("64 only")
            return torch.cat([x, x], 1)

    only = nt.Model.from_network(OneWindow(), in_channels=1, out_channels=2)
    assert chosen_window(only, 10**9).settings.window_size == (64, 64, 64)


def test_times_of_one_batch_alone_choose_no_batch(model: nt.Model) -> None:
    unknown = nt.autotune(SHAPE, model, SETTINGS, 20 * MIB)
    of_one = nt.autotune(SHAPE, model, SETTINGS, 20 * MIB, pass_time=PassTime(((1, 1.0),)))
    assert of_one.settings.sw_batch_size == unknown.settings.sw_batch_size > 1


def test_the_host_has_to_have_room_too(model: nt.Model) -> None:
    ample = replace(measure_device("cpu"), budget_bytes=10**9)
    most = nt.plan(SHAPE, model, SETTINGS.replace(sw_batch_size=8), device=ample).host.run_bytes
    tight = replace(ample, host_free_bytes=round(most / 0.9))
    chosen = nt.autotune(SHAPE, model, SETTINGS, device=tight)
    assert chosen.host.run_bytes <= most
    assert 0.8 * 8 <= chosen.settings.sw_batch_size <= 8
    with raises(nt.SettingsError, "sw_batch_size", "10%", "window_size"):
        nt.autotune(SHAPE, model, SETTINGS, device=replace(ample, host_free_bytes=MIB // 8))


def test_windows_to_skip_are_found_for_every_window_that_is_tried(model: nt.Model) -> None:
    volume = np.zeros(SHAPE, np.float32)
    volume[:16, :20, :30] = 1
    asked: list[tuple[int, ...]] = []

    def find(settings: nt.Settings) -> list[Any]:
        asked.append(settings.window_size or ())
        return [nt.find_window_mask(volume, model, settings.replace(skip_below=0.5))]

    start = SETTINGS.replace(window_size=None)
    chosen = nt.autotune(SHAPE, model, start, 10**9, choose_window=True, window_masks=find)
    (again,) = find(chosen.settings)
    assert again is not None
    assert chosen.windows == int(again.sum())
    assert len(asked[:-1]) == len(set(asked[:-1])) > 1, "once for each"
    with raises(nt.SettingsError, "window_masks", "window_size", "choose_window"):
        nt.autotune(SHAPE, model, start, 10**9, choose_window=True, window_masks=find(SETTINGS))


def test_a_pass_time_that_is_given_decides_on_the_window_too(model: nt.Model) -> None:
    start = SETTINGS.replace(window_size=None, overlap=0.5)
    by_pass = nt.autotune(SHAPE, model, start, 10**9, choose_window=True, pass_time=line(1.0, 0.0))
    assert by_pass.forward_passes == 1
