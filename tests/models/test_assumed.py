"""What a model's file does not say and is taken for granted: said wherever the model is, and kept with its results."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from tests.models import sample_bioimageio, sample_connectomics, sample_monai_bundle
from tests.models.change_bioimageio import after, change, steps
from tests.models.sample import make_or_skip, reference_network
from tests.models.sample_monai_bundle import INFERENCE, METADATA

import napari_tessera as nt
from napari_tessera import api
from napari_tessera.intensity.normalisation import Normalisation
from napari_tessera.models.load import describe_model
from napari_tessera.models.packing import pack
from napari_tessera.models.spec.sentences import assume
from napari_tessera.session.model_summary import summary_of

ALL = set(assume("normalisation", "activation", "output"))
PROGRAMS = ["sample_torchscript", "sample_exported", "sample_onnx"]
SAID = {"normalisation": {"mode": "zscore"}, "activation": "softmax", "output": {"kind": "semantic"}}


def test_a_field_that_is_said_is_no_longer_assumed() -> None:
    network = torch.nn.Conv3d(1, 2, 1)
    assert set(nt.Model.from_network(network, in_channels=1, out_channels=2, activation="none").spec.assumed) < ALL
    model = nt.Model.from_network(network, in_channels=1, out_channels=2)
    assert set(model.spec.assumed) == set(assume("normalisation", "activation"))
    said = model.with_spec(normalisation=Normalisation("zscore"))
    assert set(said.spec.assumed) == set(assume("activation"))
    assert said.with_spec(activation="softmax").spec.assumed == ()


@pytest.mark.parametrize("form", PROGRAMS)
def test_programs_without_a_description_assume_and_say_so(form: str, tmp_path: Path) -> None:
    path = make_or_skip(form, tmp_path).path
    assert set(describe_model(path)[1].assumed) >= ALL
    model = nt.load_model(path, trust=True)
    assert set(model.spec.assumed) >= ALL
    assert all(f"assumed: {sentence}" in summary_of(model) for sentence in ALL)
    planned = api.plan((32, 32, 32), model)
    assert set(api.provenance(planned, model)["assumed"]) >= ALL


@pytest.mark.parametrize("form", PROGRAMS)
def test_packing_does_not_turn_them_into_facts(form: str, tmp_path: Path) -> None:
    model = nt.load_model(make_or_skip(form, tmp_path).path, trust=True)
    description, *_ = pack(model, tmp_path / "packed.yaml")
    again = nt.load_model(description, trust=True)
    assert again.spec.assumed == model.spec.assumed


def bioimageio(folder: Path, *, says: bool) -> Path:
    package: Path = sample_bioimageio.make(folder).path
    return package if says else change(change(package, steps()), after())


def monai_bundle(folder: Path, *, says: bool) -> Path:
    content = {key: value for key, value in INFERENCE.items() if says or not key.endswith("processing")}
    metadata: dict[str, Any] = copy.deepcopy(METADATA)
    if not says:
        for one in metadata["network_data_format"]["outputs"].values():
            one.pop("channel_def", None)
    changed = {"metadata": metadata, "inference": content}
    return sample_monai_bundle.write_bundle(folder / "bundle", reference_network(), **changed)


def connectomics(folder: Path, *, says: bool) -> Path:
    config = sample_connectomics.configuration()
    if not says:
        del config["default"]["data"]["image_transform"], config["default"]["inference"]["model"]
    return sample_connectomics.write(folder, sample_connectomics.network(), config)


@pytest.mark.parametrize("write", [bioimageio, monai_bundle, connectomics])
def test_packages_assume_what_they_leave_out(write: Any, tmp_path: Path) -> None:
    said = describe_model(write(tmp_path / "said", says=True))[1].assumed
    left_out = describe_model(write(tmp_path / "left-out", says=False))[1].assumed
    fields = {sentence.partition(" is ")[0] for sentence in left_out}
    assert fields == {"normalisation", "activation", "output"}
    assert {sentence.partition(" is ")[0] for sentence in said} <= {"output"}


def test_a_description_of_ones_own_answers_for_what_it_says(tmp_path: Path) -> None:
    path = make_or_skip("sample_tessera", tmp_path).path
    content = yaml.safe_load(path.read_text())
    for key in (*SAID, "classes", "decoder"):
        content.pop(key, None)
    for key, value in SAID.items():
        path.write_text(yaml.safe_dump(content))
        assert assume(key)[0] in nt.load_model(path).spec.assumed
        content[key] = value
    path.write_text(yaml.safe_dump(content))
    model = nt.load_model(path)
    assert model.spec.assumed == ()
    assert "assumed" not in api.provenance(api.plan((32, 32, 32), model), model)


def test_bundled_models_assume_nothing() -> None:
    assert nt.load_model("bundled").spec.assumed == ()


def test_the_sentences_are_no_words_of_a_terminal() -> None:
    spec = nt.load_model("bundled").with_spec(assumed=("red\x1b[31m\nline",)).spec
    assert spec.assumed == ("red [31m line",)
    assert spec == nt.load_model("bundled").spec
    assert np.all([letter.isprintable() for letter in spec.assumed[0]])
