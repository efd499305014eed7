"""ONNX graphs: shapes and rules from the graph, files beside it and no others, memory beforehand, honest refusals."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.models import sample_onnx
from tests.refusals import Kind, raises

import napari_tessera as nt
from napari_tessera.core.errors import ModelError

onnx = pytest.importorskip("onnx", reason="onnx (the extra onnx) is not installed")
pytest.importorskip("onnxruntime", reason="onnxruntime (the extra onnx) is not installed")

from napari_tessera.models.formats.onnx.graph import KEPT_BYTES, read_skeleton  # noqa: E402
from napari_tessera.models.formats.onnx.onnx_format import FORMAT, METADATA_KEY  # noqa: E402


def graph_of(*, batch: int | str = "n", side: int | str = "s", channels: int = 1, out: int = 2) -> Any:
    """Return a graph of one convolution whose weights are 1, out channels times the sum of a voxel's channels."""
    helper, tensor = onnx.helper, onnx.TensorProto
    shape = [batch, channels, side, side, side]
    weights = helper.make_tensor("w", tensor.FLOAT, [out, channels, 1, 1, 1], np.ones(out * channels, np.float32))
    node = helper.make_node("Conv", ["x", "w"], ["y"], kernel_shape=[1, 1, 1])
    given = helper.make_tensor_value_info("x", tensor.FLOAT, shape)
    result = helper.make_tensor_value_info("y", tensor.FLOAT, [batch, out, side, side, side])
    graph = helper.make_graph([node], "g", [given], [result], [weights])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def saved(folder: Path, model: Any) -> Path:
    path = folder / "net.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def test_free_and_fixed_sides_and_batches(tmp_path: Path) -> None:
    free = FORMAT.load(saved(tmp_path, graph_of()))
    assert (free.spec.in_channels, free.spec.out_channels) == (1, 2)
    assert free.spec.window.step == (1, 1, 1)
    fixed = FORMAT.load(saved(tmp_path, graph_of(batch=2, side=16)))
    assert fixed.spec.window.default == (16, 16, 16)
    with raises(nt.SettingsError, 16, "window_size"):
        nt.plan((40, 40, 40), fixed, nt.Settings(window_size=(32, 32, 32), device="cpu"))
    volume = np.random.default_rng(0).random((20, 20, 40), np.float32)
    for batch in (1, 2, 3):  # the graph takes exactly two
        found = nt.predict(volume, fixed, nt.Settings(sw_batch_size=batch, device="cpu"))
        np.testing.assert_allclose(found, np.stack([volume, volume]), atol=1e-5)


def test_a_description_inside_the_file_or_beside_it_counts(tmp_path: Path) -> None:
    text = (
        "{format: tessera-model/1, name: told, spatial_dims: 3, in_channels: 1, out_channels: 2, activation: sigmoid, "
        "window: {default: [24, 24, 24], step: [8, 8, 8], minimum: [8, 8, 8]}}"
    )
    model = graph_of()
    onnx.helper.set_model_props(model, {METADATA_KEY: text})
    path = saved(tmp_path, model)
    assert FORMAT.load(path).spec.name == "told"
    assert FORMAT.load(path).spec.activation == "sigmoid"
    path.with_suffix(".yaml").write_text(text.replace("told", "beside"))
    assert FORMAT.load(path).spec.name == "beside"


def test_memory_of_a_pass_is_that_of_its_tensors(tmp_path: Path) -> None:
    model = FORMAT.load(sample_onnx.make(tmp_path).path)
    settings = nt.Settings(window_size=(32, 32, 32), device="cpu")
    one, four = (
        nt.plan((64, 64, 64), model, nt.Settings(window_size=(32, 32, 32), sw_batch_size=n, device="cpu"))
        for n in (2, 8)
    )
    assert four.needs.need.profile.activations_bytes == pytest.approx(
        4 * one.needs.need.profile.activations_bytes, rel=0.01
    )
    assert one.memory_error >= 0.3, "another library runs it"
    assert nt.plan((64, 64, 64), model, settings).memory.weights_bytes > 50_000


def external(model: Any, location: str) -> Any:
    weights = model.graph.initializer[0]
    weights.ClearField("raw_data")
    del weights.float_data[:]
    weights.data_location = onnx.TensorProto.EXTERNAL
    entry = weights.external_data.add()
    entry.key, entry.value = "location", location
    return model


@pytest.mark.parametrize("location", ["../secret.bin", "/etc/passwd", "", "a/../../secret.bin"])
def test_weights_outside_its_folder_are_refused(tmp_path: Path, location: str) -> None:
    (tmp_path / "secret.bin").write_bytes(bytes(8))
    folder = tmp_path / "model"
    folder.mkdir()
    path = saved(folder, external(graph_of(), location))
    for act in (FORMAT.load, FORMAT.describe):
        with raises(ModelError, "net.onnx", Kind.NOT_IN_ITS_FOLDER):
            act(path)


def test_a_link_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "secret.bin").write_bytes(bytes(8))
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "weights.bin").symlink_to(tmp_path / "secret.bin")
    with raises(ModelError, Kind.NOT_IN_ITS_FOLDER):
        FORMAT.load(saved(folder, external(graph_of(), "weights.bin")))


def beside(folder: Path, **keys: object) -> Path:
    """Write a graph with weights in a file of 8 bytes, which *keys* describe."""
    (folder / "weights.bin").write_bytes(bytes(8))
    model = external(graph_of(), "weights.bin")
    for key, value in keys.items():
        entry = model.graph.initializer[0].external_data.add()
        entry.key, entry.value = key, str(value)
    return saved(folder, model)


@pytest.mark.parametrize("keys", [{"offset": 0, "length": 8}, {"length": 8}, {"offset": 0}, {}])
def test_weights_that_lie_within_a_file(tmp_path: Path, keys: dict[str, int]) -> None:
    assert FORMAT.load(beside(tmp_path, **keys)).spec.out_channels == 2


@pytest.mark.parametrize(
    ("keys", "reason"),
    [
        ({"offset": 4, "length": 8}, ("'weights.bin'", 4, 12, "8 bytes")),
        ({"offset": 4}, (4, 12)),
        ({"offset": 2**60}, (2**60, "8 bytes")),
        ({"length": 9}, (0, 9)),
        ({"length": 4}, ("4 bytes", 8)),
        ({"offset": -4}, Kind.NO_SIZES),
        ({"length": "many"}, Kind.NO_SIZES),
        ({"offset": "9" * 5000}, Kind.NO_SIZES),
        ({"location": "../secret.bin"}, Kind.TWICE),
        ({"location": "weights.bin"}, Kind.TWICE),
    ],
)
def test_weights_beyond_the_end_of_a_file(tmp_path: Path, keys: dict[str, object], reason: object) -> None:
    path = beside(tmp_path, **keys)
    for act in (FORMAT.load, FORMAT.describe):
        with raises(ModelError, "net.onnx", reason):
            act(path)


def test_every_cut_is_one_sentence(tmp_path: Path) -> None:
    content = graph_of().SerializeToString()
    path = tmp_path / "net.onnx"
    for length in range(len(content)):
        path.write_bytes(content[:length])
        with raises(ModelError, "net.onnx") as caught:
            FORMAT.load(path)
        assert "\n" not in str(caught.value)


def large(folder: Path, megabytes: int) -> Path:
    """Write a graph whose only weights are a kernel of so many megabytes."""
    return saved(folder, graph_of(channels=5000, out=megabytes * 50))


def test_opening_takes_no_memory_for_the_weights(tmp_path: Path, memory: Callable[[], float]) -> None:
    path = large(tmp_path, 40)
    begin = memory()
    model = FORMAT.load(path)
    FORMAT.describe(path)
    assert memory() - begin < 0.5 * path.stat().st_size
    assert model.spec.out_channels == 2000
    assert model.network.weights.nbytes >= 40e6  # type: ignore[union-attr, operator]


def test_a_graph_without_its_values_is_the_same_graph(tmp_path: Path) -> None:
    path = sample_onnx.make(tmp_path).path
    whole, read = onnx.load(path), onnx.ModelProto.FromString(read_skeleton(path))
    for tensor in whole.graph.initializer:
        if len(tensor.raw_data) > KEPT_BYTES:
            tensor.ClearField("raw_data")
    assert read == whole


def test_onnxruntime_that_is_missing_is_noticed_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(tmp_path, graph_of())
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    for act in (FORMAT.load, FORMAT.describe):
        with raises(ModelError, "ONNX", "napari-tessera[onnx]"):
            act(path)


def test_errors_of_onnxruntime_name_no_places_in_its_source(tmp_path: Path) -> None:
    model = graph_of(side=16)
    model.ir_version = 99
    newer = FORMAT.load(saved(tmp_path, model)).network
    with raises(ModelError, "net.onnx", 99) as caught:
        newer(torch.ones(1, 1, 16, 16, 16))
    assert "::" not in str(caught.value)
    fixed = FORMAT.load(saved(tmp_path, graph_of(side=16))).network
    with raises(ModelError, "net.onnx", "(1, 1, 8, 8, 8)") as caught:
        fixed(torch.ones(1, 1, 8, 8, 8))
    assert "ONNXRuntimeError" not in str(caught.value)


def test_weights_beside_it_are_read(tmp_path: Path) -> None:
    (tmp_path / "weights.bin").write_bytes(np.full(2, 3, np.float32).tobytes())
    model = FORMAT.load(saved(tmp_path, external(graph_of(), "weights.bin")))
    assert model.network(torch.ones(1, 1, 8, 8, 8)).unique().tolist() == [3.0]
    (tmp_path / "weights.bin").unlink()
    with raises(ModelError, "weights.bin", Kind.MISSING):
        FORMAT.load(tmp_path / "net.onnx")


def test_what_no_network_of_windows_is(tmp_path: Path) -> None:
    flat = graph_of()
    del flat.graph.input[0].type.tensor_type.shape.dim[3:]
    half = graph_of()
    half.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.FLOAT16
    two = graph_of()
    two.graph.input.append(onnx.helper.make_tensor_value_info("z", 1, [1]))
    for model, reason in ((flat, Kind.SHAPE_OF_INPUT), (half, "float32"), (two, "2 inputs")):
        with raises(ModelError, reason):
            FORMAT.load(saved(tmp_path, model))


@pytest.mark.parametrize("content", [b"", b"\x08", b"not a graph" * 100])
def test_what_is_no_onnx(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "net.onnx"
    path.write_bytes(content)
    with raises(ModelError, "net.onnx"):
        FORMAT.load(path)


def test_an_operator_that_onnxruntime_does_not_know_is_one_sentence(tmp_path: Path) -> None:
    model = graph_of()
    model.graph.node[0].op_type, model.graph.node[0].domain = "Run", "somebody"
    model.opset_import.append(onnx.helper.make_opsetid("somebody", 1))
    network = FORMAT.load(saved(tmp_path, model)).network
    with raises(ModelError, Kind.CANNOT_RUN, "net.onnx"):
        network(torch.ones(1, 1, 8, 8, 8))
