"""Windows that a network takes, found by asking it: for networks whose description states no rule."""

from __future__ import annotations

from collections.abc import Callable, Iterator

Window = tuple[int, ...]

# What networks need their sides to be divisible by: products of small strides. One of the larger ones is a multiple of
# almost every other.
STEPS_VOX = (2, 3, 4, 5, 6, 8, 9, 10, 12, 16, 18, 20, 24, 27, 30, 32, 36, 48, 64, 96)
COARSE_STEPS_VOX = (32, 96, 64, 60, 72, 108, 120)


def nearest_windows(window: Window, accepts: Callable[[Window], bool]) -> tuple[Window, ...]:
    """Return the windows next to *window* that the network takes: the one below, the one above, or none.

    Starts from some window that it does take and looks at one axis after the other, so that an axis that is right is
    left alone. On each axis it tries multiples of 2, 3, 4, ... and stops at the first of which the network takes both
    neighbours: one alone may be a multiple of more by chance.

    Parameters
    ----------
    window
        A window that the network does not take.
    accepts
        Whether it takes another.

    Examples
    --------
    >>> nearest_windows((18, 50), lambda window: window[1] % 16 == 0)
    ((18, 48), (18, 64))
    """
    start = next(filter(accepts, _coarse(window)), None)
    if start is None:
        return ()
    below, above = [], []
    for axis, side in enumerate(window):

        def accepts_side(other: int, axis: int = axis) -> bool:
            return accepts(_with(start, axis, other))

        near = _nearest_sides(side, accepts_side)
        below.append(near[0] if near else start[axis])
        above.append(near[-1] if near else start[axis])
    return tuple(near for near in dict.fromkeys((tuple(below), tuple(above))) if accepts(near)) or (start,)


def _coarse(window: Window) -> Iterator[Window]:
    for step in COARSE_STEPS_VOX:
        yield tuple(-(-side // step) * step for side in window)


def _with(window: Window, axis: int, side: int) -> Window:
    return (*window[:axis], side, *window[axis + 1 :])


def _nearest_sides(side: int, accepts: Callable[[int], bool]) -> tuple[int, ...]:
    """Return the accepted sides next to *side*, ascending: itself alone if that is accepted."""
    if accepts(side):
        return (side,)
    found: tuple[int, ...] = ()
    for step in STEPS_VOX:
        if side % step == 0:
            continue
        around = (max(side // step * step, step), -(-side // step) * step)
        taken = tuple(other for other in dict.fromkeys(around) if accepts(other))
        if len(taken) == len(set(around)):
            return taken
        found = taken or found
    return found
