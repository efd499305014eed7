"""The most that torch's host allocator gives out meanwhile, kernels' own memory included.

The allocator keeps no peak, so what it reports to a profiler is added up. Torch's older profiler is used: it belongs to
one thread, where the newer one is the whole process's, and two at once end it.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import accumulate
from typing import TYPE_CHECKING, Any

import torch
from torch._C import _profiler

from napari_tessera.engine.loop.events import DecodingStarted, Event, EventHandler, PassFinished

if TYPE_CHECKING:
    from typing import Self


_autograd: Any = torch.autograd  # whose private names its stubs do not have
_ALLOCATION = "memory_alloc"  # releases are reported under the same name, as negative sizes


class HostAllocations:
    """Adds up what the calling thread allocates on the host, from each `start` to the next `stop`.

    What another profile of the thread keeps from being seen makes all of it unknown.
    """

    def __init__(self) -> None:
        self._live, self._peak = 0, 0
        self._is_running = self._has_gap = False

    @property
    def peak_bytes(self) -> int | None:
        """By how much allocations exceeded releases at most; None where that is not known."""
        return None if self._has_gap else self._peak

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    def start(self) -> None:
        """Begin, or go on."""
        # A later torch may do without that profiler.
        if not hasattr(_autograd, "_enable_profiler_legacy") or _autograd._profiler_enabled():
            self._has_gap = True
            return
        memory_alone = _profiler.ProfilerConfig(
            _profiler.ProfilerState.CPU,
            False,  # no shapes
            True,  # memory
            False,  # no stacks
            False,  # no operations counted
            False,  # no modules
            _profiler._ExperimentalConfig(),
        )
        _autograd._enable_profiler_legacy(memory_alone)
        self._is_running = True

    def stop(self) -> None:
        """End, if it has not ended yet."""
        if not self._is_running:
            return
        self._is_running = False
        threads = _autograd._disable_profiler_legacy()
        sizes = (event.cpu_memory_usage() for events in threads for event in events if event.kind() == _ALLOCATION)
        for live in accumulate(sizes, initial=self._live):
            self._live, self._peak = live, max(self._peak, live)


class FirstPasses(HostAllocations):
    """Measures, on the CPU, what a run allocates until its first *passes* are done; later ones repeat them.

    A context manager around the run of one volume, on the thread that runs it and handles its events.
    """

    def __init__(self, passes: int = 3) -> None:
        super().__init__()
        self._passes, self._seen = passes, 0
        self._is_open = False

    @property
    def peak_bytes(self) -> int | None:
        """By how much allocations exceeded releases at most; None where no pass was made, or none could be measured."""
        return super().peak_bytes if self._seen else None

    def __enter__(self) -> Self:
        self._is_open = True
        return super().__enter__()

    def __exit__(self, *error: object) -> None:
        self._is_open = False
        super().__exit__(*error)

    def heard_by(self, handler: EventHandler) -> EventHandler:
        """Return *handler*, to be given the run's events: what it allocates itself does not count."""

        def handle(event: Event) -> None:
            self.stop()
            self._seen += isinstance(event, PassFinished)
            handler(event)
            self._is_open &= self._seen < self._passes and not isinstance(event, DecodingStarted)
            if self._is_open:
                self.start()

        return handle


def peak_of_allocations(call: Callable[[], object]) -> int | None:
    """Call *call*, and return by how much its allocations on the host exceeded its releases at most, bytes.

    None during another profile of this thread.
    """
    with HostAllocations() as allocations:
        call()
    return allocations.peak_bytes
