"""One measured peak makes the estimate right, and tells no more of the workspaces than it can."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from napari_tessera.memory.estimate import Correction, DeviceNeed, PassProfile, fit_correction

MB = 10**6
NEED = DeviceNeed(
    windows=2,
    weights_bytes=20 * MB,
    profile=PassProfile(100 * MB, ((90 * MB, 50 * MB), (60 * MB, 70 * MB))),
    accumulator_bytes=30 * MB,
    importance_bytes=MB,
    staging_bytes=2 * MB,
    during_bytes=0,
    after_bytes=10 * MB,
    library_bytes=32 * MB,
    context_bytes=500 * MB,
)


@given(scale=st.floats(0.3, 7.9).filter(lambda scale: abs(scale - 1) > 0.05))
def test_a_scale_that_decides_on_the_peak_is_found_again(scale: float) -> None:
    without = replace(NEED, library_bytes=0)
    measured = without.estimate(Correction(scale)).counted_bytes
    found = fit_correction(without, measured, prior_scale=1.0)
    assert found.workspace_scale == pytest.approx(scale, abs=1e-4)
    assert found.activations_factor == 1.0


DOUBLED = replace(NEED, profile=PassProfile(200 * MB, ((180 * MB, 100 * MB), (120 * MB, 140 * MB))))


@given(unused=st.integers(0, 32 * MB))
def test_libraries_that_take_less_are_no_smaller_activations(unused: int) -> None:
    true = Correction(1.0, 1.0, unused)
    found = fit_correction(NEED, NEED.estimate(true).counted_bytes, prior_scale=1.0)
    assert DOUBLED.estimate(found).counted_bytes == pytest.approx(DOUBLED.estimate(true).counted_bytes, rel=1e-3)


@given(scale=st.floats(0.0, 1.0), factor=st.floats(0.5, 1.0), unused=st.integers(0, 32 * MB))
def test_whatever_was_less_than_assumed_a_larger_pass_is_not_expected_to_need_too_little(
    scale: float, factor: float, unused: int
) -> None:
    true = Correction(scale, factor, unused)
    found = fit_correction(NEED, NEED.estimate(true).counted_bytes, prior_scale=1.0)
    assert DOUBLED.estimate(found).counted_bytes >= 0.98 * DOUBLED.estimate(true).counted_bytes


def test_a_small_surprise_is_not_taken_for_a_workspace() -> None:
    tiny = replace(NEED, profile=PassProfile(100 * MB, ((99 * MB, MB // 10),)))
    measured = round(1.005 * tiny.estimate(Correction(1.0)).counted_bytes)
    found = fit_correction(tiny, measured, prior_scale=1.0)
    assert found.workspace_scale == 1.0
    assert tiny.estimate(found).counted_bytes == pytest.approx(measured, rel=2e-3)


def test_where_no_workspace_decides_what_was_assumed_stays() -> None:
    measured = NEED.estimate(Correction(0.0)).counted_bytes
    found = fit_correction(NEED, measured, prior_scale=0.5)
    # Workspaces up to 0.2 of the rule would not have shown.
    assert 0.0 <= found.workspace_scale <= 0.5
    assert NEED.estimate(found).counted_bytes == pytest.approx(measured, rel=1e-3)


@given(measured=st.integers(100 * MB, 2000 * MB))
def test_the_corrected_estimate_is_the_measurement(measured: int) -> None:
    found = fit_correction(NEED, measured, prior_scale=1.0)
    assert NEED.estimate(found).counted_bytes == pytest.approx(measured, rel=2e-3)


def test_a_correction_found_at_one_batch_holds_at_another() -> None:
    true = Correction(2.5)
    found = fit_correction(NEED, NEED.estimate(true).counted_bytes, prior_scale=1.0)
    assert DOUBLED.estimate(found).counted_bytes == pytest.approx(DOUBLED.estimate(true).counted_bytes, rel=1e-4)
