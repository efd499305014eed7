"""Outputs that are embeddings are refused in one sentence, whichever format says so."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from tests.models import sample_bioimageio, sample_connectomics, sample_monai_bundle, sample_tessera, sample_torchscript
from tests.refusals import Kind, raises

import napari_tessera as nt
from napari_tessera.core.errors import ModelError
from napari_tessera.models.load import describe_model
from napari_tessera.models.spec.sentences import refuse_embeddings

SENTENCE = r"gives embeddings \('.*'\).* only clustering them makes labels, which Tessera does not do, so run it with"


def tessera(folder: Path) -> Path:
    path = sample_tessera.make(folder).path
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | {"output": {"kind": "embeddings"}}))
    return path


def torchscript(folder: Path) -> Path:
    """Return an archive with the description of another format beside it."""
    path = sample_torchscript.make(folder).path
    tessera(folder).rename(path.with_suffix(".yaml"))
    return path


def monai(folder: Path) -> Path:
    metadata = copy.deepcopy(sample_monai_bundle.METADATA)
    metadata["network_data_format"]["outputs"]["pred"]["format"] = "embedding"
    return sample_monai_bundle.write_bundle(folder / "b", torch.nn.Conv3d(1, 2, 3), metadata=metadata)


def bioimageio(folder: Path) -> Path:
    pytest.importorskip("bioimageio.spec")
    package = sample_bioimageio.make(folder).path
    content = yaml.safe_load((package / "rdf.yaml").read_text())
    content["outputs"][0]["axes"][1]["channel_names"] = ["embedding_0", "embedding_1"]
    return sample_bioimageio.write(package, content)


def connectomics(folder: Path) -> Path:
    path = sample_connectomics.make(folder).path
    content = yaml.safe_load(path.with_suffix(".yaml").read_text())
    content["default"]["data"]["label_transform"] = {"targets": [{"name": "instance_embedding"}]}
    path.with_suffix(".yaml").write_text(yaml.safe_dump(content))
    return path


@pytest.mark.parametrize("write", [tessera, torchscript, monai, bioimageio, connectomics])
def test_each_format_refuses_them(write: Callable[[Path], Path], tmp_path: Path) -> None:
    path = write(tmp_path)
    for opens in (describe_model, lambda path: nt.load_model(path, trust=True)):
        with raises(ModelError, Kind.EMBEDDINGS) as error:
            opens(path)
        assert str(path.with_suffix("")) in str(error.value)


def test_so_does_a_network_in_memory() -> None:
    with raises(ModelError, Kind.EMBEDDINGS):
        nt.Model.from_network(
            torch.nn.Conv3d(1, 2, 1),
            in_channels=1,
            out_channels=2,
            output="embeddings",  # type: ignore[arg-type]
        )


@pytest.mark.parametrize("name", ["semantic", "None", "bedding", "embedded cells", "EMB"])
def test_other_words_pass(name: str) -> None:
    refuse_embeddings([name], "x.yaml")
