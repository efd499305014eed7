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

import torch

from napari_tessera.core.settings.views import Offset, View

# A voxel that no view of any window has a valid value for takes that of its neighbours; beside a valid value, that
# counts next to nothing.
INVALID_WEIGHT = 1e-3

Region = list[slice]


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
        # else: no channel of this view is about the pair; the view does not count for this channel.
    return tuple(routes)


@dataclass(frozen=True)
class ViewAverage:
    """The mean over *views* of a batch of windows; *offsets* are those of affinity channels, of all, else none."""

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

    def covers_all_channels(self, view: View) -> bool:
        """Whether a *view* has valid values of every channel."""
        return not self.offsets or len(_routes(view, self.offsets)) == len(self.offsets)

    def restored(self, prediction: torch.Tensor, view: View) -> torch.Tensor:
        """Return a view's *prediction*, ``(B, C, *window)``, as one of the original window.

        Voxels without a valid value get that of the nearest that has one (see `valid_weights`).
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

    def valid_weights(self, view: View) -> torch.Tensor | None:
        """Return a *view*'s valid mask as weights, float32 ``(C, *window)``: 1 or `INVALID_WEIGHT`; None: all 1."""
        if not self.offsets or view == View():
            return None
        weights = torch.full((len(self.offsets), *self.window), INVALID_WEIGHT)
        for route in _routes(view, self.offsets):
            into, _ = route.regions(self.window)
            weights[route.target][tuple(into)] = 1
        return weights

    @cached_property
    def counts(self) -> torch.Tensor | None:
        """How many views have a valid value for each voxel, float32 ``(C, *window)``; None where it is all of them."""
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
