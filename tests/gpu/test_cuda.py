"""The proof on CUDA: equal to the CPU, whatever the tuning; recovery from real lacks of memory; nothing left behind."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from tests.refusals import raises

from napari_tessera.core.errors import CancelledError, OutOfMemoryError
from napari_tessera.core.settings.choices import AccumulatorType, Blend, Precision, TtaMode
from napari_tessera.engine.devices.choice import open_device
from napari_tessera.engine.devices.cpu import CpuDevice
from napari_tessera.engine.geometry.blocks import cut_blocks, split_blocks
from napari_tessera.engine.geometry.grid import WindowGrid
from napari_tessera.engine.loop.events import MemoryRecovered, PassFinished, Recovery
from napari_tessera.engine.sink import Reduction
from napari_tessera.engine.stitching.stitch import Weighting, estimate_slab_bytes

pytestmark = pytest.mark.gpu

Run = Callable[..., tuple[np.ndarray, list[Any]]]
WINDOW = (16, 24, 24)
MIB = 2**20


def on_card(network: torch.nn.Module) -> torch.nn.Module:
    return network.to("cuda")


@pytest.mark.parametrize("blend", list(Blend))
@pytest.mark.parametrize("tta_num", [1, 4])
@pytest.mark.parametrize("mode", list(TtaMode))
def test_equal_to_the_cpu(
    run: Run, network: Any, volume: np.ndarray, device: Any, blend: Blend, tta_num: int, mode: TtaMode
) -> None:
    knobs = {"blend": blend, "tta_num": tta_num, "tta_mode": mode}
    expected, _ = run(network, volume, WINDOW, CpuDevice(), **knobs)
    found, events = run(on_card(network), volume, WINDOW, device, **knobs)
    np.testing.assert_allclose(found, expected, atol=1e-4)
    passes = [event for event in events if isinstance(event, PassFinished)]
    assert passes[-1].done == passes[-1].total == len(passes)
    network.to("cpu")


def test_affinities_through_interleaved_views(run: Run, network: Any, volume: np.ndarray, device: Any) -> None:
    knobs = {"tta_num": 8, "tta_mode": TtaMode.INTERLEAVED, "offsets": ((-1, 0, 0), (0, -1, 0), (0, 0, -1))}
    expected, _ = run(network, volume, WINDOW, CpuDevice(), **knobs)
    found, _ = run(on_card(network), volume, WINDOW, device, **knobs)
    np.testing.assert_allclose(found, expected, atol=1e-4)
    network.to("cpu")


@pytest.mark.parametrize("sw_batch_size", [1, 3, 16])
@pytest.mark.parametrize("read_ahead", [0, 1, 4])
def test_tuning_changes_nothing(
    run: Run, network: Any, volume: np.ndarray, device: Any, sw_batch_size: int, read_ahead: int
) -> None:
    expected, _ = run(network, volume, WINDOW, CpuDevice())
    blocks = cut_blocks(WindowGrid.regular(volume.shape, WINDOW, 0.5), 30_000)
    assert len(blocks) > 1
    network = on_card(network)
    for cut in ((), blocks):
        found, _ = run(network, volume, WINDOW, device, sw_batch_size=sw_batch_size, read_ahead=read_ahead, blocks=cut)
        np.testing.assert_allclose(found, expected, atol=1e-4)
    network.to("cpu")


@pytest.mark.parametrize("precision", [Precision.TF32, Precision.BFLOAT16, Precision.FLOAT16])
def test_lower_precision_stays_near(
    run: Run, network: Any, volume: np.ndarray, device: Any, precision: Precision
) -> None:
    expected, _ = run(network, volume, WINDOW, CpuDevice())
    found, _ = run(on_card(network), volume, WINDOW, device, precision=precision)
    assert np.abs(found - expected).max() < 0.05 * np.abs(expected).max()
    network.to("cpu")


def test_float16_sums(run: Run, network: Any, volume: np.ndarray, device: Any) -> None:
    expected, _ = run(network, volume, WINDOW, CpuDevice())
    found, _ = run(on_card(network), volume, WINDOW, device, accumulator=AccumulatorType.FLOAT16)
    assert np.abs(found - expected).max() < 0.02 * np.abs(expected).max()
    network.to("cpu")


def test_float32_is_not_rounded_to_tf32(run: Run, volume: np.ndarray, device: Any) -> None:
    """A product whose factors need more than the ten bits of TF32."""
    exact = torch.nn.Conv3d(1, 1, 3, padding=1, bias=False)
    torch.nn.init.constant_(exact.weight, 1 + 2**-13)
    expected, _ = run(exact, volume, WINDOW, CpuDevice(), channels=1)
    found, _ = run(on_card(exact), volume, WINDOW, device, channels=1)
    np.testing.assert_allclose(found, expected, atol=2e-5)
    exact.to("cpu")


@pytest.fixture
def little_memory(device: Any) -> Iterator[Callable[[int], None]]:
    """Let this process have only so much of the card, in addition to what it has."""
    total = torch.cuda.get_device_properties(device.torch_device).total_memory

    def allow(n_bytes: int) -> None:
        torch.cuda.empty_cache()
        torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + n_bytes) / total)

    yield allow
    torch.cuda.set_per_process_memory_fraction(1.0)


class Hungry(torch.nn.Module):
    """Three channels of a voxel's own value, and 64 MiB for every window while it runs."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        torch.empty(x.shape[0], 64 * MIB, dtype=torch.uint8, device=x.device)
        return torch.cat([x, x * 0.5 + 1, 1 - x], 1)


def test_a_real_lack_of_memory_halves_the_batch(
    run: Run, volume: np.ndarray, device: Any, little_memory: Callable[[int], None]
) -> None:
    expected, _ = run(Hungry(), volume, WINDOW, device, sw_batch_size=1)
    little_memory(300 * MIB)
    found, events = run(Hungry(), volume, WINDOW, device, sw_batch_size=16)
    np.testing.assert_array_equal(found, expected)
    steps = [event.step for event in events if isinstance(event, MemoryRecovered)]
    assert steps
    assert set(steps) == {Recovery.SMALLER_PASSES}


def test_a_slab_larger_than_the_card_goes_to_the_host(
    run: Run, device: Any, little_memory: Callable[[int], None]
) -> None:
    volume = np.random.default_rng(0).normal(size=(256, 512, 512)).astype(np.float32)
    window = (64, 64, 64)
    slab_bytes = estimate_slab_bytes(WindowGrid.regular(volume.shape, window, 0.5), 3, weighting=Weighting.ROWS)
    assert slab_bytes > 100 * MIB

    def network(x: torch.Tensor) -> torch.Tensor:
        return torch.cat([x, x * 0.5 + 1, 1 - x], 1)

    expected, _ = run(network, volume, window, CpuDevice())
    little_memory(slab_bytes // 2)  # the slab alone is twice that, a pass over one window a few MiB
    found, events = run(network, volume, window, device, sw_batch_size=1)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert Recovery.HOST_ACCUMULATOR in [event.step for event in events if isinstance(event, MemoryRecovered)]


def test_one_window_that_does_not_fit_ends_with_numbers(
    run: Run, volume: np.ndarray, device: Any, little_memory: Callable[[int], None]
) -> None:
    little_memory(40 * MIB)
    with raises(OutOfMemoryError, "16 x 24 x 24"):
        run(Hungry(), volume, WINDOW, device)


def test_cancel_takes_effect_within_the_passes_on_their_way(
    run: Run, network: Any, volume: np.ndarray, device: Any
) -> None:
    cancel, calls = threading.Event(), 0
    network = on_card(network)

    def counted(x: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += 1
        return network(x)

    def on_event(event: Any) -> None:
        if isinstance(event, PassFinished) and event.done == 5:
            cancel.set()

    with pytest.raises(CancelledError):
        run(counted, volume, WINDOW, device, sw_batch_size=1, on_event=on_event, cancel=cancel)
    assert calls <= 5 + device.passes_ahead
    network.to("cpu")


def test_a_slow_sink_holds_the_run_back_and_loses_nothing(
    run: Run, network: Any, volume: np.ndarray, device: Any
) -> None:
    expected, _ = run(on_card(network), volume, WINDOW, device)

    class Slow:
        def __init__(self) -> None:
            self.array = np.zeros_like(expected)

        def __setitem__(self, region: Any, planes: np.ndarray) -> None:
            time.sleep(0.01)
            self.array[region] = planes

    slow = Slow()
    run(network, volume, WINDOW, device, into=slow)
    np.testing.assert_allclose(slow.array, expected, atol=1e-5)
    network.to("cpu")


def test_labels_are_reduced_on_the_card(run: Run, network: Any, volume: np.ndarray, device: Any) -> None:
    averages, _ = run(on_card(network), volume, WINDOW, device)
    seen: list[str] = []

    def argmax(sums: torch.Tensor) -> torch.Tensor:
        seen.append(sums.device.type)
        return sums.argmax(0, keepdim=True).to(torch.uint8)

    labels = np.zeros((1, *volume.shape), np.uint8)
    run(network, volume, WINDOW, device, reduction=Reduction(argmax, normalised=False), into=labels)
    ordered = np.sort(averages, axis=0)
    clear = ordered[-1] - ordered[-2] > 1e-5
    np.testing.assert_array_equal(labels[0][clear], averages.argmax(0)[clear])
    assert set(seen) == {"cuda"}
    network.to("cpu")


def test_the_inferer_takes_tensors_on_the_card(network: Any, device: Any) -> None:
    from napari_tessera.engine import SlabInferer

    inputs = torch.randn(1, 1, 40, 40, 40)
    expected = SlabInferer(16, 4, 0.5, "gaussian")(inputs, network)
    found = SlabInferer(16, 4, 0.5, "gaussian")(inputs.cuda(), on_card(network))
    assert found.device.type == "cuda"
    torch.testing.assert_close(found.cpu(), expected, atol=1e-4, rtol=0)
    network.to("cpu")


def test_equal_to_monai(run: Run, network: Any, volume: np.ndarray, device: Any) -> None:
    inferers = pytest.importorskip("monai.inferers")
    found, _ = run(on_card(network), volume, WINDOW, device)
    with torch.inference_mode(), torch.backends.cudnn.flags(allow_tf32=False):
        inputs = torch.from_numpy(volume)[None, None].cuda()
        theirs = inferers.sliding_window_inference(inputs, WINDOW, 4, network, overlap=0.5, mode="gaussian")
    np.testing.assert_allclose(found, theirs[0].cpu().numpy(), atol=1e-4)
    network.to("cpu")


def test_several_cards_share_a_volume(run: Run, network: Any, volume: np.ndarray) -> None:
    count = torch.cuda.device_count()
    if count < 2:
        pytest.skip(f"{count} CUDA device: two are needed")
    grid = WindowGrid.regular(volume.shape, WINDOW, 0.5)
    expected, _ = run(network, volume, WINDOW, CpuDevice())
    devices = [open_device(f"cuda:{number}") for number in range(count)]
    import copy

    networks = [copy.deepcopy(network).to(device.torch_device) for device in devices]
    found, _ = run(networks, volume, WINDOW, *devices, blocks=split_blocks(grid, (grid.whole,), count))
    np.testing.assert_allclose(found, expected, atol=1e-4)
