"""The probe of a network's passes: which passes it makes, and how it ends. Its seconds are the machine's own matter."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tests.refusals import raises

from napari_tessera.core.errors import CalibrationError, CancelledError, ModelError, OutOfMemoryError
from napari_tessera.core.settings.settings import Settings
from napari_tessera.engine.devices.cpu import CpuDevice
from napari_tessera.engine.loop.events import CancelToken
from napari_tessera.jobs.tuning import measure_peak, measure_times
from napari_tessera.models.model import Model

CPU = Settings(device="cpu")


class Watched(torch.nn.Module):
    """Two channels; keeps what it was given, and does something at every call."""

    def __init__(self, on_call: Callable[[], object] = lambda: None) -> None:
        super().__init__()
        self.layer = torch.nn.Conv3d(1, 2, 1)
        self.on_call = on_call
        self.shapes: list[tuple[int, ...]] = []
        self.seen: dict[str, Any] = {}

    def forward(self, windows: torch.Tensor) -> torch.Tensor:
        self.shapes.append(tuple(windows.shape))
        self.on_call()
        self.seen = {
            "training": self.training,
            "grad": torch.is_grad_enabled(),
            "autocast": torch.is_autocast_enabled("cpu"),
            "range": (windows.min().item(), windows.max().item()),
            "strides": windows.stride(),
        }
        output: torch.Tensor = self.layer(windows)
        windows.zero_()  # a network may do that
        return output


def model_of(network: torch.nn.Module) -> Model:
    return Model.from_network(network, in_channels=1, out_channels=2, window_step=8)


def test_passes_that_are_made() -> None:
    network = Watched()
    times = measure_times(model_of(network), Settings(device="cpu", window_size=(8, 16, 8)), batches=(1, 3), repeats=2)
    assert network.shapes == [(1, 1, 8, 16, 8), (3, 1, 8, 16, 8)] * 4, "two to warm up, two timed"
    assert network.seen == {
        "training": False,
        "grad": False,
        "autocast": False,
        "range": (0.0, 1.0),
        "strides": torch.empty(3, 1, 8, 16, 8, memory_format=torch.channels_last_3d).stride(),
    }
    assert network.training
    assert list(times) == [1, 3]
    assert all(seconds > 0 for seconds in times.values())


def test_the_models_own_window_and_the_precision() -> None:
    network = Watched()
    measure_times(
        model_of(network),
        Settings(device="cpu", precision="bfloat16"),
        batches=[1],
        repeats=1,  # type: ignore[arg-type]
    )
    assert network.shapes == [(1, 1, 64, 64, 64)] * 3
    assert network.seen["autocast"]


@pytest.mark.parametrize("calls", [0, 1, 5])
def test_cancel(calls: int) -> None:
    cancel = CancelToken()
    network = Watched(lambda: cancel.cancel() if len(network.shapes) == calls else None)
    if calls == 0:
        cancel.cancel()
    with pytest.raises(CancelledError):
        measure_times(model_of(network), CPU, cancel=cancel)
    assert len(network.shapes) == calls


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), MemoryError()])
def test_out_of_memory(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    released: list[bool] = []
    monkeypatch.setattr(CpuDevice, "release_cached", lambda self: released.append(True))

    def fail() -> None:
        if len(network.shapes) > 4:
            raise error

    network = Watched(fail)
    with raises(OutOfMemoryError, "64 x 64 x 64", 2, "CPU", "window_size") as caught:
        measure_times(model_of(network), CPU)
    assert caught.value.__cause__ is error
    assert len(network.shapes) == 5, "nothing is tried after that"
    assert released
    assert network.training


def test_a_network_that_fails() -> None:
    def fail() -> None:
        raise ZeroDivisionError("of its own")

    with raises(ModelError, "ZeroDivisionError", "of its own"):
        measure_times(model_of(Watched(fail)), CPU)


def test_wrong_channels() -> None:
    with raises(ModelError, "out_channels"):
        measure_times(model_of(torch.nn.Identity()), CPU)


def test_the_peak_is_that_of_one_pass() -> None:
    class Doubles(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.cat([x, x], 1)

    windows = 4 * 64**3
    settings = Settings(device="cpu", sw_batch_size=2)
    assert measure_peak(model_of(Doubles()), settings) == pytest.approx(2 * 3 * windows, rel=0.01), (
        "the windows, and two channels of each"
    )


def test_a_peak_is_not_waited_for() -> None:
    cancel = CancelToken()
    network = Watched(cancel.cancel)
    with pytest.raises(CancelledError):
        measure_peak(model_of(network), CPU, cancel=cancel)
    assert len(network.shapes) == 1


def test_a_peak_that_cannot_be_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("napari_tessera.jobs.tuning.peak_of_allocations", lambda call: 0)
    with raises(CalibrationError, "16 B", "4.00 MiB"):
        measure_peak(model_of(Watched()), CPU)
