"""Checkpoints of PyTorch Connectomics: rebuilt, filled, described; and nothing of them is run."""

from __future__ import annotations

import collections
import copy
import enum
import os
import sys
import types
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from monai.networks.nets import UNETR, BasicUNet, SwinUNETR, UNet
from tests.models.sample_connectomics import configuration, make, network, write
from tests.refusals import Kind, raises

import napari_tessera as nt
from napari_tessera.core.errors import ModelError
from napari_tessera.core.settings.choices import stride_for
from napari_tessera.models.formats.connectomics.connectomics_format import FORMAT
from napari_tessera.models.load import describe_model, find_risk, load_model
from napari_tessera.models.networks.interpolating_unet import InterpolatingUNet


def configured(**model: Any) -> dict[str, Any]:
    """Return the sample's configuration with keys of the model's section changed."""
    config = copy.deepcopy(configuration())
    config["default"]["model"] |= model
    return config


def test_a_sample_predicts_what_its_network_does(tmp_path: Path) -> None:
    sample = make(tmp_path)
    loaded = load_model(sample.path)
    volume = np.random.default_rng(0).integers(0, 256, (40, 48, 36), dtype=np.uint8)
    settings = nt.Settings(window_size=(32, 32, 32), overlap=0.25)
    expected = nt.predict(volume, nt.Model(sample.network, loaded.spec), settings)
    np.testing.assert_allclose(nt.predict(volume, loaded, settings), expected, atol=sample.tolerance)
    assert find_risk(sample.path) is None


def test_the_configuration_is_described_without_looking_at_weights(tmp_path: Path) -> None:
    sample = make(tmp_path)
    sample.path.write_bytes(b"not read")
    form, description = describe_model(sample.path)
    spec = description.spec
    assert spec is not None
    assert (form.name, description.architecture) == ("PyTorch Connectomics checkpoint", "monai_basic_unet3d")
    assert (spec.name, spec.in_channels, spec.out_channels) == ("reference", 1, 2)
    assert (spec.window.default, spec.window.step) == ((32, 32, 32), (16, 16, 16))
    assert (spec.normalisation.mode, dict(spec.normalisation.parameters)) == ("divide", {"by": 255})
    assert (spec.activations, spec.overlap, spec.voxel_size_um) == (("sigmoid",) * 2, 0.25, (0.03, 0.008, 0.008))
    assert spec.blend == "bump"


BUILT = {
    "monai_basic_unet3d": (
        {"monai": {"filters": [4, 8], "norm": "group", "num_groups": 2}},
        lambda: BasicUNet(3, 1, 2, (4, 8, 8, 8, 8, 8), act="relu", norm=("group", {"num_groups": 2})),
    ),
    "monai_unet": (
        {"monai": {"filters": [4, 8, 16], "num_res_units": 1}},
        lambda: UNet(3, 1, 2, (4, 8, 16), (2, 2), num_res_units=1, norm="batch"),
    ),
    "monai_unetr": (
        {"transformer": {"feature_size": 4, "hidden_size": 12, "mlp_dim": 24, "num_heads": 3}},
        lambda: UNETR(
            1, 2, (32, 32, 32), feature_size=4, hidden_size=12, mlp_dim=24, num_heads=3, proj_type="perceptron"
        ),
    ),
    "monai_swin_unetr": (
        {"transformer": {"feature_size": 12, "dropout_path_rate": 0.1}},
        lambda: SwinUNETR(1, 2, feature_size=12, dropout_path_rate=0.1),
    ),
}


PREFIXES = ("model.model.", "model.", "model._orig_mod.model.", "_orig_mod.model.model.", "")


@pytest.mark.parametrize(
    ("name", "prefix"),
    # The names within a UNet begin with "model.", too.
    [*((name, PREFIXES[0]) for name in BUILT), *(("monai_unet", prefix) for prefix in PREFIXES[1:])],
)
def test_architectures_are_rebuilt_whatever_wraps_them(name: str, prefix: str, tmp_path: Path) -> None:
    sections, build = BUILT[name]
    torch.manual_seed(0)
    original = build().eval()
    config = configured(arch={"type": name}, **sections)
    loaded = FORMAT.load(write(tmp_path, original, config, prefix=prefix))
    # What reaches the deepest level of SwinUNETR must be more than one voxel.
    window = torch.rand(1, 1, 32, 32, 64 if "swin" in name else 32, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        assert torch.equal(loaded.network(window), original(window))


@pytest.mark.parametrize("features", [(4, 8, 8, 8, 8, 8), (4, 8, 16, 32, 64, 128)])
def test_older_basic_unets_double_what_is_missing(features: tuple[int, ...], tmp_path: Path) -> None:
    config = {
        "model": {
            **{"architecture": "monai_basic_unet3d", "input_size": [32, 32, 32], "out_channels": 2},
            **{"filters": [4, 8], "upsample": "nontrainable"},
        },
        "inference": {"sliding_window": {"window_size": [32, 32, 32]}},
    }
    original = BasicUNet(3, 1, 2, features, act="relu", norm="batch", upsample="nontrainable").eval()
    loaded = FORMAT.load(write(tmp_path, original, config))
    window = torch.rand(1, 1, 32, 32, 32)
    with torch.inference_mode():
        assert torch.equal(loaded.network(window), original(window))


def test_two_dimensions_and_windows_that_the_network_takes(tmp_path: Path) -> None:
    original = UNet(2, 1, 2, (4, 8, 16), (2, 2), num_res_units=2, norm="batch").eval()
    config = configured(arch={"type": "monai_unet"}, input_size=[30, 64], monai={"filters": [4, 8, 16]})
    config["default"]["inference"]["window"]["window_size"] = [30, 64]
    loaded = FORMAT.load(write(tmp_path, original, config))
    assert (loaded.spec.spatial_dims, loaded.spec.window.default) == (2, (32, 64))
    assert loaded.spec.voxel_size_um == (0.008, 0.008)
    assert any("(30, 64) is no multiple of 4" in note for note in loaded.notes)


@pytest.mark.parametrize("units", [0, 1])
def test_a_unet_that_interpolates_has_the_layers_of_its_origin(units: int, tmp_path: Path) -> None:
    monai = {"filters": [4, 8, 16], "num_res_units": units, "upsample_mode": "nontrainable"}
    arguments = {"num_res_units": units, "norm": "batch", "upsample_mode": "nontrainable"}
    shape = {"spatial_dims": 3, "in_channels": 1, "out_channels": 2, "channels": (4, 8, 16), "strides": (2, 2)}
    more = {"upsample_interp_mode": "linear", "upsample_align_corners": True}
    original = InterpolatingUNet(**shape, **arguments, **more).eval()
    # No transposed convolution: interpolation leaves a constant as it is, and its pre-convolution is 1 x 1 x 1.
    assert not any(isinstance(module, torch.nn.ConvTranspose3d) for module in original.modules())
    up = original.model[2][0] if units else original.model[2]
    assert [tuple(weight.shape) for name, weight in up.named_parameters() if "weight" in name] == [(2, 8, 1, 1, 1)]
    path = write(tmp_path, original, configured(arch={"type": "monai_unet"}, monai=monai))
    window = torch.rand(1, 1, 32, 32, 32)
    with torch.inference_mode():
        assert torch.equal(FORMAT.load(path).network(window), original(window))


def averaged_weights(original: torch.nn.Module) -> dict[str, Any]:
    state = {f"model.{name}": torch.full_like(tensor, 0.5) for name, tensor in original.state_dict().items()}
    return {"EMAWeightsCallback{}": {"ema_state": state, "updates": 5, "decay": 0.999}, "ModelCheckpoint": {}}


def test_the_average_is_taken_unless_the_configuration_or_the_caller_says_otherwise(tmp_path: Path) -> None:
    original, config = network(), configuration()
    path = write(tmp_path, original, config, callbacks=averaged_weights(original))

    def is_average(model: nt.Model) -> bool:
        return bool((next(model.network.parameters()) == 0.5).all())

    assert is_average(FORMAT.load(path))
    assert any("the averaged (EMA) weights are taken" in note for note in FORMAT.load(path).notes)
    assert not is_average(FORMAT.load(path, averaged=False))
    config["train"] = {"optimization": {"ema": {"validate_with_ema": False}}}
    path.with_suffix(".yaml").write_text(yaml.safe_dump(config))
    assert not is_average(FORMAT.load(path))
    assert any("of the last training step are taken" in note for note in FORMAT.load(path).notes)
    assert is_average(FORMAT.load(path, averaged=True))
    with raises(ModelError, "EMA"):
        FORMAT.load(write(tmp_path, original, config), averaged=True)


def test_weights_of_any_memory_format_and_precision_are_taken(tmp_path: Path) -> None:
    original = network()
    path = write(tmp_path, original.to(memory_format=torch.channels_last_3d), configuration())
    content = torch.load(path, weights_only=True)
    content["state_dict"] = {name: value.double() for name, value in content["state_dict"].items()}
    torch.save(content, path)
    loaded = FORMAT.load(path).network.state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in original.state_dict().items())
    assert {value.dtype for value in loaded.values()} == {torch.float32, torch.int64}


def test_configurations_within_older_checkpoints_are_stood_in_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They hold objects of the program, of OmegaConf, enumerations, paths and dictionaries with defaults."""
    canary = tmp_path / "canary"

    class Config:
        def __init__(self) -> None:
            self.model = {"filters": [1, 2]}

        def __setstate__(self, state: Any) -> None:
            canary.touch()

    class DictConfig(Config):
        def __reduce__(self) -> Any:
            return DictConfig, (), {"_content": collections.defaultdict(int, a=1), "type": dict, "ref": Any}

    class Mode(enum.Enum):
        TRAIN = "train"

    for name, cls in (("connectomics.config", Config), ("omegaconf.dictconfig", DictConfig), ("connectomics.m", Mode)):
        module = types.ModuleType(name)
        setattr(module, cls.__name__, cls)
        cls.__module__, cls.__qualname__ = name, cls.__name__
        monkeypatch.setitem(sys.modules, name, module)
        monkeypatch.setitem(sys.modules, name.split(".")[0], types.ModuleType(name.split(".")[0]))
    kept = {"cfg": Config(), "more": DictConfig(), "mode": Mode.TRAIN, "where": Path("x")}
    path = write(tmp_path, network(), configuration(), hyper_parameters=kept)
    monkeypatch.undo()
    accepted = set(torch.serialization.get_safe_globals())
    loaded = FORMAT.load(path).network.state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in network().state_dict().items())
    assert not canary.exists()
    assert not {"connectomics.config", "omegaconf.dictconfig"} & set(sys.modules)
    assert set(torch.serialization.get_safe_globals()) == accepted


def test_where_the_configuration_is_looked_for(tmp_path: Path) -> None:
    path = make(tmp_path / "run" / "checkpoints").path
    beside = path.with_suffix(".yaml")
    beside.rename(path.parent.parent / "config.yaml")
    assert FORMAT.describe(path).spec is not None
    (path.parent / "a.yaml").write_text("x: 1")
    (path.parent / "b.yml").write_text("x: 1")
    with raises(ModelError, 2, "last.yaml"):
        FORMAT.describe(path)
    for file in (path.parent / "a.yaml", path.parent / "b.yml", path.parent.parent / "config.yaml"):
        file.unlink()
    with raises(ModelError, "last.yaml", "TorchScript", "ONNX"):
        FORMAT.describe(path)


# --- outputs ---------------------------------------------------------------------------------------------------------


def described(tmp_path: Path, config: dict[str, Any]) -> Any:
    path = tmp_path / "x.ckpt"
    path.with_suffix(".yaml").write_text(yaml.safe_dump(config))
    return FORMAT.describe(path)


@pytest.mark.parametrize(
    ("mode", "expected"),
    [("deepem", ((0, 0, -1), (0, -1, 0), (-5, 0, 0))), ("banis", ((0, 0, 1), (0, 1, 0), (5, 0, 0)))],
)
def test_affinities_have_the_offsets_of_the_targets(mode: str, expected: Any, tmp_path: Path) -> None:
    config = configured(out_channels=3)
    kwargs = {"offsets": ["0-0-1", "0-1-0", "5-0-0"], "affinity_mode": mode}
    config["default"]["data"]["label_transform"] = {"targets": [{"name": "affinity", "kwargs": kwargs}]}
    output = described(tmp_path, config).spec.output
    assert (output.kind, output.offsets) == ("affinities", expected)


def test_channels_beside_affinities_are_left_out_and_named(tmp_path: Path) -> None:
    config = configured(out_channels=4, monai={"filters": [4, 4, 8, 8, 16, 4]})
    config["default"]["inference"]["model"]["channel_activations"] = [
        {"channels": "0:3", "activation": "scale_sigmoid:0.5"},
        {"channels": -1, "activation": "tanh"},
    ]
    targets = [{"name": "affinity", "kwargs": {"affinity_mode": "banis"}}, {"name": "skeleton_aware_edt"}]
    config["default"]["data"]["label_transform"] = {"targets": targets}
    original = BasicUNet(3, 1, 4, (4, 4, 8, 8, 16, 4), act="relu", norm="batch").eval()
    loaded = FORMAT.load(write(tmp_path, original, config))
    assert loaded.spec.out_channels == 3
    assert loaded.spec.output.offsets == ((1, 0, 0), (0, 1, 0), (0, 0, 1))
    assert any("skeleton_aware_edt beside the affinities" in note for note in loaded.notes)
    window = torch.rand(1, 1, 32, 32, 32)
    with torch.inference_mode():
        torch.testing.assert_close(loaded.network(window), original(window)[:, :3] * 0.5)


def test_binary_contour_and_distance_get_their_decoder(tmp_path: Path) -> None:
    config = configured(out_channels=3)
    config["default"]["inference"]["model"]["channel_activations"] = [
        {"channels": "0:2", "activation": "sigmoid"},
        {"channels": "2:3", "activation": "tanh"},
    ]
    step = {
        "name": "decode_instance_binary_contour_distance",
        "kwargs": {"binary_threshold": [0.8, 0.7], "distance_threshold": [0.4, -0.2], "min_instance_size": 9, "foo": 1},
    }
    config["default"]["decoding"] = {"steps": [step, {"name": "decode_abiss", "kwargs": {"command": "touch canary"}}]}
    found = described(tmp_path, config)
    spec = found.spec
    assert (spec.output.kind, spec.activations) == ("contour-distance", ("sigmoid", "sigmoid", "tanh"))
    assert spec.suggested_decoder.name == "contour-distance"
    assert dict(spec.suggested_decoder.parameters) == {
        **{"binary_seed": 0.8, "binary": 0.7, "distance_seed": 0.4, "distance": -0.2, "min_size_vox": 9}
    }
    notes = " ".join(found.notes)
    assert "not taken over: foo" in notes
    assert "decode_abiss is left out: it runs a command" in notes


@pytest.mark.parametrize(
    ("transform", "expected"),
    [
        ({}, ("minmax", {})),
        ({"normalize": "0-1", "clip_percentile_high": 0.95}, ("percentile", {"low": 0.0, "high": 95.0})),
        ({"normalize": "normal"}, ("zscore", {})),
        ({"normalize": "none"}, ("none", {})),
    ],
)
def test_normalisation(transform: dict[str, Any], expected: Any, tmp_path: Path) -> None:
    config = configured()
    config["default"]["data"]["image_transform"] = transform
    found = described(tmp_path, config).spec.normalisation
    assert (found.mode, pytest.approx(dict(found.parameters))) == expected


@pytest.mark.parametrize(
    ("augmentation", "mirror_axes", "views", "said"),
    [
        ({"enabled": True, "flip_axes": [0, 2]}, None, ("identity", "z", "x"), "activated before"),
        ({"enabled": True, "flip_axes": [[0], [2], [0, 2]]}, "zx", None, "activated before"),
        ({"enabled": True}, "zyx", None, "activated before"),
        ({"enabled": False, "flip_axes": "all"}, None, None, ""),
        (
            {"enabled": True, "flip_axes": None, "rotation90_axes": [[1, 2]]},
            None,
            ("identity", "ty", "yx", "tx"),
            "act",
        ),
        ({"enabled": True, "rotation90_axes": [[0, 1]]}, None, None, "a single view is suggested"),
        ({"enabled": True, "ensemble_mode": "min"}, None, None, "ensemble_mode is min"),
        (
            {"enabled": True, "ensemble_mode": [["0:1", "mean"], ["1:", "max"]]},
            None,
            None,
            "ensemble_mode is max, mean",
        ),
    ],
)
def test_its_own_views_are_suggested(
    augmentation: dict[str, Any], mirror_axes: str | None, views: tuple[str, ...] | None, said: str, tmp_path: Path
) -> None:
    found = described(tmp_path, configured() | {"inference": {"test_time_augmentation": augmentation}})
    assert (found.spec.mirror_axes, found.spec.tta_views) == (mirror_axes, views)
    notes = [note for note in found.notes if "view" in note or "augmentation" in note]
    assert [said in note for note in notes] == ([True] if said else [])


def test_what_its_author_runs_it_with_is_suggested(tmp_path: Path) -> None:
    """Its blending, its rounding of strides (0.3 * 35 is 10.5, of which it makes 11), and views, named one by one."""
    config = configured()
    config["default"]["inference"] |= {
        "window": {"window_size": [30, 35, 35], "overlap": 0.7, "blending": "banis"},
        "test_time_augmentation": {"enabled": True, "flip_axes": [0, 1]},
    }
    settings = FORMAT.load(write(tmp_path, network(), config)).suggested_settings()
    assert (settings.blend, settings.tta_views, settings.tta_num) == ("distance_transform", ("identity", "z", "y"), 3)
    assert [stride_for(side, settings.overlap) for side in (30, 35)] == [9, 11]


def test_generation_b_with_softmax_keeps_all_channels_and_says_so(tmp_path: Path) -> None:
    config = {
        "model": {"architecture": "monai_unet", "input_size": [32, 32, 32], "out_channels": 2, "filters": [4, 8]},
        "data": {"patch_size": [32, 32, 32], "train_resolution": [5, 5, 5]},
        "inference": {
            "sliding_window": {"overlap": 0.5},
            "test_time_augmentation": {"channel_activations": [[0, 2, "softmax"]], "select_channel": [1]},
        },
    }
    found = described(tmp_path, config)
    assert (found.spec.out_channels, found.spec.activations) == (2, ("softmax", "softmax"))
    assert found.spec.voxel_size_um == (0.005,) * 3
    assert any("as a softmax needs all" in note for note in found.notes)


# --- wrong but honest ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("rsunet", "PyTorch Connectomics itself"),
        ("nnunet", "plans.json"),
        ("monai_unte", "'monai_unet'"),
    ],
)
def test_other_architectures_are_named_with_what_to_do(name: str, remedy: str, tmp_path: Path) -> None:
    with raises(ModelError, f"'{name}'", remedy):
        described(tmp_path, configured(arch={"type": name}))


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (configured(out_channels=5), (Kind.OTHER_SHAPE, "final_conv.weight")),
        (configured(monai={"filters": [4, 4, 8, 8, 16, 4], "norm": "instance"}), Kind.UNKNOWN_WEIGHTS),
        (configured(monai={"filters": [8, 4, 8, 8, 16, 4]}), Kind.OTHER_SHAPE),
    ],
)
def test_weights_of_another_network_are_refused(config: dict[str, Any], reason: Any, tmp_path: Path) -> None:
    with raises(ModelError, "last.ckpt", Kind.DOES_NOT_FIT, "monai_basic_unet3d", reason):
        FORMAT.load(write(tmp_path, network(), config))


def test_missing_extra_and_cut_weights_are_told_in_a_sentence(tmp_path: Path) -> None:
    path = make(tmp_path).path
    content = torch.load(path, weights_only=True)
    weights = content["state_dict"]
    first = weights.pop("model.model.final_conv.bias")
    torch.save(content, path)
    with raises(ModelError, Kind.LACKS, "final_conv.bias"):
        FORMAT.load(path)
    weights |= {"model.model.final_conv.bias": first, "model.model.extra": torch.ones(1)}
    torch.save(content, path)
    with raises(ModelError, Kind.UNKNOWN_WEIGHTS, "extra"):
        FORMAT.load(path)
    path.write_bytes(path.read_bytes()[:-2000])
    with raises(ModelError, "last.ckpt", Kind.CUT_SHORT):
        FORMAT.load(path)
    torch.save({"weights": 1}, path)
    with raises(ModelError, "last.ckpt", Kind.NO_NAMES, "weights"):
        FORMAT.load(path)
    torch.save({**content, "pytc_metadata": {"model_arch": "rsunet"}}, path)
    with raises(ModelError, "rsunet", "last.yaml", "monai_basic_unet3d"):
        FORMAT.load(path)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[1, 2", "cannot read the configuration"),
        ("- a", "holds no sections"),
        ("name: x", "no configuration of PyTorch Connectomics"),
        ("model: {in_channels: many}", "'model.in_channels' is 'many', but it must be a whole number"),
        ("model: {input_size: [0, 4]}", "'model.input_size'"),
        ("model: {monai: {filters: [1, -4]}}", "'model.monai.filters'"),
        ("{model: {}, data: {image_transform: {normalize: divide-0}}}", "divide-255"),
        ("{model: {}, inference: {output_act: relu}}", "one of sigmoid, softmax, tanh, none"),
        ("{model: {}, inference: {model: {select_channel: 4}}}", "some of the channels 0 to 0"),
    ],
)
def test_a_broken_configuration_names_file_and_key(text: str, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "x.ckpt"
    path.with_suffix(".yaml").write_text(text)
    with raises(ModelError, "x.yaml") as caught:
        FORMAT.describe(path)
    assert reason in str(caught.value)


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("{_base_: ../all.yaml, model: {arch: {type: monai_unet}}}", "_base_"),
        ("{_base_: [b.yaml, none.yaml], model: {arch: {type: monai_unet}, out_channels: 1}}", "none.yaml"),
        ("{_base_: linked.yaml, model: {arch: {type: monai_unet}, out_channels: 1}}", "linked.yaml"),
        ("{_base_: x.yaml, model: {arch: {type: monai_unet}, out_channels: 1}}", "x.yaml"),
        ("{default: {pipeline_profile: aff12, model: {arch: {type: monai_unet}}}}", "pipeline_profile"),
        ("{model: {arch: {profile: monai_unet}, out_channels: 1}}", "model.arch.profile"),
        ("{model: {}, test: {inference: {model: {activation_profile: a}}}}", "inference.model.activation_profile"),
        ("{model: {}, data: {dataloader: {profile: cached}}}", "data.dataloader.profile"),
    ],
)
def test_what_is_left_to_other_files_is_not_guessed(text: str, key: str, tmp_path: Path) -> None:
    """A file half read has another window, other channels or other activations than its program has."""
    folder = tmp_path / "run"
    folder.mkdir()
    path = folder / "x.ckpt"
    path.with_suffix(".yaml").write_text(text)
    for outside in (tmp_path / "all.yaml", folder / "b.yaml"):
        outside.write_text("model: {out_channels: 1}")
    (folder / "linked.yaml").symlink_to(tmp_path / "all.yaml")
    with raises(ModelError, "x.yaml") as caught:
        FORMAT.describe(path)
    assert key in str(caught.value)


def test_bases_in_its_folder_are_laid_below_it(tmp_path: Path) -> None:
    """In their order, sections merged, lists replaced, null taking a value away: as OmegaConf merges."""
    window = {"window_size": [32, 32, 32], "overlap": 0.75}
    (tmp_path / "a.yaml").write_text(yaml.safe_dump({"model": {"out_channels": 3}, "inference": {"window": window}}))
    (tmp_path / "b.yaml").write_text("{_base_: a.yaml, inference: {window: {window_size: [16, 48, 48]}}}")
    (tmp_path / "c.yaml").write_text("{model: {out_channels: 2, arch: {type: monai_basic_unet3d}}}")
    config = {"_base_": ["b.yaml", "c.yaml"], "inference": {"test_time_augmentation": {"enabled": True}}}
    (tmp_path / "x.yaml").write_text(yaml.safe_dump(config))
    spec = FORMAT.describe(tmp_path / "x.ckpt").spec
    assert (spec.out_channels, spec.window.default, spec.overlap) == (2, (16, 48, 48), 0.75)
    (tmp_path / "x.yaml").write_text(yaml.safe_dump(config | {"inference": {"window": {"window_size": None}}}))
    assert FORMAT.describe(tmp_path / "x.ckpt").spec.window.default == (128, 128, 128)


# --- hostile ---------------------------------------------------------------------------------------------------------


class Hostile:
    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.canary}",)


class Hungry:
    def __reduce__(self) -> Any:
        return bytearray, (1 << 36,)


@pytest.mark.parametrize("where", ["state_dict", "callbacks", "hyper_parameters"])
def test_objects_in_a_checkpoint_are_never_made(where: str, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    path = make(tmp_path).path
    torch.save({**torch.load(path, weights_only=True), where: {"x": Hostile(canary)}}, path)
    with raises(ModelError, Kind.RUNS_CODE, f"{os.name}.system", "last.ckpt"):
        load_model(path)
    with pytest.raises(ModelError):
        load_model(path, trust=True)
    assert not canary.exists()


def test_yaml_tags_are_never_made(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    path = make(tmp_path).path
    path.with_suffix(".yaml").write_text(f"model: !!python/object/apply:os.system ['touch {canary}']")
    with raises(ModelError, "tag:yaml.org,2002:python/object/apply:os.system", "os.system"):
        load_model(path)
    assert not canary.exists()


def aliases() -> str:
    lines = ["a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]
    return "\n".join([*lines, "model: *a11"])


@pytest.mark.parametrize(
    "text",
    [
        aliases(),
        "model: &m {x: *m}",
        "model: " + "[" * 100_000,
        "model: {monai: {filters: [16384, 16384, 16384, 16384, 16384, 16384]}}",
        "model: {arch: {type: monai_unetr}, transformer: {hidden_size: 65535, mlp_dim: 65536, num_heads: 1}}",
        "model: {monai: {filters: [" + "1, " * 1000 + "1]}}",
    ],
)
def test_a_configuration_cannot_ask_for_memory(text: str, tmp_path: Path, memory: Callable[[], float]) -> None:
    path = make(tmp_path).path
    path.with_suffix(".yaml").write_text(text)
    with pytest.raises(ModelError, match=r"last\.(yaml|ckpt)"):
        load_model(path)
    assert memory() < 100e6


def test_a_checkpoint_cannot_ask_for_memory(tmp_path: Path, memory: Callable[[], float]) -> None:
    path = make(tmp_path).path
    content = torch.load(path, weights_only=True)
    torch.save({**content, "x": Hungry()}, path)
    with raises(ModelError, "builtins.bytearray"):
        load_model(path)
    wide = torch.zeros(1).expand(1 << 40)
    torch.save({**content, "state_dict": {**content["state_dict"], "model.model.final_conv.bias": wide}}, path)
    with raises(ModelError, Kind.NO_DENSE_TENSOR, "final_conv.bias"):
        load_model(path)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("archive/data.pkl", "w") as bomb:
        for _ in range(300):
            bomb.write(bytes(1_000_000))
    with raises(ModelError, "archive/data.pkl", 300000000, "torch.save"):
        load_model(path)
    assert memory() < 100e6


def test_a_large_checkpoint_opens_without_a_second_copy(tmp_path: Path) -> None:
    config = configured(monai={"filters": [32, 64, 128, 256, 512, 512]})
    original = BasicUNet(3, 1, 2, (32, 64, 128, 256, 512, 512), act="relu", norm="batch")
    path = write(tmp_path, original, config, optimizer_states=[{"exp_avg": torch.zeros(20_000_000)}])
    loaded = FORMAT.load(path)
    assert not any(weight.is_meta for weight in loaded.network.parameters())
    mapped = Path("/proc/self/maps")
    if mapped.exists():
        assert str(path) in mapped.read_text()
