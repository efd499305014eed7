"""Interleaved views: neighbours differ, a symmetric network is unchanged, affinities are averaged over what is said."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_tessera.core.settings.choices import TtaMode
from napari_tessera.engine.geometry.grid import WindowGrid
from napari_tessera.engine.geometry.interleaving import coverage, digits, view_number
from napari_tessera.engine.loop.events import MemoryRecovered

Make = Callable[..., Any]


@settings(deadline=None, max_examples=60)
@given(data=st.data(), dims=st.sampled_from([2, 3]), overlap=st.sampled_from([0.0, 0.3, 0.5, 0.6, 0.75]))
def test_windows_over_one_voxel_see_different_views(data: st.DataObject, dims: int, overlap: float) -> None:
    shape = tuple(data.draw(st.integers(1, 14)) for _ in range(dims))
    window = tuple(data.draw(st.integers(1, 6)) for _ in range(dims))
    grid = WindowGrid.regular(shape, window, overlap)
    cover = coverage(grid)
    n_views = data.draw(st.integers(prod(cover), 2 * prod(cover)))
    places = digits(grid, n_views)
    over: dict[tuple[int, ...], list[int]] = {}
    for index in grid.iter_indices():
        view = view_number(index, places, n_views)
        start = grid.start_of(index)
        for voxel in np.ndindex(*grid.window):
            over.setdefault(tuple(np.add(start, voxel)), []).append(view)
    assert max(map(len, over.values())) <= prod(cover)
    assert all(len(set(seen)) == len(seen) for seen in over.values())


def test_at_overlap_one_half_a_voxel_sees_eight_views() -> None:
    grid = WindowGrid.regular((32, 32, 32), (16, 16, 16), 0.5)
    numbers = {view_number(index, digits(grid, 8), 8) for index in np.ndindex(2, 2, 2)}
    assert numbers == set(range(8))


@pytest.mark.parametrize("tta_num", [2, 4, 8, 16])
def test_a_pointwise_network_gives_what_one_view_gives(run_engine: Make, volume_of: Make, tta_num: int) -> None:
    volume = volume_of(13, 22, 21)

    def network(x: torch.Tensor) -> torch.Tensor:
        return torch.cat([x, x * 2, x + 1], 1)

    plain = run_engine(network, volume, (8, 8, 8), sw_batch_size=5)
    mixed = run_engine(network, volume, (8, 8, 8), sw_batch_size=5, tta_num=tta_num, tta_mode=TtaMode.INTERLEAVED)
    np.testing.assert_allclose(mixed.array, plain.array, atol=1e-5)
    assert len(mixed.passes) == len(plain.passes) == mixed.sweep.forward_passes


def test_every_window_is_seen_through_its_own_view(run_engine: Make, volume_of: Make) -> None:
    volume, seen = volume_of(12, 12), []

    def network(x: torch.Tensor) -> torch.Tensor:
        seen.extend(x[:, 0].clone().numpy())
        return x

    knobs = {"channels": 1, "tta_num": 4, "tta_mode": TtaMode.INTERLEAVED, "sw_batch_size": 3}
    found = run_engine(network, volume, (8, 8), **knobs).array[0]
    top, bottom = volume[:8], volume[4:]
    expected = top[:, :8], top[:, 4:][:, ::-1], bottom[::-1, :8], bottom[::-1, 4:][:, ::-1]  # identity, x, y, yx
    np.testing.assert_array_equal(seen, expected)
    np.testing.assert_allclose(found, volume, atol=1e-6)


@pytest.mark.parametrize(
    ("shape", "window", "n_views"), [((165, 300, 200), (112, 112, 112), 8), ((100, 100), (32, 32), 4)]
)
def test_a_window_that_is_moved_back_costs_no_other_voxel_a_view(
    shape: tuple[int, ...], window: tuple[int, ...], n_views: int
) -> None:
    """The last window lies over voxels of two others: only there are there more windows than views."""
    grid = WindowGrid.regular(shape, window, 0.5)
    places = digits(grid, n_views)
    moved = [[max(0, n - 2 * w // 2 - w // 2), n] for n, w in zip(shape, window, strict=True)]
    rng = np.random.default_rng(0)
    full = 0
    for voxel in rng.integers(0, shape, (300, len(shape))):
        views = [
            view_number(index, places, n_views)
            for index in grid.iter_indices()
            if all(a <= v < a + w for a, v, w in zip(grid.start_of(index), voxel, window, strict=True))
        ]
        if len(views) <= n_views and not any(a <= v < b for v, (a, b) in zip(voxel, moved, strict=True)):
            assert len(set(views)) == len(views)
            full += len(views) == n_views
    assert full or len(shape) == 3


@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.5])
@pytest.mark.parametrize("tta_num", [2, 4, 8])
def test_constant_affinities_stay_constant(run_engine: Make, overlap: float, tta_num: int) -> None:
    """Also where no view of any window speaks for a pair: there the nearest one that does is taken."""
    offsets = ((-1, 0), (0, -1), (0, -3), (-9, 0))
    found = run_engine(
        lambda x: torch.full((x.shape[0], 4, *x.shape[2:]), 0.9),
        np.zeros((21, 32), np.float32),
        (8, 8),
        overlap=overlap,
        channels=4,
        offsets=offsets,
        tta_num=tta_num,
        tta_mode=TtaMode.INTERLEAVED,
    )
    np.testing.assert_allclose(found.array, 0.9, rtol=1e-5)


@pytest.mark.parametrize("overlap", [0.0, 0.5])
def test_affinities_are_moved_to_the_pair_they_speak_of(run_engine: Make, overlap: float) -> None:
    """A network that knows the truth within its window gives the truth, whatever view it is seen through."""
    labels = np.random.default_rng(0).integers(1, 4, (16, 16)).astype(np.float32)
    offsets = ((-1, 0), (0, -1))

    def network(x: torch.Tensor) -> torch.Tensor:
        rows = (x == x.roll(1, 2)).float()
        columns = (x == x.roll(1, 3)).float()
        return torch.cat([rows, columns], 1)

    knobs = {"channels": 2, "overlap": overlap, "offsets": offsets, "sw_batch_size": 4}
    found = run_engine(network, labels, (8, 8), tta_num=8, tta_mode=TtaMode.INTERLEAVED, **knobs).array
    truth = np.stack([labels == np.roll(labels, 1, 0), labels == np.roll(labels, 1, 1)]).astype(np.float32)
    inside = np.zeros_like(truth, bool)
    inside[0, 1:], inside[1, :, 1:] = True, True
    for axis in (0, 1):  # at a window's edge a pair leaves the window, and the roll wraps it around
        edge = [slice(None)] * 2
        edge[axis] = slice(None, None, 8 if overlap == 0 else 4)
        inside[axis][tuple(edge)] = False
        before = [slice(None)] * 2
        before[axis] = slice(7, None, 8) if overlap == 0 else slice(3, None, 4)
        inside[axis][tuple(before)] = False
    np.testing.assert_allclose(found[inside], truth[inside], atol=1e-5)
    assert np.isfinite(found).all()


def test_out_of_memory_keeps_every_windows_view(run_engine: Make, convolution: Make, volume_of: Make) -> None:
    volume, network = volume_of(13, 22, 21), convolution()
    knobs = {"tta_num": 8, "tta_mode": TtaMode.INTERLEAVED}
    expected = run_engine(network, volume, (8, 8, 8), sw_batch_size=1, **knobs)

    def limited(x: torch.Tensor) -> torch.Tensor:
        if x.shape[0] > 2:
            raise torch.OutOfMemoryError("full")
        return network(x)

    found = run_engine(limited, volume, (8, 8, 8), sw_batch_size=7, **knobs)
    np.testing.assert_allclose(found.array, expected.array, atol=1e-5)
    assert any(isinstance(event, MemoryRecovered) for event in found.events)
