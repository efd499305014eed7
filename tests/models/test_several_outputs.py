"""Networks that give several tensors: the right one where it is certain, else a refusal that lists them."""

from __future__ import annotations

import warnings
from collections import namedtuple
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from tests.refusals import raises
from torch.export import Dim

import napari_tessera as nt
from napari_tessera.core.errors import ModelError
from napari_tessera.engine.monai import SlabInferer
from napari_tessera.models.load import describe_model
from napari_tessera.models.model import Model
from napari_tessera.models.packing import pack

VOLUME = np.random.default_rng(0).normal(size=(8, 20, 20)).astype(np.float32)
SETTINGS = nt.Settings(window_size=(8, 16, 16), overlap=0.5, sw_batch_size=2, device="cpu")
Pair = namedtuple("Pair", ["inner", "scores"])


@dataclass
class Fields:
    """As many networks for text and images give their outputs."""

    loss: torch.Tensor | None
    inner: torch.Tensor
    logits: torch.Tensor


# What a network gives of its features (8 channels), its two scores, and other two that nobody wants.
GIVES: dict[str, Callable[[torch.Tensor, torch.Tensor, torch.Tensor], Any]] = {
    "a dictionary, auxiliary first": lambda f, y, other: {"aux": other, "out": y},
    "features first": lambda f, y, other: (f, y),
    "features first, by name": lambda f, y, other: {"features": f, "logits": y},
    "deep supervision": lambda f, y, other: [y, other[..., ::2, ::2, ::2], other[..., ::4, ::4, ::4]],
    "deep supervision, the smallest first": lambda f, y, other: [other[..., ::2, ::2, ::2], y],
    "class numbers beside scores": lambda f, y, other: (y.argmax(1), y),
    "a vector beside scores": lambda f, y, other: {"embedding": f.mean((2, 3, 4)), "scores": y},
    "nested": lambda f, y, other: {"inner": {"features": f}, "heads": [{"out": y}]},
}


class Several(torch.nn.Module):
    """A convolution into features, and two heads of two channels on them."""

    def __init__(self, gives: Callable[..., Any]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = torch.nn.Conv3d(1, 8, 3, padding=1)
        self.head, self.other = torch.nn.Conv3d(8, 2, 1), torch.nn.Conv3d(8, 2, 1)
        self.gives = gives

    def forward(self, windows: torch.Tensor) -> Any:
        features = self.first(windows).relu()
        return self.gives(features, self.head(features), self.other(features))


class One(torch.nn.Module):
    """The scores alone of the same network: what must come out."""

    def __init__(self, of: Several, head: str = "head") -> None:
        super().__init__()
        self.first, self.last = of.first, getattr(of, head)

    def forward(self, windows: torch.Tensor) -> torch.Tensor:
        return self.last(self.first(windows).relu())


def in_memory(network: torch.nn.Module, folder: Path, **said: Any) -> Model:
    return Model.from_network(network, in_channels=1, out_channels=2, **said)


def torchscript(network: torch.nn.Module, folder: Path, **said: Any) -> Model:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(network.eval(), torch.zeros(1, 1, 16, 16, 16), strict=False)  # type: ignore[no-untyped-call]
        torch.jit.save(traced, str(folder / "net.pt"))  # type: ignore[no-untyped-call]
    return nt.load_model(folder / "net.pt", trust=True, **said)


def exported(network: torch.nn.Module, folder: Path, *, batch: bool = True, **said: Any) -> Model:
    axes = {axis: 4 * Dim(f"s{axis}", max=128) for axis in (2, 3, 4)} | ({0: Dim("n", max=64)} if batch else {})
    program = torch.export.export(network.eval(), (torch.zeros(2, 1, 16, 16, 16),), dynamic_shapes=(axes,))
    torch.export.save(program, folder / "net.pt2")
    return nt.load_model(folder / "net.pt2", trust=True, **said)


def exported_for_two(network: torch.nn.Module, folder: Path, **said: Any) -> Model:
    return exported(network, folder, batch=False, **said)


def onnx(network: torch.nn.Module, folder: Path, **said: Any) -> Model:
    for library in ("onnx", "onnxruntime"):
        pytest.importorskip(library)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        windows = torch.zeros(2, 1, 16, 16, 16)
        found = network(windows)
        names = list(found) if isinstance(found, dict) else [f"y{i}" for i in range(len(found))]
        axes = {0: "n", 2: "z", 3: "y", 4: "x"}
        torch.onnx.export(
            network.eval(),
            (windows,),
            folder / "net.onnx",
            dynamo=False,
            input_names=["image"],
            output_names=names,
            dynamic_axes={"image": axes},
        )
    return nt.load_model(folder / "net.onnx", **said)


def wanted(network: Several, head: str = "head") -> Any:
    return nt.predict(VOLUME, in_memory(One(network, head), Path()), SETTINGS)


@pytest.mark.parametrize("gives", GIVES)
def test_the_result_is_found_where_the_channels_are_said(gives: str, tmp_path: Path) -> None:
    network = Several(GIVES[gives])
    np.testing.assert_allclose(nt.predict(VOLUME, in_memory(network, tmp_path), SETTINGS), wanted(network), atol=1e-6)


NEEDS_NO_CHANNELS = [name for name in GIVES if name not in ("features first", "nested")]


@pytest.mark.parametrize("store", [torchscript, exported, exported_for_two])
@pytest.mark.parametrize("gives", NEEDS_NO_CHANNELS)
def test_the_result_is_found_in_a_program_that_nothing_describes(store: Any, gives: str, tmp_path: Path) -> None:
    network = Several(GIVES[gives])
    model = store(network, tmp_path)
    np.testing.assert_allclose(nt.predict(VOLUME, model, SETTINGS), wanted(network), atol=1e-5)


@pytest.mark.parametrize("store", [torchscript, exported, onnx])
def test_which_one_was_taken_is_said(store: Any, tmp_path: Path) -> None:
    network = Several(GIVES["a dictionary, auxiliary first"])
    model = store(network, tmp_path)
    assert model.spec.network_output == "out"
    assert any(sentence.startswith("network_output is 'out'") for sentence in model.spec.assumed)
    np.testing.assert_allclose(nt.predict(VOLUME, model, SETTINGS), wanted(network), atol=1e-5)


@pytest.mark.parametrize("store", [in_memory, torchscript, exported, exported_for_two, onnx])
def test_what_is_not_certain_is_refused_and_can_be_said(store: Any, tmp_path: Path) -> None:
    network = Several(lambda f, y, other: (other, y))
    names = ("y0", "y1") if store is onnx else ("0", "1")
    with raises(ModelError, *names, "network_output"):
        nt.plan(VOLUME.shape, store(network, tmp_path), SETTINGS)
    for name, head in zip(names, ("other", "head"), strict=True):
        model = store(network, tmp_path, network_output=name)
        assert not any(sentence.startswith("network_output") for sentence in model.spec.assumed)
        np.testing.assert_allclose(nt.predict(VOLUME, model, SETTINGS), wanted(network, head), atol=1e-5)
    with raises(ModelError, "'7'", *names):
        nt.plan(VOLUME.shape, store(network, tmp_path, network_output="7"), SETTINGS)


@pytest.mark.parametrize("store", [torchscript, exported, onnx])
def test_a_description_beside_it_chooses(store: Any, tmp_path: Path) -> None:
    network = Several(lambda f, y, other: (f, other, y))
    description: dict[str, Any] = {
        "format": "tessera-model/1",
        "name": "described",
        "spatial_dims": 3,
        "in_channels": 1,
        "out_channels": 2,
        "window": {"default": [8, 16, 16], "step": [4, 4, 4], "minimum": [4, 4, 4]},
        "network_output": "y2" if store is onnx else 2,
    }
    (tmp_path / "net.yaml").write_text(yaml.safe_dump(description))
    model = store(network, tmp_path)
    np.testing.assert_allclose(nt.predict(VOLUME, model, SETTINGS), wanted(network), atol=1e-5)
    copy, *_ = pack(model, tmp_path / "packed.yaml")
    again = nt.load_model(copy, trust=True)
    assert again.spec == model.spec
    np.testing.assert_allclose(nt.predict(VOLUME, again, SETTINGS), wanted(network), atol=1e-5)


def test_names_of_tuples_are_their_fields() -> None:
    network = Several(lambda f, y, other: Pair(other, y))
    model = in_memory(network, Path(), network_output="scores")
    np.testing.assert_allclose(nt.predict(VOLUME, model, SETTINGS), wanted(network), atol=1e-6)
    other = model.with_spec(network_output="inner")
    np.testing.assert_allclose(nt.predict(VOLUME, other, SETTINGS), wanted(network, "other"), atol=1e-6)
    assert model.with_spec(network_output="").network is network


@pytest.mark.parametrize(
    ("gives", "number", "head"),
    [
        (lambda f, y, other: Pair(other, y), "1", "head"),
        (lambda f, y, other: {"aux": other, "out": y}, "0", "other"),
        (lambda f, y, other: {1: other, 0: y}, "0", "head"),
        (lambda f, y, other: Fields(None, other, y), "2", "head"),
        (lambda f, y, other: Fields(None, other, y), "inner", "other"),
        (lambda f, y, other: {"heads": Pair(other, y)}, "heads.1", "head"),
        (lambda f, y, other: {"heads": Pair(other, y)}, "0.scores", "head"),
    ],
)
def test_a_number_counts_whatever_the_keys(gives: Any, number: str, head: str) -> None:
    network = Several(gives)
    model = in_memory(network, Path(), network_output=number)
    np.testing.assert_allclose(nt.predict(VOLUME, model, SETTINGS), wanted(network, head), atol=1e-6)


@pytest.mark.parametrize(("number", "head"), [("1", "other"), ("2", "head")])
def test_a_number_counts_in_a_program(number: str, head: str, tmp_path: Path) -> None:
    network = Several(lambda f, y, other: {"numbers": y.argmax(1), "aux": other, "out": y})
    model = torchscript(network, tmp_path, network_output=number)
    np.testing.assert_allclose(nt.predict(VOLUME, model, SETTINGS), wanted(network, head), atol=1e-5)


def test_fields_of_a_dataclass_are_outputs() -> None:
    network = Several(lambda f, y, other: Fields(None, other, y))
    np.testing.assert_allclose(nt.predict(VOLUME, in_memory(network, Path()), SETTINGS), wanted(network), atol=1e-6)


def test_what_a_program_was_opened_for_does_not_change_in_silence(tmp_path: Path) -> None:
    model = exported(Several(lambda f, y, other: (other, y)), tmp_path, network_output="1")
    with raises(ModelError, "'1'", "'0'"):
        model.with_spec(network_output="0")


def test_inspect_shows_the_choice_without_opening(tmp_path: Path) -> None:
    exported(Several(lambda f, y, other: (f, y)), tmp_path, network_output="1")
    spec = describe_model(tmp_path / "net.pt2", network_output="0")[1].spec
    assert spec is not None
    assert (spec.out_channels, spec.network_output) == (8, "0")


def test_the_inferer_stitches_all_of_them_as_monais_does() -> None:
    network = Several(lambda f, y, other: {"aux": other, "out": y})
    given = torch.from_numpy(VOLUME)[None, None]
    with torch.no_grad():
        found = SlabInferer((8, 16, 16), overlap=0.5)(given, network)
        alone = SlabInferer((8, 16, 16), overlap=0.5)(given, One(network))
    assert list(found) == ["aux", "out"]
    torch.testing.assert_close(found["out"], alone)
