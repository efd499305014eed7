"""Windows that a network takes, found by asking it: for networks whose description states no rule."""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["nearest_windows"]

Window = tuple[int, ...]

# Networks halve their input a few times; none in use needs more than this to be divisible.
LARGEST_STEP_VOX = 64


def nearest_windows(window: Window, accepts: Callable[[Window], bool]) -> tuple[Window, ...]:
    """Return the windows next to *window* that the network takes: the one below, the one above, or none.

    Tries multiples of 2, 4, 8, ... on all axes and stops at the first of them of which it takes both neighbours: one
    alone may be a multiple of more by chance.

    Parameters
    ----------
    window
        A window that the network does not take.
    accepts
        Whether it takes another.

    Examples
    --------
    >>> nearest_windows((30, 50), lambda window: all(side % 16 == 0 for side in window))
    ((16, 48), (32, 64))
    """
    found: tuple[Window, ...] = ()
    step = 2
    while step <= LARGEST_STEP_VOX:
        below = tuple(max(step, side // step * step) for side in window)
        above = tuple(-(-side // step) * step for side in window)
        taken = tuple(near for near in dict.fromkeys((below, above)) if near != window and accepts(near))
        if taken and len(taken) == len({below, above}):
            return taken
        found = taken or found
        step *= 2
    return found
