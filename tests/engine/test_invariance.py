"""What must not change the result: the batch, the blocks, the devices, reading ahead, the layout, the type of sums."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.engine.conftest import float16_error_bound
from tests.refusals import raises

from napari_tessera.core.errors import ModelError
from napari_tessera.core.settings.choices import AccumulatorType, Blend
from napari_tessera.engine.devices.cpu import CpuDevice
from napari_tessera.engine.geometry.blocks import cut_blocks, split_blocks
from napari_tessera.engine.geometry.grid import Tiling, WindowGrid
from napari_tessera.engine.loop.events import PlanesFinished
from napari_tessera.engine.sink import Reduction
from napari_tessera.engine.stitching.importance_map import importance_map
from napari_tessera.engine.stitching.stitch import FLOAT16_TOTAL, float16_scale

Make = Callable[..., Any]


def pointwise(x: torch.Tensor) -> torch.Tensor:
    """Three channels that depend on a voxel alone, to the bit the same in any batch."""
    return torch.cat([x, x * 0.5 + 1, 1 - x], 1)


@settings(max_examples=30, deadline=None)
@given(
    data=st.data(),
    dims=st.sampled_from([2, 3]),
    overlap=st.sampled_from([0.0, 0.25, 0.5, 0.7]),
    blend=st.sampled_from(list(Blend)),
    sw_batch_size=st.integers(1, 5),
    tta_num=st.sampled_from([1, 4]),
    tiling=st.sampled_from(list(Tiling)),
)
def test_blocks_give_every_voxel_the_same_bits(
    run_engine: Make,
    data: st.DataObject,
    dims: int,
    overlap: float,
    blend: Blend,
    sw_batch_size: int,
    tta_num: int,
    tiling: Tiling,
) -> None:
    shape = tuple(data.draw(st.integers(3, 24)) for _ in range(dims))
    window = tuple(data.draw(st.integers(3, 9)) for _ in range(dims))
    grid = WindowGrid.regular(shape, window, overlap, tiling)
    chunk = tuple(data.draw(st.integers(1, 10)) for _ in range(dims))
    blocks = cut_blocks(grid, data.draw(st.integers(1, 400)), chunk=chunk)
    volume = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    knobs = {"grid": grid, "blend": blend, "sw_batch_size": sw_batch_size, "tta_num": tta_num}
    whole = run_engine(pointwise, volume, window, **knobs)
    cut = run_engine(pointwise, volume, window, blocks=blocks, **knobs)
    np.testing.assert_array_equal(cut.array, whole.array)
    assert len(cut.passes) == cut.sweep.forward_passes
    covered = np.zeros(shape, int)
    for event in cut.events:
        if isinstance(event, PlanesFinished):
            covered[tuple(slice(*limits) for limits in event.region)] += 1
    assert (covered == 1).all()


@settings(max_examples=25, deadline=None)
@given(data=st.data(), dims=st.sampled_from([2, 3]), overlap=st.sampled_from([0.0, 0.3, 0.5, 0.7]))
def test_windows_of_nnunet_add_up_to_their_average(
    run_engine: Make, data: st.DataObject, dims: int, overlap: float
) -> None:
    shape = tuple(data.draw(st.integers(3, 30)) for _ in range(dims))
    window = tuple(data.draw(st.integers(3, 9)) for _ in range(dims))
    grid = WindowGrid.regular(shape, window, overlap, Tiling.NNUNET)
    volume = np.random.default_rng(0).normal(size=shape).astype(np.float32)

    def network(x: torch.Tensor) -> torch.Tensor:
        return torch.cat([x, x.flip(-1), x.cumsum(-1)], 1)  # what a voxel gets depends on its window

    weights = importance_map(window, tiling=Tiling.NNUNET).double()
    padded = np.pad(volume, grid.pad_vox)
    total, weight = np.zeros((3, *padded.shape)), np.zeros(padded.shape)
    for start in map(grid.start_of, grid.iter_indices()):
        region = tuple(slice(a, a + w) for a, w in zip(start, window, strict=True))
        made = network(torch.from_numpy(padded[region].copy())[None, None])[0].double()
        total[(slice(None), *region)] += (made * weights).numpy()
        weight[region] += weights.numpy()
    inner = tuple(slice(before, before + n) for (before, _), n in zip(grid.pad_vox, shape, strict=True))
    expected = (total / weight)[(slice(None), *inner)]
    found = run_engine(network, volume, window, grid=grid, sw_batch_size=2)
    np.testing.assert_allclose(found.array, expected, atol=2e-4)
    narrow = run_engine(network, volume, window, grid=grid, accumulator=AccumulatorType.FLOAT16).array
    usual = run_engine(network, volume, window, grid=WindowGrid(grid.axes)).array
    np.testing.assert_allclose(narrow, usual, atol=0.05 * np.abs(usual).max())


def spoiling(halo: tuple[int, ...]) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return a network that gives what it is given, and nonsense in the halo of a window."""

    def network(x: torch.Tensor) -> torch.Tensor:
        made = torch.full_like(x, -1e6)
        inner = (..., *(slice(h, side - h) for h, side in zip(halo, x.shape[2:], strict=True)))
        made[inner] = x[inner]
        return made

    return network


@settings(max_examples=30, deadline=None)
@given(
    data=st.data(),
    dims=st.sampled_from([2, 3]),
    overlap=st.sampled_from([0.0, 0.5, 0.7]),
    blend=st.sampled_from(list(Blend)),
    tiling=st.sampled_from(list(Tiling)),
    accumulator=st.sampled_from(list(AccumulatorType)),
)
def test_nothing_of_a_halo_reaches_the_result(
    run_engine: Make,
    data: st.DataObject,
    dims: int,
    overlap: float,
    blend: Blend,
    tiling: Tiling,
    accumulator: AccumulatorType,
) -> None:
    shape = tuple(data.draw(st.integers(1, 20)) for _ in range(dims))
    window = tuple(data.draw(st.integers(5, 9)) for _ in range(dims))
    halo = tuple(data.draw(st.integers(0, 2)) for _ in range(dims))
    grid = WindowGrid.regular(shape, window, overlap, tiling, halo)
    volume = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    knobs = {"grid": grid, "blend": blend, "accumulator": accumulator, "channels": 1}
    found = run_engine(spoiling(halo), volume, window, **knobs).array[0]
    np.testing.assert_allclose(found, volume, atol=1e-4 if accumulator is AccumulatorType.FLOAT32 else 0.1)
    chunk = tuple(data.draw(st.integers(1, 10)) for _ in range(dims))
    cut = run_engine(spoiling(halo), volume, window, blocks=cut_blocks(grid, 200, chunk=chunk), **knobs).array[0]
    np.testing.assert_allclose(cut, found, atol=1e-5)


@pytest.mark.parametrize("offset", [0, 70_000])
def test_beyond_its_ends_an_image_is_mirrored_for_halos(run_engine: Make, offset: int) -> None:
    """Of numbers that are mapped on the host as well."""
    volume = np.random.default_rng(0).integers(0, 99, (12, 17)) + offset
    volume = volume.astype(np.int32 if offset else np.float32)
    grid = WindowGrid.regular(volume.shape, (9, 9), 0.0, Tiling.MONAI, (3, 2))

    def box_sum(x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.avg_pool2d(x, (5, 5), 1, 2) * 25

    found = run_engine(box_sum, volume, (9, 9), grid=grid, channels=1).array[0]
    padded = np.pad(volume.astype(np.float64), 2, mode="symmetric")
    expected = np.lib.stride_tricks.sliding_window_view(padded, (5, 5)).sum((2, 3))
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@settings(max_examples=15, deadline=None)
@given(
    data=st.data(),
    devices=st.integers(2, 3),
    sw_batch_size=st.integers(1, 4),
    overlap=st.sampled_from([0.0, 0.5, 0.6]),
)
def test_several_devices_give_every_voxel_the_same_bits(
    run_engine: Make, beside: Make, data: st.DataObject, devices: int, sw_batch_size: int, overlap: float
) -> None:
    shape, window = (data.draw(st.integers(3, 40)), 13, 11), (6, 5, 7)
    grid = WindowGrid.regular(shape, window, overlap)
    blocks = split_blocks(grid, cut_blocks(grid, data.draw(st.sampled_from([150, 10**6]))), devices)
    volume = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    alone = run_engine(pointwise, volume, window, overlap=overlap, sw_batch_size=sw_batch_size)
    kinds = [CpuDevice() if number % 2 else beside() for number in range(devices)]
    shared = run_engine(
        pointwise, volume, window, overlap=overlap, sw_batch_size=sw_batch_size, blocks=blocks, devices=tuple(kinds)
    )
    np.testing.assert_array_equal(shared.array, alone.array)
    assert len(shared.passes) == shared.sweep.forward_passes
    assert [event.done for event in shared.passes] == list(range(1, len(shared.passes) + 1))
    assert {event.total for event in shared.passes} == {len(shared.passes)}


@pytest.mark.parametrize("read_ahead", [0, 1, 2, 5])
@pytest.mark.parametrize("tta_num", [1, 3])
def test_reading_ahead_and_writing_behind_change_nothing(
    run_engine: Make, beside: Make, convolution: Make, volume_of: Make, read_ahead: int, tta_num: int
) -> None:
    volume, network = volume_of(30, 21, 18), convolution()
    expected = run_engine(network, volume, (8, 8, 8), tta_num=tta_num)
    found = run_engine(network, volume, (8, 8, 8), tta_num=tta_num, devices=(beside(),), read_ahead=read_ahead)
    np.testing.assert_array_equal(found.array, expected.array)
    assert [event.done for event in found.passes] == [event.done for event in expected.passes]


@settings(max_examples=15, deadline=None)
@given(data=st.data(), overlap=st.sampled_from([0.0, 0.5, 0.7]), blend=st.sampled_from(list(Blend)))
def test_the_visiting_order_changes_nothing(
    run_engine: Make, convolution: Make, data: st.DataObject, overlap: float, blend: Blend
) -> None:
    """The axis of the sweep decides in which order windows are added; sums may differ by rounding alone."""
    shape = tuple(data.draw(st.integers(3, 20)) for _ in range(3))
    window = tuple(data.draw(st.integers(3, 8)) for _ in range(3))
    volume, network = np.random.default_rng(0).normal(size=shape).astype(np.float32), convolution()
    results = []
    for axis in range(3):
        grid = WindowGrid.regular(shape, window, overlap)
        vars(grid)["sweep_axis"] = axis  # instead of the one with the smallest slab
        results.append(run_engine(network, volume, window, grid=grid, blend=blend).array)
    np.testing.assert_allclose(results[1], results[0], atol=1e-5)
    np.testing.assert_allclose(results[2], results[0], atol=1e-5)


class ChannelsFirst(CpuDevice):
    channels_last = False


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("in_channels", [1, 2])
def test_the_layout_in_memory_changes_nothing(run_engine: Make, volume_of: Make, dims: int, in_channels: int) -> None:
    torch.manual_seed(0)
    kind = torch.nn.Conv2d if dims == 2 else torch.nn.Conv3d
    network = torch.nn.Sequential(kind(in_channels, 16, 3, padding=1), torch.nn.ReLU(), kind(16, 3, 1))
    volume = volume_of(in_channels, *((19, 33, 26)[-dims:]))
    window = (16,) * dims
    last = run_engine(network, volume, window, channel_axis=0)
    first = run_engine(network, volume, window, channel_axis=0, devices=(ChannelsFirst(),))
    np.testing.assert_allclose(last.array, first.array, atol=1e-5)


class Flattens(torch.nn.Module):
    """As some networks do, it needs its input's channels first in memory."""

    calls = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return x.view(-1).view(x.shape) * 2


def test_a_network_that_flattens_with_view_still_runs(run_engine: Make, volume_of: Make) -> None:
    volume, network = volume_of(2, 20, 20, 20), Flattens()
    found = run_engine(network, volume, (8, 8, 8), channels=2, channel_axis=0)
    np.testing.assert_allclose(found.array, volume * 2, atol=1e-5)
    assert network.calls == len(found.passes) + 1, "it was asked more than once whether it takes the other layout"


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("tta_num", [8, 9, 16])
def test_views_come_in_the_layout_that_the_network_takes(
    run_engine: Make, volume_of: Make, channels: int, tta_num: int
) -> None:
    volume = volume_of(channels, 12, 20, 20)
    found = run_engine(Flattens(), volume, (8, 8, 8), channels=channels, channel_axis=0, tta_num=tta_num)
    np.testing.assert_allclose(found.array, volume * 2, atol=1e-5)


@settings(max_examples=40, deadline=None)
@given(
    data=st.data(),
    dims=st.sampled_from([2, 3]),
    blend=st.sampled_from(list(Blend)),
    overlap=st.floats(0, 0.9),
    tiling=st.sampled_from(list(Tiling)),
)
def test_weights_in_float16_never_add_up_to_more_than_they_may(
    data: st.DataObject, dims: int, blend: Blend, overlap: float, tiling: Tiling
) -> None:
    shape = tuple(data.draw(st.integers(2, 40)) for _ in range(dims))
    window = tuple(data.draw(st.integers(2, 16)) for _ in range(dims))
    grid = WindowGrid.regular(shape, window, overlap, tiling)
    importance = importance_map(window, blend)
    total = np.zeros(grid.padded_shape)
    for start in map(grid.start_of, grid.iter_indices()):
        total[tuple(slice(a, a + w) for a, w in zip(start, window, strict=True))] += importance.numpy()
    assert total.max() * float16_scale(grid, importance) <= FLOAT16_TOTAL * (1 + 1e-5)


def test_other_errors_of_the_first_pass_are_not_taken_for_the_layout(run_engine: Make, volume_of: Make) -> None:
    calls = 0

    def network(x: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += 1
        raise RuntimeError("weights are on fire")

    with raises(ModelError, "on fire"):
        run_engine(network, volume_of(2, 20, 20, 20), (8, 8, 8), channels=2, channel_axis=0)
    assert calls == 1


@settings(max_examples=30, deadline=None)
@given(
    data=st.data(),
    overlap=st.sampled_from([0.0, 0.3, 0.5, 0.75]),
    blend=st.sampled_from(list(Blend)),
    magnitude=st.sampled_from([1e-3, 1.0, 50.0]),
)
def test_sums_in_float16_stay_within_their_bound(
    run_engine: Make, data: st.DataObject, overlap: float, blend: Blend, magnitude: float
) -> None:
    shape = tuple(data.draw(st.integers(4, 20)) for _ in range(3))
    window = tuple(data.draw(st.integers(3, 8)) for _ in range(3))
    volume = (np.random.default_rng(1).uniform(-1, 1, shape) * magnitude).astype(np.float32)

    def network(x: torch.Tensor) -> torch.Tensor:
        return x.flip(-1) * 1.0

    knobs = {"overlap": overlap, "blend": blend, "channels": 1}
    exact = run_engine(network, volume, window, **knobs)
    narrow = run_engine(network, volume, window, accumulator=AccumulatorType.FLOAT16, **knobs)
    grid = exact.sweep.grid
    most = int(
        np.prod(
            [
                max(np.bincount(np.concatenate([np.arange(s, s + w) for s in starts])))
                for starts, w in zip(grid.starts, grid.window, strict=True)
            ]
        )
    )
    importance = importance_map(window, blend)
    smallest = float(importance.min()) * float16_scale(grid, importance)
    bound = float16_error_bound(most, float(np.abs(volume).max()), smallest)
    assert np.abs(narrow.array - exact.array).max() <= bound


def test_sums_in_float16_stay_finite(run_engine: Make) -> None:
    """A thousand windows over a voxel, and large logits: the weights are scaled so that the sums stay in range."""
    volume = np.full((40, 40, 40), 5000, np.float32)
    knobs = {"overlap": 0.9, "blend": Blend.CONSTANT, "channels": 1, "sw_batch_size": 64}
    found = run_engine(lambda x: x * 1, volume, (16, 16, 16), accumulator=AccumulatorType.FLOAT16, **knobs).array
    assert np.isfinite(found).all()
    assert np.abs(found / 5000 - 1).max() < 0.4  # a thousand roundings


@settings(max_examples=25, deadline=None)
@given(data=st.data(), classes=st.integers(2, 5), overlap=st.sampled_from([0.0, 0.5, 0.7]), split=st.booleans())
def test_argmax_needs_no_normalisation(
    run_engine: Make, data: st.DataObject, classes: int, overlap: float, split: bool
) -> None:
    shape = tuple(data.draw(st.integers(4, 18)) for _ in range(3))
    window = tuple(data.draw(st.integers(3, 8)) for _ in range(3))
    torch.manual_seed(2)
    network = torch.nn.Conv3d(1, classes, 3, padding=1)
    volume = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    averages = run_engine(network, volume, window, overlap=overlap, channels=classes).array
    labels = np.zeros((1, *shape), np.uint8)
    argmax = Reduction(lambda sums: sums.argmax(0, keepdim=True).to(torch.uint8), normalised=False)
    run_engine(network, volume, window, overlap=overlap, channels=classes, reduction=argmax, into=labels)
    ordered = np.sort(averages, axis=0)
    clear = ordered[-1] - ordered[-2] > 1e-5  # rounding may decide a tie either way
    np.testing.assert_array_equal(labels[0][clear], averages.argmax(0)[clear])
