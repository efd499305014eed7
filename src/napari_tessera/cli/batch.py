"""A run over many volumes that one bad volume does not end."""

from __future__ import annotations

import threading
from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from napari_tessera.core.errors import CancelledError
from napari_tessera.jobs.pipeline import VolumeResult, iter_results

if TYPE_CHECKING:
    from napari_tessera import Model, Plan
    from napari_tessera.decode import Decoder
    from napari_tessera.engine.loop.events import Event, EventHandler
    from napari_tessera.jobs.loading import Load

__all__ = ["VolumeFailure", "iter_outcomes"]


@dataclass(frozen=True, slots=True)
class VolumeFailure:
    """Volume number *volume* has no result, because of *error*."""

    volume: int
    error: Exception


def iter_outcomes(
    loads: Sequence[Load],
    model: Model,
    plan: Plan,
    decoder: Decoder | None,
    *,
    on_event: EventHandler,
    cancel: threading.Event,
) -> Generator[VolumeResult | VolumeFailure, None, None]:
    """Yield for every volume, in order, its result or what went wrong with it.

    Parameters
    ----------
    loads, model, plan, decoder, on_event, cancel
        As for `iter_results`.

    Raises
    ------
    CancelledError
        Once *cancel* is set, within one forward pass. The volume at hand is dropped: labels of a part of it would
        take time that whoever cancels does not want to wait.
    """
    first = 0
    while first < len(loads):
        rest = replace(plan, volumes=plan.volumes[first:])
        relay = _Relay(first, on_event)
        try:
            for result in iter_results(
                loads[first:], model, rest, decoder, on_event=relay, cancel=cancel, keep_partial=False
            ):
                yield replace(result, volume=first)
                first += 1
        except CancelledError:
            raise
        except Exception as error:
            yield VolumeFailure(first, error)
            first += 1


class _Relay:
    """Hands events on, with the number that the volume has in the whole run."""

    def __init__(self, first: int, on_event: EventHandler) -> None:
        self._first = first
        self._on_event = on_event

    def __call__(self, event: Event) -> None:
        volume = getattr(event, "volume", None)
        self._on_event(event if volume is None else replace(event, volume=self._first + volume))
