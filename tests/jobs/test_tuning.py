"""Measuring on demand: what is kept, what is refused before it is tried, what a device without counters gives."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.refusals import raises

import napari_tessera as nt
from napari_tessera.api import measure_device
from napari_tessera.memory.calibration.store import CalibrationStore

SETTINGS = nt.Settings(window_size=(16, 16, 16), sw_batch_size=4, device="cpu")


@pytest.fixture
def model() -> nt.Model:
    layers = torch.nn.Conv3d(1, 8, 3, padding=1), torch.nn.ReLU(), torch.nn.Conv3d(8, 2, 3, padding=1)
    return nt.Model.from_network(torch.nn.Sequential(*layers).eval(), in_channels=1, out_channels=2)


@pytest.fixture
def store(tmp_path: Path) -> CalibrationStore:
    return CalibrationStore(tmp_path / "calibrations.json")


@pytest.mark.parametrize(("batch", "others"), [(1, 2), (4, 1)])
def test_two_sizes_of_passes_are_measured_and_kept(
    model: nt.Model, store: CalibrationStore, batch: int, others: int
) -> None:
    settings = SETTINGS.replace(sw_batch_size=batch)
    fresh = nt.plan((40, 40, 40), model, settings, calibrations=store)
    measured = nt.calibrate(model, settings, calibrations=store)
    assert measured is not None
    for size in (batch, others):
        known = nt.plan((16, 16, 16 * size), model, settings.replace(sw_batch_size=size, overlap=0), calibrations=store)
        assert known.measured is not None
    after = nt.plan((40, 40, 40), model, settings, calibrations=store)
    assert after.time.pass_time is not None
    assert after.time.pass_time.compares_batches
    assert after.expected_seconds is not None
    assert fresh.of_pass().memory.counted_bytes == measured.estimated_bytes, "as estimated before either was measured"


def test_what_does_not_fit_is_not_tried(
    model: nt.Model, store: CalibrationStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    called: list[int] = []
    # Of a trace, which runs on tensors without data, hooks are called, too.
    model.network.register_forward_hook(lambda module, inputs, output: called.append(1) if output.data_ptr() else None)
    need = nt.plan((16, 16, 64), model, SETTINGS, calibrations=store).memory.total_bytes
    small = replace(measure_device("cpu"), free_bytes=need // 4)
    monkeypatch.setattr("napari_tessera.planning.request.measure_device", lambda name: small)
    called.clear()
    with raises(nt.SettingsError, "CPU", "sw_batch_size", 4, "window_size"):
        nt.calibrate(model, SETTINGS, calibrations=store)
    assert not called
    assert not store.path.exists()


def test_where_memory_is_not_counted_times_are_kept_all_the_same(
    model: nt.Model, store: CalibrationStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("napari_tessera.jobs.tuning.measure_peak", lambda *args, **kwargs: None)
    assert nt.calibrate(model, SETTINGS, calibrations=store) is None
    after = nt.plan((40, 40, 40), model, SETTINGS, calibrations=store)
    assert after.measured is None
    assert after.time.pass_time is not None
