"""The loop: equal to MONAI's inferer, and the same whatever the tuning, the source or the memory."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.inferers import SlidingWindowInferer
from tests.refusals import raises

from napari_tessera.core.errors import CancelledError, ModelError, OutOfMemoryError
from napari_tessera.core.settings.choices import Blend
from napari_tessera.core.settings.views import views
from napari_tessera.engine.devices.choice import open_device
from napari_tessera.engine.geometry.grid import WindowGrid
from napari_tessera.engine.intensity import Identity, Intensity
from napari_tessera.engine.loop.events import CancelToken, Event, MemoryRecovered, PassFinished, PlanesFinished
from napari_tessera.engine.loop.parallel import Worker
from napari_tessera.engine.loop.sweep import Sweep
from napari_tessera.engine.loop.sweep_run import run_sweep
from napari_tessera.engine.sink import ArraySink, Reduction
from napari_tessera.engine.source import ArraySource
from napari_tessera.intensity.pointwise import Affine, IntensityMap, Sigmoid

Array = npt.NDArray[Any]
Network = Callable[[torch.Tensor], Any]


def random_volume(*shape: int, seed: int = 0) -> npt.NDArray[np.float32]:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def convolution(dims: int, in_channels: int = 1, out_channels: int = 3) -> torch.nn.Module:
    torch.manual_seed(1)
    kind = torch.nn.Conv2d if dims == 2 else torch.nn.Conv3d
    return torch.nn.Sequential(kind(in_channels, 4, 3, padding=1), torch.nn.ReLU(), kind(4, out_channels, 1))


def run(
    network: Network,
    volume: Any,
    window: tuple[int, ...],
    *,
    overlap: float = 0.5,
    sw_batch_size: int = 3,
    blend: str = "gaussian",
    tta_num: int = 1,
    channels: int = 3,
    channel_axis: int | None = None,
    events: list[Event] | None = None,
    cancel: CancelToken | None = None,
    intensity: Intensity | None = None,
) -> Array:
    source = ArraySource(volume, channel_axis=channel_axis)
    _, *shape = source.shape
    sweep = Sweep(
        WindowGrid.regular(shape, window, overlap),
        channels,
        intensity or Identity(),
        sw_batch_size=sw_batch_size,
        views=views(tta_num, len(shape)),
        blend=Blend(blend),
    )
    sink = ArraySink.empty((channels, *shape), np.float32)
    seen = events if events is not None else []
    run_sweep(
        [Worker(open_device("cpu"), network)],
        source,
        sweep,
        reduction=Reduction(lambda planes: planes),
        sink=sink,
        on_event=seen.append,
        cancel=cancel,
    )
    passes = [event for event in seen if isinstance(event, PassFinished)]
    if not any(isinstance(event, MemoryRecovered) for event in seen):
        assert len(passes) == sweep.forward_passes == passes[-1].total
    return sink.array


def monai_reference(
    network: Network, volume: npt.NDArray[np.float32], window: tuple[int, ...], overlap: float, blend: str
) -> Array:
    inferer = SlidingWindowInferer(window, sw_batch_size=4, overlap=overlap, mode=blend)
    inputs = torch.from_numpy(volume)
    inputs = inputs[None, None] if inputs.dim() == len(window) else inputs[None]
    with torch.inference_mode():
        result: Array = inferer(inputs, network)[0].numpy()
    return result


@settings(max_examples=40, deadline=None)
@given(
    dims=st.sampled_from([2, 3]),
    data=st.data(),
    overlap=st.one_of(st.sampled_from([0.0, 0.25, 0.5, 0.625, 0.75, 0.9]), st.floats(0, 0.9)),
    blend=st.sampled_from(["gaussian", "constant"]),
    sw_batch_size=st.integers(1, 7),
)
def test_equals_monai(dims: int, data: st.DataObject, overlap: float, blend: str, sw_batch_size: int) -> None:
    """Odd shapes, volumes smaller than the window on some axes, any batch: logits within 1e-4 of MONAI's."""
    window = tuple(data.draw(st.integers(4, 14)) for _ in range(dims))
    shape = tuple(data.draw(st.integers(1, 30)) for _ in range(dims))
    volume = random_volume(*shape)
    network = convolution(dims)
    ours = run(network, volume, window, overlap=overlap, blend=blend, sw_batch_size=sw_batch_size)
    np.testing.assert_allclose(ours, monai_reference(network, volume, window, overlap, blend), atol=1e-4, rtol=0)


@pytest.mark.parametrize("blend", ["gaussian", "constant"])
def test_equals_monai_with_several_input_channels(blend: str) -> None:
    volume = random_volume(2, 11, 23, 17)
    network = convolution(3, in_channels=2)
    ours = run(network, volume, (8, 12, 8), blend=blend, channel_axis=0)
    np.testing.assert_allclose(ours, monai_reference(network, volume, (8, 12, 8), 0.5, blend), atol=1e-5)
    last = run(network, np.moveaxis(volume, 0, -1), (8, 12, 8), blend=blend, channel_axis=-1)
    np.testing.assert_array_equal(ours, last)


@settings(max_examples=40, deadline=None)
@given(
    data=st.data(),
    overlap=st.floats(0, 0.95),
    blend=st.sampled_from(["gaussian", "constant"]),
    tta_num=st.sampled_from([1, 3, 8]),
)
def test_a_constant_network_stitches_to_its_constant(
    data: st.DataObject, overlap: float, blend: str, tta_num: int
) -> None:
    window = tuple(data.draw(st.integers(1, 9)) for _ in range(3))
    shape = tuple(data.draw(st.integers(1, 20)) for _ in range(3))
    result = run(
        lambda x: torch.full((x.shape[0], 2, *x.shape[2:]), 3.5),
        np.zeros(shape, np.uint8),
        window,
        overlap=overlap,
        blend=blend,
        tta_num=tta_num,
        channels=2,
    )
    np.testing.assert_allclose(result, 3.5, rtol=1e-5)


@settings(max_examples=25, deadline=None)
@given(first=st.integers(1, 40), second=st.integers(1, 40), tta_num=st.sampled_from([1, 4]))
def test_the_batch_does_not_change_the_result(first: int, second: int, tta_num: int) -> None:
    volume, network = random_volume(9, 21, 18), convolution(3)
    one, other = (run(network, volume, (8, 8, 8), sw_batch_size=n, tta_num=tta_num) for n in (first, second))
    np.testing.assert_allclose(one, other, atol=1e-5)


class CountingLazyArray:
    """A lazy array that counts how often each plane along each axis is read."""

    def __init__(self, array: Array) -> None:
        self.array = array
        self.shape, self.dtype = array.shape, array.dtype
        self.reads = np.zeros(array.shape, int)

    def __getitem__(self, region: Any) -> Array:
        self.reads[region] += 1
        return self.array[region]


def test_a_lazy_array_is_read_once_and_gives_the_same() -> None:
    volume, network = random_volume(13, 30, 22), convolution(3)
    lazy = CountingLazyArray(volume)
    np.testing.assert_array_equal(run(network, lazy, (8, 8, 8)), run(network, volume, (8, 8, 8)))
    assert lazy.reads.min() == lazy.reads.max() == 1


@pytest.mark.parametrize(
    "dtype", ["bool", "uint8", "int8", "uint16", "int32", "int64", "float16", "float32", "float64"]
)
def test_every_number_type(dtype: str) -> None:
    volume = (random_volume(9, 9, 9) * 50).astype(dtype)
    expected = run(convolution(3), volume.astype(np.float32), (8, 8, 8))
    np.testing.assert_array_equal(run(convolution(3), volume, (8, 8, 8)), expected)


def test_intensities_are_mapped_and_padding_is_zero_afterwards() -> None:
    volume = np.array([[10.0, 20.0, 30.0]], np.float32)
    intensity = IntensityMap(((Affine(shift=10.0, scale=0.1, low=0.0, high=20.0),),))
    seen: list[torch.Tensor] = []

    def network(x: torch.Tensor) -> torch.Tensor:
        seen.append(x.clone())
        return x

    result = run(network, volume, (3, 5), channels=1, intensity=intensity)
    np.testing.assert_allclose(result[0], [[0, 1, 1]])
    np.testing.assert_allclose(seen[0][0, 0], [[0, 0, 0, 0, 0], [0, 0, 1, 1, 0], [0, 0, 0, 0, 0]])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_padding_is_zero_after_steps_of_which_no_value_is(dtype: type) -> None:
    intensity = IntensityMap.of_steps([[Affine(shift=10.0, scale=0.1), Sigmoid()]])
    seen: list[torch.Tensor] = []
    volume = np.array([[10.0, 20.0, 30.0]], dtype)
    run(lambda x: seen.append(x.clone()) or x, volume, (3, 5), channels=1, intensity=intensity)
    middle = [0, *(1 / (1 + np.exp([0, -1, -2]))), 0]
    np.testing.assert_allclose(seen[0][0, 0], [[0] * 5, middle, [0] * 5], rtol=1e-6)


def test_planes_arrive_in_order_each_once_and_before_the_end() -> None:
    events: list[Event] = []
    run(convolution(3), random_volume(40, 9, 9), (8, 8, 8), events=events)
    planes = [event for event in events if isinstance(event, PlanesFinished)]
    assert [p.start for p in planes] == [0, *(p.stop for p in planes[:-1])]
    assert planes[-1].stop == 40
    assert events.index(planes[0]) < len(events) // 2


class OutOfMemoryAbove:
    """A network whose device holds only *limit* windows, from the *first* call on."""

    def __init__(self, network: Network, limit: int, error: type[BaseException] = torch.OutOfMemoryError) -> None:
        self.network, self.limit, self.error = network, limit, error
        self.batches: list[int] = []

    def __call__(self, windows: torch.Tensor) -> Any:
        if windows.shape[0] > self.limit:
            raise self.error("CUDA out of memory (simulated)")
        self.batches.append(windows.shape[0])
        return self.network(windows)


@pytest.mark.parametrize("error", [torch.OutOfMemoryError, MemoryError])
@pytest.mark.parametrize("tta_num", [1, 3])
def test_out_of_memory_halves_the_batch_and_changes_nothing(error: type[BaseException], tta_num: int) -> None:
    volume, network = random_volume(9, 21, 18), convolution(3)
    events: list[Event] = []
    limited = OutOfMemoryAbove(network, 3, error)
    result = run(limited, volume, (8, 8, 8), sw_batch_size=16, tta_num=tta_num, events=events)
    np.testing.assert_allclose(result, run(network, volume, (8, 8, 8), tta_num=tta_num), atol=1e-5)
    recovered = [event for event in events if isinstance(event, MemoryRecovered)]
    assert [(r.failed_batch, r.sw_batch_size) for r in recovered] == [(16, 8), (8, 4), (4, 2)]
    windows = WindowGrid.regular(volume.shape, (8, 8, 8), 0.5).n_windows
    assert sum(limited.batches) == windows * tta_num, "a finished window was computed twice"
    last = [event for event in events if isinstance(event, PassFinished)][-1]
    assert last.done == last.total


def test_out_of_memory_in_the_middle_repeats_only_its_own_windows() -> None:
    calls: list[int] = []

    def network(x: torch.Tensor) -> torch.Tensor:
        calls.append(x.shape[0])
        if len(calls) == 4:
            raise torch.OutOfMemoryError("full for once")
        return x

    volume = random_volume(20, 20)
    result = run(network, volume, (8, 8), sw_batch_size=4, channels=1)
    np.testing.assert_allclose(result[0], volume, atol=1e-5)
    assert calls == [4, 4, 4, 4, 2, 2]


def test_one_window_that_does_not_fit_ends_with_numbers_and_a_remedy() -> None:
    with raises(OutOfMemoryError, "8 x 8", "window_size") as caught:
        run(OutOfMemoryAbove(convolution(2), 0), random_volume(20, 20), (8, 8), sw_batch_size=4)
    assert isinstance(caught.value.__cause__, torch.OutOfMemoryError)


def test_an_ordinary_runtime_error_is_not_taken_for_memory() -> None:
    def network(x: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("weights are on fire")

    with raises(ModelError, "weights are on fire") as caught:
        run(network, random_volume(20, 20), (8, 8))
    assert isinstance(caught.value.__cause__, RuntimeError)


@pytest.mark.parametrize("tta_num", [1, 4])
def test_cancel_takes_effect_within_one_pass_and_keeps_what_is_finished(tta_num: int) -> None:
    volume, network, cancel = random_volume(64, 9, 9), convolution(3), CancelToken()
    full = run(network, volume, (8, 8, 8), tta_num=tta_num)
    calls = 0
    sink = ArraySink.empty((3, 64, 9, 9), np.float32)

    def on_event(event: Event) -> None:
        nonlocal calls
        if isinstance(event, PassFinished):
            calls += 1
            if event.done == event.total // 2:
                cancel.cancel()

    sweep = Sweep(
        WindowGrid.regular(volume.shape, (8, 8, 8), 0.5),
        3,
        Identity(),
        sw_batch_size=3,
        views=views(tta_num, 3),
    )
    with pytest.raises(CancelledError):
        run_sweep(
            [Worker(open_device("cpu"), network)],
            ArraySource(volume),
            sweep,
            reduction=Reduction(lambda planes: planes),
            sink=sink,
            on_event=on_event,
            cancel=cancel,
        )
    assert calls == sweep.forward_passes // 2
    finished = sink.array.any(axis=(0, 2, 3))
    assert 0 < finished.sum() < 64
    np.testing.assert_allclose(sink.array[:, finished], full[:, finished], atol=1e-5)


@pytest.mark.parametrize(
    "wrap", [lambda y: (y, y[:, :1]), lambda y: [y], lambda y: {"out": y}, lambda y: ({"a": [y]},)]
)
def test_the_only_tensor_of_a_structure_that_suits_is_the_output(wrap: Callable[[torch.Tensor], Any]) -> None:
    volume, network = random_volume(12, 12), convolution(2)
    np.testing.assert_array_equal(run(lambda x: wrap(network(x)), volume, (8, 8)), run(network, volume, (8, 8)))


@pytest.mark.parametrize(
    ("network", "sentence"),
    [
        (lambda x: x, ("(3, 1, 8, 8)", "(3, 3, 8, 8)", "out_channels")),
        (lambda x: x[..., ::2], ("(3, 1, 8, 8)", "(3, 3, 8, 8)", "out_channels")),
        (lambda x: None, "NoneType"),
        (
            lambda x: (x.expand(-1, 3, -1, -1), x.expand(-1, 3, -1, -1)),
            ("(3, 3, 8, 8)", "network_output", "--network-output"),
        ),
    ],
)
def test_an_output_of_another_kind_is_explained(network: Network, sentence: str | tuple[str, ...]) -> None:
    with raises(ModelError, sentence):
        run(network, random_volume(12, 12), (8, 8))


@pytest.mark.parametrize(("dtype", "precision"), [(torch.float16, "float16"), (torch.bfloat16, "bfloat16")])
@pytest.mark.parametrize("is_program", [False, True])
def test_a_network_of_half_precision_names_its_precision(
    dtype: torch.dtype, precision: str, *, is_program: bool
) -> None:
    network = convolution(2).to(dtype)
    if is_program:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            network = torch.jit.script(network)
    with raises(ModelError, "precision", precision):
        run(network, random_volume(12, 12), (8, 8))


def test_a_network_that_gives_its_input_back_is_averaged_over_views() -> None:
    """The sum over views must not be written into the network's own output, which here is the input."""
    volume = random_volume(12, 12)
    np.testing.assert_allclose(run(lambda x: x, volume, (8, 8), tta_num=8, channels=1)[0], volume, atol=1e-5)


class WritesIntoItsInput(torch.nn.Module):
    """As a network does whose first layer is an in-place activation."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.sub_(0.5).mul_(2)


@pytest.mark.parametrize("tta_num", [1, 2, 8, 16])
def test_a_network_may_write_into_its_input(tta_num: int) -> None:
    volume = random_volume(9, 18, 17)
    result = run(WritesIntoItsInput(), volume, (8, 8, 8), tta_num=tta_num, channels=1)
    np.testing.assert_allclose(result[0], (volume - 0.5) * 2, atol=1e-5)


@pytest.mark.parametrize(("dtype", "offset"), [("float64", 1e8), ("int32", 10**9), ("uint32", 3 * 10**9)])
def test_wide_numbers_keep_their_contrast(dtype: str, offset: float) -> None:
    """Values that float32 would round are shifted and scaled before they become float32."""
    volume = np.random.default_rng(0).integers(0, 100, (3, 9, 9)) + np.asarray(offset, dtype)
    intensity = IntensityMap(((Affine(offset + 50, 0.1),),))
    result = run(lambda x: x, volume.astype(dtype), (4, 8, 8), channels=1, intensity=intensity)
    np.testing.assert_allclose(result[0], (volume.astype(float) - offset - 50) * 0.1, atol=1e-5)


def test_wide_numbers_are_padded_with_zeros_of_the_network() -> None:
    intensity = IntensityMap(((Affine(10.0, 0.1),),))
    seen: list[torch.Tensor] = []
    run(lambda x: seen.append(x.clone()) or x, np.full((1, 3), 20.0), (3, 3), channels=1, intensity=intensity)
    np.testing.assert_allclose(seen[0][0, 0], [[0, 0, 0], [1, 1, 1], [0, 0, 0]])
