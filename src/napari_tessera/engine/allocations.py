"""The most that torch's host allocator gives out during a call, kernels' own memory included.

The allocator keeps no peak, so its reports to torch's profiler are added up. That slows the call a little and must not
happen during another profile, which is why a run does not do it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import accumulate

from torch.profiler import ProfilerActivity, profile

__all__ = ["peak_of_allocations"]

REPORT = "[memory]"
# Of the profiler's own messages, which it would write to stderr when it starts and stops.
LOG_LEVEL, NOTHING = "KINETO_LOG_LEVEL", "6"


def peak_of_allocations(call: Callable[[], object]) -> int:
    """Call *call*, and return by how much its allocations on the host exceeded its releases at most, bytes."""
    with _quiet(), profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        call()
    assert profiled.profiler is not None
    # Only here is one report one event; the public tables add them up per operation.
    events = profiled.profiler.kineto_results.events()
    reports = sorted((event.start_ns(), event.nbytes()) for event in events if event.name() == REPORT)
    most: int = max(accumulate((size for _, size in reports), initial=0))
    return most


@contextmanager
def _quiet() -> Iterator[None]:
    before = os.environ.get(LOG_LEVEL)
    os.environ[LOG_LEVEL] = before or NOTHING
    try:
        yield
    finally:
        if before is None:
            del os.environ[LOG_LEVEL]
