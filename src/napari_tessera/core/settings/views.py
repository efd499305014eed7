"""Views of a window, as test-time augmentation takes them, and their order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING

from napari_tessera.core.errors import SettingsError
from napari_tessera.core.settings.choices import IDENTITY

if TYPE_CHECKING:
    import torch

Offset = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class View:
    """One way of looking at a window: an optional transpose of the last two axes, then reflections.

    A transpose needs equal window sides in y and x; *flips* count from the first spatial axis.
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


def count_reflections(axes: Sequence[str]) -> int:
    """Return how many views all reflections of *axes* are, the identity included."""
    return int(2 ** len(axes))


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
    """Return the first *tta_num* views in the fixed order, or in that of *tta_views* (see `View.name`).

    The order is identity, x, y, yx, z, zx, zy, zyx (2D: the first four), then the same again after a transpose of y and
    x. So 4 are the flips in the plane, 8 all flips of 3D, 16 all flips with and without transpose. Where only some axes
    may be reflected, *tta_axes*, the views that reflect another one are left out of that order. `SettingsError` if
    there are not that many views, or no such axis.

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
