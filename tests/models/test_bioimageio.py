"""bioimage.io packages: what is read, what is refused, equal to bioimageio.core, and nothing of a stranger's runs."""

from __future__ import annotations

import gc
import hashlib
import os
import pickle
import shutil
import socket
import struct
import warnings
import zipfile
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from tests.models.sample import Sample, reference_network
from tests.models.sample_bioimageio import (
    make,
    save_state_dict,
    save_torchscript,
    write,
    zipped,
)

import napari_tessera as nt
from napari_tessera.errors import ModelError, UntrustedModelError
from napari_tessera.models.load import describe_model, find_risk, load_model, remember_trust
from napari_tessera.models.model import Model
from napari_tessera.models.spec import DecoderChoice, Normalisation, WindowRule

pytest.importorskip("bioimageio.spec", reason="bioimageio.spec is missing: pip install 'napari-tessera[bioimageio]'")

ONE_WINDOW = nt.Settings(window_size=(32, 32, 32), overlap=0)
Change = Callable[[dict[str, Any]], None]


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Asking for any host fails the test, even where the error is caught."""
    asked: list[Any] = []

    def refuse(*arguments: Any, **_: Any) -> None:
        asked.append(arguments)
        raise OSError(f"a test asked the network for {arguments}")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    yield
    assert not asked


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Sample:
    return make(tmp_path_factory.mktemp("original"))


@pytest.fixture
def sample(original: Sample, tmp_path: Path) -> Sample:
    """A copy, as most tests change it."""
    return replace(original, path=shutil.copytree(original.path, tmp_path / "bioimageio"))


@pytest.fixture
def package(sample: Sample) -> Path:
    return sample.path


def change(package: Path, how: Change) -> Path:
    content = yaml.safe_load((package / "rdf.yaml").read_text(encoding="utf-8"))
    how(content)
    return write(package, content)


def merge(**changes: Any) -> Change:
    """Return a change of the description: keys are paths such as ``inputs__0__axes``."""

    def apply(content: dict[str, Any]) -> None:
        for path, value in changes.items():
            *keys, last = (int(key) if key.isdecimal() else key for key in path.split("__"))
            place: Any = content
            for key in keys:
                place = place[key]
            if value is None:
                del place[last]
            else:
                place[last] = value

    return apply


def space(side: Any, **more: Any) -> list[dict[str, Any]]:
    return [{"type": "space", "id": axis, "size": side, **more} for axis in "zyx"]


def steps(*described: Any) -> Change:
    return merge(inputs__0__preprocessing=list(map(as_step, described)))


def after(*described: Any) -> Change:
    return merge(outputs__0__postprocessing=list(map(as_step, described)))


def as_step(described: tuple[str, dict[str, Any]]) -> dict[str, Any]:
    name, kwargs = described
    return {"id": name, "kwargs": kwargs} if kwargs else {"id": name}


def with_channels(count: int) -> Change:
    return merge(inputs__0__axes__1={"type": "channel", "channel_names": [f"c{i}" for i in range(count)]})


def with_first_axis(axis: dict[str, Any]) -> Change:
    """Return a change of z, in and out, and of the steps that name it."""

    def apply(content: dict[str, Any]) -> None:
        content["inputs"][0]["axes"][2] = axis
        content["inputs"][0]["preprocessing"] = []
        del content["outputs"][0]["axes"][2]

    return apply


# What is read


def test_the_description_is_taken_over(package: Path) -> None:
    form, description = describe_model(package)
    spec = description.spec
    assert form.name == "bioimage.io package"
    assert description.architecture == "monai.networks.nets.BasicUNet"
    assert spec is not None
    assert (spec.name, spec.spatial_dims, spec.in_channels, spec.out_channels) == ("small cells", 3, 1, 2)
    assert spec.window == WindowRule((64,) * 3, (16,) * 3, (32,) * 3)
    assert spec.voxel_size_um == pytest.approx((0.4, 0.1, 0.1))
    assert spec.normalisation == Normalisation("zscore", (("eps", 1e-6),))
    assert (spec.activation, spec.output.kind, spec.classes) == ("sigmoid", "semantic", ("inside", "outline"))
    assert (spec.licence, spec.description) == ("CC-BY-4.0", "Cells, small ones.")
    assert spec.citation == "Author et al. 2026 https://doi.org/10.1234/small.cells"
    assert find_risk(package) is None


@pytest.mark.parametrize("how", ["folder", "description", "zip", "zip with a folder", "newer name"])
def test_every_way_to_name_a_package(sample: Sample, how: str, tmp_path: Path) -> None:
    path = sample.path
    if how == "description":
        path = path / "rdf.yaml"
    elif how == "zip":
        path = zipped(path)
    elif how == "zip with a folder":
        with zipfile.ZipFile(tmp_path / "outer.zip", "w") as archive:
            for file in path.iterdir():
                archive.write(file, f"my model/{file.name}")
        path = tmp_path / "outer.zip"
    elif how == "newer name":
        (path / "rdf.yaml").rename(path / "bioimageio.yaml")
    same_prediction(load_model(path), sample)


def same_prediction(model: Model, sample: Sample) -> None:
    volume = np.random.default_rng(0).normal(50, 9, (40, 33, 48)).astype(np.float32)
    settings = nt.Settings(window_size=(32, 32, 32), overlap=0.25)
    expected = nt.predict(volume, Model(sample.network, model.spec), settings)
    np.testing.assert_allclose(nt.predict(volume, model, settings), expected, atol=sample.tolerance)


def test_a_zip_leaves_nothing_behind(package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, scratch = zipped(package), tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    before = sorted(path.parent.rglob("*"))
    load_model(path)
    assert sorted(path.parent.rglob("*")) == before
    assert not list(scratch.iterdir())


@pytest.mark.parametrize("packed", [False, True])
def test_the_test_tensors_come_out(package: Path, packed: bool) -> None:
    model = load_model(zipped(package) if packed else package)
    found = nt.predict(np.load(package / "test_input.npy")[0, 0], model, ONE_WINDOW)
    np.testing.assert_allclose(found, np.load(package / "test_output.npy")[0], atol=1e-5)


@pytest.mark.parametrize(
    ("side", "default", "step"),
    [
        (96, 96, 0),
        ({"min": 16, "step": 16}, 64, 16),
        ({"min": 80, "step": 8}, 80, 8),
        ({"min": 10, "step": 20}, 70, 20),
    ],
)
def test_size_rules(package: Path, side: Any, default: int, step: int) -> None:
    change(
        package, merge(inputs__0__axes=[{"type": "batch"}, {"type": "channel", "channel_names": ["c"]}, *space(side)])
    )
    reference = [*space(None)]
    for axis in reference:
        axis["size"] = {"tensor_id": "raw", "axis_id": axis["id"]}
    change(package, lambda content: content["outputs"][0].update(axes=[*content["outputs"][0]["axes"][:2], *reference]))
    spec = describe_model(package)[1].spec
    assert spec is not None
    assert (spec.window.default, spec.window.step) == ((default,) * 3, (step,) * 3)
    assert spec.voxel_size_um is None


def test_a_side_that_refers_to_another(package: Path) -> None:
    reference = {"tensor_id": "raw", "axis_id": "y"}
    change(package, merge(inputs__0__axes__4__size=reference, outputs__0__axes__4__size=reference))
    description = describe_model(package)[1]
    assert description.spec is not None
    assert description.spec.window.default == (64, 64, 64)
    assert "The window's side along x must equal that along y." in description.notes


def test_a_halo_becomes_the_overlap_that_hides_it(package: Path) -> None:
    change(package, merge(outputs__0__axes__3__halo=8))
    spec = describe_model(package)[1].spec
    assert spec is not None
    assert spec.overlap == 2 * 8 / 64


def test_a_large_halo_makes_the_window_larger(package: Path) -> None:
    rule = {"min": 80, "step": 16}
    change(package, merge(inputs__0__axes__3__size=rule, outputs__0__axes__3__halo=39))
    spec = describe_model(package)[1].spec
    assert spec is not None
    assert spec.window.default[1] > 2 * 39
    assert spec.overlap == 2 * 39 / spec.window.default[1]


N = Normalisation


@pytest.mark.parametrize(
    ("described", "expected"),
    [
        ([], N()),
        ([("scale_linear", {"gain": 0.5})], N("divide", (("by", 2.0),))),
        ([("scale_linear", {"gain": 0.5, "offset": -1.0})], N("fixed", (("mean", 2.0), ("std", 2.0)))),
        ([("fixed_zero_mean_unit_variance", {"mean": 3.0, "std": 4.0})], N("fixed", (("mean", 3.0), ("std", 4.0)))),
        (
            [("clip", {"min": 1.0, "max": 5.0}), ("scale_linear", {"gain": 0.25})],
            N("fixed", (("high", 5.0), ("low", 1.0), ("mean", 0.0), ("std", 4.0))),
        ),
        (
            [("scale_linear", {"gain": 0.25}), ("clip", {"max": 1.0})],
            N("fixed", (("high", 4.0), ("mean", 0.0), ("std", 4.0))),
        ),
        (
            [("scale_range", {"min_percentile": 1.0, "max_percentile": 99.0})],
            N("percentile", (("clip", 0.0), ("eps", 1e-6), ("high", 99.0), ("low", 1.0))),
        ),
        (
            [("scale_range", {"min_percentile": 1.0, "max_percentile": 99.0}), ("clip", {"min": 0.0, "max": 1.0})],
            N("percentile", (("clip", 1.0), ("eps", 1e-6), ("high", 99.0), ("low", 1.0))),
        ),
        ([("scale_range", {}), ("clip", {"min": 0.0, "max": 1.0})], N("minmax", (("eps", 1e-6),))),
        (
            [
                ("ensure_dtype", {"dtype": "uint8"}),
                ("zero_mean_unit_variance", {}),
                ("ensure_dtype", {"dtype": "float32"}),
            ],
            N("zscore", (("eps", 1e-6),)),
        ),
    ],
)
def test_pre_processing(package: Path, described: list[Any], expected: Normalisation) -> None:
    spec = describe_model(change(package, steps(*described)))[1].spec
    assert spec is not None
    assert spec.normalisation == expected


def test_channels_of_their_own(package: Path) -> None:
    per_channel = {"axis": "channel", "mean": [1.0, 2.0], "std": [3.0, 4.0]}
    change(package, with_channels(2))
    spec = describe_model(change(package, steps(("fixed_zero_mean_unit_variance", per_channel))))[1].spec
    assert spec is not None
    assert spec.normalisation == (
        Normalisation("fixed", (("mean", 1.0), ("std", 3.0))),
        Normalisation("fixed", (("mean", 2.0), ("std", 4.0))),
    )


@pytest.mark.parametrize(
    ("described", "reason"),
    [
        ([("binarize", {"threshold": 0.5})], "'binarize', which Tessera cannot do: Tessera has no such step"),
        ([("sigmoid", {})], "'sigmoid'"),
        ([("scale_linear", {"gain": -1.0})], "its gain is -1"),
        ([("scale_linear", {"gain": 2.0}), ("scale_range", {})], "it is measured after another step"),
        ([("scale_range", {}), ("scale_linear", {"gain": 2.0})], "scales again what has been scaled"),
        ([("zero_mean_unit_variance", {"axes": ["y", "x"]})], "measured along x, y alone, not over the volume"),
        ([("zero_mean_unit_variance", {}), ("clip", {"min": -3.0})], "clips to -3 and inf after what is measured"),
        ([("clip", {"min": 3.0, "max": 3.0})], "which leaves one value"),
        ([("clip", {"min_percentile": 3.0})], "clips at percentiles"),
        ([("scale_linear", {"axis": "x", "gain": [1.0, 2.0]})], "2 values along 'x'"),
        (
            [("scale_linear", {"gain": 2.0}), ("ensure_dtype", {"dtype": "uint8"}), ("scale_linear", {"gain": 2.0})],
            "it follows a rounding to uint8",
        ),
    ],
)
def test_pre_processing_that_cannot_be_said_is_refused(package: Path, described: list[Any], reason: str) -> None:
    change(package, steps(*described))
    with pytest.raises(ModelError, match=reason) as caught:
        describe_model(package)
    assert str(package) in str(caught.value)


def test_statistics_of_several_channels_together_are_refused(package: Path) -> None:
    change(package, with_channels(2))
    with pytest.raises(ModelError, match="measured over its 2 channels together"):
        describe_model(package)


@pytest.mark.parametrize(
    ("described", "activation", "decoder", "note"),
    [
        ([("softmax", {})], "softmax", None, None),
        (
            [("sigmoid", {}), ("binarize", {"threshold": 0.3})],
            "sigmoid",
            DecoderChoice("threshold", (("threshold", 0.3),)),
            None,
        ),
        ([("scale_linear", {"gain": 2.0})], "none", None, "The post-processing step 'scale_linear' is not taken over."),
    ],
)
def test_post_processing(
    package: Path, described: list[Any], activation: str, decoder: DecoderChoice | None, note: str | None
) -> None:
    change(package, merge(outputs__0__axes__1={"type": "channel", "channel_names": ["cell outlines, membrane"]}))
    description = describe_model(change(package, after(*described)))[1]
    assert description.spec is not None
    assert description.spec.activation == activation
    assert description.spec.output.kind == "boundary"
    if decoder is not None:
        assert description.spec.decoder == decoder
    if note is not None:
        assert note in description.notes


def test_labels_that_need_a_foreign_step_are_refused(package: Path) -> None:
    kwargs = {"cellprob_threshold": 0.0, "flow_threshold": 0.4, "do_3D": True}
    change(package, merge(format_version="0.5.12", documentation=None))
    with pytest.raises(ModelError, match=r"gives flows, of which only .* 'cellpose_flow_dynamics' makes labels"):
        describe_model(change(package, after(("cellpose_flow_dynamics", kwargs))))


# Other axes than Tessera's


class Shuffled(torch.nn.Module):
    """Takes x, y, batch, channel and gives x, batch, y, without a channel."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = torch.nn.Conv2d(1, 1, 3, padding=1)

    def forward(self, tensor: torch.Tensor) -> list[torch.Tensor]:
        return [self.convolution(tensor.permute(2, 3, 1, 0))[:, 0].permute(2, 0, 1)]


def test_axes_in_another_order_without_channels(package: Path) -> None:
    torch.manual_seed(1)
    network = Shuffled().eval()
    entry = save_torchscript_of(package, network, torch.zeros(8, 9, 1, 1))
    content = yaml.safe_load((package / "rdf.yaml").read_text())
    y, x = ({"type": "space", "id": axis, "size": {"min": 16, "step": 1}} for axis in "yx")
    batch, channel = {"type": "batch"}, {"type": "channel", "channel_names": ["c"]}
    out = [{"type": "space", "id": axis, "size": {"tensor_id": "raw", "axis_id": axis}} for axis in "xy"]
    content["inputs"][0].update(axes=[x, y, batch, channel], preprocessing=[])
    content["outputs"][0].update(axes=[out[0], batch, out[1]], postprocessing=[])
    content["weights"] = {"torchscript": entry}
    model = load_model(write(package, content), trust=True)
    assert (model.spec.spatial_dims, model.spec.output.kind) == (2, "foreground")
    windows = torch.rand(3, 1, 20, 30)
    with torch.inference_mode():
        torch.testing.assert_close(model.network(windows), network.convolution(windows))


def save_torchscript_of(package: Path, network: torch.nn.Module, example: torch.Tensor) -> dict[str, Any]:
    path = package / "weights.torchscript"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.trace(network, example, check_trace=False), str(path))
    return {"source": path.name, "sha256": sha256(path), "pytorch_version": "2.10.0"}


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_whole_numbers_and_one_window_at_a_time(package: Path) -> None:
    class Doubles(torch.nn.Module):
        def forward(self, tensor: torch.Tensor) -> torch.Tensor:
            assert tensor.dtype == torch.uint8
            assert len(tensor) == 1
            return tensor * 2

    entry = save_torchscript_of(package, Doubles(), torch.zeros(1, 1, 32, 32, 32, dtype=torch.uint8))
    change(package, merge(weights={"torchscript": entry}, inputs__0__data={"type": "uint8"}))
    change(package, merge(inputs__0__axes__0={"type": "batch", "size": 1}))
    change(package, merge(outputs__0__axes__1={"type": "channel", "channel_names": ["c"]}))
    model = load_model(change(package, steps()), trust=True)
    windows = torch.randint(0, 120, (2, 1, 32, 32, 32)).float()
    with torch.inference_mode():
        torch.testing.assert_close(model.network(windows), windows * 2)
    assert any("described for images of type uint8" in note for note in model.notes)


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        (with_first_axis({"type": "time", "size": 3}), "the input 'raw' has the axis 'time' of type time"),
        (with_first_axis({"type": "space", "id": "depth", "size": 16}), "the axis 'depth' of type space"),
        (merge(outputs__0__axes__4__size={"tensor_id": "raw", "axis_id": "x", "offset": -8}), "size along x is not"),
        (merge(outputs__0__axes__4__size=64), "size along x is not the input's"),
        (merge(outputs__0__axes__4__scale=50.0), "size along x is not the input's"),
        (
            lambda content: content["inputs"].append({**deepcopy(content["inputs"][0]), "id": "second"}),
            "has 2 input and 1 output tensors",
        ),
        (merge(format_version="0.4.10"), "is of bioimage.io format 0.4.10, but Tessera reads 0.5"),
        (merge(type="dataset"), "describes a 'dataset', not a model"),
        (merge(inputs__0__axes__2__size="large"), "no valid bioimage.io model: inputs.0.axes.2.space.size"),
        (merge(weights=None), "no valid bioimage.io model: .*weights"),
    ],
)
def test_descriptions_that_no_network_of_tessera_can_be(package: Path, how: Change, reason: str) -> None:
    change(package, how)
    with pytest.raises(ModelError, match=reason) as caught:
        describe_model(package)
    assert str(package) in str(caught.value)


# Weights


def test_torchscript_asks_for_trust_by_its_own_file(package: Path) -> None:
    entry = save_torchscript(package, reference_network())
    change(package, merge(weights={"torchscript": entry}))
    risk = find_risk(package)
    assert risk is not None
    assert [file.name for file in risk.files] == ["weights.torchscript"]
    with pytest.raises(
        UntrustedModelError, match=r"is a bioimage.io package: opening it runs code from its TorchScript"
    ):
        load_model(package)
    remember_trust(package)
    found = nt.predict(np.load(package / "test_input.npy")[0, 0], load_model(package), ONE_WINDOW)
    np.testing.assert_allclose(found, np.load(package / "test_output.npy")[0], atol=1e-5)


def test_torchscript_in_a_zip_is_trusted_by_the_zip(package: Path) -> None:
    change(package, merge(weights={"torchscript": save_torchscript(package, reference_network())}))
    path = zipped(package)
    risk = find_risk(path)
    assert risk is not None
    assert risk.files == (path,)
    model = load_model(path, trust=True)
    assert model.spec.name == "small cells"


def test_the_safest_weights_are_taken(package: Path) -> None:
    script = {**save_torchscript(package, reference_network()), "parent": "pytorch_state_dict"}
    change(package, merge(weights__torchscript=script))
    assert describe_model(package)[1].architecture == "monai.networks.nets.BasicUNet"
    assert find_risk(package) is None


def test_why_a_safer_entry_is_not_taken_is_a_note(package: Path) -> None:
    script = {**save_torchscript(package, reference_network()), "parent": "pytorch_state_dict"}
    change(package, merge(weights__torchscript=script, weights__pytorch_state_dict__architecture__callable="FlexUNet"))
    description = describe_model(package)[1]
    assert description.architecture == "TorchScript archive"
    assert any("monai.networks.nets.FlexUNet is not one that Tessera rebuilds" in note for note in description.notes)


def test_a_class_may_be_named_by_its_own_module(sample: Sample) -> None:
    change(sample.path, merge(weights__pytorch_state_dict__architecture__import_from="monai.networks.nets.basic_unet"))
    same_prediction(load_model(sample.path), sample)


@pytest.mark.filterwarnings("ignore")  # of torch's older exporter, which needs fewer libraries
def test_onnx(package: Path) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("napari_tessera.models.formats.onnx", reason="the ONNX format is not there yet")
    onnx = pytest.importorskip("onnx")
    network = reference_network()
    path = package / "weights.onnx"
    torch.onnx.export(
        network,
        (torch.zeros(1, 1, 32, 32, 32),),
        str(path),
        input_names=["raw"],
        output_names=["cells"],
        dynamo=False,
        dynamic_axes={"raw": {0: "b", 2: "z", 3: "y", 4: "x"}, "cells": {0: "b", 2: "z", 3: "y", 4: "x"}},
    )
    assert onnx.load(str(path)).graph.node
    change(package, merge(weights={"onnx": {"source": path.name, "sha256": sha256(path), "opset_version": 17}}))
    for where in (package, zipped(package)):
        assert find_risk(where) is None
        found = nt.predict(np.load(package / "test_input.npy")[0, 0], load_model(where), ONE_WINDOW)
        np.testing.assert_allclose(found, np.load(package / "test_output.npy")[0], atol=1e-4)


def resave(package: Path, tensors: Any) -> None:
    torch.save(tensors, package / "weights.pt")
    change(package, merge(weights__pytorch_state_dict__sha256=sha256(package / "weights.pt")))


def test_wrong_but_honest_weights(package: Path) -> None:
    tensors = reference_network().state_dict()
    first = next(iter(tensors))
    resave(package, {name: tensor for name, tensor in tensors.items() if name != first})
    with pytest.raises(ModelError, match=f"'weights.pt' of .* do not fit .*BasicUNet: it lacks {first}"):
        load_model(package)
    resave(package, {**tensors, "extra": torch.zeros(1)})
    with pytest.raises(ModelError, match="it has unknown extra"):
        load_model(package)
    resave(package, {**tensors, first: torch.zeros(3, 3)})
    with pytest.raises(ModelError, match=f"of another shape are {first}"):
        load_model(package)
    resave(package, {"state_dict": tensors})
    with pytest.raises(ModelError, match="hold 'state_dict', which is no dense tensor"):
        load_model(package)


def test_another_number_of_channels_than_described(package: Path) -> None:
    change(package, with_channels(2))
    change(package, steps(("scale_linear", {"gain": 0.1})))
    with pytest.raises(ModelError, match="begins with 3D images of 1 channels, but its description says 3D and 2"):
        load_model(package)


def test_truncated_files(package: Path) -> None:
    weights, whole = package / "weights.pt", (package / "weights.pt").read_bytes()
    for length in (0, 10, len(whole) // 2):
        weights.write_bytes(whole[:length])
        with pytest.raises(ModelError, match=r"'weights.pt' in .* has the SHA-256 .* it is damaged or another file"):
            load_model(package)
        change(package, merge(weights__pytorch_state_dict__sha256=sha256(weights)))
        with pytest.raises(ModelError, match=r"weights 'weights.pt' of .* (cut short|more than tensors)"):
            load_model(package)
    path = zipped(package)
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(ModelError, match=r"cannot read .* as a zip"):
        load_model(path)


def test_missing_files_and_sums(package: Path) -> None:
    change(package, merge(weights__pytorch_state_dict__sha256=None))
    assert any("no SHA-256 of 'weights.pt'" in note for note in load_model(package).notes)
    (package / "weights.pt").unlink()
    for path in (package, zipped(package)):
        with pytest.raises(
            ModelError, match=r"no weights that Tessera opens; pytorch_state_dict: 'weights.pt' is missing"
        ):
            load_model(path)


def test_without_the_library_the_sentence_names_the_extra(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "bioimageio.spec", None)
    with pytest.raises(ModelError, match=r'needs bioimageio.spec: pip install "napari-tessera\[bioimageio\]"'):
        describe_model(package)


# Equal to bioimageio.core


ZSCORE = ("zero_mean_unit_variance", {"axes": ["channel", "z", "y", "x"]})
RANGE = ("scale_range", {"axes": ["channel", "z", "y", "x"], "min_percentile": 2.0, "max_percentile": 99.0})


@pytest.mark.parametrize(
    ("kind", "described"),
    [
        ("pytorch_state_dict", [ZSCORE]),
        ("torchscript", [ZSCORE]),
        ("pytorch_state_dict", [RANGE]),
        ("pytorch_state_dict", [RANGE, ("clip", {"min": 0.0, "max": 1.0})]),
        ("pytorch_state_dict", [("scale_range", {"axes": ["channel", "z", "y", "x"]})]),
        (
            "pytorch_state_dict",
            [("clip", {"min": 70.0, "max": 140.0}), ("scale_linear", {"gain": 0.02, "offset": -2.0})],
        ),
        ("pytorch_state_dict", [("fixed_zero_mean_unit_variance", {"mean": 101.0, "std": 19.0})]),
    ],
    ids=lambda value: value if isinstance(value, str) else "+".join(name for name, _ in value),
)
@pytest.mark.filterwarnings("ignore")  # bioimageio.core's own: it leaves files open, and TorchScript is deprecated
def test_predicts_what_bioimageio_core_predicts(
    package: Path, kind: str, described: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    core = pytest.importorskip("bioimageio.core", reason="bioimageio.core is missing: the comparison needs it")
    from bioimageio.spec import ValidationContext, load_model_description
    from bioimageio.spec.model.v0_5 import ModelDescr

    # Its score of completeness fails with pydantic 2.14 and bioimageio.spec 0.5.12; nothing of a prediction needs it.
    monkeypatch.setattr(ModelDescr, "_get_metadata_completeness", lambda self: 0.0)
    network = reference_network()
    entry = save_state_dict(package, network) if kind == "pytorch_state_dict" else save_torchscript(package, network)
    change(package, merge(weights={kind: entry}))
    change(package, steps(*described))

    with ValidationContext(log_warnings=False):
        theirs = load_model_description(package / "rdf.yaml", perform_io_checks=False)
        tensor = np.load(package / "test_input.npy")
        sample = core.digest_spec.create_sample_for_model(theirs, inputs={"raw": tensor})
        with core.create_prediction_pipeline(theirs, weight_format=kind, devices=["cpu"]) as pipeline:
            result = pipeline.predict_sample_without_blocking(sample)
    expected = next(member for name, member in result.members.items() if str(name) == "cells").data.to_numpy()
    del pipeline, theirs, sample, result
    gc.collect()  # the files that it leaves open, while that is no failure
    found = nt.predict(tensor[0, 0], load_model(package, trust=True), ONE_WINDOW)
    np.testing.assert_allclose(found, expected[0], atol=1e-5)


# Hostile packages


class Bomb:
    """Pickles to a call that leaves a file behind."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.canary}",)


@pytest.fixture
def canary(tmp_path: Path) -> Any:
    path = tmp_path / "canary"
    yield path
    assert not path.exists()


@pytest.mark.parametrize("modern", [True, False])
def test_pickled_weights_run_nothing(package: Path, canary: Path, modern: bool) -> None:
    torch.save({"a": torch.zeros(2), "b": Bomb(canary)}, package / "weights.pt", _use_new_zipfile_serialization=modern)
    change(package, merge(weights__pytorch_state_dict__sha256=sha256(package / "weights.pt")))
    with pytest.raises(ModelError, match=r"'weights.pt' of .* hold '\w+\.system', .* may run code"):
        load_model(package, trust=True)


def test_a_bare_pickle_runs_nothing(package: Path, canary: Path) -> None:
    (package / "weights.pt").write_bytes(pickle.dumps(Bomb(canary)))
    change(package, merge(weights__pytorch_state_dict__sha256=sha256(package / "weights.pt")))
    with pytest.raises(ModelError, match=r"'weights.pt'"):
        load_model(package, trust=True)


def test_an_architecture_in_a_file_is_not_run(package: Path, canary: Path) -> None:
    (package / "net.py").write_text(f"open({str(canary)!r}, 'w')\n")
    source = {"source": "net.py", "sha256": sha256(package / "net.py"), "callable": "Net"}
    change(package, merge(weights__pytorch_state_dict__architecture=source))
    with pytest.raises(ModelError, match=r"is code in the package \('net.py'\), which Tessera does not run"):
        load_model(package, trust=True)


@pytest.mark.parametrize(
    ("place", "name"),
    [("os", "system"), ("torch.hub", "load"), ("monai.bundle", "run"), ("monai.networks.nets", "resnet50")],
)
def test_no_other_callable_is_imported(package: Path, place: str, name: str) -> None:
    change(package, merge(weights__pytorch_state_dict__architecture={"import_from": place, "callable": name}))
    with pytest.raises(ModelError, match=f"architecture {place}.{name} is not one that Tessera rebuilds"):
        load_model(package, trust=True)


def test_a_custom_step_is_not_run(package: Path, canary: Path) -> None:
    (package / "step.py").write_text(f"open({str(canary)!r}, 'w')\n")
    step = {"id": "custom", "callable": "step", "source": "step.py", "sha256": sha256(package / "step.py")}
    change(package, merge(format_version="0.5.12", documentation=None, outputs__0__postprocessing=[step]))
    model = load_model(package)
    assert "The post-processing step 'custom' is code in the package and is not run." in model.notes


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("https://example.com/weights.pt", "a URL; Tessera downloads nothing"),
        ("../outside.pt", "lies outside the package"),
        ("inner/../../outside.pt", "lies outside the package"),
        ("..\\outside.pt", "lies outside the package"),
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_sources_outside_the_package_are_refused(package: Path, source: str, reason: str, packed: bool) -> None:
    (package / "weights.pt").rename(package.parent / "outside.pt")
    change(package, merge(weights__pytorch_state_dict__source=source))
    with pytest.raises(ModelError, match=reason) as caught:
        load_model(zipped(package) if packed else package)
    assert source in str(caught.value)


def test_an_absolute_source_is_refused(package: Path) -> None:
    (package / "weights.pt").rename(package.parent / "outside.pt")
    change(package, merge(weights__pytorch_state_dict__source=str(package.parent / "outside.pt")))
    with pytest.raises(ModelError, match=r"outside.pt"):
        load_model(package)


def test_a_link_out_of_the_package_is_refused(package: Path) -> None:
    (package / "weights.pt").rename(package.parent / "outside.pt")
    try:
        (package / "weights.pt").symlink_to(package.parent / "outside.pt")
    except OSError as error:
        pytest.skip(f"no links here: {error}")
    with pytest.raises(ModelError, match="is a link that leads outside of"):
        load_model(package)


def test_nothing_else_that_is_named_is_looked_up(package: Path) -> None:
    """The fixture `no_network` fails the test if it is."""
    url = "https://example.com/x"
    change(
        package,
        merge(
            inputs__0__output_of="affable-shark",
            inputs__0__test_tensor={"source": f"{url}.npy", "sha256": "0" * 64},
            covers=[f"{url}.png"],
            documentation=f"{url}.md",
            git_repo=url,
            config={"deepimagej": {"pixel_size": 1}},
        ),
    )
    notes = load_model(package).notes
    assert any("output of another model, 'affable-shark'" in note for note in notes)
    assert any("other programs is not taken over: deepimagej" in note for note in notes)


@pytest.mark.parametrize("name", ["../rdf.yaml", "/rdf.yaml", "a\\..\\rdf.yaml"])
def test_a_zip_that_climbs_is_refused(package: Path, tmp_path: Path, name: str) -> None:
    path = tmp_path / "climbs.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.write(package / "rdf.yaml", name)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ModelError, match=r"climbs.zip"):
        load_model(path)
    assert sorted(tmp_path.rglob("*")) == before


def test_zip_bombs_are_not_unpacked(package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    path = tmp_path / "bomb.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(package / "rdf.yaml", "rdf.yaml")
        with archive.open("weights.pt", "w") as file:
            for _ in range(64):
                file.write(bytes(1 << 20))
    with pytest.raises(ModelError, match=r"bomb.zip holds would grow from \d+ to 6711\d+ bytes"):
        load_model(path)
    assert not list(scratch.iterdir())


def test_a_bomb_within_the_weights_is_not_unpacked(package: Path) -> None:
    whole = package / "weights.pt"
    with zipfile.ZipFile(whole) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(whole, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in parts.items():
            archive.writestr(name, content + bytes(1 << 24) if name.endswith("data/0") else content)
    change(package, merge(weights__pytorch_state_dict__sha256=sha256(whole)))
    with pytest.raises(ModelError, match=r"hold a compressed part, .* which torch.save never writes"):
        load_model(package)


def test_a_size_that_lies_is_found_out(package: Path) -> None:
    """A zip that says a file is smaller than it is gives no more than it says."""
    path = zipped(package)
    content = bytearray(path.read_bytes())
    entry = content.rindex(b"weights.pt") - 46
    assert content[entry : entry + 4] == b"PK\x01\x02"
    content[entry + 24 : entry + 28] = struct.pack("<I", 100)
    path.write_bytes(content)
    with pytest.raises(ModelError, match=r"weights.pt"):
        load_model(path)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("!!python/object/apply:os.system ['touch {canary}']", "cannot read rdf.yaml"),
        ("a: !!python/name:os.system ''", "cannot read rdf.yaml"),
        ("a: [1", "cannot read rdf.yaml"),
        ("- 1", "no mapping"),
        ("a: 2026-99-99", "cannot read rdf.yaml|describes a None"),
        ("[" * 100_000, "nested too deeply|cannot read"),
        ("a: &a [*a]", "cannot read rdf.yaml|describes a None"),
        ("x: 1" * 300_000, "a model description has at most 1000000"),
        (
            "a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1]\n"
            + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12)),
            "stands for more than 200000 values",
        ),
    ],
    ids=["call", "name", "open", "list", "date", "deep", "itself", "long", "laughs"],
)
def test_hostile_yaml(package: Path, canary: Path, text: str, reason: str) -> None:
    (package / "rdf.yaml").write_text(text.replace("{canary}", str(canary)), encoding="utf-8")
    with pytest.raises(ModelError, match=reason) as caught:
        load_model(package, trust=True)
    assert str(package) in str(caught.value)
    assert len(str(caught.value)) < 1500


def test_a_description_of_other_bytes(package: Path) -> None:
    (package / "rdf.yaml").write_bytes(b"\xff\xfe\x00name")
    with pytest.raises(ModelError, match=r"cannot read rdf.yaml"):
        load_model(package)


def test_describe_writes_and_opens_nothing_else(sample: Sample) -> None:
    for file in sample.path.iterdir():
        if file.suffix == ".pt":
            file.write_bytes(b"not weights")
    assert describe_model(sample.path)[1].spec is not None


def test_several_packages_in_one_folder(package: Path, tmp_path: Path) -> None:
    outer = tmp_path / "outer"
    for name in ("a", "b"):
        (outer / name).mkdir(parents=True)
        (outer / name / "rdf.yaml").write_bytes((package / "rdf.yaml").read_bytes())
    with pytest.raises(ModelError, match="holds several models"):
        load_model(outer)


def test_the_documented_description_opens(package: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "models" / "bioimageio.md").read_text(encoding="utf-8")
    (package / "rdf.yaml").unlink()
    text = page.split('```yaml title="bioimageio.yaml"\n')[1].split("```")[0]
    (package / "bioimageio.yaml").write_text(text, encoding="utf-8")
    spec = load_model(package).spec
    assert (spec.name, spec.overlap, spec.voxel_size_um) == ("small cells", 0.25, (0.4, 0.1, 0.1))
