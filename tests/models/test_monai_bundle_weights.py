"""MONAI bundles that are wrong but honest: weights and files that are missing, cut short or of another network."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.models.change_monai_bundle import SMALL, changed, small_network
from tests.models.sample import reference_network
from tests.models.sample_monai_bundle import INFERENCE, METADATA, make, make_zip, write_bundle
from tests.refusals import Kind, raises

from napari_tessera.core.errors import ModelError
from napari_tessera.models.load import load_model


def test_weights_that_do_not_fit_are_named(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path / "bundle", reference_network())
    weights = folder / "models" / "model.pt"
    state = reference_network().state_dict()
    first = next(iter(state))
    for content, text in (
        ({k: v for k, v in state.items() if k != first}, (Kind.LACKS, first)),
        (state | {"extra.weight": torch.zeros(1)}, (Kind.UNKNOWN_WEIGHTS, "extra.weight")),
        (state | {first: torch.zeros(4, 3, 3, 3, 3)}, (Kind.OTHER_SHAPE, "(4, 3, 3, 3, 3)")),
        (state | {first: "text"}, (Kind.LACKS, first)),
        ([1, 2], "list"),
        ({}, "empty"),
    ):
        torch.save(content, weights)
        with raises(ModelError, text) as error:
            load_model(folder)
        assert str(weights) in str(error.value)


@pytest.mark.parametrize(
    "wrapped", [lambda s: s, lambda s: {"state_dict": s}, lambda s: {"module." + k: v for k, v in s.items()}]
)
@pytest.mark.parametrize("new", [True, False])
def test_weights_may_be_kept_in_several_ways(tmp_path: Path, wrapped: Any, new: bool) -> None:
    network = reference_network()
    folder = write_bundle(tmp_path / "bundle", network)
    torch.save(wrapped(network.state_dict()), folder / "models" / "model.pt", _use_new_zipfile_serialization=new)
    loaded = load_model(folder).network.state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in network.state_dict().items())


@pytest.mark.parametrize("cut", ["models/model.pt", "configs/metadata.json", "configs/inference.json"])
def test_truncated_files_are_named(tmp_path: Path, cut: str) -> None:
    folder = make(tmp_path).path
    content = (folder / cut).read_bytes()
    for kept in (len(content) // 2, 10, 0):
        (folder / cut).write_bytes(content[:kept])
        with pytest.raises(ModelError) as error:
            load_model(folder)
        assert str(folder / cut) in str(error.value)


def test_a_truncated_zip_is_named(tmp_path: Path) -> None:
    path = make_zip(tmp_path).path
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with raises(ModelError, path):
        load_model(path)
    # The directory of a zip is at its end: whole, with a broken entry before it.
    broken = bytearray(content)
    start = content.index(b"bundle/models/model.pt") + 60
    broken[start : start + 2000] = bytes(2000)
    path.write_bytes(broken)
    with raises(ModelError, "model.pt", "zipped.zip"):
        load_model(path)


@pytest.mark.parametrize(
    ("missing", "text"),
    [
        ("models/model.pt", (Kind.HOLDS_NO, "models/model.pt")),
        ("configs/inference.json", (Kind.HOLDS_NO, "configs/inference.json")),
    ],
)
def test_missing_files_are_named(tmp_path: Path, missing: str, text: Any) -> None:
    folder = make(tmp_path).path
    (folder / missing).unlink()
    with raises(ModelError, text):
        load_model(folder)


@pytest.mark.parametrize(
    ("keys", "text"),
    [
        (
            {"network_def": {"_target_": "UNet", **SMALL, "channels": "@nowhere"}},
            "'@nowhere'",
        ),
        ({"network_def": {"_target_": "UNet", **SMALL, "channels": "@a", "x": 1}, "a": "@a"}, Kind.ON_AND_ON),
        ({"network_def": {"_target_": "UNet", **SMALL, "act": {"_target_": "PReLU"}}}, "'PReLU'"),
        ({"network_def": {"_target_": "UNet", **SMALL, "out_channels": 1.5}}, ("out_channels", "'1.5'")),
        ({"network_def": {"_target_": "UNet", **SMALL, "out_channels": 10**9}}, ("out_channels", 1, 100000)),
        ({"network_def": {"_target_": "UNet", **SMALL, "spatial_dims": 10**9}}, ("spatial_dims", 1, 3)),
        (
            {"network_def": {"_target_": "UNet", **SMALL, "out_channels": 2, "nonsense": 1}},
            Kind.CANNOT_BE_BUILT,
        ),
        ({"network_def": 3}, "network_def"),
        ({"preprocessing": 3}, ("preprocessing", Kind.NO_TRANSFORMS)),
        ({"preprocessing": [{"_target_": "ScaleIntensityRanged", "keys": "image", "a_min": 3, "a_max": 3}]}, "a_min"),
        (
            {"preprocessing": [{"_target_": "ScaleIntensityRanged", "keys": "image", "a_min": 10**400}]},
            300,
        ),
        (
            {"preprocessing": [{"_target_": "ScaleIntensityRanged", "keys": "image", "a_min": "0"}]},
            Kind.NO_NUMBER,
        ),
    ],
)
def test_configurations_that_make_no_sense(tmp_path: Path, keys: dict[str, Any], text: Any) -> None:
    folder = write_bundle(tmp_path / "bundle", small_network(), inference=changed(INFERENCE, **keys))
    with raises(ModelError, text) as error:
        load_model(folder)
    assert str(folder) in str(error.value)


def test_several_inputs_and_several_bundles_are_refused(tmp_path: Path) -> None:
    metadata = copy.deepcopy(METADATA)
    metadata["network_data_format"]["inputs"]["guidance"] = {}
    folder = write_bundle(tmp_path / "a", reference_network(), metadata=metadata)
    with raises(ModelError, 2, "image", "guidance"):
        load_model(folder)
    write_bundle(tmp_path / "b", reference_network())
    with raises(ModelError, 2, "a/", "b/"):
        load_model(tmp_path)
