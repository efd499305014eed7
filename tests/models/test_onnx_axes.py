"""ONNX graphs of other axes and of one window per pass: what onnxruntime gives for them by itself must come out."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from tests.models.sample_onnx import NEEDS
from tests.refusals import Kind, raises

import napari_tessera as nt
from napari_tessera.core.errors import ModelError
from napari_tessera.models.load import describe_model
from napari_tessera.models.packing import pack

onnx = pytest.importorskip(NEEDS[0], reason="onnx (the extra onnx) is not installed")
runtime = pytest.importorskip(NEEDS[1], reason="onnxruntime (the extra onnx) is not installed")

IN, OUT = 3, 2
Dims = list[int | str]


def channels_last(folder: Path, sides: Dims, *, batch: int | str = "n", ends: list[str] | None = None) -> Path:
    """Write what TensorFlow's exporter does: transposed, a convolution of channels first, transposed back."""
    helper, tensor = onnx.helper, onnx.TensorProto
    rank = 2 + len(sides)
    first, last = [0, rank - 1, *range(1, rank - 1)], [0, *range(2, rank), 1]
    weights = np.random.default_rng(0).normal(size=(OUT, IN, *(3,) * len(sides))).astype(np.float32)
    nodes = [
        helper.make_node("Mul", ["x", "half"], ["scaled"]),
        helper.make_node("Transpose", ["scaled"], ["first"], perm=first),
        helper.make_node("Conv", ["first", "w"], ["conv"], kernel_shape=[3] * len(sides), pads=[1] * 2 * len(sides)),
        helper.make_node("Transpose", ["conv"], ["back"], perm=last),
        helper.make_node("Sigmoid", ["back"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", tensor.FLOAT, [batch, *sides, IN])],
        [helper.make_tensor_value_info("y", tensor.FLOAT, [batch, *sides, OUT])],
        [
            helper.make_tensor("half", tensor.FLOAT, [1], [0.5]),
            helper.make_tensor("w", tensor.FLOAT, weights.shape, weights.ravel()),
        ],
    )
    return saved(folder, graph)


def saved(folder: Path, graph: Any) -> Path:
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    path = folder / "net.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def alone(path: Path, image: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return what onnxruntime gives for the whole *image*, (C, *spatial), as (C', *spatial)."""
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {session.get_inputs()[0].name: np.moveaxis(image, 0, -1)[None]})
    return np.moveaxis(found[0], -1, 0)


@pytest.mark.parametrize(
    "sides", [[24, 32], ["h", "w"], [8, 24, 32], ["d", "h", "w"]], ids=["fixed", "free", "fixed 3D", "free 3D"]
)
def test_channels_last_are_found_and_right(sides: Dims, tmp_path: Path) -> None:
    path = channels_last(tmp_path, sides)
    shape = tuple(side if isinstance(side, int) else 4 * number for number, side in enumerate(sides, 4))
    model = nt.load_model(path)
    assert (model.spec.in_channels, model.spec.out_channels, model.spec.spatial_dims) == (IN, OUT, len(sides))
    assert not any("axes" in sentence for sentence in model.spec.assumed), "the graph shows them"
    image = np.random.default_rng(1).normal(size=(IN, *shape)).astype(np.float32)
    found = nt.predict(image, model, nt.Settings(window_size=shape, device="cpu"))
    np.testing.assert_allclose(found, alone(path, image), atol=1e-5)
    described = describe_model(path)[1].spec
    assert described == model.spec


def test_a_thousand_voxels_are_no_channels(tmp_path: Path) -> None:
    spec = describe_model(channels_last(tmp_path, [1024, 1024], batch=1))[1].spec
    assert spec is not None
    assert (spec.in_channels, spec.window.default) == (IN, (1024, 1024))


def test_packed_it_keeps_its_axes(tmp_path: Path) -> None:
    path = channels_last(tmp_path, ["h", "w"])
    model = nt.load_model(path)
    again = nt.load_model(pack(model, tmp_path / "packed.yaml")[0])
    image = np.random.default_rng(1).normal(size=(IN, 20, 28)).astype(np.float32)
    settings = nt.Settings(window_size=(16, 16), overlap=0.5, device="cpu")
    np.testing.assert_array_equal(nt.predict(image, model, settings), nt.predict(image, again, settings))


def plain_graph(folder: Path, given: Dims, result: Dims | None = None) -> Path:
    """Write a graph that shows no axes: its input times two."""
    helper, tensor = onnx.helper, onnx.TensorProto
    nodes = [helper.make_node("Mul", ["x", "two"], ["y"])]
    values = [
        helper.make_tensor_value_info(name, tensor.FLOAT, dims) for name, dims in (("x", given), ("y", result or given))
    ]
    two = helper.make_tensor("two", tensor.FLOAT, [1], [2.0])
    return saved(folder, helper.make_graph(nodes, "g", values[:1], values[1:], [two]))


@pytest.mark.parametrize(
    ("dims", "channels"), [(["n", 3, "h", "w"], 3), (["n", "h", "w", 3], 3), ([1, 3, 64, 64], 3), ([1, 64, 64, 3], 3)]
)
def test_a_graph_that_shows_no_axes_is_judged_by_its_sizes_and_that_is_said(
    dims: Dims, channels: int, tmp_path: Path
) -> None:
    model = nt.load_model(plain_graph(tmp_path, dims))
    assert model.spec.in_channels == channels
    assert any(sentence.startswith("axes are ") for sentence in model.spec.assumed)
    image = np.random.default_rng(1).normal(size=(channels, 64, 64)).astype(np.float32)
    np.testing.assert_allclose(nt.predict(image, model, nt.Settings(device="cpu")), 2 * image, rtol=1e-6)


def test_an_output_whose_axes_the_graph_hides_is_said(tmp_path: Path) -> None:
    model = onnx.load(str(channels_last(tmp_path, [16, 16], batch=1)))
    model.graph.node[-1].CopyFrom(onnx.helper.make_node("Reshape", ["back", "shape"], ["y"]))
    model.graph.initializer.append(onnx.helper.make_tensor("shape", onnx.TensorProto.INT64, [4], [1, 16, 16, OUT]))
    spec = describe_model(saved(tmp_path, model.graph))[1].spec
    assert spec is not None
    assert (spec.in_channels, spec.out_channels) == (IN, OUT)
    assert any(sentence.startswith("axes of the output are byxc") for sentence in spec.assumed)


@pytest.mark.parametrize("dims", [[1, 32, 32, 32], ["n", "c", "h", "w"]])
def test_what_nothing_tells_is_asked(dims: Dims, tmp_path: Path) -> None:
    with raises(ModelError, Kind.WHICH_AXIS):
        nt.load_model(plain_graph(tmp_path, dims))


def test_a_description_that_says_its_axes_answers(tmp_path: Path) -> None:
    path = plain_graph(tmp_path, [1, 32, 32, 32])
    packed = {
        "format": "tessera-model/1",
        "name": "asked",
        "program": {"kind": "onnx", "file": path.name, "sha256": nt_fingerprint(path)},
        "around": [{"do": "tensor", "axes_in": "byxc", "axes_out": "byxc"}],
        "spatial_dims": 2,
        "in_channels": 32,
        "out_channels": 32,
        "window": {"default": [32, 32], "step": [0, 0], "minimum": [32, 32]},
    }
    (tmp_path / "asked.yaml").write_text(yaml.safe_dump(packed))
    model = nt.load_model(tmp_path / "asked.yaml")
    image = np.random.default_rng(1).normal(size=(32, 32, 32)).astype(np.float32)
    np.testing.assert_allclose(nt.predict(image, model, nt.Settings(device="cpu")), 2 * image, rtol=1e-6)


def nt_fingerprint(path: Path) -> str:
    import hashlib

    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("sw_batch_size", [1, 2, 3])
@pytest.mark.parametrize("batch", [1, 2])
def test_windows_of_a_fixed_batch_are_computed_alike(batch: int, sw_batch_size: int, tmp_path: Path) -> None:
    path = channels_last(tmp_path, [16, 16], batch=batch)
    free = channels_last_free(tmp_path)
    image = np.random.default_rng(1).normal(size=(IN, 40, 40)).astype(np.float32)
    settings = nt.Settings(overlap=0.5, sw_batch_size=sw_batch_size, window_size=(16, 16), device="cpu")
    model = nt.load_model(path)
    assert nt.plan((40, 40), model, settings).forward_passes == -(-16 // sw_batch_size)
    np.testing.assert_allclose(nt.predict(image, model, settings), nt.predict(image, free, settings), atol=1e-6)


def channels_last_free(folder: Path) -> nt.Model:
    (folder / "free").mkdir()
    return nt.load_model(channels_last(folder / "free", ["h", "w"]))


def test_memory_of_a_fixed_batch_is_that_of_its_passes_and_all_their_outputs(tmp_path: Path) -> None:
    """By hand, of a graph that makes one tensor as large as the window."""
    model = nt.load_model(plain_graph(tmp_path, [1, 1, 16, 16]))
    size = 4 * 16 * 16
    for windows in (1, 2, 5):
        settings = nt.Settings(sw_batch_size=windows, device="cpu")
        counted = nt.plan((64, 64), model, settings).needs.need.profile.activations_bytes
        # The windows, an output of each, and all outputs side by side; a single one is its own.
        assert counted == (2 * size if windows == 1 else 3 * windows * size)


def test_a_view_of_windows_without_data_has_none(tmp_path: Path) -> None:
    network = nt.load_model(plain_graph(tmp_path, [1, 1, 16, 16])).network
    windows = torch.empty(3, 1, 16, 16, device="meta")
    assert network(windows[2:]).device.type == "meta"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert network(torch.zeros(1, 1, 16, 16)).device.type == "cpu"
