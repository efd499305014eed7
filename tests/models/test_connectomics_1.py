"""Checkpoints of version 1 of PyTorch Connectomics: its networks, its YAML, its targets; and nothing of them is run."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from tests.models.sample_connectomics_1 import BASE, OWN, make, network, write
from tests.refusals import Kind, raises

import napari_tessera as nt
from napari_tessera.core.errors import ModelError
from napari_tessera.core.settings.choices import stride_for
from napari_tessera.intensity.normalisation import Chain, normalisation
from napari_tessera.models.folder import MODELS_VARIABLE, user_models
from napari_tessera.models.formats.connectomics.connectomics_format import FORMAT
from napari_tessera.models.formats.registry import find_format
from napari_tessera.models.load import describe_model, find_risk, load_model
from napari_tessera.models.networks.residual_unet import ResidualUNet

WINDOW = (9, 17, 17)
TO_BYTES = normalisation("eight-bits", eps=1e-6, together=1)


def described(folder: Path, content: dict[str, Any]) -> Any:
    path = folder / "checkpoint_best.pth.tar"
    path.with_name("checkpoint_best.yaml").write_text(yaml.safe_dump(content))
    return FORMAT.describe(path)


# --- networks --------------------------------------------------------------------------------------------------------

# What the original's own network of these arguments has: `test_connectomics_1_origin` compares many more with it.
RECORDED = {
    "conv_in.0.weight": (4, 1, 1, 5, 5),
    **{f"conv_in.1.{name}": (4,) for name in ("weight", "bias")},
    **{"conv_out.0.weight": (2, 4, 1, 5, 5), "conv_out.0.bias": (2,)},
    "down_layers.0.1.0.weight": (4, 4, 1, 3, 3),
    **{f"down_layers.0.1.1.{name}": (4,) for name in ("weight", "bias")},
    "down_layers.0.2.conv.0.0.0.weight": (4, 4, 1, 3, 3),
    **{f"down_layers.0.2.conv.0.0.1.{name}": (4,) for name in ("weight", "bias")},
    "down_layers.0.2.conv.0.1.0.weight": (4, 4, 1, 3, 3),
    **{f"down_layers.0.2.conv.0.1.1.{name}": (4,) for name in ("weight", "bias")},
    **{"down_layers.0.2.conv.1.fc.0.weight": (1, 4), "down_layers.0.2.conv.1.fc.2.weight": (4, 1)},
    "down_layers.1.1.0.weight": (8, 4, 3, 3, 3),
    **{f"down_layers.1.1.1.{name}": (8,) for name in ("weight", "bias")},
    "down_layers.1.2.conv.0.0.0.weight": (8, 8, 1, 3, 3),
    **{f"down_layers.1.2.conv.0.0.1.{name}": (8,) for name in ("weight", "bias")},
    "down_layers.1.2.conv.0.1.0.weight": (8, 8, 1, 3, 3),
    **{f"down_layers.1.2.conv.0.1.1.{name}": (8,) for name in ("weight", "bias")},
    **{"down_layers.1.2.conv.1.fc.0.weight": (2, 8), "down_layers.1.2.conv.1.fc.2.weight": (8, 2)},
    "up_layers.0.0.0.weight": (4, 8, 3, 3, 3),
    **{f"up_layers.0.0.1.{name}": (4,) for name in ("weight", "bias")},
    "up_layers.0.1.conv.0.0.0.weight": (4, 4, 1, 3, 3),
    **{f"up_layers.0.1.conv.0.0.1.{name}": (4,) for name in ("weight", "bias")},
    "up_layers.0.1.conv.0.1.0.weight": (4, 4, 1, 3, 3),
    **{f"up_layers.0.1.conv.0.1.1.{name}": (4,) for name in ("weight", "bias")},
    **{"up_layers.0.1.conv.1.fc.0.weight": (1, 4), "up_layers.0.1.conv.1.fc.2.weight": (4, 1)},
    "feat_layers.0.0.weight": (4, 8, 1, 1, 1),
    **{f"feat_layers.0.1.{name}": (4,) for name in ("weight", "bias")},
    **{f"non_local.{name}.weight": (4, 8, 1, 1, 1) for name in ("g", "theta", "phi")},
    **{f"non_local.{name}.bias": (4,) for name in ("g", "theta", "phi")},
    **{"non_local.W.0.weight": (8, 4, 1, 1, 1), "non_local.W.0.bias": (8,)},
    **{f"non_local.W.1.{name}": (8,) for name in ("weight", "bias")},
}


def test_weights_have_the_names_and_shapes_of_the_original() -> None:
    built = network(filters=[4, 8], isotropy=[False, True])
    found = {name: tuple(weight.shape) for name, weight in built.named_parameters()}
    assert found == RECORDED
    statistics = {name.rpartition(".")[2] for name, _ in built.named_buffers()}
    assert statistics == {"running_mean", "running_var", "num_batches_tracked"}


@pytest.mark.parametrize(("isotropic", "sides"), [(False, (1, 5, 5)), (True, (5, 5, 5))])
def test_isotropic_networks_begin_and_end_with_cubes(isotropic: bool, sides: tuple[int, ...]) -> None:
    built = network(isotropic=isotropic)
    assert built.conv_in[0].weight.shape[2:] == built.conv_out[0].weight.shape[2:] == sides
    assert built.down_layers[0][2].conv[0][0][0].weight.shape[2:] == (1, 3, 3), "blocks stay flat"


def test_levels_that_are_pooled_have_the_weights_of_strided_ones_and_other_results() -> None:
    windows = torch.rand(1, 1, 8, 16, 16, generator=torch.Generator().manual_seed(0))
    pooled = network(pooling=True)
    pooled.load_state_dict(network().state_dict())
    with torch.inference_mode():
        assert not torch.allclose(network()(windows), pooled(windows))


@pytest.mark.parametrize("name", ["unet_2d", "unet_plus_2d"])
def test_planes(name: str, tmp_path: Path) -> None:
    original = network(spatial_dims=2, norm="gn", filters=[16, 32], attention="plus" in name, out_channels=1)
    model = {"ARCHITECTURE": name, "BLOCK_TYPE": "residual_se", "FILTERS": [16, 32], "NORM_MODE": "gn"}
    own = {"MODEL": {**model, "INPUT_SIZE": [1, 33, 65]}, "DATASET": {"DO_2D": True}}
    loaded = load_model(write(tmp_path, original, own=own, base=None))
    assert (loaded.spec.spatial_dims, loaded.spec.window.default, loaded.spec.window.step) == (2, (33, 65), (2, 2))
    windows = torch.rand(2, 1, 33, 17, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert torch.equal(loaded.network(windows), original(windows))


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"block": "dense"}, "dense"),
        ({"norm": "os.system"}, "os.system"),
        ({"isotropy": [True]}, ("1", "3", "isotropy", "filters")),
        ({"outputs": [2]}, ("outputs", "2", "0", "1", "[2]")),
        ({"spatial_dims": 4}, ("spatial_dims", "4")),
    ],
)
def test_other_arguments_are_refused(arguments: dict[str, Any], reason: str | tuple[str, ...]) -> None:
    with raises(ValueError, reason):
        network(**arguments)


# --- checkpoints -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["", "module.", "module.module."])
@pytest.mark.parametrize("name", ["checkpoint_100000.pth.tar", "best.pth", "best.pt", "best.ckpt"])
def test_checkpoints_of_every_name_and_wrapper_open(name: str, prefix: str, tmp_path: Path) -> None:
    path = write(tmp_path, network(), name=name, prefix=prefix)
    assert find_risk(path) is None
    loaded = load_model(path)
    assert loaded.spec.name == name.partition(".")[0]
    windows = torch.rand(1, 1, *WINDOW, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert torch.equal(loaded.network(windows), network()(windows))


@pytest.mark.parametrize("name", ["old.pth.tar", "old.pt"])
def test_checkpoints_of_older_torch_open(name: str, tmp_path: Path) -> None:
    path = write(tmp_path, network(), name=name)
    content = torch.load(path, weights_only=True)
    torch.save(content, path, _use_new_zipfile_serialization=False)
    loaded = load_model(path).network.state_dict()
    assert all(torch.equal(loaded[key], value) for key, value in network().state_dict().items())


def test_an_average_of_weights_opens(tmp_path: Path) -> None:
    path = write(tmp_path, network())
    content = torch.load(path, weights_only=True)
    content["state_dict"]["n_averaged"] = torch.tensor(9)
    torch.save({"state_dict": content["state_dict"]}, path)
    assert load_model(path).spec.in_channels == 1


def test_what_is_described_before_weights_are_looked_at(tmp_path: Path) -> None:
    sample = make(tmp_path)
    sample.path.write_bytes(b"not read")
    form, description = describe_model(sample.path)
    spec = description.spec
    assert spec is not None
    assert (form.name, description.architecture) == ("PyTorch Connectomics checkpoint", "unet_plus_3d")
    rule = spec.window
    assert (rule.default, rule.step, rule.minimum) == ((17, 33, 33), (2, 4, 4), (3, 5, 5))
    assert spec.normalisation == Chain((TO_BYTES, normalisation("fixed", mean=127.5, std=127.5)))
    assert (spec.activations, spec.overlap) == (("sigmoid", "tanh"), 0.5)
    assert spec.mirror_axes == "yx"
    assert (spec.output.kind, spec.suggested_decoder.name) == ("contour-distance", "contour-distance")
    notes = " ".join(description.notes)
    for said in (
        *("Mito-Base.yaml holds where checkpoint_100000.yaml says nothing", "do so first for networks of that time"),
        *("INFERENCE.PAD_SIZE", "activated before they are averaged", "by another gaussian"),
    ):
        assert said in notes
    assert [stride_for(side, spec.overlap) for side in rule.default] == [8, 16, 16]
    assert "INFERENCE.AUG" not in description.notes[-1]


def test_where_the_configurations_are_looked_for(tmp_path: Path) -> None:
    path = make(tmp_path).path
    own = path.with_name("checkpoint_100000.yaml")
    own.rename(path.with_name("Mito-BC.yaml"))
    assert FORMAT.describe(path).notes[0].startswith("Mito-Base.yaml holds where Mito-BC.yaml")
    path.with_name("Mito-A.yaml").write_text("MODEL: {OUT_PLANES: 3}")
    with raises(ModelError, 2, "checkpoint_100000.yaml"):
        FORMAT.describe(path)
    path.with_name("Mito-A.yaml").rename(path.with_name("Other_base.yaml"))
    with raises(ModelError, "Mito-BC.yaml", 2, "base"):
        FORMAT.describe(path)
    for file in tmp_path.glob("*.yaml"):
        file.unlink()
    with raises(ModelError, "checkpoint_100000.yaml", "TorchScript", "ONNX"):
        load_model(path)


def test_it_is_one_model_of_the_users_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(MODELS_VARIABLE, str(tmp_path))
    write(tmp_path, network(), own=BASE | {"MODEL": BASE["MODEL"] | OWN["MODEL"]}, base=None, name="mito.pth.tar")
    assert list(user_models()) == ["mito"]


def test_torchscript_stays_torchscript(tmp_path: Path) -> None:
    path = tmp_path / "script.pt"
    with pytest.warns(DeprecationWarning, match="torch.jit"):
        torch.jit.save(torch.jit.trace(torch.nn.Conv3d(1, 1, 1), torch.rand(1, 1, 2, 2, 2)), path)
    assert find_format(path)[0].name == "TorchScript archive"


def test_yacs_writes_tuples_and_none_as_text(tmp_path: Path) -> None:
    content: dict[str, Any] = copy.deepcopy(BASE)
    content["MODEL"] |= {"FILTERS": "(8, 16, 24,)", "REGU_OPT": "None"}
    content["INFERENCE"] |= {"INPUT_SIZE": "(9, 17, 17)", "AUG_NUM": "None"}
    found = described(tmp_path, content)
    assert found.spec.window.default == (9, 17, 17)
    assert not any("tta_num" in note for note in found.notes)
    with raises(ModelError, "MODEL.FILTERS", "(8, x)"):
        described(tmp_path, {"MODEL": {"FILTERS": "(8, x)"}})


@pytest.mark.parametrize(
    ("dataset", "expected"),
    [
        ({"MEAN": 0.4, "STD": 0.2}, [TO_BYTES, normalisation("fixed", mean=102, std=51)]),
        ({"MATCH_ACT": "sigmoid"}, [TO_BYTES, normalisation("divide", by=255)]),
        ({"MATCH_ACT": "tanh"}, [TO_BYTES, normalisation("fixed", mean=127.5, std=127.5)]),
        ({"MATCH_ACT": "tanh", "NORMALIZE_RANGE": False}, [normalisation("fixed", mean=127.5, std=127.5)]),
    ],
)
def test_normalisation(dataset: dict[str, Any], expected: Any, tmp_path: Path) -> None:
    found = described(tmp_path, {"MODEL": {}, "DATASET": dataset}).spec.normalisation
    assert [step.mode for step in found.steps] == [step.mode for step in expected]
    for one, other in zip(found.steps, expected, strict=True):
        assert dict(one.parameters) == pytest.approx(dict(other.parameters))


def test_a_range_that_is_neither_normalised_nor_not(tmp_path: Path) -> None:
    with raises(nt.ModelError, "DATASET.NORMALIZE_RANGE", "some"):
        described(tmp_path, {"MODEL": {}, "DATASET": {"NORMALIZE_RANGE": "some"}})


def test_what_else_is_not_done_is_told(tmp_path: Path) -> None:
    content = {"DATASET": {"DATA_SCALE": [1.0, 2.0, 2.0]}, "INFERENCE": {"DO_EVAL": False, "OUTPUT_SCALE": [1, 0.5, 1]}}
    notes = " ".join(described(tmp_path, content).notes)
    for said in ("enlarged by (1.0, 2.0, 2.0)", "not with what each window has", "INFERENCE.OUTPUT_SCALE"):
        assert said in notes


@pytest.mark.parametrize(
    ("model", "window", "step", "minimum"),
    [
        ({}, (17, 257, 257), (4, 16, 16), (5, 17, 17)),
        ({}, (112, 112, 112), (1, 1, 1), (5, 17, 17)),
        ({"POOLING_LAYER": True}, (8, 256, 256), (4, 16, 16), (8, 32, 32)),
        ({}, (1, 9, 257), (4, 1, 16), (1, 9, 17)),
    ],
)
def test_windows(model: dict[str, Any], window: Any, step: Any, minimum: Any, tmp_path: Path) -> None:
    rule = described(tmp_path, {"MODEL": {**model, "INPUT_SIZE": list(window)}}).spec.window
    assert (rule.default, rule.step, rule.minimum) == (window, step, minimum)


# --- targets ---------------------------------------------------------------------------------------------------------


def targets(folder: Path, options: list[str], activations: list[str], planes: int) -> Any:
    model = {"TARGET_OPT": options, "OUT_PLANES": planes}
    return described(folder, {"MODEL": model, "INFERENCE": {"OUTPUT_ACT": activations}})


@pytest.mark.parametrize(
    ("options", "offsets"),
    [
        (["2"], ((-1, 0, 0), (0, -1, 0), (0, 0, -1))),
        (["2-2-3-9-v1"], ((-2, 0, 0), (0, -3, 0), (0, 0, -9))),
        (["2-1-2-3-pni"], ((0, 0, -3), (0, -2, 0), (-1, 0, 0))),
        (["2-1-1-1-v1", "2-4-27-27-v1"], None),
    ],
)
def test_affinities(options: list[str], offsets: Any, tmp_path: Path) -> None:
    output = targets(tmp_path, options, ["sigmoid"] * len(options), 3 * len(options)).spec.output
    assert output.kind == "affinities"
    if offsets is not None:
        assert output.offsets == offsets
    else:
        assert output.offsets[3:] == ((-4, 0, 0), (0, -27, 0), (0, 0, -27))


@pytest.mark.parametrize(
    ("options", "activations", "planes", "kind", "channels", "left_out"),
    [
        (["0"], ["sigmoid"], 1, "foreground", 1, ""),
        (["4-1-1"], ["sigmoid"], 1, "boundary", 1, ""),
        (["0", "4-1-1", "5-3d-1-0-1.0-0"], ["sigmoid", "sigmoid", "tanh"], 3, "contour-distance", 3, ""),
        (["0", "6-2d-4-50"], ["sigmoid", "tanh"], 2, "contour-distance", 2, ""),
        (["9-12"], ["softmax"], 12, "semantic", 12, ""),
        (["1-1"], ["softmax"], 3, "semantic", 3, ""),
        (["1"], ["sigmoid"], 3, "semantic", 2, ""),
        (["0", "2"], ["sigmoid", "sigmoid"], 4, "affinities", 3, "'0' (binary)"),
        (["0", "5-2d-0-1-1.0-0"], ["sigmoid", "softmax"], 12, "foreground", 1, "a distance in steps"),
        (["2-1-1-1-v2"], ["sigmoid"], 3, "semantic", 3, "no decoder for '2-1-1-1-v2'"),
        (["0", "all"], ["sigmoid", "none"], 5, "foreground", 1, "of its user's own"),
    ],
)
def test_kinds_of_output(
    options: list[str], activations: list[str], planes: int, kind: str, channels: int, left_out: str, tmp_path: Path
) -> None:
    found = targets(tmp_path, options, activations, planes)
    assert (found.spec.output.kind, found.spec.out_channels) == (kind, channels)
    assert left_out in " ".join(found.notes)
    assert not left_out or any("no decoder" in note for note in found.notes)


def test_synapses_are_labelled_by_their_side(tmp_path: Path) -> None:
    spec = targets(tmp_path, ["1"], ["sigmoid"], 3).spec
    assert spec.classes == ("presynaptic", "postsynaptic")
    assert (spec.suggested_decoder.name, dict(spec.suggested_decoder.parameters)) == ("regions", {"labels": (1, 2)})


def test_binary_and_contour_grow_over_the_foreground(tmp_path: Path) -> None:
    """Two objects that touch where a contour lies between them come apart, as its own watershed has them."""
    own = {"MODEL": {"OUT_PLANES": 2, "TARGET_OPT": ["0", "4-1-1"]}, "INFERENCE": {"OUTPUT_ACT": ["sigmoid"] * 2}}
    original = network()
    loaded = load_model(write(tmp_path, original, own=own))
    assert (loaded.spec.out_channels, loaded.spec.activations) == (3, ("sigmoid",) * 3)
    windows = torch.rand(1, 1, *WINDOW, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert torch.equal(loaded.network(windows), original(windows)[:, [0, 1, 0]])
    assert any("also stands for the distance" in note for note in loaded.notes)

    class Touching(torch.nn.Module):
        def forward(self, windows: torch.Tensor) -> torch.Tensor:
            middle = (windows > 0.4) & (windows < 0.6)
            inside = 20 * (windows > 0.2).float() - 10 - 8.1 * middle
            return torch.cat([inside, 20 * middle.float() - 10, inside], 1)

    volume = np.zeros((12, 24, 40), np.float32)
    volume[2:10, 4:20, 4:18], volume[2:10, 4:20, 18:20], volume[2:10, 4:20, 20:36] = 1, 0.5, 1
    plain = loaded.with_spec(
        normalisation=nt.Model.from_network(original, in_channels=1, out_channels=2).spec.normalisation
    )
    labels = nt.segment(volume, nt.Model(Touching(), plain.spec), nt.Settings(window_size=(13, 25, 41), device="cpu"))
    assert set(np.unique(labels)) == {0, 1, 2}
    assert labels[6, 12, 10] != labels[6, 12, 30]


# --- wrong but honest, and hostile -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (
            {"MODEL": {"ARCHITECTURE": "fpn_3d"}},
            r"'fpn_3d', which needs PyTorch Connectomics 1 itself \(pip install git",
        ),
        ({"MODEL": {"ARCHITECTURE": "unet_residual_3d"}}, "of before 2021"),
        ({"MODEL": {"ARCHITECTURE": "unet_3"}}, "did you mean 'unet_3d'"),
        ({"MODEL": {"ARCHITECTURE": ["unet_3d"]}}, "it must be a name such as unet_3d"),
        ({"MODEL": {"NORM_MODE": "batch"}}, "'MODEL.NORM_MODE' is 'batch', but it must be one of bn"),
        ({"MODEL": {"ISOTROPY": [True]}}, "true or false for each of 5 MODEL.FILTERS"),
        ({"MODEL": {"FILTERS": [0.5]}}, "whole numbers from 1 to 16384"),
        (
            {"MODEL": {"OUT_PLANES": 2}},
            r"'MODEL.OUT_PLANES' is 2, but it must be 1, the channels of the targets \['0'\]",
        ),
        ({"MODEL": {"TARGET_OPT": ["x"]}}, "'MODEL.TARGET_OPT' is 'x'"),
        ({"MODEL": {"TARGET_OPT": ["7"], "OUT_PLANES": 2}}, "a network of flows"),
        ({"INFERENCE": {"OUTPUT_ACT": ["sigmoid", "tanh"]}}, "an activation for each target"),
        ({"INFERENCE": {"OUTPUT_ACT": ["relu"]}}, "'INFERENCE.OUTPUT_ACT' is 'relu'"),
        ({"INFERENCE": {"AUG_NUM": 5}}, "'INFERENCE.AUG_NUM' is 5"),
        ({"DATASET": {"STD": 0}, "MODEL": {}}, "'DATASET.STD' is 0.0, but it must be above 0"),
        ({"DATASET": {"MATCH_ACT": "relu"}, "MODEL": {}}, "'DATASET.MATCH_ACT' is 'relu'"),
    ],
)
def test_other_configurations_are_named_with_what_to_do(content: dict[str, Any], reason: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=reason) as caught:
        described(tmp_path, content)
    assert "checkpoint_best.yaml" in str(caught.value)


def test_weights_of_another_network_are_told_in_a_sentence(tmp_path: Path) -> None:
    path = write(tmp_path, network())
    content = torch.load(path, weights_only=True)
    first = content["state_dict"].pop("conv_out.0.bias")
    torch.save(content, path)
    with raises(ModelError, "unet_plus_3d", Kind.LACKS, "conv_out.0.bias"):
        load_model(path)
    content["state_dict"] |= {"conv_out.0.bias": first, "extra": torch.ones(1)}
    torch.save(content, path)
    with raises(ModelError, Kind.UNKNOWN_WEIGHTS, "extra"):
        load_model(path)
    path.write_bytes(path.read_bytes()[:-2000])
    with raises(ModelError, path.name, Kind.CUT_SHORT):
        load_model(path)
    path = write(
        tmp_path / "alone", network(), base=None, own=OWN | {"MODEL": OWN["MODEL"] | {"ARCHITECTURE": "unet_3d"}}
    )
    with raises(ModelError, Kind.DOES_NOT_FIT, "'base'"):
        load_model(path)


class Hostile:
    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.canary}",)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("name", ["x.pth.tar", "x.pth", "x.pt"])
def test_objects_in_a_checkpoint_are_never_made(name: str, zipped: bool, tmp_path: Path, canary: Path) -> None:
    path = write(tmp_path, network(), name=name)
    content = torch.load(path, weights_only=True) | {"lr_scheduler": Hostile(canary)}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    with raises(ModelError, name, Kind.RUNS_CODE, f"{os.name}.system"):
        load_model(path, trust=True)


@pytest.mark.parametrize(
    "model",
    [
        {"FILTERS": [16384] * 16, "ISOTROPY": [True] * 16},
        {"FILTERS": "(" + "1, " * 5000 + "1)"},
        {"OUT_PLANES": 65536, "TARGET_OPT": ["all"]},
        {"TARGET_OPT": ["9-99999"], "OUT_PLANES": 65536},
    ],
)
def test_a_configuration_cannot_ask_for_memory(
    model: dict[str, Any], tmp_path: Path, memory: Callable[[], float]
) -> None:
    own = {"MODEL": BASE["MODEL"] | model, "INFERENCE": {"OUTPUT_ACT": ["sigmoid"]}}
    with pytest.raises(ModelError, match=r"checkpoint_100000|is more than"):
        load_model(write(tmp_path, network(), own=own, base=None))
    assert memory() < 100e6


def test_its_weights_stay_in_their_file(tmp_path: Path) -> None:
    path = write(
        tmp_path, network(filters=[64, 128, 256]), own=OWN | {"MODEL": OWN["MODEL"] | {"FILTERS": [64, 128, 256]}}
    )
    loaded = load_model(path)
    assert isinstance(loaded.network, ResidualUNet)
    mapped = Path("/proc/self/maps")
    if mapped.exists():
        assert str(path) in mapped.read_text()
