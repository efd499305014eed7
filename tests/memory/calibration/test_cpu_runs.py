"""A run on the CPU measures its own memory, where what it measures is what its plan is about."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch
from monai.networks.nets import UNet
from tests.refusals import raises
from torch.autograd import profiler

import napari_tessera as nt
from napari_tessera.engine.loop.events import Event, RunFinished

SETTINGS = nt.Settings(window_size=(32, 32, 32), sw_batch_size=2, device="cpu")
SHAPE = (48, 64, 64)


class Layers(torch.nn.Sequential):
    def __init__(self) -> None:
        wide = torch.nn.Conv3d(1, 16, 3, padding=1), torch.nn.ReLU(), torch.nn.Conv3d(16, 2, 3, padding=1)
        super().__init__(*wide)


@pytest.fixture
def model() -> nt.Model:
    return nt.Model.from_network(Layers().eval(), in_channels=1, out_channels=2)


def image(*shape: int) -> npt.NDArray[np.float32]:
    return np.random.default_rng(0).random(shape, dtype=np.float32)


def run(model: nt.Model, settings: nt.Settings = SETTINGS, shape: tuple[int, ...] = SHAPE) -> int | None:
    """Run, and return the peak that the run told."""
    events: list[Event] = []
    nt.predict(image(*shape), model, settings, on_event=events.append)
    (peak,) = (event.peak_bytes for event in events if isinstance(event, RunFinished))
    return peak


def plan(model: nt.Model, settings: nt.Settings = SETTINGS) -> nt.Plan:
    return nt.plan(SHAPE, model, settings, decoder="probabilities", dtype=np.float32)


@pytest.mark.parametrize("batch", [1, 2, 4])
def test_a_run_corrects_the_next_estimate(model: nt.Model, batch: int) -> None:
    settings = SETTINGS.replace(sw_batch_size=batch)
    before = plan(model, settings)
    assert before.measured is None
    peak = run(model, settings)
    after = plan(model, settings)
    assert peak is not None
    assert peak > before.memory.accumulator_bytes
    assert after.measured is not None
    assert (after.measured.measured_bytes, after.measured.estimated_bytes) == (peak, before.memory.counted_bytes)
    assert after.memory.counted_bytes == pytest.approx(peak, rel=0.02)
    assert after.memory_error <= 0.03 < before.memory_error


def test_what_a_run_takes_is_planned_at_any_batch() -> None:
    """Also while its first passes are checked; passes over several windows are alike, over one they are not."""
    torch.manual_seed(0)
    layers = UNet(3, 1, 2, channels=(32, 64, 128), strides=(2, 2), num_res_units=1).eval()
    model = nt.Model.from_network(layers, in_channels=1, out_channels=2)
    batches = {batch: SETTINGS.replace(sw_batch_size=batch) for batch in (2, 4, 8)}
    before = {batch: plan(model, settings) for batch, settings in batches.items()}
    for batch, settings in batches.items():
        peak = run(model, settings)
        assert peak is not None
        assert peak == pytest.approx(before[batch].memory.counted_bytes, rel=before[batch].memory_error)
        if batch > 2:  # foretold from passes over fewer windows
            told = plan(model, settings)
            assert peak == pytest.approx(told.memory.counted_bytes, rel=told.memory_error)


def test_a_short_run_is_measured_as_a_whole(model: nt.Model) -> None:
    assert run(model, shape=(32, 32, 64)) is not None


def test_a_first_volume_that_does_not_decide_is_not_kept(model: nt.Model) -> None:
    from napari_tessera.jobs.pipeline import iter_results

    volumes = [image(32, 32, 32), image(48, 96, 96)]
    planned = nt.plan([volume.shape for volume in volumes], model, SETTINGS, decoder="probabilities")
    sources = [lambda volume=volume: nt.api.as_source(volume, model.spec) for volume in volumes]
    assert len(list(iter_results(sources, model, planned, None))) == 2
    assert plan(model).measured is None


def test_what_another_library_takes_is_not_measured() -> None:
    class Elsewhere(Layers):
        memory_error = 0.3

    model = nt.Model.from_network(Elsewhere().eval(), in_channels=1, out_channels=2)
    assert run(model) is not None
    assert plan(model).measured is None
    assert nt.calibrate(model, SETTINGS) is None


def test_another_profile_goes_on(model: nt.Model) -> None:
    with profiler.profile() as other:
        assert run(model) is None
    assert any(event.name == "aten::conv3d" for event in other.function_events)
    assert plan(model).measured is None


def test_a_failed_run_leaves_no_profile(model: nt.Model) -> None:
    class Fails(Layers):
        def forward(self, windows: torch.Tensor) -> torch.Tensor:
            if not windows.is_meta and windows.data_ptr():
                raise ValueError("not today")
            return super().forward(windows)

    failing = nt.Model.from_network(Fails().eval(), in_channels=1, out_channels=2)
    with raises(nt.ModelError, "not today"):
        run(failing)
    assert run(model) is not None
