"""What the first passes show about a network is said once in a run, and only where it is so."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from monai.inferers import sliding_window_inference

import napari_tessera as nt
from napari_tessera.engine.loop.events import Event, Noticed, PassFinished
from napari_tessera.models.model import Model
from napari_tessera.models.spec.spec import OutputSpec

Array = npt.NDArray[Any]
Function = Callable[[torch.Tensor], torch.Tensor]

RAMP = np.linspace(-8, 8, 12 * 20 * 24, dtype=np.float32).reshape(12, 20, 24)
NOISE = np.random.default_rng(0).normal(size=(12, 20, 24)).astype(np.float32)


class Given(torch.nn.Module):
    """A network that computes *function*, and counts the windows that it is given."""

    def __init__(self, function: Function) -> None:
        super().__init__()
        self.function = function
        self.batches: list[int] = []

    def forward(self, windows: torch.Tensor) -> torch.Tensor:
        if type(windows) is torch.Tensor:  # not the one without data that a plan is made with
            self.batches.append(len(windows))
        return self.function(windows)


def scores(channels: int) -> Function:
    """Return a convolution; its values lie on both sides of [0, 1]."""
    torch.manual_seed(0)
    return torch.nn.Conv3d(1, channels, 3, padding=1).requires_grad_(False)


def run(
    function: Function,
    *,
    volume: Array = RAMP,
    what: str = "segment",
    channels: int = 1,
    sw_batch_size: int = 4,
    kind: str = "semantic",
    **spec: Any,
) -> tuple[Array, list[str], list[Event], Given]:
    network = Given(function)
    model = Model.from_network(network, in_channels=1, out_channels=channels).with_spec(
        **{"output": OutputSpec(kind), **spec}  # type: ignore[arg-type]
    )
    settings = nt.Settings(window_size=(8, 8, 8), overlap=0.5, sw_batch_size=sw_batch_size, device="cpu")
    events: list[Event] = []
    result = getattr(nt, what)(volume, model, settings, on_event=events.append)
    planned = nt.plan(volume.shape, model, settings).forward_passes
    assert planned == sum(isinstance(event, PassFinished) for event in events)
    return result, [event.sentence for event in events if isinstance(event, Noticed)], events, network


@pytest.mark.parametrize("kind", ["semantic", "foreground", "boundary"])
def test_logits_that_are_taken_for_probabilities(kind: str) -> None:
    _, said, _, _ = run(lambda x: x.clone(), kind=kind)
    assert len(said) == 1
    assert "activation: sigmoid" in said[0]


@pytest.mark.parametrize(
    ("function", "spec"),
    [
        (torch.sigmoid, {}),
        (lambda x: x.sigmoid() * 1.008 - 0.004, {}),  # as a regression overshoots
        (lambda x: x.clone(), {"activation": "sigmoid"}),
        (lambda x: x / 20, {"activation": "sigmoid"}),
        (lambda x: x.sigmoid() * 0.2 + 0.4, {"activation": "sigmoid"}),  # weak logits, that never come near 0 or 1
    ],
)
def test_values_that_are_what_they_are_taken_for(function: Function, spec: dict[str, Any]) -> None:
    assert run(function, **spec)[1] == []


def test_the_values_of_several_channels_are_only_compared_with_each_other() -> None:
    assert run(scores(3), channels=3, volume=NOISE)[1] == []
    assert run(scores(3), channels=3, volume=NOISE, activation="softmax")[1] == []


@pytest.mark.parametrize("volume", [RAMP.round(), RAMP.astype(np.int16)])
def test_whole_numbers_that_the_image_has_itself(volume: Array) -> None:
    """They may be a copy of it, or class numbers."""
    _, said, _, _ = run(lambda x: x.clone(), volume=volume)
    assert len(said) == 1
    assert "class numbers" in said[0]
    assert run(lambda x: x.clone(), volume=volume, what="predict")[1] == []


@pytest.mark.parametrize(
    "ending",
    [
        lambda y: (y > 0).float(),
        lambda y: y.sigmoid().round(),
        lambda y: F.one_hot(y.argmax(1), 3).movedim(-1, 1).half(),
    ],
)
@pytest.mark.parametrize("what", ["predict", "segment"])
def test_a_mask_of_floats(ending: Function, what: str) -> None:
    _, said, _, _ = run(lambda x: ending(scores(3)(x)), channels=3, volume=NOISE, what=what)
    assert len(said) == 1
    assert "vote of windows" in said[0]


def test_a_mask_in_some_windows_alone_is_none() -> None:
    """As a steep sigmoid, or a network that gives zeros where there is nothing."""
    assert run(lambda x: (x * 4).clamp(0, 1), what="predict")[1] == []
    assert run(lambda x: x * 0 + 3, what="predict")[1] == []


@pytest.mark.parametrize(("activation", "ending"), [("sigmoid", torch.sigmoid), ("tanh", torch.tanh)])
def test_an_activation_that_is_there_already(activation: str, ending: Function) -> None:
    result, said, _, _ = run(ending, activation=activation, what="predict")
    assert len(said) == 1
    if activation == "sigmoid":  # what it warns of: all of the volume is above 0.5
        assert result.min() >= 0.5


@pytest.mark.parametrize(("activation", "ending"), [("sigmoid", torch.sigmoid), ("tanh", torch.tanh)])
def test_an_activation_that_is_there_already_and_does_not_come_near_both_ends(
    activation: str, ending: Function
) -> None:
    large = np.random.default_rng(0).normal(size=(16, 32, 32)).astype(np.float32)

    def function(x: torch.Tensor) -> torch.Tensor:
        return ending(scores(2)(x) * 0.5 + (activation == "tanh"))

    spec = {"channels": 2, "volume": large, "what": "predict", "sw_batch_size": 16}
    result, said, _, _ = run(function, activation="none", **spec)
    assert said == []
    assert result.min() > {"sigmoid": 0.1, "tanh": -0.9}[activation]
    said = run(function, activation=activation, **spec)[1]
    assert len(said) == 1
    assert said[0].endswith("activation: none")


@pytest.mark.parametrize("activation", ["sigmoid", "tanh"])
@pytest.mark.parametrize("seed", range(10))
def test_scores_of_a_network_that_has_not_learned(activation: str, seed: int) -> None:
    torch.manual_seed(seed)
    network = torch.nn.Sequential(
        torch.nn.Conv3d(1, 8, 3, padding=1),
        torch.nn.InstanceNorm3d(8),
        torch.nn.ReLU(),
        torch.nn.Conv3d(8, 8, 3, padding=1),
        torch.nn.InstanceNorm3d(8),
        torch.nn.ReLU(),
        torch.nn.Conv3d(8, 2, 1),
    ).requires_grad_(False)
    large = np.random.default_rng(0).normal(size=(16, 32, 32)).astype(np.float32)
    assert run(network, channels=2, volume=large, what="predict", activation=activation, sw_batch_size=16)[1] == []


def test_a_softmax_of_a_softmax() -> None:
    def ends_in_softmax(x: torch.Tensor) -> torch.Tensor:
        return scores(3)(x).softmax(1)

    spec = {"channels": 3, "volume": NOISE, "activation": "softmax"}
    result, said, _, _ = run(ends_in_softmax, what="predict", **spec)
    assert len(said) == 1
    assert result.max() <= np.e / (np.e + 2) + 1e-6  # what it warns of: of 3 classes none gets more than 58 %
    # The class numbers are the same, and nothing is said.
    assert run(ends_in_softmax, what="segment", **spec)[1] == []
    assert run(ends_in_softmax, what="predict", **{**spec, "activation": "none"})[1] == []


def by_batch(x: torch.Tensor) -> torch.Tensor:
    """As a network whose batch normalisation is in training mode."""
    return scores(2)(F.batch_norm(x, None, None, training=True))


def test_a_result_that_depends_on_the_batch() -> None:
    volume = RAMP**3
    found, said, _, network = run(by_batch, channels=2, volume=volume, what="predict")
    assert len(said) == 1
    assert "sw_batch_size 1" in said[0]
    assert sum(network.batches) == 40 + 4  # twice among copies: once more to tell it from chance
    alone, said, _, network = run(by_batch, channels=2, volume=volume, what="predict", sw_batch_size=1)
    assert said == []
    assert sum(network.batches) == 40
    tensor = torch.from_numpy(volume)[None, None]
    expected = sliding_window_inference(tensor, (8, 8, 8), 1, by_batch, overlap=0.5, mode="gaussian")[0].numpy()
    np.testing.assert_allclose(alone, expected, atol=1e-4)
    assert np.abs(found - expected).max() > 0.1


@pytest.mark.parametrize(
    "function",
    [
        lambda y: y - y[:1].mean(),
        lambda y: y - y[-1:].mean(),
        lambda y: y.cumsum(0),
        lambda y: y.flip(0).cumsum(0).flip(0),
        lambda y: y - y.mean(),
    ],
)
def test_what_is_taken_from_windows_before_or_behind(function: Function) -> None:
    _, said, _, network = run(
        lambda x: function(scores(2)(x)), channels=2, volume=RAMP, what="predict", sw_batch_size=3
    )
    assert len(said) == 1
    assert "sw_batch_size 1" in said[0]
    assert sum(network.batches) in (40 + 4, 40 + 6)  # in the first pass or the second, and once more to be sure


def test_a_network_that_is_random() -> None:
    network = scores(2)
    _, said, _, _ = run(lambda x: F.dropout(network(x)), channels=2, volume=NOISE, what="predict")
    assert len(said) == 1
    assert "dropout" in said[0]


@pytest.mark.parametrize("sw_batch_size", [1, 3, 40])
def test_a_fixed_network_costs_four_windows_more_at_most(sw_batch_size: int) -> None:
    normalised = torch.nn.Sequential(
        torch.nn.Conv3d(1, 8, 3, padding=1), torch.nn.InstanceNorm3d(8), torch.nn.GroupNorm(2, 8)
    ).requires_grad_(False)

    def function(x: torch.Tensor) -> torch.Tensor:
        return scores(2)(normalised(x)[:, :1])

    _, said, _, network = run(function, channels=2, volume=NOISE, what="predict", sw_batch_size=sw_batch_size)
    assert said == []
    assert sum(network.batches) == 40 + {1: 0, 3: 4, 40: 2}[sw_batch_size]


def test_windows_that_are_all_alike_are_not_compared() -> None:
    """Normalisation makes noise of their rounding errors, which differ from batch to batch."""
    _, said, _, network = run(by_batch, channels=2, volume=np.full_like(NOISE, 3), what="predict")
    assert said == []
    assert sum(network.batches) == 40


def test_a_network_may_write_into_its_input_and_take_one_number_of_windows_only() -> None:
    def function(x: torch.Tensor) -> torch.Tensor:
        if type(x) is torch.Tensor and len(x) != 4:
            raise ValueError("4 windows at a time")
        return x.mul_(2)

    result, said, _, _ = run(function, what="predict")
    assert said == []
    np.testing.assert_allclose(result[0], 2 * RAMP, atol=1e-4)


def test_each_is_said_once_for_several_volumes() -> None:
    model = Model.from_network(Given(lambda x: x * 2), in_channels=1, out_channels=1, spatial_dims=2)
    events: list[Event] = []
    settings = nt.Settings(window_size=(8, 8), device="cpu")
    nt.segment(RAMP, model, settings, on_event=events.append)  # plane by plane
    assert sum(isinstance(event, Noticed) for event in events) == 1


def test_without_a_handler_it_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    model = Model.from_network(Given(lambda x: x * 2), in_channels=1, out_channels=1)
    with caplog.at_level(logging.WARNING, logger="napari_tessera"):
        nt.segment(RAMP, model, nt.Settings(window_size=(8, 8, 8), device="cpu"))
    assert [record.levelname for record in caplog.records] == ["WARNING"]
