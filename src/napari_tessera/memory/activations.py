"""The memory of a forward pass at any batch, from traces at a few.

Each allocation of a pass is affine in the batch: a part per window, and a part that is there once. Two traces tell both
for every allocation; the peak is looked for anew at each batch, since the moment at which it occurs may change.
"""

from __future__ import annotations

import threading
from array import array
from collections import OrderedDict
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from napari_tessera.core.errors import ModelError
from napari_tessera.memory.estimate import PassProfile
from napari_tessera.memory.trace import ForwardTracer, allocation_step_bytes, weights_bytes

if TYPE_CHECKING:
    import torch

    from napari_tessera.memory.recorder import PassTrace


# Vision transformers order their operations differently at batch 1, so the law starts at 2. The other is far from it,
# so that what cuts its batch into pieces shows; sizes that fill it up are seldom multiples of the difference.
LAW_BATCHES = FEW, MANY = (2, 13)
# Inputs remembered for one network, tens of kilobytes each; a window slider may visit many.
MAX_INPUTS = 128


@dataclass(frozen=True, slots=True)
class ActivationLaw:
    """What each event of a pass adds to the live bytes: ``once + batch * per_window``, negative where memory is freed.

    The two of an event have the same sign, or one is 0. *workspaces*: of every convolution how many events had
    happened, and its workspace, once and per window.
    """

    once_bytes: array[int]
    per_window_bytes: array[int]
    workspaces: tuple[tuple[int, int, int], ...] = ()
    step_bytes: int = 1

    @classmethod
    def from_traces(cls, few: PassTrace, many: PassTrace) -> ActivationLaw | None:
        """Return the law of passes over `FEW` and `MANY` windows, or None if their events do not follow one."""
        if few.storage_ids != many.storage_ids:
            return None
        sizes = list(zip(few.signed_bytes, many.signed_bytes, strict=True))
        pairs = [(less, more) for (_, less), (_, more) in zip(few.workspaces, many.workspaces, strict=True)]
        if any((more - less) % (MANY - FEW) for less, more in (*sizes, *pairs)):
            return None
        per_window = array("q", (_each(*pair) for pair in sizes))
        once = array("q", (_once(*pair) for pair in sizes))
        if any(a * b < 0 for a, b in zip(once, per_window, strict=True)):
            return None  # some batch would free what it allocates
        workspaces = tuple(
            (at, _once(*pair), _each(*pair)) for (at, _), pair in zip(few.workspaces, pairs, strict=True)
        )
        return cls(once, per_window, workspaces, few.step_bytes)

    def profile(self, batch: int) -> PassProfile:
        """Return the memory of a pass over *batch* windows."""
        changes = (a + batch * b for a, b in zip(self.once_bytes, self.per_window_bytes, strict=True))
        workspaces = ((at, once + batch * each) for at, once, each in self.workspaces)
        return PassProfile.of(changes, workspaces, step_bytes=self.step_bytes)


def _each(less: int, more: int) -> int:
    return (more - less) // (MANY - FEW)


def _once(less: int, more: int) -> int:
    return less - FEW * _each(less, more)


# What a pass's memory depends on besides the network and the batch: channels, window, precision and type of device.
_Input = tuple[int, tuple[int, ...], str, str]


@dataclass(slots=True)
class _Known:
    """What has been found out about one network and one input."""

    first: PassTrace | None = None
    law: ActivationLaw | None = None
    is_law_sought: bool = False
    profiles: dict[int, PassProfile] = field(default_factory=dict)
    refusals: dict[int, tuple[str, BaseException | None]] = field(default_factory=dict)


class ActivationCache:
    """Answers what a forward pass needs at any batch; traces a network only for inputs it has not seen.

    May be used from several threads: one traces at a time, and what is known is answered meanwhile. Networks are held
    weakly and taken as unchanging: after replacing layers of one, use a new cache.
    """

    def __init__(self) -> None:
        self._inputs: WeakKeyDictionary[torch.nn.Module, OrderedDict[_Input, _Known]] = WeakKeyDictionary()
        self._weights: WeakKeyDictionary[torch.nn.Module, dict[int, int]] = WeakKeyDictionary()
        self._lock = threading.Lock()  # held for moments only, unlike the next
        self._tracing = threading.Lock()

    def profile(
        self,
        network: torch.nn.Module,
        *,
        in_channels: int,
        window: tuple[int, ...],
        batch: int,
        precision: str = "float32",
        device_type: str = "cpu",
        as_of: int | None = None,
    ) -> PassProfile:
        """Return what a pass over *batch* windows has alive at once besides the weights, and the workspaces beside it.

        The first call for several windows traces a small batch and a large one; from these any other follows in well
        under a millisecond. A batch of 1 is traced alone, and so is each batch of a network whose allocations are not
        affine. Parameters: see `ForwardTracer`; *as_of*: windows of the passes that this one comes with, if given. A
        window that is left over is taken to follow their law: it may order its operations in another way, for which it
        is worth no trace of its own.

        Raises
        ------
        ModelError
            If the network refuses such an input; remembered, too.
        """
        key = (in_channels, tuple(window), _same_memory(precision), device_type)
        known = self._traced(network, key, as_of or batch)
        if batch not in known.profiles and known.law is not None:
            return known.law.profile(batch)
        return self._traced(network, key, batch).profiles[batch]

    def trace(
        self,
        network: torch.nn.Module,
        *,
        in_channels: int,
        window: tuple[int, ...],
        batch: int = 1,
        precision: str = "float32",
        device_type: str = "cpu",
    ) -> PassTrace:
        """Return a trace made on the way to the memory of *batch* windows: shape of the output, method and its error.

        Its own batch may be another. Parameters and errors are those of `profile`.
        """
        key = (in_channels, tuple(window), _same_memory(precision), device_type)
        known = self._traced(network, key, batch)
        assert known.first is not None
        return known.first

    def weights_bytes(self, network: torch.nn.Module, *, device_type: str = "cpu") -> int:
        """Return what parameters, buffers and TorchScript constants take on a device; tied ones once."""
        step_bytes = allocation_step_bytes(device_type)
        with self._lock:
            known = self._weights.setdefault(network, {})
            if step_bytes not in known:
                known[step_bytes] = weights_bytes(network, step_bytes=step_bytes)
            return known[step_bytes]

    def _traced(self, network: torch.nn.Module, key: _Input, batch: int) -> _Known:
        """Return what is known of an input, the profile at *batch* included."""
        with self._lock:
            inputs = self._inputs.setdefault(network, OrderedDict())
            known = inputs.setdefault(key, _Known())
            inputs.move_to_end(key)
            if len(inputs) > MAX_INPUTS:
                inputs.popitem(last=False)
        if batch not in known.profiles:
            with self._tracing:
                if batch not in known.profiles:  # or another thread has just found it
                    self._find(network, key, known, batch)
        return known

    def _find(self, network: torch.nn.Module, key: _Input, known: _Known, batch: int) -> None:
        if batch in known.refusals:
            message, cause = known.refusals[batch]
            raise ModelError(message) from cause
        in_channels, window, precision, device_type = key
        tracer = ForwardTracer(network, precision=precision, device_type=device_type)

        def trace(windows: int) -> PassTrace:
            traced = tracer.trace((windows, in_channels, *window))
            known.first = known.first or traced
            known.profiles[windows] = traced.profile
            return traced

        try:
            if batch > 1 and not known.is_law_sought:
                known.is_law_sought = True
                # A network may have been exported for one batch only, which may be the one asked for.
                with suppress(ModelError):
                    known.law = ActivationLaw.from_traces(*map(trace, LAW_BATCHES))
            if batch not in known.profiles:
                if known.law is None or batch < FEW:
                    trace(batch)
                else:
                    known.profiles[batch] = known.law.profile(batch)
        except ModelError as error:
            known.refusals[batch] = (str(error), _without_tracebacks(error.__cause__))
            raise


def _same_memory(precision: str) -> str:
    """Return *precision*, or float32 for tf32, which rounds inside kernels only."""
    return "float32" if precision == "tf32" else precision


def _without_tracebacks(error: BaseException | None) -> BaseException | None:
    """Return *error* without the frames of it and its causes: they hold the network, which is to be held weakly."""
    links, seen = [error], set()
    while links:
        link = links.pop()
        if link is not None and id(link) not in seen:
            seen.add(id(link))
            link.__traceback__ = None
            links += [link.__cause__, link.__context__]
    return error
