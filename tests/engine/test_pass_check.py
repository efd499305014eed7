"""Looking at the first passes changes nothing: with several devices that read ahead, and where memory runs out."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.engine.conftest import Beside, run_engine

from napari_tessera.core.settings.choices import Precision
from napari_tessera.engine.devices.cpu import CpuDevice
from napari_tessera.engine.geometry.grid import Block
from napari_tessera.engine.loop.events import Noticed
from napari_tessera.engine.loop.pass_check import PassCheck

VOLUME = np.random.default_rng(0).normal(size=(16, 20, 18)).astype(np.float32)
HALVES = (Block((0, 0, 0), (16, 10, 18)), Block((0, 10, 0), (16, 20, 18)))


def convolution() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Conv3d(1, 3, 3, padding=1).requires_grad_(False)


class Judge:
    """Says one thing of the first pass, and one of all."""

    def __init__(self) -> None:
        self.left = {"pass": ["the values are strange"], "all": ["all are"]}

    def of_pass(self, output: torch.Tensor, *, fractional: bool) -> list[str]:
        assert fractional
        return self.left.pop("pass", [])

    def of_all(self) -> list[str]:
        return self.left.pop("all", [])


@pytest.mark.parametrize("devices", [(CpuDevice(),), (Beside(),), (Beside(), Beside())])
@pytest.mark.parametrize("tta_num", [1, 4])
def test_the_result_stays_and_it_is_said_once(devices: tuple[CpuDevice, ...], tta_num: int) -> None:
    network, knobs = convolution(), {"devices": devices, "tta_num": tta_num, "blocks": HALVES}
    check = PassCheck(Judge(), Precision.FLOAT32)
    expected = run_engine(network, VOLUME, (8, 8, 8), **knobs)
    found = run_engine(network, VOLUME, (8, 8, 8), check=check, **knobs)
    np.testing.assert_array_equal(found.array, expected.array)
    assert sum(isinstance(event, Noticed) for event in found.events) == 2
    assert len(found.passes) == len(expected.passes)


@pytest.mark.parametrize("failing", [0, 1, 2])
def test_a_lack_of_memory_in_any_of_the_first_calls(failing: int) -> None:
    network, calls = convolution(), []

    def full(x: torch.Tensor) -> torch.Tensor:
        calls.append(len(x))
        if len(calls) == failing + 1:
            raise torch.OutOfMemoryError("out of memory")
        return network(x)

    check = PassCheck(Judge(), Precision.FLOAT32)
    found = run_engine(full, VOLUME, (8, 8, 8), sw_batch_size=12, check=check)
    expected = run_engine(network, VOLUME, (8, 8, 8), sw_batch_size=12)
    assert calls[0] == 2  # the window's copies come first
    assert calls.count(2) <= 4
    np.testing.assert_allclose(found.array, expected.array, atol=1e-5)
