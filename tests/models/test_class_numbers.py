"""Networks that end in an arg-max or a threshold: no average of their windows means anything, so they are refused."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.models import sample_onnx
from tests.refusals import Kind, raises
from torch.export import Dim

import napari_tessera as nt
from napari_tessera.core.errors import ModelError
from napari_tessera.engine.monai import SlabInferer
from napari_tessera.models.model import Model
from napari_tessera.models.networks.adapters import AxesInOrder

VOLUME = np.random.default_rng(0).normal(size=(8, 20, 20)).astype(np.float32)
SETTINGS = nt.Settings(window_size=(8, 16, 16), overlap=0.5, device="cpu")


class Ending(torch.nn.Module):
    """A convolution into five classes, and what a network that decides by itself ends with."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.convolution = torch.nn.Conv3d(1, 5, 3, padding=1)
        self.kind = kind

    def forward(self, windows: torch.Tensor) -> torch.Tensor:
        logits = self.convolution(windows)
        if self.kind == "arg-max":
            return logits.argmax(1, keepdim=True)
        if self.kind == "float arg-max":
            return logits.argmax(1, keepdim=True).float()
        if self.kind == "half arg-max":
            return logits.argmax(1, keepdim=True).half()
        if self.kind == "round":
            return (logits * 4).round()
        if self.kind == "threshold":
            return logits > 0
        if self.kind == "uint8":
            return (logits.sigmoid() * 255).to(torch.uint8)
        return logits


def from_python(network: torch.nn.Module, folder: Path) -> Model:
    return Model.from_network(network, in_channels=1, out_channels=1 if network.kind.endswith("arg-max") else 5)


def from_torchscript(network: torch.nn.Module, folder: Path) -> Model:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.save(torch.jit.trace(network, torch.zeros(1, 1, 16, 16, 16)), str(folder / "net.pt"))  # type: ignore[no-untyped-call]
    return nt.load_model(folder / "net.pt", trust=True)


def from_exported_program(network: torch.nn.Module, folder: Path) -> Model:
    axes = {0: Dim("n", max=64)} | {axis: Dim(f"s{axis}", max=512) for axis in (2, 3, 4)}
    program = torch.export.export(network, (torch.zeros(2, 1, 16, 16, 16),), dynamic_shapes=(axes,))
    torch.export.save(program, folder / "net.pt2")
    return nt.load_model(folder / "net.pt2", trust=True)


@pytest.mark.parametrize("kind", ["arg-max", "threshold", "uint8"])
@pytest.mark.parametrize("model_of", [from_python, from_torchscript, from_exported_program])
def test_they_are_refused_before_a_window_is_computed(
    model_of: Callable[[torch.nn.Module, Path], Model], kind: str, tmp_path: Path
) -> None:
    with raises(ModelError, Kind.CLASS_NUMBERS):
        nt.plan(VOLUME.shape, model_of(Ending(kind), tmp_path), SETTINGS)


@pytest.mark.parametrize("kind", ["float arg-max", "half arg-max", "round"])
@pytest.mark.parametrize("model_of", [from_python, from_torchscript, from_exported_program])
@pytest.mark.parametrize("run", [nt.predict, nt.segment])
def test_as_floats_they_are_refused_in_the_first_pass(
    run: Callable[..., object], model_of: Callable[[torch.nn.Module, Path], Model], kind: str, tmp_path: Path
) -> None:
    with raises(ModelError, Kind.CLASS_NUMBERS):
        run(VOLUME, model_of(Ending(kind), tmp_path), SETTINGS)


@pytest.mark.parametrize("model_of", [from_python, from_torchscript, from_exported_program])
def test_the_same_network_without_its_end_runs(
    model_of: Callable[[torch.nn.Module, Path], Model], tmp_path: Path
) -> None:
    assert nt.predict(VOLUME, model_of(Ending("none"), tmp_path), SETTINGS).shape == (5, *VOLUME.shape)


def test_onnx_graphs_are(tmp_path: Path) -> None:
    for library in sample_onnx.NEEDS:
        pytest.importorskip(library)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        windows = torch.zeros(1, 1, 16, 16, 16)
        torch.onnx.export(Ending("arg-max"), (windows,), tmp_path / "net.onnx", dynamo=False)
    with pytest.raises(ModelError):
        nt.load_model(tmp_path / "net.onnx")


def test_what_reorders_axes_does_not_make_floats_of_them() -> None:
    network = AxesInOrder(Ending("arg-max"), "bczyx", "bczyx", one_by_one=True)
    with pytest.raises(ModelError):
        network(torch.zeros(2, 1, 8, 8, 8))


@pytest.mark.parametrize("wrap", [lambda y: y, lambda y: {"labels": y, "again": y}])
def test_the_inferer_refuses_them_as_monais_does(wrap: Callable[[torch.Tensor], object]) -> None:
    with pytest.raises(ModelError):
        SlabInferer(8, overlap=0.5)(torch.zeros(1, 1, 12, 12, 12), lambda x: wrap((x > 0).long()))


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.uint8, torch.complex64])
def test_a_network_that_only_a_real_pass_shows_is_refused_in_the_run(dtype: torch.dtype) -> None:
    """As one whose last step depends on values that a pass without data does not have."""

    class Hidden(torch.nn.Module):
        def forward(self, windows: torch.Tensor) -> torch.Tensor:
            return windows.to(dtype) if type(windows) is torch.Tensor else windows

    with pytest.raises(ModelError):
        nt.predict(VOLUME, Model.from_network(Hidden(), in_channels=1, out_channels=1), SETTINGS)
