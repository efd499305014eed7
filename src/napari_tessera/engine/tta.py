"""Test-time augmentation: the views of a window, their inverses, and the average over them.

A view is a reflection of some axes, for half of the views after a transpose of y and x. A prediction is mapped
back with the inverse before it is averaged. For channels that say something about a *direction* that is not enough:
an affinity channel of offset ``o`` tells at voxel ``v`` whether ``v`` and ``v + o`` belong together. Seen through a
view, the same pair is described by another channel, or by the same channel at the pair's other end::

    x:            0 1 2 3 4          channel of offset -1, at voxel 3, describes the pair (3, 2)
    flipped:      4 3 2 1 0          the same channel, at the same place, describes (1, 2) of the original:
                                     that is the pair of voxel 2, so the value belongs one voxel further

so channels are permuted and, where the direction is reversed, shifted by their offset. The voxels a shift leaves
without a value are left out of the average (the identity view, always the first, covers every voxel).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import product

import torch

from napari_tessera.engine.settings import IDENTITY
from napari_tessera.errors import SettingsError

__all__ = ["View", "ViewAverage", "max_views", "views"]

# A voxel that no view of any window speaks for takes what its neighbours say; beside a view that does, that is next to
# nothing.
UNSPOKEN = 1e-3

Offset = tuple[int, ...]
Region = list[slice]


@dataclass(frozen=True, slots=True)
class View:
    """One way of looking at a window: an optional transpose of the last two axes, then reflections.

    Parameters
    ----------
    flips
        Spatial axes to reflect, counted from the first spatial axis.
    transpose
        Whether y and x change places first. Needs equal window sides in y and x.
    """

    flips: tuple[int, ...] = ()
    transpose: bool = False

    @classmethod
    def named(cls, name: str, axes: str) -> View:
        """Return the view called *name* of the spatial *axes*, ``"zyx"`` or ``"yx"`` (see `name`)."""
        if name == IDENTITY:
            return cls()
        return cls(tuple(axes.index(letter) for letter in name.removeprefix("t")), name.startswith("t"))

    def name(self, axes: str) -> str:
        """Return what a settings file calls it: the reflected axes, after a ``t`` where y and x change places first.

        Examples
        --------
        >>> View().name("zyx"), View((1, 2)).name("zyx"), View((0,), transpose=True).name("yx")
        ('identity', 'yx', 'ty')
        """
        return "t" * self.transpose + "".join(axes[axis] for axis in self.flips) or IDENTITY

    def apply(self, windows: torch.Tensor) -> torch.Tensor:
        """Return the view of *windows*, shape ``(B, C, *spatial)``. The identity returns its argument."""
        seen = windows.transpose(-1, -2) if self.transpose else windows
        return seen.flip([2 + axis for axis in self.flips]) if self.flips else seen

    def undo(self, predictions: torch.Tensor) -> torch.Tensor:
        """Return *predictions* of the view in the axes of the original window (channels as they are)."""
        turned = predictions.flip([2 + axis for axis in self.flips]) if self.flips else predictions
        return turned.transpose(-1, -2) if self.transpose else turned

    def offset_in_original(self, offset: Offset) -> Offset:
        """Return the direction in the original window that *offset* in the view's axes stands for."""
        turned = [-step if axis in self.flips else step for axis, step in enumerate(offset)]
        if self.transpose:
            turned[-1], turned[-2] = turned[-2], turned[-1]
        return tuple(turned)


def max_views(spatial_dims: int, tta_axes: str | None = None, tta_views: Sequence[str] | None = None) -> int:
    """Return how many views there are to take: 8 in 2D, 16 in 3D, fewer where only *tta_axes* may be reflected.

    Where they are named one by one, as *tta_views*, it is as many as these.
    """
    if tta_views is not None:
        return len(tta_views)
    return 2 << (spatial_dims if tta_axes is None else len(tta_axes))


def views(
    tta_num: int, spatial_dims: int, tta_axes: str | None = None, tta_views: Sequence[str] | None = None
) -> tuple[View, ...]:
    """Return the first *tta_num* views in the fixed order, or in that of *tta_views*.

    The order is identity, x, y, yx, z, zx, zy, zyx (2D: the first four), then the same again after a transpose of
    y and x. So 4 are the flips in the plane, 8 all flips of 3D, 16 all flips with and without transpose. Where only
    some axes may be reflected, the views that reflect another one are left out of that order.

    Parameters
    ----------
    tta_num
        Number of views, the identity included, >= 1.
    spatial_dims
        2 or 3.
    tta_axes
        Letters of the axes that may be reflected, in the order z, y, x; None: all of them.
    tta_views
        Names of views (see `View.name`), the identity first, which stand for the fixed order; None: that order.

    Raises
    ------
    SettingsError
        If there are not that many views, or no such axis.

    Examples
    --------
    >>> [view.flips for view in views(4, spatial_dims=3)]
    [(), (2,), (1,), (1, 2)]
    >>> [view.flips for view in views(4, spatial_dims=3, tta_axes="zx")]
    [(), (2,), (0,), (0, 2)]
    """
    names = "zyx"[-spatial_dims:]
    if tta_views is not None:
        return _named_views(tta_num, names, tta_views)
    reflected = names if tta_axes is None else tta_axes
    unknown = [axis for axis in reflected if axis not in names]
    if unknown:
        raise SettingsError(
            f"tta_axes is '{tta_axes}', but a {spatial_dims}D model has the axes {', '.join(names)}: "
            f"leave {', '.join(unknown)} out"
        )
    most = max_views(spatial_dims, tta_axes)
    if not 1 <= tta_num <= most:
        within = "" if tta_axes is None else f", reflected along {', '.join(tta_axes) or 'no axis'} (tta_axes),"
        raise SettingsError(
            f"tta_num is {tta_num}, but a {spatial_dims}D model{within} has 1 to {most} different views: "
            f"choose one of those{'' if tta_axes is None else ', or more axes'}"
        )
    axes = [names.index(axis) for axis in reflected]
    flips = [
        tuple(axis for axis, on in zip(axes, chosen, strict=True) if on)
        for chosen in product((False, True), repeat=len(axes))
    ]
    ordered = [View(flip, transpose) for transpose in (False, True) for flip in flips]
    return tuple(ordered[:tta_num])


def _named_views(tta_num: int, axes: str, tta_views: Sequence[str]) -> tuple[View, ...]:
    wrong = [name for name in tta_views if name != IDENTITY and not set(name) <= {"t", *axes}]
    if wrong:
        raise SettingsError(
            f"tta_views names '{wrong[0]}', but a {len(axes)}D model has the axes {', '.join(axes)}: leave it out"
        )
    if not 1 <= tta_num <= len(tta_views):
        raise SettingsError(
            f"tta_num is {tta_num}, but tta_views names {len(tta_views)} views: choose 1 to {len(tta_views)}, or name "
            f"more views"
        )
    return tuple(View.named(name, axes) for name in tta_views[:tta_num])


@dataclass(frozen=True, slots=True)
class _Route:
    """Where one output channel finds its value in a view's mapped-back prediction."""

    target: int
    origin: int
    shift: Offset

    def regions(self, window: Sequence[int]) -> tuple[Region, Region]:
        """Return the region that gets a value, and the region of the prediction that it comes from."""
        pairs = list(zip(self.shift, window, strict=True))
        into = [slice(max(0, -s), max(0, n - max(0, s))) for s, n in pairs]
        taken = [slice(max(0, s), max(0, n - max(0, -s))) for s, n in pairs]
        return into, taken


def _routes(view: View, offsets: Sequence[Offset]) -> tuple[_Route, ...]:
    described = [view.offset_in_original(offset) for offset in offsets]
    routes = []
    for target, wanted in enumerate(offsets):
        opposite = tuple(-step for step in wanted)
        if wanted in described:
            routes.append(_Route(target, described.index(wanted), (0,) * len(wanted)))
        elif opposite in described:
            routes.append(_Route(target, described.index(opposite), wanted))
        # else: no channel of this view speaks of the pair; the view does not count for this channel.
    return tuple(routes)


@dataclass(frozen=True)
class ViewAverage:
    """The mean over views of a batch of windows.

    Parameters
    ----------
    views
        The views; the first is the identity.
    window
        Window shape, voxels.
    offsets
        For affinity channels, the offset of each output channel (all of them), axes as in the window; else empty.
    """

    views: tuple[View, ...]
    window: tuple[int, ...]
    offsets: tuple[Offset, ...] = ()
    _copies: dict[torch.device, torch.Tensor] = field(default_factory=dict, compare=False)

    def add(self, total: torch.Tensor, prediction: torch.Tensor, view: View) -> None:
        """Add a view's *prediction* to *total* in place; both ``(B, C, *window)``."""
        back = view.undo(prediction)
        if not self.offsets or view == View():
            total += back
            return
        for route in _routes(view, self.offsets):
            into, taken = route.regions(self.window)
            total[:, route.target][(slice(None), *into)] += back[:, route.origin][(slice(None), *taken)]

    def speaks_for_all(self, view: View) -> bool:
        """Whether a *view* says something about every channel."""
        return not self.offsets or len(_routes(view, self.offsets)) == len(self.offsets)

    def restored(self, prediction: torch.Tensor, view: View) -> torch.Tensor:
        """Return a view's *prediction*, ``(B, C, *window)``, as one of the original window.

        Voxels that the view says nothing about get the value of the nearest one that it does (see `spoken`).
        """
        back = view.undo(prediction)
        if not self.offsets or view == View():
            return back
        total = torch.empty_like(back, memory_format=torch.contiguous_format)
        for route in _routes(view, self.offsets):
            into, taken = route.regions(self.window)
            target, origin = total[:, route.target], back[:, route.origin]
            if any(part.stop <= part.start for part in into):  # the offset is longer than the window
                target.copy_(origin)
                continue
            target[(slice(None), *into)] = origin[(slice(None), *taken)]
            _spread(target, into)
        return total

    def spoken(self, view: View) -> torch.Tensor | None:
        """Return how much a *view*'s values count, float32 ``(C, *window)``: 1, or `UNSPOKEN`; None: all of them 1."""
        if not self.offsets or view == View():
            return None
        spoken = torch.full((len(self.offsets), *self.window), UNSPOKEN)
        for route in _routes(view, self.offsets):
            into, _ = route.regions(self.window)
            spoken[route.target][tuple(into)] = 1
        return spoken

    @cached_property
    def counts(self) -> torch.Tensor | None:
        """How many views speak for each voxel, float32 ``(C, *window)``; None where it is all of them."""
        if not self.offsets or len(self.views) == 1:
            return None
        counts = torch.zeros((len(self.offsets), *self.window))
        for view in self.views:
            for route in _routes(view, self.offsets):
                into, _ = route.regions(self.window)
                counts[route.target][tuple(into)] += 1
        return counts

    def finish(self, total: torch.Tensor) -> torch.Tensor:
        """Turn the sum *total* into the mean, in place, and return it."""
        if len(self.views) == 1:
            return total
        counts = self._counts_on(total.device)
        return total.div_(len(self.views) if counts is None else counts)

    def _counts_on(self, device: torch.device) -> torch.Tensor | None:
        """Return `counts` on a device; copied there once, as a copy would hold the device up at every batch."""
        if self.counts is None:
            return None
        if device not in self._copies:
            self._copies[device] = self.counts.to(device)
        return self._copies[device]


def _spread(values: torch.Tensor, inside: Region) -> None:
    """Fill what of *values*, (B, *window), is not *inside* with the nearest that is."""
    for axis, part in enumerate(inside, start=1):
        before, after = part.start, values.shape[axis] - part.stop
        if before:
            first = values.narrow(axis, 0, before)
            first.copy_(values.narrow(axis, part.start, 1).expand_as(first))
        if after:
            last = values.narrow(axis, part.stop, after)
            last.copy_(values.narrow(axis, part.stop - 1, 1).expand_as(last))
