"""Views: inverses undo, the order is fixed, and affinities are averaged over the right pairs."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.refusals import raises

from napari_tessera.core.errors import SettingsError
from napari_tessera.core.settings.views import View, max_views, views
from napari_tessera.engine.loop.tta import ViewAverage

NEAREST = ((-1, 0, 0), (0, -1, 0), (0, 0, -1))


def affinities(labels: torch.Tensor, offsets: tuple[tuple[int, ...], ...]) -> torch.Tensor:
    """Whether each voxel and the one at the offset share a label, (C, *spatial); 0 where that one is outside."""
    channels = []
    for offset in offsets:
        # roll brings the partner to the voxel; what came round the edge is no partner
        partner = labels.roll([-step for step in offset], dims=tuple(range(labels.dim())))
        same = (partner == labels).float()
        for axis, step in enumerate(offset):
            edge = same.narrow(axis, 0, min(-step, same.shape[axis])) if step < 0 else None
            if step > 0:
                edge = same.narrow(axis, same.shape[axis] - min(step, same.shape[axis]), min(step, same.shape[axis]))
            if edge is not None:
                edge.zero_()
        channels.append(same)
    return torch.stack(channels)


@settings(deadline=None)  # torch's first reflection takes longer than all later ones
@given(n=st.integers(1, 16), seed=st.integers(0, 100))
def test_undo_is_the_inverse(n: int, seed: int) -> None:
    windows = torch.rand(2, 3, 4, 5, 5, generator=torch.Generator().manual_seed(seed))
    view = views(n, 3)[-1]
    torch.testing.assert_close(view.undo(view.apply(windows)), windows, rtol=0, atol=0)


@pytest.mark.parametrize("dims", [2, 3])
def test_all_views_differ(dims: int) -> None:
    windows = torch.arange(4.0**dims).reshape(1, 1, *(4,) * dims)
    seen = {tuple(view.apply(windows).flatten().tolist()) for view in views(2 ** (dims + 1), dims)}
    assert len(seen) == 2 ** (dims + 1)


def test_the_order_of_the_design() -> None:
    x, y, z = 2, 1, 0
    flips = [(), (x,), (y,), (y, x), (z,), (z, x), (z, y), (z, y, x)]
    expected = [View(flip, transpose) for transpose in (False, True) for flip in flips]
    assert list(views(16, 3)) == expected
    assert [view.flips for view in views(4, 2)] == [(), (1,), (0,), (0, 1)]


@pytest.mark.parametrize(("n", "dims"), [(0, 3), (17, 3), (9, 2)])
def test_a_number_of_views_that_does_not_exist(n: int, dims: int) -> None:
    with raises(SettingsError, "tta_num", n):
        views(n, dims)


@pytest.mark.parametrize(
    ("axes", "dims", "n", "flips"),
    [
        ("zx", 3, 4, [(), (2,), (0,), (0, 2)]),
        ("z", 3, 2, [(), (0,)]),
        ("y", 2, 2, [(), (0,)]),
        ("yx", 3, 4, [(), (2,), (1,), (1, 2)]),
        ("", 3, 1, [()]),
    ],
)
def test_only_some_axes_may_be_reflected(axes: str, dims: int, n: int, flips: list[tuple[int, ...]]) -> None:
    assert views(n, dims, axes) == tuple(map(View, flips))
    assert max_views(dims, axes) == 2 * n
    turned = views(2 * n, dims, axes)
    assert turned == (*map(View, flips), *(View(flip, transpose=True) for flip in flips))


def test_views_may_be_named_one_by_one() -> None:
    named = ("identity", "x", "zy", "t", "tzyx", "x")
    seen = views(6, 3, tta_views=named)
    assert seen == (View(), View((2,)), View((0, 1)), View((), True), View((0, 1, 2), True), View((2,)))
    assert tuple(view.name("zyx") for view in seen) == named
    assert views(2, 3, tta_views=named) == seen[:2]
    assert (views(2, 2, tta_views=["identity", "ty"])[1], max_views(2, None, ["identity", "ty"])) == (
        View((0,), True),
        2,
    )
    for n, dims, views_named, said in (
        (4, 3, ["identity", "x"], ("tta_num is 4", "tta_views", 2)),
        (2, 2, ["identity", "tz"], ("tta_views", "'tz'", "2D", "y, x")),
    ):
        with raises(SettingsError, said):
            views(n, dims, tta_views=views_named)


@pytest.mark.parametrize(("n", "dims"), [(16, 3), (8, 2)])
def test_all_axes_are_those_of_the_fixed_order(n: int, dims: int) -> None:
    assert views(n, dims, "zyx"[-dims:]) == views(n, dims)


@pytest.mark.parametrize(
    ("n", "dims", "axes", "said"),
    [
        (9, 3, "zx", ("tta_num", "tta_axes", "9", "1")),
        (3, 3, "", ("tta_num", "tta_axes", "3", "1")),
        (2, 2, "zx", ("tta_axes", "zx")),
    ],
)
def test_views_that_the_axes_do_not_give(n: int, dims: int, axes: str, said: str | tuple[str, ...]) -> None:
    with raises(SettingsError, said):
        views(n, dims, axes)


@given(n=st.sampled_from([1, 2, 3, 4, 7, 8, 16]), seed=st.integers(0, 50))
def test_an_equivariant_network_is_left_as_it_is(n: int, seed: int) -> None:
    windows = torch.rand(2, 2, 5, 6, 6, generator=torch.Generator().manual_seed(seed))
    average = ViewAverage(views(n, 3), (5, 6, 6))
    total = windows.clone()
    for view in average.views[1:]:
        average.add(total, view.apply(windows), view)
    torch.testing.assert_close(average.finish(total), windows, rtol=1e-6, atol=1e-6)


@given(
    chosen=st.sampled_from([(2, None), (4, None), (8, None), (16, None), (2, "z"), (4, "zx"), (8, "zy"), (2, "")]),
    seed=st.integers(0, 50),
    offsets=st.sampled_from(
        [NEAREST, (*NEAREST, (-2, 0, 0), (0, -3, 0), (0, 0, -3)), ((0, -2, -2), (0, -2, 2), (1, 0, 0)), ((-9, 0, 0),)]
    ),
)
def test_affinities_of_a_perfect_network_survive_every_view(
    chosen: tuple[int, str | None], seed: int, offsets: tuple[tuple[int, ...], ...]
) -> None:
    """A network that knows the truth gives, seen through any view, the affinities of what it sees."""
    labels = torch.randint(0, 3, (6, 7, 7), generator=torch.Generator().manual_seed(seed))
    n, axes = chosen
    average = ViewAverage(views(n, 3, axes), tuple(labels.shape), offsets)
    truth = affinities(labels, offsets)
    total = truth[None].clone()
    for view in average.views[1:]:
        seen = view.apply(labels[None, None])[0, 0]
        average.add(total, affinities(seen, offsets)[None], view)
    torch.testing.assert_close(average.finish(total)[0], truth, rtol=0, atol=1e-6)


def test_without_the_shift_the_average_would_be_wrong() -> None:
    """The guard of the test above: merely mapping channels back does not do."""
    labels = torch.tensor([0, 0, 1, 1, 1, 2])[None, None].expand(2, 2, 6)
    truth = affinities(labels, NEAREST)
    view = View((2,))
    naive = view.undo(affinities(view.apply(labels[None, None])[0, 0], NEAREST)[None])[0]
    assert not torch.equal(naive, truth)
