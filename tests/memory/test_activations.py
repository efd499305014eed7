"""The law over the batch, and the cache that traces each network and input once."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest
import torch
from monai.networks import nets
from tests.memory.conftest import trace_forward
from tests.refusals import raises
from torch import nn

from napari_tessera.core.errors import ModelError
from napari_tessera.memory import activations, trace
from napari_tessera.memory.activations import ActivationCache, ActivationLaw
from napari_tessera.memory.trace import allocation_step_bytes

if TYPE_CHECKING:
    from napari_tessera.memory.recorder import PassTrace

pytestmark = pytest.mark.usefixtures("one_thread")

WINDOW = (32, 32)


def unet() -> nn.Module:
    return nets.UNet(2, 1, 2, channels=(4, 8, 16), strides=(2, 2), num_res_units=1).eval()


def swin_unetr() -> nn.Module:
    pytest.importorskip("einops")
    return nets.SwinUNETR(1, 2, feature_size=12, spatial_dims=2).eval()


@pytest.fixture
def network() -> nn.Module:
    return unet()


@pytest.fixture
def shapes(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The input shapes that have been traced, in order."""
    traced: list[tuple[int, ...]] = []
    plain = trace.ForwardTracer.trace

    def spy(tracer: trace.ForwardTracer, input_shape: tuple[int, ...]) -> PassTrace:
        traced.append(input_shape)
        return plain(tracer, input_shape)

    monkeypatch.setattr(trace.ForwardTracer, "trace", spy)
    return traced


def ask(cache: ActivationCache, network: nn.Module, batch: int, **changes: Any) -> int:
    return cache.profile(network, **{"in_channels": 1, "window": WINDOW, "batch": batch} | changes).activations_bytes


class OnePerWindow(nn.Module):
    """Does more when it is given more: its allocations are not affine in the batch."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([x[i : i + 1] * 2 for i in range(len(x))])


class ForOneBatch(nn.Module):
    """Accepts one batch only, as a network does that was exported so."""

    def __init__(self, batch: int) -> None:
        super().__init__()
        self.batch = batch

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if len(x) != self.batch:
            raise ValueError(f"a batch of {self.batch} only")
        return x + 1


LOWER = [("bfloat16", "cpu"), ("float16", "cuda")]


@pytest.mark.parametrize(
    ("build", "window", "precision", "device_type"),
    [
        *((unet, window, *where) for window in ((32, 32), (40, 24)) for where in (("float32", "cpu"), *LOWER)),
        (swin_unetr, (64, 64), "float32", "cpu"),
        *(pytest.param(swin_unetr, (64, 64), *where, marks=pytest.mark.slow) for where in LOWER),
    ],
)
def test_the_law_gives_what_a_trace_of_the_batch_gives(
    build: Any, window: tuple[int, ...], precision: str, device_type: str
) -> None:
    network, cache = build(), ActivationCache()
    batches = (1, 2, 3, 4, 8) if build is unet else (1, 5)
    where = {"precision": precision, "device_type": device_type}
    for batch in batches:
        traced = trace_forward(network, (batch, 1, *window), **where)
        assert ask(cache, network, batch, window=window, **where) == traced.activations_bytes


def test_the_law_finds_the_peak_anew_at_each_batch() -> None:
    class Shifting(nn.Module):
        """Peaks over its constant table in small batches, and over its windows in large ones."""

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            table = torch.zeros(5 * 100, device=x.device)
            x = x + table.sum()
            del table
            return x * 2 + 1

    network, cache = Shifting(), ActivationCache()
    peaks = [ask(cache, network, batch, window=(10, 10)) for batch in range(1, 9)]
    assert peaks == [trace_forward(network, (b, 1, 10, 10)).activations_bytes for b in range(1, 9)]
    assert len({more - less for less, more in pairwise(peaks)}) > 1


def test_only_the_first_question_traces(network: nn.Module, shapes: list[tuple[int, ...]]) -> None:
    cache = ActivationCache()
    first = ask(cache, network, 4)
    assert sorted(shapes) == [(n, 1, *WINDOW) for n in activations.LAW_BATCHES]
    assert ask(cache, network, 2) < ask(cache, network, 3) < first < ask(cache, network, 100)
    assert ask(cache, network, 4, precision="tf32") == first  # the same memory, not traced again
    assert cache.trace(network, in_channels=1, window=WINDOW, batch=4).outputs == {"": (2, 2, *WINDOW)}
    assert len(shapes) == 2
    assert ask(cache, network, 1) < ask(cache, network, 2)
    assert shapes[2:] == [(1, 1, *WINDOW)]


def test_one_window_alone_is_traced_alone(network: nn.Module, shapes: list[tuple[int, ...]]) -> None:
    cache = ActivationCache()
    ask(cache, network, 1)
    assert cache.trace(network, in_channels=1, window=WINDOW).outputs == {"": (1, 2, *WINDOW)}
    assert shapes == [(1, 1, *WINDOW)]
    ask(cache, network, 2)
    assert shapes[1:] == [(n, 1, *WINDOW) for n in activations.LAW_BATCHES]


def test_a_window_that_is_left_over_follows_the_others(network: nn.Module, shapes: list[tuple[int, ...]]) -> None:
    cache = ActivationCache()
    left_over = cache.profile(network, in_channels=1, window=WINDOW, batch=1, as_of=4).activations_bytes
    assert shapes == [(n, 1, *WINDOW) for n in activations.LAW_BATCHES]
    assert left_over == ask(cache, network, 1)


def test_what_matters_is_traced_anew(network: nn.Module, shapes: list[tuple[int, ...]]) -> None:
    cache = ActivationCache()
    changes: list[dict[str, Any]] = [
        {},
        {"window": (48, 32)},
        {"precision": "bfloat16"},
        {"precision": "bfloat16", "device_type": "cuda"},
        {"device_type": "cuda"},
    ]
    answers = [ask(cache, network, 2, **change) for change in changes]
    assert len(shapes) == 2 * len(changes)
    assert answers[1] > answers[0] > answers[2]
    assert ask(cache, unet(), 2) == answers[0]
    assert len(shapes) == 2 * len(changes) + 2


def test_allocations_are_rounded_up_as_on_the_device(network: nn.Module) -> None:
    for batch in (1, 5):
        rounded = ask(ActivationCache(), network, batch, window=(20, 12), device_type="cuda")
        traced = trace_forward(network, (batch, 1, 20, 12), device_type="cuda")
        assert replace(traced, step_bytes=1).activations_bytes < rounded == traced.activations_bytes
    assert allocation_step_bytes("cuda") == 512


def test_weights_are_counted_once(network: nn.Module) -> None:
    cache = ActivationCache()
    exact = 4 * sum(p.numel() for p in network.parameters())
    assert cache.weights_bytes(network) == exact
    assert cache.weights_bytes(network, device_type="cuda") > exact


def test_without_a_law_each_batch_is_traced(shapes: list[tuple[int, ...]]) -> None:
    network, cache = OnePerWindow(), ActivationCache()
    for batch in (5, 7):
        assert ask(cache, network, batch) == 4 * 32 * 32 * 3 * batch
    assert [shape[0] for shape in shapes] == [*activations.LAW_BATCHES, 5, 7]
    ask(cache, network, 7)
    assert len(shapes) == 4


@pytest.mark.parametrize("batch", [1, 4])
def test_a_network_for_one_batch_answers_for_that(batch: int) -> None:
    network, cache = ForOneBatch(batch), ActivationCache()
    assert ask(cache, network, batch) == 2 * batch * 4 * 32 * 32
    with raises(ModelError, "(2, 1, 32, 32)"):
        ask(cache, network, 2)
    assert ask(cache, network, batch) == 2 * batch * 4 * 32 * 32


def test_events_that_shrink_with_the_batch_follow_no_law() -> None:
    class Shrinking(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + torch.zeros(100 - 10 * len(x), device=x.device).sum()

    network = Shrinking()
    assert ActivationLaw.from_traces(*(trace_forward(network, (n, 1, 4, 4)) for n in activations.LAW_BATCHES)) is None
    for batch in (1, 4, 9):
        traced = trace_forward(network, (batch, 1, 4, 4)).activations_bytes
        assert ask(ActivationCache(), network, batch, window=(4, 4)) == traced


def test_a_refusal_is_remembered(network: nn.Module, shapes: list[tuple[int, ...]]) -> None:
    cache = ActivationCache()
    raised = []
    for _ in range(3):
        with raises(ModelError, "(4, 1, 30, 30)") as caught:
            ask(cache, network, 4, window=(30, 30))
        raised.append(caught.value)
    assert len(set(map(id, raised))) == 3
    assert len({str(error) for error in raised}) == 1
    assert all(isinstance(error.__cause__, RuntimeError) for error in raised)
    assert [shape[0] for shape in shapes] == [2, 4]


@pytest.mark.parametrize("window", [(32, 32), (30, 30)])
def test_a_network_is_held_weakly(window: tuple[int, ...]) -> None:
    network, cache = unet(), ActivationCache()
    watch = weakref.ref(network)
    cache.weights_bytes(network)
    with suppress(ModelError):  # pytest.raises would hold the traceback, and with it the network
        ask(cache, network, 2, window=window)
    del network
    gc.collect()
    assert watch() is None


def test_old_inputs_are_forgotten(
    network: nn.Module, shapes: list[tuple[int, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(activations, "MAX_INPUTS", 2)
    cache = ActivationCache()
    for side in (8, 12, 8, 16):  # 12 is the one not used for longest
        ask(cache, network, 1, window=(side, side))
    assert len(shapes) == 3
    ask(cache, network, 1, window=(8, 8))
    assert len(shapes) == 3
    ask(cache, network, 1, window=(12, 12))
    assert len(shapes) == 4


@pytest.fixture
def slow_trace(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[threading.Event, threading.Event]]:
    """Events: a trace has begun; it may go on."""
    begun, go_on = threading.Event(), threading.Event()
    plain = trace.ForwardTracer.trace

    def slow(tracer: trace.ForwardTracer, input_shape: tuple[int, ...]) -> PassTrace:
        begun.set()
        assert go_on.wait(30)
        return plain(tracer, input_shape)

    with monkeypatch.context() as patch:
        patch.setattr(trace.ForwardTracer, "trace", slow)
        yield begun, go_on
        go_on.set()


def test_what_is_known_is_answered_while_another_thread_traces(
    network: nn.Module, request: pytest.FixtureRequest
) -> None:
    cache = ActivationCache()
    known = ask(cache, network, 4)
    begun, go_on = request.getfixturevalue("slow_trace")
    thread = threading.Thread(target=ask, args=(cache, network, 4), kwargs={"window": (48, 48)})
    thread.start()
    assert begun.wait(30)
    assert ask(cache, network, 4) == known
    go_on.set()
    thread.join()
    assert ask(cache, network, 4, window=(48, 48)) > known


def test_threads_that_ask_the_same_trace_once(network: nn.Module, shapes: list[tuple[int, ...]]) -> None:
    cache, answers = ActivationCache(), []
    threads = [threading.Thread(target=lambda: answers.append(ask(cache, network, 6))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(answers)) == 1
    assert len(answers) == 4
    assert len(shapes) == 2, "a small batch and a large one"


class InPieces(torch.nn.Module):
    """Takes its batch four windows at a time, as some networks do to save memory."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Conv2d(1, 16, 3, padding=1)

    def forward(self, windows: torch.Tensor) -> torch.Tensor:
        return torch.cat([self.layer(part).relu().mean(1, keepdim=True) for part in windows.split(4)])  # type: ignore[no-untyped-call]


class FilledUp(torch.nn.Module):
    """Fills its batch up to a multiple of four where windows are large."""

    def forward(self, windows: torch.Tensor) -> torch.Tensor:
        missing = -len(windows) % 4 if windows.shape[-1] > 16 else 0
        filled = torch.cat([windows, windows.new_zeros(missing, *windows.shape[1:])])
        return (filled * 2).relu()[: len(windows)]


@pytest.mark.parametrize("side", [16, 32, 112])
def test_each_window_has_a_law_of_its_own(side: int) -> None:
    cache, network = ActivationCache(), FilledUp().eval()
    ask(cache, network, 4, window=(8, 8))
    for batch in (4, 6, 12):
        expected = trace_forward(network, (batch, 1, side, side)).activations_bytes
        assert ask(cache, network, batch, window=(side, side)) == expected


def test_a_law_that_larger_passes_do_not_follow_is_found_out() -> None:
    cache, network = ActivationCache(), InPieces().eval()
    for batch in (2, 8, 16, 40):
        expected = trace_forward(network, (batch, 1, 32, 32)).activations_bytes
        assert cache.profile(network, in_channels=1, window=(32, 32), batch=batch).activations_bytes == expected
