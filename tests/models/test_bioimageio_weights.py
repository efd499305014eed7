"""bioimage.io packages: which weights are opened, for which axes, and what is said of those that do not fit."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from tests.models.change_bioimageio import (
    ONE_WINDOW,
    Change,
    change,
    merge,
    resave,
    same_prediction,
    save_torchscript_of,
    sha256,
    steps,
    with_channels,
    with_first_axis,
)
from tests.models.sample import Sample, reference_network
from tests.models.sample_bioimageio import describe_older, save_torchscript, write, zipped
from tests.refusals import Kind, raises

import napari_tessera as nt
from napari_tessera.core.errors import ModelError, UntrustedModelError
from napari_tessera.models.load import describe_model, find_risk, load_model, remember_trust

pytest.importorskip("bioimageio.spec", reason="bioimageio.spec is missing: pip install 'napari-tessera[bioimageio]'")
pytestmark = pytest.mark.usefixtures("no_network")


# --- other axes than Tessera's ---


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


def test_whole_numbers_and_one_window_at_a_time(package: Path) -> None:
    class Doubles(torch.nn.Module):
        def forward(self, tensor: torch.Tensor) -> torch.Tensor:
            assert tensor.dtype == torch.uint8
            assert len(tensor) == 1
            return tensor.float() * 2

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
        (merge(format_version="0.3.6"), r"is of bioimage.io format 0\.3\.6, but Tessera reads 0\.4 and 0\.5"),
        (merge(format_version="0.4.10"), r"no valid bioimage.io model: inputs\.0"),
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


# --- descriptions of format 0.4, and other names of descriptions ---


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize("pack", [lambda package: package, zipped])
def test_a_description_of_format_0_4(package: Path, pack: Callable[[Path], Path]) -> None:
    """Its test tensors are of the same network, computed with torch and numpy."""
    write(package, describe_older(package))
    model = load_model(pack(package))
    found = nt.predict(np.load(package / "test_input.npy")[0, 0], model, ONE_WINDOW)
    np.testing.assert_allclose(found, np.load(package / "test_output.npy")[0], atol=1e-5)
    assert model.spec.name == "small cells"
    assert (model.spec.window.minimum, model.spec.window.step) == ((32,) * 3, (16,) * 3)
    assert any("0.4.10" in note for note in model.notes)


def test_a_description_of_format_0_4_is_held_to_its_hashes_and_asks_for_trust(package: Path) -> None:
    described = describe_older(package)
    described["weights"]["pytorch_state_dict"]["sha256"] = "0" * 64
    write(package, described)
    with raises(ModelError, "weights.pt", "SHA-256"):
        load_model(package)
    entry = save_torchscript(package, reference_network())
    del entry["pytorch_version"]
    write(package, describe_older(package, torchscript=entry))
    with pytest.raises(UntrustedModelError):
        load_model(package)
    found = nt.predict(np.load(package / "test_input.npy")[0, 0], load_model(package, trust=True), ONE_WINDOW)
    np.testing.assert_allclose(found, np.load(package / "test_output.npy")[0], atol=1e-5)


@pytest.mark.parametrize("pack", [lambda package: package, zipped, lambda package: package / "cells.bioimageio.yaml"])
def test_descriptions_may_have_a_name_of_their_own(package: Path, pack: Callable[[Path], Path]) -> None:
    (package / "rdf.yaml").rename(package / "cells.bioimageio.yaml")
    form, description = describe_model(pack(package))
    assert form.name == "bioimage.io package"
    assert description.spec is not None
    assert description.spec.name == "small cells"
    load_model(pack(package))


def test_of_several_descriptions_none_is_chosen(package: Path) -> None:
    text = (package / "rdf.yaml").read_text()
    (package / "a.bioimageio.yaml").write_text(text)
    assert describe_model(package)[1].spec is not None, "rdf.yaml is the usual one"
    (package / "rdf.yaml").rename(package / "b.bioimageio.yaml")
    with raises(ModelError, "a.bioimageio.yaml", "b.bioimageio.yaml"):
        describe_model(package)


# --- weights ---


def test_torchscript_asks_for_trust_by_its_own_file(package: Path) -> None:
    entry = save_torchscript(package, reference_network())
    change(package, merge(weights={"torchscript": entry}))
    risk = find_risk(package)
    assert risk is not None
    assert [file.name for file in risk.files] == ["weights.torchscript"]
    with raises(UntrustedModelError, "TorchScript", "bioimage.io"):
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
    pytest.importorskip("napari_tessera.models.formats.onnx.onnx_format", reason="the ONNX format is not there yet")
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


@pytest.mark.filterwarnings("ignore")  # of torch's older exporter, which needs fewer libraries
@pytest.mark.parametrize("last", [False, True], ids=["channels first", "channels last"])
def test_onnx_of_one_window_per_pass(package: Path, last: bool) -> None:
    """As most packages of bioimage.io: what the network itself gives must come out of any sw_batch_size."""
    pytest.importorskip("onnx")
    runtime = pytest.importorskip("onnxruntime")

    class Turned(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = reference_network()

        def forward(self, tensor: torch.Tensor) -> torch.Tensor:
            return self.network(tensor.permute(0, 4, 1, 2, 3)).permute(0, 2, 3, 4, 1)

    path = package / "weights.onnx"
    shape = (1, 32, 32, 32, 1) if last else (1, 1, 32, 32, 32)
    network = Turned().eval() if last else reference_network()
    torch.onnx.export(network, (torch.zeros(shape),), str(path), input_names=["raw"], dynamo=False)
    change(package, merge(weights={"onnx": {"source": path.name, "sha256": sha256(path), "opset_version": 17}}))

    def one_window(content: dict[str, Any]) -> None:
        for tensor in (*content["inputs"], *content["outputs"]):
            batch, channels, *sides = tensor["axes"]
            batch["size"] = 1
            if last:
                tensor["axes"] = [batch, *sides, channels]
                saved = package / tensor["test_tensor"]["source"]
                np.save(saved, np.moveaxis(np.load(saved), 1, -1))
                tensor["test_tensor"] = {"source": saved.name, "sha256": sha256(saved)}

    change(package, one_window)
    model = load_model(package)
    windows = torch.randn(3, 1, 32, 32, 32, generator=torch.Generator().manual_seed(0))
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    for count in (1, 2, 3):
        given = windows[:count]
        expected = [session.run(None, {"raw": one.reshape(shape).numpy()})[0].reshape(-1) for one in given]
        found = model.network(given).movedim(1, -1) if last else model.network(given)
        np.testing.assert_allclose(found.reshape(count, -1), expected, atol=1e-5)
        settings = nt.Settings(sw_batch_size=count, window_size=(32, 32, 32), device="cpu")
        counted = nt.plan((64, 64, 64), model, settings).needs.need.profile.activations_bytes
        assert counted > 4 * 3 * count * 32**3, "the windows and both channels of their outputs"


def test_wrong_but_honest_weights(package: Path) -> None:
    tensors = reference_network().state_dict()
    first = next(iter(tensors))
    resave(package, {name: tensor for name, tensor in tensors.items() if name != first})
    with raises(ModelError, "weights.pt", Kind.LACKS, first):
        load_model(package)
    resave(package, {**tensors, "extra": torch.zeros(1)})
    with raises(ModelError, Kind.UNKNOWN_WEIGHTS, "extra"):
        load_model(package)
    resave(package, {**tensors, first: torch.zeros(3, 3)})
    with raises(ModelError, Kind.OTHER_SHAPE, first):
        load_model(package)


def test_another_number_of_channels_than_described(package: Path) -> None:
    change(package, with_channels(2))
    change(package, steps(("scale_linear", {"gain": 0.1})))
    with raises(ModelError, 1, 2, "3D"):
        load_model(package)


def test_truncated_files(package: Path) -> None:
    weights, whole = package / "weights.pt", (package / "weights.pt").read_bytes()
    for length in (0, 10, len(whole) // 2):
        weights.write_bytes(whole[:length])
        with raises(ModelError, "weights.pt", "SHA-256", Kind.DAMAGED):
            load_model(package)
        change(package, merge(weights__pytorch_state_dict__sha256=sha256(weights)))
        with pytest.raises(ModelError, match=r"weights 'weights.pt' of .* (cut short|is empty|more than tensors)"):
            load_model(package)
    path = zipped(package)
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(ModelError, match=r"cannot read .* as a zip|was cut short"):
        load_model(path)


def test_missing_files_and_sums(package: Path) -> None:
    change(package, merge(weights__pytorch_state_dict__sha256=None))
    assert any("no SHA-256 of 'weights.pt'" in note for note in load_model(package).notes)
    (package / "weights.pt").unlink()
    for path in (package, zipped(package)):
        with raises(ModelError, "pytorch_state_dict", "weights.pt", Kind.MISSING):
            load_model(path)


def test_without_the_library_the_sentence_names_the_extra(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "bioimageio.spec", None)
    with raises(ModelError, "bioimageio.spec", "napari-tessera[bioimageio]"):
        describe_model(package)
