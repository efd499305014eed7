"""Programs that were exported in training mode: it is found in their graphs, and said."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.models import sample_onnx
from torch.export import Dim

import napari_tessera as nt
from napari_tessera.engine.loop.events import Event, Noticed
from napari_tessera.models.formats.programs.exported_program import FORMAT as EXPORTED
from napari_tessera.models.load import load_model
from napari_tessera.models.model import Model
from napari_tessera.models.networks.training_mode import iter_graph_operations, sentences_of

VOLUME = np.random.default_rng(0).normal(size=(8, 16, 24)).astype(np.float32)
WINDOWS = torch.zeros(2, 1, 8, 8, 8)
Save = Callable[[torch.nn.Module, Path], Path]


def network(*layers: torch.nn.Module) -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Conv3d(1, 4, 3, padding=1), *layers, torch.nn.Conv3d(4, 2, 1))


def traced(module: torch.nn.Module, folder: Path) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.jit.trace(module, WINDOWS, check_trace=False)  # type: ignore[no-untyped-call]
        torch.jit.save(program, str(folder / "net.pt"))  # type: ignore[no-untyped-call]
    return folder / "net.pt"


def scripted(module: torch.nn.Module, folder: Path) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(module), str(folder / "net.pt"))  # type: ignore[no-untyped-call]
    return folder / "net.pt"


def exported(module: torch.nn.Module, folder: Path) -> Path:
    axes = {0: Dim("n", max=64)} | {axis: Dim(f"s{axis}", max=512) for axis in (2, 3, 4)}
    torch.export.save(torch.export.export(module, (WINDOWS,), dynamic_shapes=(axes,)), folder / "net.pt2")
    return folder / "net.pt2"


def as_onnx(module: torch.nn.Module, folder: Path) -> Path:
    for library in sample_onnx.NEEDS:
        pytest.importorskip(library)
    axes = {0: "n", 2: "z", 3: "y", 4: "x"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module,
            (WINDOWS,),
            folder / "net.onnx",
            dynamo=False,
            training=torch.onnx.TrainingMode.PRESERVE,
            do_constant_folding=False,
            input_names=["x"],
            output_names=["y"],
            dynamic_axes={"x": axes, "y": axes},
        )
    return folder / "net.onnx"


def said(model: Model, **settings: Any) -> tuple[list[str], list[Any]]:
    """Return what two runs notice, and their results."""
    events: list[Event] = []
    wanted = nt.Settings(window_size=(8, 8, 8), device="cpu", **settings)
    results = [nt.predict(VOLUME, model, wanted, on_event=events.append) for _ in range(2)]
    return [event.sentence for event in events if isinstance(event, Noticed)][::2], results


@pytest.mark.parametrize("sw_batch_size", [1, 4])
@pytest.mark.parametrize("save", [traced, exported])
def test_dropout_in_training_mode(save: Save, sw_batch_size: int, tmp_path: Path) -> None:
    model = load_model(save(network(torch.nn.Dropout(0.5)).train(), tmp_path), trust=True)
    found, (one, other) = said(model, sw_batch_size=sw_batch_size)
    assert len(found) == 1
    assert "random" in found[0]
    assert np.abs(one - other).max() > 0.1


@pytest.mark.parametrize("save", [traced, exported])
def test_batch_statistics(save: Save, tmp_path: Path) -> None:
    model = load_model(save(network(torch.nn.BatchNorm3d(4)).train(), tmp_path), trust=True)
    found, (of_four, _) = said(model, sw_batch_size=4)
    assert len(found) == 1
    assert "sw_batch_size" in found[0]
    assert np.abs(of_four - said(model, sw_batch_size=1)[1][0]).max() > 0.01


def test_onnxruntime_drops_nothing(tmp_path: Path) -> None:
    module = network(torch.nn.Dropout(0.5))
    found, (one, other) = said(load_model(as_onnx(module.train(), tmp_path)))
    assert found == []
    np.testing.assert_array_equal(one, other)
    expected = nt.predict(
        VOLUME,
        Model.from_network(module.eval(), in_channels=1, out_channels=2),
        nt.Settings(window_size=(8, 8, 8), device="cpu"),
    )
    np.testing.assert_allclose(one, expected, atol=1e-5)


@pytest.mark.parametrize("layer", [torch.nn.Dropout(0.0), torch.nn.InstanceNorm3d(4), torch.nn.GroupNorm(2, 4)])
@pytest.mark.parametrize("save", [traced, exported])
def test_what_is_the_same_in_training_is_not_said(save: Save, layer: torch.nn.Module, tmp_path: Path) -> None:
    found, (one, other) = said(load_model(save(network(layer).train(), tmp_path), trust=True))
    assert found == []
    np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("save", [traced, scripted, exported, as_onnx])
def test_evaluation_mode_is_not_said(save: Save, tmp_path: Path) -> None:
    module = network(torch.nn.BatchNorm3d(4), torch.nn.Dropout(0.5), torch.nn.InstanceNorm3d(4)).eval()
    assert said(load_model(save(module, tmp_path), trust=True))[0] == []


def test_a_script_that_keeps_its_mode_is_put_in_evaluation_mode(tmp_path: Path) -> None:
    found, (one, other) = said(load_model(scripted(network(torch.nn.Dropout(0.5)).train(), tmp_path), trust=True))
    assert found == []
    np.testing.assert_array_equal(one, other)


def test_it_is_described_without_opening_the_program(tmp_path: Path) -> None:
    (note,) = EXPORTED.describe(exported(network(torch.nn.Dropout(0.5)).train(), tmp_path)).notes
    assert "random" in note
    assert EXPORTED.describe(exported(network(torch.nn.Dropout(0.5)).eval(), tmp_path)).notes == ()


def test_an_onnx_graph_that_measures_the_scale_of_a_pass(tmp_path: Path) -> None:
    for library in sample_onnx.NEEDS:
        pytest.importorskip(library)
    import onnx

    from napari_tessera.models.formats.onnx.onnx_format import FORMAT

    helper, kinds = onnx.helper, onnx.TensorProto
    shape = ["n", 1, "z", "y", "x"]
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "scale", "zero"]),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["y"]),
    ]
    values = [helper.make_tensor_value_info(name, kinds.FLOAT, shape) for name in ("x", "y")]
    graph = helper.make_graph(nodes, "g", values[:1], values[1:])
    path = tmp_path / "net.onnx"
    path.write_bytes(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9).SerializeToString()
    )
    (note,) = FORMAT.describe(path).notes
    assert "sw_batch_size" in note
    found, (of_four, _) = said(load_model(path), sw_batch_size=4)
    assert len(found) == 1
    assert np.abs(of_four - said(load_model(path), sw_batch_size=1)[1][0]).max() > 1e-3


@pytest.mark.parametrize("save", [traced, exported])
def test_kept_statistics_that_are_not_used(save: Save, tmp_path: Path) -> None:
    module = network(torch.nn.InstanceNorm3d(4, track_running_stats=True)).train()
    module(torch.randn(4, 1, 8, 8, 8) + 1)
    program = load_model(save(module, tmp_path), trust=True)
    found, (one, _) = said(program)
    assert len(found) == 1
    assert "training kept" in found[0]
    right = said(Model.from_network(module.eval(), in_channels=1, out_channels=2))[1][0]
    assert np.abs(one - right).max() > 0.1
    assert said(load_model(save(module.eval(), tmp_path), trust=True))[0] == []


@pytest.mark.parametrize("layer", [torch.nn.RReLU(), torch.nn.AlphaDropout(0.5), torch.nn.Dropout3d(0.5)])
@pytest.mark.parametrize("in_training", [True, False])
def test_exported_and_decomposed(layer: torch.nn.Module, in_training: bool) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        program = torch.export.export(network(layer).train(in_training), (WINDOWS,)).run_decompositions()
    assert len(sentences_of(iter_graph_operations(program.graph_module))) == in_training
