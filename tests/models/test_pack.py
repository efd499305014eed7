"""Packing: the same predictions from a file that runs nothing, or one sentence why not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.networks import nets as networks
from tests.models import sample_tessera, sample_torchscript
from tests.models.sample import make_or_skip
from tests.models.sample_monai_bundle import INFERENCE, write_bundle

import napari_tessera as nt
from napari_tessera.errors import ModelError, OutputError
from napari_tessera.models.pack import pack


@pytest.mark.parametrize(
    "name",
    ["sample_tessera", "sample_connectomics", "sample_connectomics_1", "sample_monai_bundle", "sample_bioimageio"],
)
def test_a_packed_model_is_the_same(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "from"
    folder.mkdir()
    model = nt.load_model(make_or_skip(name, folder).path)
    path, _ = pack(model, tmp_path / "to" / "packed.yaml")
    again = nt.load_model(path)
    assert again.spec == model.spec
    volume = np.random.default_rng(0).random((36, 40, 52)[-model.spec.spatial_dims :], np.float32)
    settings = nt.Settings(overlap=0.25, device="cpu")
    np.testing.assert_array_equal(nt.predict(volume, again, settings), nt.predict(volume, model, settings))


def test_a_network_with_layers_of_two_names_is_packed(tmp_path: Path) -> None:
    arguments: dict[str, Any] = {"spatial_dims": 3, "in_channels": 1, "out_channels": 2, "kernel_size": [3, 3, 3]}
    arguments |= {"strides": [1, 2, 2], "upsample_kernel_size": [2, 2], "filters": [4, 8, 8], "deep_supervision": True}
    original = networks.DynUNet(**arguments).eval()
    content = INFERENCE | {"network_def": {"_target_": "DynUNet", **arguments}}
    model = nt.load_model(write_bundle(tmp_path / "bundle", original, inference=content))
    path, _ = pack(model, tmp_path / "packed.yaml")
    windows = torch.rand(1, 1, 16, 16, 16)
    with torch.inference_mode():
        assert torch.equal(nt.load_model(path).network(windows), original(windows))


def test_what_cannot_be_rebuilt_keeps_its_file(tmp_path: Path) -> None:
    model = nt.load_model(sample_torchscript.make(tmp_path).path, trust=True)
    with pytest.raises(ModelError, match=r"cannot be packed: .* keep its own file"):
        pack(model, tmp_path / "packed.yaml")
    assert not (tmp_path / "packed.yaml").exists()


def test_a_network_that_was_changed_after_it_was_built_is_refused(tmp_path: Path) -> None:
    model = nt.load_model(sample_tessera.make(tmp_path).path)
    model.network.final_conv = torch.nn.Identity()
    with pytest.raises(ModelError, match="cannot be packed"):
        pack(model, tmp_path / "packed.yaml")


def test_existing_files_stay(tmp_path: Path) -> None:
    sample = sample_tessera.make(tmp_path)
    model = nt.load_model(sample.path)
    before = sample.path.read_text()
    with pytest.raises(OutputError, match="exists"):
        pack(model, sample.path)
    assert sample.path.read_text() == before
    pack(model, sample.path, overwrite=True)
    assert nt.load_model(sample.path).spec == model.spec
