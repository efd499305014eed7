"""TorchScript that was saved in training mode gives what its network gives in evaluation mode, and stays as it is."""

from __future__ import annotations

import copy
import json
import threading
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import napari_tessera as nt
from napari_tessera.engine.loop.evaluation import evaluating
from napari_tessera.jobs.tuning import measure_peak, measure_times
from napari_tessera.models.load import load_model
from napari_tessera.models.model import Model

VOLUME = np.random.default_rng(0).normal(size=(8, 16, 24)).astype(np.float32)
SETTINGS = nt.Settings(window_size=(8, 8, 8), overlap=0.0, device="cpu")
DESCRIPTION = """format: tessera-model/1
name: net
spatial_dims: 3
in_channels: 1
out_channels: 2
window: {default: [8, 8, 8], step: [1, 1, 1], minimum: [1, 1, 1]}
"""
Open = Callable[[Path], Model]


def trained(norm: torch.nn.Module) -> torch.nn.Module:
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Conv3d(1, 6, 3, padding=1), norm, torch.nn.ReLU(), torch.nn.Conv3d(6, 2, 1))
    for _ in range(5):
        network(torch.randn(2, 1, 8, 8, 8) * 3 + 1)
    return network


def script_of(network: torch.nn.Module, path: Path) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(network), str(path))  # type: ignore[no-untyped-call]
    return path


def jit_load(path: Path) -> torch.nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module: torch.nn.Module = torch.jit.load(str(path))  # type: ignore[no-untyped-call]
    return module


def described(path: Path) -> Model:
    path.with_suffix(".yaml").write_text(DESCRIPTION)
    return load_model(path, trust=True)


def in_bundle(path: Path) -> Model:
    folder = path.parent / "bundle"
    for name in ("configs", "models"):
        (folder / name).mkdir(parents=True)
    image = {"num_channels": 1, "spatial_shape": ["*"] * 3}
    told = {"inputs": {"image": image}, "outputs": {"pred": {"num_channels": 2}}}
    (folder / "configs/metadata.json").write_text(json.dumps({"name": "net", "network_data_format": told}))
    inferer = {"_target_": "SlidingWindowInferer", "roi_size": [8, 8, 8]}
    (folder / "configs/inference.json").write_text(json.dumps({"preprocessing": [], "inferer": inferer}))
    path.rename(folder / "models/model.ts")
    return load_model(folder, trust=True)


def in_memory(path: Path) -> Model:
    return Model.from_network(jit_load(path), in_channels=1, out_channels=2)


def within(path: Path) -> Model:
    inner = torch.nn.Sequential(jit_load(path), torch.nn.Identity())
    return Model.from_network(inner, in_channels=1, out_channels=2)


def expected(network: torch.nn.Module) -> np.ndarray:
    """Return what *network* gives in evaluation mode, window by window; they do not overlap."""
    result = np.zeros((2, *VOLUME.shape), np.float32)
    module = copy.deepcopy(network).eval()
    for y, x in np.ndindex(2, 3):
        place = (slice(None), slice(8 * y, 8 * y + 8), slice(8 * x, 8 * x + 8))
        with torch.no_grad():
            result[(slice(None), *place)] = module(torch.from_numpy(VOLUME[place])[None, None])[0].numpy()
    return result


def state(model: Model) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.network.state_dict().items()}


def assert_unchanged(model: Model, before: dict[str, torch.Tensor]) -> None:
    after = model.network.state_dict()
    assert before.keys() == after.keys()
    for name, value in before.items():
        assert torch.equal(value, after[name]), name


@pytest.mark.parametrize(
    "open_it", [lambda path: load_model(path, trust=True), described, in_bundle, in_memory, within]
)
@pytest.mark.parametrize("kind", [torch.nn.BatchNorm3d, torch.nn.InstanceNorm3d])
def test_result_is_that_of_evaluation_mode(kind: Callable[..., torch.nn.Module], open_it: Open, tmp_path: Path) -> None:
    network = trained(kind(6, track_running_stats=True))
    model = open_it(script_of(network, tmp_path / "net.pt"))
    before = state(model)
    for _ in range(2):
        nt.plan(VOLUME.shape, model, SETTINGS)
        np.testing.assert_allclose(nt.predict(VOLUME, model, SETTINGS), expected(network), atol=1e-5)
    assert_unchanged(model, before)


@pytest.mark.parametrize("is_traced", [False, True])
def test_nothing_that_measures_changes_a_network(is_traced: bool, tmp_path: Path) -> None:
    network = trained(torch.nn.BatchNorm3d(6))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = (
            torch.jit.trace(network, torch.zeros(1, 1, 8, 8, 8), check_trace=False)  # type: ignore[no-untyped-call]
            if is_traced
            else torch.jit.script(network)
        ).train()
    model = Model.from_network(program, in_channels=1, out_channels=2)
    before = state(model)
    for precision in ("float32", "bfloat16"):
        settings = SETTINGS.replace(precision=precision)
        nt.plan(VOLUME.shape, model, settings)
        measure_times(model, settings, repeats=1)
        measure_peak(model, settings)
        nt.predict(VOLUME, model, settings)
    assert_unchanged(model, before)
    assert program.training


class Counts(torch.nn.Module):
    """Cannot be traced without data, and counts its passes in a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.passes: torch.Tensor
        self.register_buffer("passes", torch.zeros(()))
        self.layer = torch.nn.Conv3d(1, 2, 1)

    def forward(self, windows: torch.Tensor) -> torch.Tensor:
        self.passes += 1
        output: torch.Tensor = self.layer(windows + torch.from_numpy(windows.numpy()))
        return output


def test_plan_keeps_what_a_network_counts() -> None:
    model = Model.from_network(Counts(), in_channels=1, out_channels=2)
    nt.plan(VOLUME.shape, model, SETTINGS)
    assert model.network.passes == 0


def test_last_to_leave_restores() -> None:
    network = torch.nn.Sequential(torch.nn.BatchNorm3d(1)).train()
    entered, leave = threading.Event(), threading.Event()

    def first() -> None:
        with evaluating(network):
            entered.set()
            leave.wait()

    thread = threading.Thread(target=first)
    thread.start()
    entered.wait()
    with evaluating(network):
        leave.set()
        thread.join()
        assert not network[0].training
    assert network.training
    assert network[0].training
