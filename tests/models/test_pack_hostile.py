"""Descriptions of packed models that are hostile, or honest and wrong: one sentence each, and nothing runs."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from tests.models import sample_exported, sample_nnunet, sample_onnx, sample_tessera, sample_torchscript
from tests.refusals import Kind, raises

import napari_tessera as nt
from napari_tessera.core.errors import ModelError
from napari_tessera.models.load import describe_model, find_risk, load_model
from napari_tessera.models.packing import pack

Change = Callable[[dict[str, Any]], None]


def packed(make: Callable[[Path], Any], folder: Path) -> Path:
    (folder / "from").mkdir()
    path, *_ = pack(nt.load_model(make(folder / "from").path, trust=True), folder / "to" / "packed.yaml")
    return path


def rewritten(path: Path, change: Change) -> Path:
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    change(content)
    path.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return path


def set_in(*keys: Any, to: Any) -> Change:
    def apply(content: dict[str, Any]) -> None:
        place: Any = content
        for key in keys[:-1]:
            place = place[key]
        place[keys[-1]] = to

    return apply


@pytest.fixture
def script(tmp_path: Path) -> Path:
    return packed(sample_torchscript.make, tmp_path)


# --- programs ---


@pytest.mark.parametrize(
    "name", ["../small.pt", "/etc/passwd", "sub/small.pt", "..\\small.pt", "C:\\small.pt", "C:small.pt", "..", ".", ""]
)
def test_a_program_outside_its_folder_is_refused(name: str, script: Path) -> None:
    rewritten(script, set_in("program", "file", to=name))
    for ask in (find_risk, describe_model, lambda path: load_model(path, trust=True)):
        with raises(ModelError, "packed.yaml", f"'{name}'", Kind.SAME_FOLDER):
            ask(script)


@pytest.mark.skipif(os.name == "nt", reason="links need rights on Windows")
def test_a_link_out_of_the_folder_is_refused(script: Path, tmp_path: Path) -> None:
    program = script.with_name("packed.program.pt")
    program.rename(tmp_path / "elsewhere.pt")
    program.symlink_to(tmp_path / "elsewhere.pt")
    with raises(ModelError, Kind.LEADS_OUTSIDE, "packed.program.pt"):
        load_model(script, trust=True)


def test_a_missing_program_is_named(script: Path) -> None:
    script.with_name("packed.program.pt").unlink()
    for ask in (find_risk, describe_model, lambda path: load_model(path, trust=True)):
        with raises(ModelError, "packed.program.pt", Kind.MISSING):
            ask(script)


@pytest.mark.parametrize("make", [sample_torchscript.make, sample_exported.make, sample_onnx.make])
def test_another_program_than_was_packed_is_not_opened(make: Callable[[Path], Any], tmp_path: Path) -> None:
    path = packed(make, tmp_path)
    (program,) = path.parent.glob("packed.program.*")
    content = bytearray(program.read_bytes())
    content[-1] ^= 1
    program.write_bytes(content)
    with raises(ModelError, "SHA-256", "packed.yaml"):
        load_model(path, trust=True)


def test_a_program_that_would_run_something_does_not_without_trust(script: Path, canary: Path) -> None:
    """A pickle that is called a program, with the SHA-256 that belongs to it."""

    class Runs:
        def __reduce__(self) -> Any:
            return (Path.touch, (canary,))

    program = script.with_name("packed.program.pt")
    torch.save(Runs(), program)
    rewritten(script, set_in("program", "sha256", to=hashlib.sha256(program.read_bytes()).hexdigest()))
    describe_model(script)
    with pytest.raises(nt.UntrustedModelError):
        load_model(script)
    # Even a program that is trusted is opened as one, not unpickled as an object.
    with raises(ModelError, "as TorchScript", "packed.program.pt"):
        load_model(script, trust=True)
    # Calling it a graph, which needs no trust, does not make it one.
    rewritten(script, set_in("program", "kind", to="onnx"))
    assert find_risk(script) is None
    with raises(ModelError, "as ONNX"):
        load_model(script)


def test_a_program_of_other_channels_is_refused(tmp_path: Path) -> None:
    for number, make in enumerate((sample_exported.make, sample_onnx.make)):
        (tmp_path / str(number)).mkdir()
        path = packed(make, tmp_path / str(number))
        rewritten(path, set_in("in_channels", to=2))
        with raises(ModelError, 2, 1, "3D"):
            load_model(path, trust=True)


def test_weights_of_a_graph_need_their_sum(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    graph = onnx.load(str(sample_onnx.make(tmp_path).path))
    onnx.external_data_helper.convert_model_to_external_data(graph, location="w.bin", size_threshold=0)
    (tmp_path / "in").mkdir()
    onnx.save(graph, str(tmp_path / "in" / "net.onnx"))
    path, program, data = pack(nt.load_model(tmp_path / "in" / "net.onnx"), tmp_path / "to" / "packed.yaml")
    before = data.read_bytes()
    data.write_bytes(before[:-4] + b"\1\2\3\4")
    with raises(ModelError, "packed.program.onnx.data", "SHA-256"):
        load_model(path)
    data.write_bytes(before)
    load_model(path)
    rewritten(path, lambda content: content["program"].pop("data"))
    with raises(ModelError, "packed.program.onnx.data", Kind.NO_SUM):
        load_model(path)
    assert program.exists()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (set_in("program", "kind", to="pickle"), "program.kind"),
        (set_in("program", "sha256", to="abc"), "program.sha256"),
        (set_in("program", "run", to="rm"), "program.run"),
        (lambda content: content["program"].pop("sha256"), "program.sha256"),
        (set_in("program", "data", to=[{"file": "x", "sha256": "0" * 64}] * 65), "program.data"),
        (set_in("architecture", to={"class": "monai.networks.nets.UNet"}), Kind.BOTH),
        (set_in("around", to=[{"do": "import", "name": "os"}]), "around.0"),
        (set_in("around", to=[{"do": "turn", "axes": "xyz"}] * 9), "around"),
        (set_in("around", to=[{"do": "turn", "axes": "xyzt"}]), ("'turn'", "'xyzt'")),
        (set_in("around", to=[{"do": "line", "gain": [float("inf")], "offset": [0]}]), "around.0.line.gain.0"),
        (set_in("around", to=[{"do": "reorder", "order": [0, 1, 1]}]), ("order", "[0, 1, 1]")),
        (set_in("around", to=[{"do": "channels", "kept": [0], "scales": [1]}]), ("1 channels", "1 scales")),
        (set_in("around", to=[{"do": "channels", "kept": [0, -1], "scales": [1, 1]}]), "channels from 0"),
        (set_in("around", to=[{"do": "tensor", "axes_in": "bczyxx", "axes_out": "bczyx"}]), ("axes_in", "'bczyxx'")),
        (set_in("around", to=[{"do": "tensor", "axes_in": "bczyx", "axes_out": "bzyx"}]), "need an axis c"),
    ],
)
def test_descriptions_that_are_wrong(change: Change, said: Any, script: Path) -> None:
    rewritten(script, change)
    with raises(ModelError, said) as caught:
        load_model(script, trust=True)
    assert "packed.yaml" in str(caught.value)


def test_a_type_of_numbers_that_is_none(script: Path) -> None:
    tensor = {"do": "tensor", "axes_in": "bczyx", "axes_out": "bczyx", "numbers": "ops"}
    rewritten(script, set_in("around", to=[tensor]))
    with raises(ModelError, "ops", "packed.yaml"):
        load_model(script, trust=True)


def test_what_stands_around_a_network_is_not_passed_over(tmp_path: Path) -> None:
    """Beside an archive that is opened by itself nothing would apply it."""
    path = sample_torchscript.make(tmp_path).path
    content = yaml.safe_load(sample_tessera.make(tmp_path).path.read_text())
    content["around"] = [{"do": "turn", "axes": "xyz"}]
    path.with_suffix(".yaml").write_text(yaml.safe_dump(content))
    with raises(ModelError, "around", "small.yaml"):
        describe_model(path)


# --- nnU-Net's networks, and folds ---


@pytest.fixture
def nnunet(tmp_path: Path) -> Path:
    pytest.importorskip("dynamic_network_architectures", reason="nnU-Net's networks are not installed")
    return packed(lambda folder: sample_nnunet.make_folds(folder, 3), tmp_path)


ARGUMENTS = ("architecture", "arguments")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (set_in(*ARGUMENTS, "conv_op", to="os.system"), Kind.NOTHING_IMPORTED),
        (set_in(*ARGUMENTS, "norm_op", to="torch.load"), Kind.NOTHING_IMPORTED),
        (set_in(*ARGUMENTS, "features_per_stage", to=[10**9] * 3), Kind.UNKNOWN_OR_WRONG),
        (set_in(*ARGUMENTS, "features_per_stage", to=[900_000] * 3), Kind.FAR_MORE_WEIGHTS),
        (set_in(*ARGUMENTS, "n_conv_per_stage", to=[1_000_000] * 3), Kind.FAR_MORE_WEIGHTS),
        (set_in(*ARGUMENTS, "run", to="touch canary"), Kind.UNKNOWN_OR_WRONG),
        (set_in(*ARGUMENTS, "input_channels", to=10**12), ("input_channels", 1000000000000)),
        (set_in(*ARGUMENTS, "num_classes", to="2"), ("num_classes", 2)),
        (set_in(*ARGUMENTS, "num_classes", to=3), (Kind.DOES_NOT_FIT, Kind.OTHER_SHAPE)),
        (lambda content: content["architecture"]["arguments"].pop("num_classes"), ("num_classes", None)),
        (set_in("architecture", "class", to="torch.nn.Module"), ("'torch.nn.Module'", Kind.NOT_REBUILT)),
        (set_in("architecture", "class", to="dynamic_network_architectures.architectures.unet.os"), Kind.GUESS),
        (set_in("architecture", "folds", to=0), "architecture.folds"),
        (set_in("architecture", "folds", to=10**9), "architecture.folds"),
        (set_in("architecture", "folds", to=3), ("fold 2", Kind.DOES_NOT_FIT, Kind.LACKS)),
        (set_in("architecture", "folds", to=1), (Kind.DOES_NOT_FIT, Kind.FOLDS)),
        (set_in("weights", to="../from/x.safetensors"), Kind.SAME_FOLDER),
    ],
)
def test_networks_that_are_wrong(change: Change, said: Any, nnunet: Path, canary: Path) -> None:
    rewritten(nnunet, change)
    with raises(ModelError, said) as caught:
        load_model(nnunet)
    assert "packed." in str(caught.value)


def test_a_fold_of_another_shape_or_too_many(nnunet: Path) -> None:
    weights = nnunet.with_suffix(".safetensors")
    tensors = {name: tensor.clone() for name, tensor in load_file(weights).items()}
    name = next(name for name in tensors if name.startswith("folds.1.") and tensors[name].dim() == 5)
    save_file({**tensors, name: tensors[name][:1].clone()}, weights)
    with raises(ModelError, 1, Kind.OTHER_SHAPE, "decoder.seg_layers.0.weight"):
        load_model(nnunet)
    save_file({**tensors, "folds.2.more": torch.zeros(1)}, weights)
    with raises(ModelError, "folds.2.more", 2, "folds"):
        load_model(nnunet)
    save_file({other: tensor for other, tensor in tensors.items() if other != name}, weights)
    with raises(ModelError, 1, Kind.LACKS, "decoder.seg_layers.0.weight"):
        load_model(nnunet)
    save_file(tensors, weights)
    load_model(nnunet)


def test_tesseras_own_unet_is_bounded(tmp_path: Path) -> None:
    path = sample_tessera.make(tmp_path).path
    arguments = {
        **{"spatial_dims": 3, "in_channels": 1, "out_channels": 2, "strides": [2], "upsample_mode": "nontrainable"},
        **{"upsample_interp_mode": "linear", "upsample_align_corners": True},
    }
    for channels, said in (
        ([10**9, 4], 1000000000),
        ([900_000, 900_000], Kind.FAR_MORE_WEIGHTS),
        (["os.system"], Kind.CANNOT_BE_BUILT),
    ):
        described = {"class": "napari_tessera.InterpolatingUNet", "arguments": {**arguments, "channels": channels}}
        rewritten(path, set_in("architecture", to=described))
        with raises(ModelError, "small.yaml", said):
            load_model(path)
