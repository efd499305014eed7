"""The public contract, as a caller meets it."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import weakref
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import dask.array as da
import numpy as np
import pytest
import torch
from monai.inferers import SlidingWindowInferer
from monai.networks.nets import UNet
from tests.engine.conftest import float16_error_bound
from tests.refusals import raises

import napari_tessera as nt
from napari_tessera.engine.loop.events import Event, PassFinished, RunFinished, RunStarted
from napari_tessera.images.views.window_mask import covered_voxels
from napari_tessera.images.volume import Volume
from napari_tessera.models.spec.spec import OutputSpec


@pytest.fixture(scope="module")
def model() -> nt.Model:
    torch.manual_seed(0)
    network = UNet(spatial_dims=3, in_channels=1, out_channels=3, channels=(4, 8), strides=(2,))
    return nt.Model.from_network(network, in_channels=1, out_channels=3, spatial_dims=3, activation=None)


@pytest.fixture
def volume() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(19, 30, 25)).astype(np.float32)


@pytest.fixture
def settings() -> nt.Settings:
    return nt.Settings(window_size=(16, 16, 16), overlap=0.5, sw_batch_size=4)


@pytest.mark.parametrize("statement", ["import napari_tessera", "import napari_tessera.decode, napari_tessera.cli"])
def test_importing_loads_neither_torch_nor_qt(statement: str) -> None:
    heavy = ("torch", "qtpy", "PyQt6", "napari", "monai")
    code = f"{statement}; import sys; print([name for name in {heavy} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_every_public_name_is_there_whatever_is_imported_first() -> None:
    names = "(getattr(nt, name) for name in nt.__all__ if name != '__version__')"
    code = f"import napari_tessera as nt; nt.predict; print(all(map(callable, {names})))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "True"
    with raises(AttributeError, "segmentt"):
        nt.segmentt  # noqa: B018


def test_predict_equals_monai(model: nt.Model, volume: np.ndarray, settings: nt.Settings) -> None:
    probabilities = nt.predict(volume, model, settings)
    model.network.eval()
    inferer = SlidingWindowInferer((16, 16, 16), 4, overlap=0.5, mode="gaussian")
    with torch.inference_mode():
        expected = inferer(torch.from_numpy(volume)[None, None], model.network)[0].numpy()
    assert probabilities.dtype == np.float32
    np.testing.assert_allclose(probabilities, expected, atol=1e-4)


@pytest.mark.parametrize("activation", ["sigmoid", "softmax"])
def test_activation(model: nt.Model, volume: np.ndarray, settings: nt.Settings, activation: Any) -> None:
    logits = torch.from_numpy(nt.predict(volume, model, settings))
    expected = logits.sigmoid() if activation == "sigmoid" else logits.softmax(0)
    probabilities = nt.predict(volume, model.with_spec(activation=activation), settings)
    np.testing.assert_allclose(probabilities, expected.numpy(), atol=1e-5)


@pytest.mark.parametrize("tta_num", [1, 4])
def test_the_planned_passes_are_the_counted_ones(
    model: nt.Model, volume: np.ndarray, settings: nt.Settings, tta_num: int
) -> None:
    settings = nt.Settings.from_mapping(settings.to_dict() | {"tta_num": tta_num})
    events: list[Event] = []
    planned = nt.plan(volume.shape, model, settings, decoder="probabilities")
    nt.predict(volume, model, settings, on_event=events.append)
    counted = [event for event in events if isinstance(event, PassFinished)]
    assert len(counted) == planned.forward_passes
    assert sum(event.windows for event in counted) == planned.windows * tta_num
    assert isinstance(events[0], RunStarted)
    assert [each.forward_passes for each in events[0].volumes] == [planned.forward_passes]
    assert events[0].volumes[0].window_passes == sum(event.windows for event in counted)
    assert isinstance(events[-1], RunFinished)
    assert events[-1].forward_passes == planned.forward_passes


def test_segment_by_argmax(model: nt.Model, volume: np.ndarray, settings: nt.Settings) -> None:
    labels = nt.segment(volume, model, settings, decoder="argmax")
    np.testing.assert_array_equal(labels, nt.predict(volume, model, settings).argmax(0))
    assert labels.dtype == np.uint8


def test_segment_takes_decoder_and_parameters_from_the_settings(model: nt.Model, settings: nt.Settings) -> None:
    volume = np.zeros((16, 16, 16), np.float32)
    bright = model.with_spec(activation="sigmoid")
    chosen = nt.Settings.from_mapping(
        settings.to_dict() | {"decoder": "threshold", "decoder_parameters": {"channel": 0, "threshold": 0.0}}
    )
    assert set(np.unique(nt.segment(volume, bright, chosen))) == {1}
    with raises(nt.SettingsError, "decoder", "watersheds"):
        nt.segment(volume, bright, settings, decoder="watersheds")


def test_lazy_arrays_and_volumes(model: nt.Model, volume: np.ndarray, settings: nt.Settings) -> None:
    expected = nt.predict(volume, model, settings)
    lazy = da.from_array(volume, chunks=(7, 9, 11))
    np.testing.assert_array_equal(nt.predict(lazy, model, settings), expected)
    np.testing.assert_array_equal(nt.predict(Volume(volume, "ZYX"), model, settings), expected)


def test_channels_first_or_last(settings: nt.Settings) -> None:
    network = torch.nn.Conv3d(2, 1, 1)
    model = nt.Model.from_network(network, in_channels=2, out_channels=1)
    volume = np.random.default_rng(0).normal(size=(2, 16, 18, 20)).astype(np.float32)
    first = nt.predict(volume, model, settings)
    np.testing.assert_array_equal(nt.predict(np.moveaxis(volume, 0, -1), model, settings), first)
    assert first.shape == (1, 16, 18, 20)


def test_two_dimensions() -> None:
    model = nt.Model.from_network(torch.nn.Conv2d(1, 2, 1), in_channels=1, out_channels=2, spatial_dims=2)
    result = nt.predict(np.ones((50, 40), np.uint16), model, nt.Settings(window_size=(32, 32)))
    assert result.shape == (2, 50, 40)


@pytest.mark.parametrize(
    ("shape", "sentence"),
    [
        ((20, 20), ("(20, 20)", "UNet", "3")),
        ((2, 20, 20, 20), ("2", "--channels")),
        ((2, 1, 20, 20, 20), ("3", "(2, 1, 20, 20, 20)")),
        ((0, 20, 20), "(0, 20, 20)"),
        ((), ("()", "UNet")),
    ],
)
def test_images_of_the_wrong_shape(model: nt.Model, shape: tuple[int, ...], sentence: str | tuple[str, ...]) -> None:
    with raises(nt.InputError, sentence):
        nt.predict(np.zeros(shape, np.float32), model)


def test_a_time_axis_is_explained(model: nt.Model) -> None:
    with raises(nt.InputError, "film", "TZYX", "tessera run"):
        nt.predict(Volume(np.zeros((2, 8, 8, 8)), "TZYX", name="film"), model)


def test_values_that_are_not_numbers(model: nt.Model, volume: np.ndarray) -> None:
    volume[3, 3, 3] = np.nan
    with raises(nt.InputError, "1 NaN"):
        nt.predict(volume, model)


def test_a_failing_network_is_the_cause_of_the_error(volume: np.ndarray, settings: nt.Settings) -> None:
    class Failing(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if x.mean().item() != 12345:  # never: the trace, which sees no values, may pass
                raise ZeroDivisionError("inside the network")
            return x

    model = nt.Model.from_network(Failing(), in_channels=1, out_channels=1)
    with raises(nt.ModelError, "(4, 1, 16, 16, 16)") as caught:
        nt.predict(volume, model, settings)
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


class Divisible(torch.nn.Module):
    """A network that needs sides divisible by *steps*."""

    def __init__(self, *steps: int) -> None:
        super().__init__()
        self.steps = steps
        self.layer = torch.nn.Conv3d(1, 1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if any(side % step for side, step in zip(x.shape[2:], self.steps, strict=True)):
            raise RuntimeError("sizes of tensors must match")
        return self.layer(x)


def unet(*strides: Any) -> torch.nn.Module:
    return UNet(spatial_dims=3, in_channels=1, out_channels=1, channels=(4, 8, 16), strides=strides)


@pytest.mark.parametrize(
    ("network", "window", "nearest"),
    [
        (unet(2, 2), (15, 15, 15), "(12, 12, 12) or (16, 16, 16)"),
        (unet(2, 2), (30, 64, 2), "(28, 64, 4) or (32, 64, 4)"),
        (unet((1, 2, 2), (1, 2, 2)), (5, 58, 58), "(5, 56, 56) or (5, 60, 60)"),
        (Divisible(1, 8, 8), (18, 60, 60), "(18, 56, 56) or (18, 64, 64)"),
        (Divisible(3, 3, 3), (31, 31, 31), "(30, 30, 30) or (33, 33, 33)"),
        (Divisible(10, 10, 12), (64, 64, 64), "(60, 60, 60) or (70, 70, 72)"),
        (Divisible(96, 96, 96), (100, 100, 100), "(96, 96, 96) or (192, 192, 192)"),
    ],
)
def test_a_window_that_the_network_refuses_names_the_nearest_that_it_takes(
    network: torch.nn.Module, window: tuple[int, ...], nearest: str
) -> None:
    model = nt.Model.from_network(network, in_channels=1, out_channels=1)
    with pytest.raises(nt.SettingsError) as caught:
        nt.plan((200, 200, 200), model, nt.Settings(window_size=window))
    assert nearest in str(caught.value)


def test_a_network_that_shrinks_its_input_is_refused_before_the_run(volume: np.ndarray) -> None:
    model = nt.Model.from_network(torch.nn.Conv3d(1, 1, 3), in_channels=1, out_channels=1)
    with raises(nt.ModelError, "(14, 14, 14)", "(16, 16, 16)"):
        nt.plan(volume.shape, model, nt.Settings(window_size=(16, 16, 16)))


def test_wrong_in_channels_are_found_before_the_run(volume: np.ndarray) -> None:
    model = nt.Model.from_network(torch.nn.Conv3d(2, 1, 1), in_channels=1, out_channels=1)
    with raises(nt.ModelError, "(4, 1, 16, 16, 16)", "[1, 2, 1, 1, 1]", "[1, 1, 16, 16, 16]"):
        nt.plan(volume.shape, model, nt.Settings(window_size=(16, 16, 16)))


def test_wrong_out_channels_are_found_before_the_run(model: nt.Model, volume: np.ndarray) -> None:
    wrong = nt.Model.from_network(model.network, in_channels=1, out_channels=5)
    with raises(nt.ModelError, "channel", 3, 5):
        nt.plan(volume.shape, wrong, nt.Settings(window_size=(16, 16, 16)))


def test_cancel(model: nt.Model, volume: np.ndarray, settings: nt.Settings) -> None:
    token, counted = nt.CancelToken(), []

    def on_event(event: Event) -> None:
        if isinstance(event, PassFinished):
            counted.append(event)
            token.cancel()

    with pytest.raises(nt.CancelledError):
        nt.segment(volume, model, settings, on_event=on_event, cancel=token)
    assert len(counted) == 1


def test_plan_of_several_shapes_and_its_dictionary(model: nt.Model, settings: nt.Settings) -> None:
    planned = nt.plan([(20, 20, 20), (40, 20, 20)], model, settings)
    assert [volume.grid for volume in planned.volumes] == [(2, 2, 2), (4, 2, 2)]
    content = json.loads(json.dumps(planned.to_dict()))
    assert content["windows"] == 24
    assert content["volumes"][1]["grid"] == [4, 2, 2]
    assert {"host_bytes", "output_bytes", "hints"} <= content.keys()
    assert set(content["memory"]) == {
        "weights_bytes",
        "activations_bytes",
        "accumulator_bytes",
        "importance_bytes",
        "staging_bytes",
        "workspace_bytes",
        "context_bytes",
        "total_bytes",
    }


def test_the_plan_follows_the_network_not_a_rule_of_thumb() -> None:
    """Two networks of equal weights and channels differ only in what they keep alive."""

    class Frugal(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = torch.nn.ModuleList(torch.nn.Conv3d(8, 8, 1) for _ in range(6))
            self.ends = torch.nn.ModuleList([torch.nn.Conv3d(1, 8, 1), torch.nn.Conv3d(8, 1, 1)])

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.ends[0](x)
            for layer in self.layers:
                x = layer(x)
            return self.ends[1](x)

    class Hoarding(Frugal):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            kept = [self.ends[0](x)]
            for layer in self.layers:
                kept.append(layer(kept[-1]))
            return self.ends[1](sum(kept[1:], kept[0]))

    plans = [
        nt.plan((64, 64, 64), nt.Model.from_network(net(), in_channels=1, out_channels=1)) for net in (Frugal, Hoarding)
    ]
    frugal, hoarding = (plan.memory for plan in plans)
    assert frugal.weights_bytes == hoarding.weights_bytes
    layer_bytes = 4 * 8 * 64**3
    assert frugal.activations_bytes == 2 * layer_bytes + 4 * 64**3
    assert hoarding.activations_bytes >= 7 * layer_bytes


def test_a_traced_plan_needs_no_second_trace(
    model: nt.Model, settings: nt.Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    from napari_tessera.memory import trace

    for n in (1, 2):  # one window alone has a trace of its own
        nt.plan((40, 40, 40), model, nt.Settings.from_mapping(settings.to_dict() | {"sw_batch_size": n}))

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("traced again")

    monkeypatch.setattr(trace.ForwardTracer, "trace", refuse)
    for n in (1, 2, 4, 9):
        more = nt.Settings.from_mapping(settings.to_dict() | {"sw_batch_size": n})
        assert nt.plan((90, 80, 40), model, more).memory.activations_bytes > 0


@pytest.mark.parametrize("n", [1, 2, 3])
def test_batch_size_volumes_are_resident_at_once(model: nt.Model, settings: nt.Settings, n: int) -> None:
    """Loading keeps ahead of computing by as many volumes as asked for, and never by more."""
    from napari_tessera.engine.source import ArraySource
    from napari_tessera.jobs.pipeline import iter_results

    shape, total = (16, 16, 16), 5
    loaded: list[int] = []
    begun = [threading.Event() for _ in range(total)]

    def load(number: int) -> ArraySource:
        loaded.append(number)
        begun[number].set()
        return ArraySource(np.full(shape, number, np.float32))

    several = nt.Settings.from_mapping(settings.to_dict() | {"batch_size": n})
    planned = nt.plan([shape] * total, model, several)
    loads = [lambda i=i: load(i) for i in range(total)]
    ahead = []
    for result in iter_results(loads, model, planned, None):
        assert begun[min(result.volume + n, total) - 1].wait(60)
        ahead.append(len(loaded) - result.volume)
        expected = nt.predict(np.full(shape, result.volume, np.float32), model, settings)
        np.testing.assert_allclose(result.probabilities, expected, atol=1e-5)
    assert loaded == list(range(total))
    assert max(ahead) <= n
    assert ahead[0] == n


def test_a_cancelled_run_keeps_the_finished_planes(model: nt.Model, settings: nt.Settings) -> None:
    from napari_tessera.engine.source import ArraySource
    from napari_tessera.jobs.pipeline import iter_results

    volume = np.random.default_rng(0).normal(size=(80, 16, 16)).astype(np.float32)
    token = nt.CancelToken()

    def on_event(event: Event) -> None:
        if isinstance(event, PassFinished) and event.done == 2:
            token.cancel()

    planned = nt.plan(volume.shape, model, settings)
    decoder = nt.plan(volume.shape, model, settings).settings.decoder
    results: Iterator[Any] = iter_results(
        [lambda: ArraySource(volume)], model, planned, _decoder(decoder), on_event=on_event, cancel=token
    )
    partial = next(results)
    with pytest.raises(nt.CancelledError):
        next(results)
    assert not partial.complete
    assert 0 < partial.finished_planes < 80
    full = nt.segment(volume, model, settings)
    np.testing.assert_array_equal(partial.labels[: partial.finished_planes], full[: partial.finished_planes])
    assert not partial.labels[partial.finished_planes :].any()


def _decoder(name: str | None) -> Any:
    from napari_tessera.decode import get_decoder

    return get_decoder(name or "argmax")


def test_a_network_stays_where_and_as_it_was(model: nt.Model, volume: np.ndarray, settings: nt.Settings) -> None:
    model.network.train()
    nt.predict(volume, model, settings)
    assert model.network.training
    assert all(p.device.type == "cpu" and p.requires_grad for p in model.network.parameters())


def test_weights_that_do_not_fit_the_device_are_an_error_of_memory(volume: np.ndarray, settings: nt.Settings) -> None:
    class Homesick(torch.nn.Conv3d):
        """A network that cannot be brought into evaluation mode for lack of memory, once it is planned."""

        planned = False

        def train(self, mode: bool = True) -> torch.nn.Module:
            if self.planned and not mode:
                raise torch.OutOfMemoryError("CUDA out of memory (simulated)")
            return super().train(mode)

    network = Homesick(1, 1, 1)
    model = nt.Model.from_network(network, in_channels=1, out_channels=1)
    nt.plan(volume.shape, model, settings)
    network.planned = True
    with raises(nt.OutOfMemoryError, "Homesick"):
        nt.predict(volume, model, settings)


def test_host_memory_that_does_not_suffice_is_said(
    model: nt.Model, volume: np.ndarray, settings: nt.Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    from napari_tessera.decode.argmax import ArgmaxDecoder

    def refuse(self: ArgmaxDecoder, reduced: np.ndarray) -> None:
        raise MemoryError

    monkeypatch.setattr(ArgmaxDecoder, "decode", refuse)
    with raises(nt.OutOfMemoryError, "probabilities", "labels"):
        nt.segment(volume, model, settings, decoder="argmax")


def test_the_plan_records_the_decoder_with_all_its_parameters(model: nt.Model, settings: nt.Settings) -> None:
    planned = nt.plan((20, 20, 20), model, settings, decoder="threshold")
    assert planned.settings.decoder == "threshold"
    assert {"threshold", "channel", "min_size_vox"} <= dict(planned.settings.decoder_parameters).keys()
    assert nt.plan((20, 20, 20), model, planned.settings).settings == planned.settings
    assert nt.plan((20, 20, 20), model, planned.settings, decoder="probabilities").settings.decoder is None


@pytest.mark.parametrize("shapes", [None, 5, ("a", 1, 2), (12.7, 14, 16), [(1, 2, 3), 4]])
def test_shapes_that_are_none(model: nt.Model, settings: nt.Settings, shapes: Any) -> None:
    with raises(nt.InputError, repr(shapes)):
        nt.plan(shapes, model, settings)


def test_shapes_and_images_in_other_clothes(model: nt.Model, volume: np.ndarray, settings: nt.Settings) -> None:
    shape = np.array(volume.shape)
    assert nt.plan(shape, model, settings).volumes == nt.plan([shape], model, settings).volumes
    expected = nt.predict(volume, model, settings)
    np.testing.assert_array_equal(nt.predict(torch.from_numpy(volume), model, settings), expected)
    np.testing.assert_array_equal(nt.predict(volume.tolist(), model, settings), expected)


def test_images_that_are_no_arrays(model: nt.Model, settings: nt.Settings) -> None:
    with raises(nt.InputError, "(2,)"):
        nt.predict([[1, 2], [3]], model, settings)
    lazy = da.from_array(np.zeros((20, 20, 20)), chunks=10)
    with raises(nt.InputError, "nan"):
        nt.predict(lazy[lazy[:, 0, 0] >= 0], model, settings)

    def broken(block: np.ndarray) -> np.ndarray:
        raise OSError("the disk is gone")

    with raises(nt.InputError, "the disk is gone"):
        nt.predict(lazy.map_blocks(broken, dtype=float, meta=np.zeros((0, 0, 0))), model, settings)


def test_calls_that_make_no_sense(model: nt.Model, volume: np.ndarray) -> None:
    with raises(nt.ModelError, "torch.nn.Module"):
        nt.Model.from_network(lambda x: x, in_channels=1, out_channels=1)  # type: ignore[arg-type]
    with raises(nt.SettingsError, "predict"):
        nt.segment(volume, model, decoder="probabilities")
    with raises(nt.ModelError, "~nosuchuser/x.pt"):
        nt.load_model("~nosuchuser/x.pt")


def test_more_classes_than_eight_bits_hold() -> None:
    wide = nt.Model.from_network(torch.nn.Conv3d(1, 300, 1), in_channels=1, out_channels=300)
    volume = np.random.default_rng(0).normal(size=(8, 8, 8)).astype(np.float32)
    settings = nt.Settings(window_size=(8, 8, 8))
    labels = nt.segment(volume, wide, settings)
    np.testing.assert_array_equal(labels, nt.predict(volume, wide, settings).argmax(0))


def test_frozen_parts_of_a_network_stay_as_they_are(volume: np.ndarray, settings: nt.Settings) -> None:
    network = torch.nn.Sequential(torch.nn.Conv3d(1, 1, 1), torch.nn.BatchNorm3d(1)).train()
    network[1].eval()
    model = nt.Model.from_network(network, in_channels=1, out_channels=1)
    nt.predict(volume, model, settings)
    assert [part.training for part in network.modules()] == [True, True, False]
    network.eval()
    network[1].train()
    before = network[1].running_mean.clone()
    nt.predict(volume, model, settings)
    torch.testing.assert_close(network[1].running_mean, before)


@pytest.mark.parametrize("n", [1, 2, 3])
def test_no_more_volumes_than_batch_size_are_alive(model: nt.Model, settings: nt.Settings, n: int) -> None:
    from napari_tessera.engine.source import ArraySource
    from napari_tessera.jobs.pipeline import iter_results

    shape, total = (16, 16, 16), 5
    born: list[weakref.ref[ArraySource]] = []
    alive: list[int] = []

    def load() -> ArraySource:
        source = ArraySource(np.zeros(shape, np.float32))
        born.append(weakref.ref(source))
        alive.append(sum(reference() is not None for reference in born))
        return source

    several = nt.Settings.from_mapping(settings.to_dict() | {"batch_size": n})
    for _ in iter_results([load] * total, model, nt.plan([shape] * total, model, several), None):
        pass
    assert max(alive) <= n


def test_a_cancelled_call_decodes_nothing(model: nt.Model) -> None:
    token, seen, volume = nt.CancelToken(), [], np.zeros((90, 16, 16), np.float32)
    settings = nt.Settings(window_size=(16, 16, 16), sw_batch_size=1)

    def on_event(event: Event) -> None:
        seen.append(type(event).__name__)
        if isinstance(event, PassFinished) and event.done == 5:
            token.cancel()

    with pytest.raises(nt.CancelledError):
        nt.segment(volume, model, settings, on_event=on_event, cancel=token)
    assert "PlanesFinished" in seen
    assert "DecodingStarted" not in seen


@pytest.fixture
def half_empty() -> np.ndarray:
    """Something in one half, darkness with a few glimmers in the other."""
    volume = np.zeros((20, 48, 32), np.float32)
    volume[:, :20] = np.random.default_rng(0).uniform(1, 2, (20, 20, 32))
    volume[:, 40:] = 0.1
    return volume


def left_half(volume: np.ndarray) -> np.ndarray:
    return np.broadcast_to(np.arange(volume.shape[1])[:, np.newaxis] < 20, volume.shape)


WAYS = [
    pytest.param({"skip_below": 0.5}, False, id="skip_below"),
    pytest.param({}, True, id="mask"),
    pytest.param({"skip_below": 0.05}, True, id="both"),
]


@pytest.mark.parametrize("how", ["predict", "argmax", "threshold", "watershed"])
@pytest.mark.parametrize(("more", "masked"), WAYS)
def test_windows_that_are_left_out(half_empty: np.ndarray, more: dict[str, Any], masked: bool, how: str) -> None:
    """What no window covers is background; elsewhere, where all windows are computed, nothing changes."""
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Conv3d(1, 2, 3, padding=1), torch.nn.InstanceNorm3d(2))
    kind = {"output": "boundary"} if how == "watershed" else {}
    model = nt.Model.from_network(network, in_channels=1, out_channels=2, activation="sigmoid", **kind)
    plain = nt.Settings(window_size=(16, 16, 16), overlap=0.5, sw_batch_size=3)
    settings = nt.Settings.from_mapping(plain.to_dict() | more)
    mask = left_half(half_empty) if masked else None
    window_mask = nt.find_window_mask(half_empty, model, settings, mask=mask)
    assert window_mask is not None
    planned = nt.plan(half_empty.shape, model, settings, window_masks=[window_mask])
    events: list[Event] = []
    if how == "predict":
        found = nt.predict(half_empty, model, settings, mask=mask, on_event=events.append)
        full = nt.predict(half_empty, model, plain)
    else:
        found = nt.segment(half_empty, model, settings, decoder=how, mask=mask, on_event=events.append)
        full = nt.segment(half_empty, model, plain, decoder=how)
    counted = [event for event in events if isinstance(event, PassFinished)]
    assert len(counted) == planned.forward_passes == -(-window_mask.sum() // 3)
    assert 0 < planned.skipped_windows == window_mask.size - window_mask.sum()
    grid = planned.volumes[0].layout
    reached, unsure = covered_voxels(grid, window_mask), covered_voxels(grid, ~window_mask)
    assert (~reached).any()
    assert not found[..., ~reached].any()
    sure = reached & ~unsure
    assert sure.any()
    if how == "predict":
        np.testing.assert_allclose(found[:, sure], full[:, sure], atol=1e-6)
    elif how == "argmax":
        np.testing.assert_array_equal(found[sure], full[sure])
    else:  # the same objects, by other numbers
        np.testing.assert_array_equal(found[sure] > 0, full[sure] > 0)


def test_a_mask_of_affinities_is_background(half_empty: np.ndarray) -> None:
    """Where nothing is computed the reduced map holds the decoder's background, not a boundary of 0."""
    network = torch.nn.Conv3d(1, 3, 1)
    model = nt.Model.from_network(network, in_channels=1, out_channels=3, activation="sigmoid")
    model = model.with_spec(output=OutputSpec("affinities", ((-1, 0, 0), (0, -1, 0), (0, 0, -1))))
    settings = nt.Settings(window_size=(16, 16, 16), tta_num=4, tta_mode="interleaved")
    mask = left_half(half_empty)
    labels = nt.segment(half_empty, model, settings, decoder="watershed", mask=mask)
    window_mask = nt.find_window_mask(half_empty, model, settings, mask=mask)
    assert window_mask is not None
    reached = covered_voxels(nt.plan(mask.shape, model, settings).volumes[0].layout, window_mask)
    assert not labels[~reached].any()


def test_another_kind_of_output_brings_its_own_decoder(model: nt.Model) -> None:
    assert model.spec.suggested_decoder.name == "argmax"
    other = model.with_spec(output=OutputSpec("affinities", ((-1, 0, 0),) * model.spec.out_channels))
    assert other.spec.suggested_decoder.name == "watershed"


def test_nothing_to_compute(model: nt.Model, volume: np.ndarray, settings: nt.Settings) -> None:
    events: list[Event] = []
    labels = nt.segment(volume, model, settings, mask=np.zeros(volume.shape, bool), on_event=events.append)
    assert labels.shape == volume.shape
    assert not labels.any()
    assert not [event for event in events if isinstance(event, PassFinished)]


def test_masks_that_do_not_suit(model: nt.Model, volume: np.ndarray, settings: nt.Settings) -> None:
    with raises(nt.InputError, "(3, 3, 3)", "(19, 30, 25)"):
        nt.segment(volume, model, settings, mask=np.ones((3, 3, 3)))
    for more in ({"skip_below": 0}, {}):
        flat = nt.Settings(window_size=(16, 16), **more)
        with raises(nt.SettingsError, 2, "window_size"):
            nt.predict(volume, model, flat, mask=np.ones(volume.shape))
    everywhere = nt.predict(volume, model, settings, mask=np.ones(volume.shape).tolist())
    np.testing.assert_allclose(everywhere, nt.predict(volume, model, settings), atol=1e-5)


@pytest.mark.parametrize(("kept", "scale", "rounding"), [("uint8", 255, 0.5 / 255), ("float16", 1, 2**-11)])
def test_probabilities_are_rounded_no_further_than_their_type(
    model: nt.Model, volume: np.ndarray, settings: nt.Settings, kept: str, scale: int, rounding: float
) -> None:
    sure = model.with_spec(activation="softmax")
    exact = nt.predict(volume, sure, settings)
    narrow = nt.predict(volume, sure, nt.Settings.from_mapping(settings.to_dict() | {"probabilities": kept}))
    assert narrow.dtype == kept
    np.testing.assert_allclose(narrow.astype(np.float64) / scale, exact, atol=rounding * 1.001, rtol=0)


def test_a_float16_accumulator_stays_within_its_bound(
    model: nt.Model, volume: np.ndarray, settings: nt.Settings
) -> None:
    exact = nt.predict(volume, model, settings)
    rounded = nt.predict(volume, model, nt.Settings.from_mapping(settings.to_dict() | {"accumulator": "float16"}))
    difference = np.abs(rounded - exact).max()
    assert 0 < difference <= float16_error_bound(27, 2 * float(np.abs(exact).max()))


def test_host_memory_that_is_too_little_ends_the_run_before_it_starts(
    model: nt.Model, volume: np.ndarray, settings: nt.Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    needed = nt.plan(volume.shape, model, settings, decoder="probabilities").host.run_bytes
    events: list[Event] = []
    for free, fits in ((needed, True), (needed - 1, False)):
        memory = SimpleNamespace(total_bytes=2**40, free_bytes=free)
        monkeypatch.setattr("napari_tessera.jobs.volume_run.host_memory", lambda memory=memory: memory)
        if fits:
            nt.predict(volume, model, settings)
            continue
        with pytest.raises(
            nt.OutOfMemoryError, match=r"needs [\d.]+ .iB of the host's memory .* and [\d.]+ .iB are free"
        ):
            nt.predict(volume, model, settings, on_event=events.append)
    assert not [event for event in events if isinstance(event, PassFinished)]


def test_without_settings_it_is_what_the_model_suggests(model: nt.Model, volume: np.ndarray) -> None:
    own = model.with_spec(overlap=0.25, mirror_axes="x")
    assert nt.plan(volume.shape, own).settings == nt.plan(volume.shape, own, own.suggested_settings()).settings
    assert (nt.plan(volume.shape, own).settings.overlap, nt.plan(volume.shape, own).settings.tta_num) == (0.25, 2)
    np.testing.assert_array_equal(nt.predict(volume, own), nt.predict(volume, own, own.suggested_settings()))
    np.testing.assert_array_equal(nt.segment(volume, own), nt.segment(volume, own, own.suggested_settings()))
    assert (nt.predict(volume, own) != nt.predict(volume, own, nt.Settings())).any()
