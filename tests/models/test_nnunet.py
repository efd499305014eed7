"""Trained folders of nnU-Net: what is read from them, what is refused, and nothing of a stranger's runs."""

from __future__ import annotations

import json
import os
import pickle
import sys
import tracemalloc
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.models.sample_nnunet import (
    checkpoint,
    dataset,
    make,
    make_network,
    plans,
    write_folder,
)
from tests.refusals import Kind, raises

import napari_tessera as nt
from napari_tessera.core.errors import ModelError
from napari_tessera.core.settings.choices import DecoderChoice
from napari_tessera.intensity.normalisation import Normalisation
from napari_tessera.models.load import describe_model, find_risk, load_model
from napari_tessera.models.model import Model

pytest.importorskip(
    "dynamic_network_architectures", reason="dynamic-network-architectures (the extra nnunet) is not installed"
)

Folder = Callable[..., Path]


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    """Write a trained folder: its plans, its dataset, and what to change of each."""

    def write(plan: dict[str, Any] | None = None, data: dict[str, Any] | None = None, **changes: Any) -> Path:
        plan = plan or plans()
        data = data or dataset()
        network = make_network(plan, in_channels=len(data["channel_names"]), out_channels=len(data["labels"]))
        return write_folder(tmp_path / "model", plan, data, [checkpoint(network, plan, **changes)])

    return write


def configuration(plan: dict[str, Any]) -> dict[str, Any]:
    (found,) = plan["configurations"].values()
    return dict(found)


def arguments(plan: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = configuration(plan)["architecture"]["arch_kwargs"]
    return found


def the_checkpoint(path: Path) -> Path:
    return path / "fold_0" / "checkpoint_final.pth"


def test_the_sample_predicts_what_its_network_does(tmp_path: Path) -> None:
    sample = make(tmp_path)
    model = load_model(sample.path)
    volume = np.random.default_rng(0).normal(100, 20, (12, 30, 25)).astype(np.float32)
    reference = Model(sample.network, model.spec)
    np.testing.assert_allclose(nt.predict(volume, model), nt.predict(volume, reference), atol=sample.tolerance)
    assert find_risk(sample.path) is None


@pytest.mark.parametrize("given", ["", "plans.json", "dataset.json", ".."])
def test_a_folder_is_found_by_itself_its_files_and_the_folder_above(tmp_path: Path, given: str) -> None:
    path = make(tmp_path / "results").path / given
    assert load_model(path.resolve()).spec.name == "Dataset901_Cells 3d_fullres"


def test_the_description_sets_the_sliders(tmp_path: Path) -> None:
    form, found = describe_model(make(tmp_path).path)
    assert form.name == "nnU-Net folder"
    assert found.architecture == "PlainConvUNet"
    spec = found.spec
    assert spec is not None
    assert (spec.spatial_dims, spec.in_channels, spec.out_channels) == (3, 1, 2)
    assert (spec.window.default, spec.window.step, spec.window.minimum) == ((8, 16, 16), (2, 4, 4), (4, 8, 8))
    assert spec.voxel_size_um == (3.0, 1.0, 1.0)
    assert (spec.classes, spec.activation, spec.overlap) == (("background", "cell"), "softmax", 0.5)
    assert spec.suggested_decoder == DecoderChoice("argmax")
    assert spec.normalisation == Normalisation("zscore")
    assert (spec.description, spec.licence) == ("Cells of a plant.", "CC-BY-4.0")
    assert spec.citation == "Somebody et al. 2026"


def test_the_smallest_window_runs(tmp_path: Path) -> None:
    model = load_model(make(tmp_path).path)
    with torch.inference_mode():
        assert model.network(torch.rand(1, 1, *model.spec.window.minimum)).shape[2:] == model.spec.window.minimum


def test_normalisation_is_of_each_channel(folder: Folder) -> None:
    schemes = ["CTNormalization", "RGBTo01Normalization", "RescaleTo01Normalization", "NoNormalization"]
    data = dataset(channel_names={str(channel): "x" for channel in range(4)})
    plan = plans(normalization_schemes=schemes, use_mask_for_norm=[False] * 4)
    spec = load_model(folder(plan, data)).spec
    assert spec.normalisation == (
        Normalisation("fixed", (("high", 180.0), ("low", 50.0), ("mean", 100.0), ("std", 20.0))),
        Normalisation("divide", (("by", 255.0),)),
        Normalisation("minmax"),
        Normalisation("none"),
    )


def test_the_ignored_label_has_no_channel(tmp_path: Path) -> None:
    plan = plans()
    data = dataset(labels={"background": 0, "nucleus": 2, "cell": 1, "ignore": 3})
    network = make_network(plan, out_channels=3)
    spec = load_model(write_folder(tmp_path / "m", plan, data, [checkpoint(network, plan)])).spec
    assert spec.classes == ("background", "cell", "nucleus")


def test_regions_get_their_own_decoder(tmp_path: Path) -> None:
    plan = plans()
    data = dataset(labels={"background": 0, "whole": [1, 2], "core": [2], "ignore": 3}, regions_class_order=[1, 2])
    path = write_folder(tmp_path / "m", plan, data, [checkpoint(make_network(plan), plan)])
    spec = load_model(path).spec
    assert (spec.classes, spec.activation) == (("whole", "core"), "sigmoid")
    assert spec.suggested_decoder == DecoderChoice("regions", (("labels", (1, 2)),))
    (path / "dataset.json").write_text(json.dumps({**data, "regions_class_order": None}))
    with raises(ModelError, "regions", "regions_class_order", 2, 0):
        load_model(path)


def test_two_dimensions(folder: Folder) -> None:
    spec = load_model(folder(plans(2))).spec
    assert (spec.spatial_dims, spec.window.default, spec.voxel_size_um) == (2, (16, 16), (1.0, 1.0))


def test_the_residual_encoder(folder: Folder) -> None:
    plan = plans()
    architecture = configuration(plan)["architecture"]
    architecture["network_class_name"] = "dynamic_network_architectures.architectures.unet.ResidualEncoderUNet"
    architecture["arch_kwargs"]["n_blocks_per_stage"] = architecture["arch_kwargs"].pop("n_conv_per_stage")
    path = folder(plan)
    assert describe_model(path)[1].architecture == "ResidualEncoderUNet"
    with torch.inference_mode():
        assert load_model(path).network(torch.rand(1, 1, 8, 16, 16)).shape == (1, 2, 8, 16, 16)


def test_plans_from_before_they_had_an_architecture(folder: Folder) -> None:
    plan = plans()
    path = folder(plan)
    known = arguments(plan)
    old = {key: value for key, value in configuration(plan).items() if key != "architecture"}
    old |= {
        "UNet_class_name": "PlainConvUNet",
        "UNet_base_num_features": 4,
        "unet_max_num_features": 8,
        "n_conv_per_stage_encoder": known["n_conv_per_stage"],
        "n_conv_per_stage_decoder": known["n_conv_per_stage_decoder"],
        "pool_op_kernel_sizes": known["strides"],
        "conv_kernel_sizes": known["kernel_sizes"],
        "num_pool_per_axis": [1, 2, 2],
    }
    windows = torch.rand(1, 1, 8, 16, 16)
    with torch.inference_mode():
        before = load_model(path).network(windows)
        (path / "plans.json").write_text(json.dumps({**plan, "configurations": {"3d_fullres": old}}))
        torch.testing.assert_close(load_model(path).network(windows), before, rtol=0, atol=0)


def test_a_configuration_inherits(folder: Folder) -> None:
    plan = plans()
    path = folder(plan)
    plan["configurations"] = {
        "base": plan["configurations"]["3d_fullres"],
        "3d_fullres": {"inherits_from": "base", "patch_size": [16, 16, 16]},
    }
    (path / "plans.json").write_text(json.dumps(plan))
    assert load_model(path).spec.window.default == (16, 16, 16)
    plan["configurations"]["base"]["inherits_from"] = "3d_fullres"
    (path / "plans.json").write_text(json.dumps(plan))
    with raises(ModelError, "3d_fullres", "plans.json"):
        load_model(path)


def test_axes_in_another_order(folder: Folder) -> None:
    plan = {**plans(), "transpose_forward": [2, 0, 1]}
    model = load_model(folder(plan))
    # nnU-Net's first axis is the image's x: 8 voxels of 3 µm.
    assert model.spec.window.default == (16, 16, 8)
    assert model.spec.window.step == (4, 4, 2)
    assert model.spec.voxel_size_um == (1.0, 1.0, 3.0)
    windows = torch.rand(1, 1, 16, 12, 8)
    with torch.inference_mode():
        wanted = make_network(plan)(windows.permute(0, 1, 4, 2, 3)).permute(0, 1, 3, 4, 2)
        torch.testing.assert_close(model.network(windows), wanted, rtol=0, atol=0)


def test_several_folds_are_averaged(tmp_path: Path) -> None:
    plan = plans()
    networks = [make_network(plan, seed=seed) for seed in range(3)]
    path = write_folder(tmp_path / "m", plan, dataset(), [checkpoint(one, plan) for one in networks])
    windows = torch.rand(2, 1, 8, 16, 16)
    with torch.inference_mode():
        wanted = torch.stack([one(windows) for one in networks]).mean(0)
        torch.testing.assert_close(load_model(path).network(windows), wanted, rtol=0, atol=1e-6)
    assert describe_model(path)[1].architecture == "PlainConvUNet (mean of 3 folds)"
    the_checkpoint(path).rename(path / "fold_0" / "checkpoint_best.pth")
    assert any("fold_0 has no checkpoint_final.pth" in note for note in load_model(path).notes)


def test_folds_must_be_alike(tmp_path: Path) -> None:
    plan = plans()
    network = make_network(plan)
    folds = [checkpoint(network, plan), checkpoint(network, plan, trainer_name="nnUNetTrainerBN")]
    with raises(ModelError, "folds", "nnUNetTrainer", "nnUNetTrainerBN"):
        load_model(write_folder(tmp_path / "m", plan, dataset(), folds))


@pytest.mark.parametrize(("fold", "name"), [("fold_0", "checkpoint_best.pth"), ("fold_all", "checkpoint_final.pth")])
def test_other_names_of_checkpoints(tmp_path: Path, fold: str, name: str) -> None:
    path = make(tmp_path).path
    (path / "fold_0").rename(path / fold)
    (path / fold / "checkpoint_final.pth").rename(path / fold / name)
    assert load_model(path).spec.out_channels == 2


@pytest.mark.parametrize(
    ("axes", "plan", "mirror_axes"),
    [
        ((0, 1, 2), plans(), "zyx"),
        ((0, 2), plans(), "zx"),
        ((0,), {**plans(), "transpose_forward": [2, 0, 1]}, "x"),
        ((0, 2), {**plans(), "transpose_forward": [2, 0, 1]}, "yx"),
        ((), plans(), ""),
        (None, plans(), ""),
        ((0, 1), plans(2), "yx"),
        ((1,), plans(2), "x"),
    ],
)
def test_mirroring_is_of_the_axes_of_the_image(
    folder: Folder, axes: tuple[int, ...] | None, plan: dict[str, Any], mirror_axes: str
) -> None:
    model = load_model(folder(plan, inference_allowed_mirroring_axes=axes))
    assert model.spec.mirror_axes == mirror_axes
    assert not any("mirror" in note for note in model.notes)


def test_what_is_not_taken_over_is_told(folder: Folder) -> None:
    plan = plans(preprocessor_name="Mine")
    plan["image_reader_writer"] = "Tiff3DIO"
    path = folder(plan, trainer_name="nnUNetTrainerMine")
    (path / "postprocessing.pkl").write_bytes(b"")
    model = load_model(path)
    assert model.spec.voxel_size_um is None
    text = " ".join(model.notes)
    for said in ("preprocessor Mine", "Tiff3DIO", "'nnUNetTrainerMine'", "post-processing"):
        assert said in text
    assert describe_model(path)[1].notes == model.notes


@pytest.mark.parametrize(
    ("scheme", "mask", "normalisation"),
    [
        ("ZScoreNormalization", True, Normalisation("zscore", (("masked", 1.0),))),
        ("ZScoreNormalization", None, Normalisation("zscore")),
        ("RescaleTo01Normalization", True, Normalisation("minmax")),
    ],
)
def test_only_zscores_take_notice_of_the_mask(
    folder: Folder, scheme: str, mask: bool | None, normalisation: Normalisation
) -> None:
    model = load_model(folder(plans(normalization_schemes=[scheme], use_mask_for_norm=[mask])))
    assert model.spec.normalisation == normalisation
    assert model.spec.crop == "nonzero"
    assert not any("zero" in note for note in model.notes)


def test_as_many_masks_as_channels(folder: Folder) -> None:
    with raises(ModelError, "use_mask_for_norm", 2):
        load_model(folder(plans(use_mask_for_norm=[True, True])))


@pytest.mark.parametrize(
    ("plan", "reader", "said"),
    [
        (plans(spacing=[0.05, 0.01, 0.02]), "Tiff3DIO", "0.05 x 0.01 x 0.02 (z y x) in a unit that Tiff3DIO does not"),
        ({**plans(spacing=[9, 0.5, 0.25]), "transpose_forward": [2, 0, 1]}, "Tiff3DIO", "0.5 x 0.25 x 9 (z y x)"),
        (plans(spacing=[1, 1, 1]), "Tiff3DIO", "or nothing said one and nnU-Net took 1, so it is not taken over"),
        (plans(2, spacing=[2, 3]), "MyReader", "2 x 3 (y x) in a unit that MyReader does not know,"),
        (plans(2, spacing=[1, 1]), "NaturalImage2DIO", "trained on pixels, whatever their size: its spacing is 1 x 1,"),
    ],
)
def test_spacing_without_a_unit_is_told_and_not_taken_over(
    folder: Folder, plan: dict[str, Any], reader: str, said: str
) -> None:
    model = load_model(folder({**plan, "image_reader_writer": reader}))
    assert model.spec.voxel_size_um is None
    (note,) = (note for note in model.notes if "spacing" in note)
    assert said in note
    assert "set resolution to it" in note
    assert "--resolution" in note


def test_the_resolution_in_the_note_resamples(folder: Folder) -> None:
    plan = {**plans(spacing=[0.5, 0.25, 0.1]), "image_reader_writer": "Tiff3DIO", "transpose_forward": [2, 0, 1]}
    model = load_model(folder(plan))
    (note,) = (note for note in model.notes if "--resolution" in note)
    said = note.partition("--resolution ")[2].split()[0]
    assert said == "0.25,0.1,0.5"
    shape, size = (16, 24, 30), (0.5, 0.1, 0.25)
    (before,) = nt.plan(shape, model, nt.Settings(device="cpu"), voxel_size_um=size).volumes
    assert before.resampling is None
    given = nt.Settings(device="cpu", resolution=tuple(map(float, said.split(","))))
    (after,) = nt.plan(shape, model, given, voxel_size_um=size).volumes
    assert after.resampling is not None
    assert after.resampling.shape == (32, 24, 15)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells which files are mapped")
def test_weights_stay_in_the_file(folder: Folder) -> None:
    path = the_checkpoint(folder())
    model = load_model(path.parents[1])
    lines = [line for line in Path("/proc/self/maps").read_text().splitlines() if line.endswith(str(path))]
    spans = [tuple(int(end, 16) for end in line.split()[0].split("-")) for line in lines]
    weights = [parameter.data_ptr() for parameter in model.network.parameters()]
    assert weights
    assert all(any(low <= pointer < high for low, high in spans) for pointer in weights)


def replace_weights(path: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    content = torch.load(the_checkpoint(path), weights_only=False)
    change(content)
    torch.save(content, the_checkpoint(path))
    return path


def test_missing_extra_and_misshapen_weights(folder: Folder) -> None:
    def change(content: dict[str, Any]) -> None:
        weights = content["network_weights"]
        del weights["decoder.seg_layers.1.bias"]
        weights["other"] = torch.zeros(1)
        weights["decoder.seg_layers.1.weight"] = torch.zeros(5, 4, 1, 1, 1)

    with raises(
        ModelError,
        Kind.LACKS,
        "decoder.seg_layers.1.bias",
        Kind.UNKNOWN_WEIGHTS,
        "other",
        Kind.OTHER_SHAPE,
        "decoder.seg_layers.1.weight",
        "(5, 4, 1, 1, 1)",
    ):
        load_model(replace_weights(folder(), change))


def test_other_numbers_of_channels(folder: Folder) -> None:
    path = folder()
    (path / "dataset.json").write_text(json.dumps(dataset(labels={"background": 0, "a": 1, "b": 2})))
    with raises(
        ModelError,
        Kind.OTHER_SHAPE,
        "decoder.seg_layers.0.bias",
        "decoder.seg_layers.0.weight",
        "decoder.seg_layers.1.bias",
    ):
        load_model(path)
    (path / "dataset.json").write_text(json.dumps(dataset(channel_names={"0": "a", "1": "b"})))
    with raises(ModelError, "2 channels", 1):
        load_model(path)


def test_half_precision_weights_become_float32(folder: Folder) -> None:
    def change(content: dict[str, Any]) -> None:
        content["network_weights"] = {name: one.half() for name, one in content["network_weights"].items()}

    network = load_model(replace_weights(folder(), change)).network
    assert {one.dtype for one in network.parameters()} == {torch.float32}


@pytest.mark.parametrize("name", ["plans.json", "dataset.json", "fold_0/checkpoint_final.pth"])
def test_truncated_files(folder: Folder, name: str) -> None:
    path = folder()
    content = (path / name).read_bytes()
    (path / name).write_bytes(content[: len(content) // 2])
    with raises(ModelError, name, Kind.CUT_SHORT):
        load_model(path)


def test_no_weights(folder: Folder) -> None:
    the_checkpoint(path := folder()).unlink()
    with raises(ModelError, "fold_*/checkpoint_final.pth"):
        load_model(path)


def test_several_trained_folders(tmp_path: Path) -> None:
    for name in ("one", "two"):
        make(tmp_path / "results" / name)
    with raises(ModelError, 2, "nnUNetTrainer__nnUNetPlans__3d_fullres"):
        load_model(tmp_path / "results")


def zip_of(path: Path, files: Mapping[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


ZIPPED = {"a/plans.json": b"{}", "a/dataset.json": b"{}"}


@pytest.mark.parametrize(
    ("files", "said"),
    [
        (ZIPPED, "model.zip/a/plans.json"),
        (
            ZIPPED | {"b/plans.json": b"{}", "b/dataset.json": b"{}"},
            (2, "a, b"),
        ),
        (ZIPPED | {"../escape": b""}, "'../escape'"),
        (ZIPPED | {"a/plans.json": b"[" * 10**5}, "model.zip/a/plans.json"),
    ],
)
def test_what_is_wrong_with_a_zip(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, bytes], said: Any
) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    path = zip_of(tmp_path / "model.zip", files)
    for act in (load_model, describe_model):
        with raises(ModelError, said) as refused:
            act(path)
        assert str(scratch) not in str(refused.value)
    assert not list(scratch.iterdir())
    assert sorted(tmp_path.iterdir()) == [path, scratch]


def test_a_cascade_is_refused(folder: Folder) -> None:
    with raises(ModelError, "3d_lowres"):
        load_model(folder(plans(previous_stage="3d_lowres")))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"transpose_forward": [0, 0, 1]}, "transpose_forward is"),
        ({"label_manager": "Mine"}, "label manager 'Mine'"),
        ({"configurations": {}}, "has no configuration '3d_fullres'"),
        ({"configurations": {"3d_fullres": {}}}, "is not what nnU-Net writes"),
        ({"dataset_name": 3}, "'dataset_name': input should be a valid string"),
    ],
)
def test_plans_that_are_wrong(folder: Folder, change: dict[str, Any], said: str) -> None:
    plan = plans()
    path = folder(plan)
    (path / "plans.json").write_text(json.dumps({**plan, **change}))
    with pytest.raises(ModelError, match=r"plans\.json") as caught:
        load_model(path)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"normalization_schemes": ["MyNormalization"]}, "normalisation scheme 'MyNormalization'"),
        ({"patch_size": [9, 16, 16]}, "window default"),
        ({"patch_size": [16]}, "the patch has 1 axes"),
        ({"spacing": [0.0, 1.0, 1.0]}, "the spacing is (0.0, 1.0, 1.0)"),
        ({"spacing": [1.0, 1.0]}, "the network has 3 axes"),
    ],
)
def test_configurations_that_are_wrong(folder: Folder, change: dict[str, Any], said: str) -> None:
    path = folder(plans(**change))
    with pytest.raises(ModelError) as caught:
        load_model(path)
    assert said in str(caught.value)
    assert str(path) in str(caught.value)


def test_without_the_package_of_networks(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    path = folder()
    monkeypatch.setitem(sys.modules, "dynamic_network_architectures.architectures", None)
    with raises(ModelError, 'pip install "napari-tessera[nnunet]"'):
        load_model(path)
    assert describe_model(path)[1].spec is not None


class Payload:
    """Makes a folder when unpickled."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.canary),)


@pytest.mark.parametrize("place", ["logging", "network_weights", "init_args"])
def test_a_pickle_that_runs_something(folder: Folder, tmp_path: Path, place: str) -> None:
    canary = tmp_path / "canary"
    path = folder(**{place: Payload(canary)})
    for opens in (load_model, describe_model):
        with raises(ModelError, "checkpoint_final.pth", f"{os.name}.mkdir", Kind.RUNS_CODE):
            opens(path)
    assert not canary.exists()


def test_a_plain_pickle(folder: Folder, tmp_path: Path) -> None:
    canary, path = tmp_path / "canary", folder()
    the_checkpoint(path).write_bytes(pickle.dumps(Payload(canary)))
    with raises(ModelError, "checkpoint_final.pth", Kind.RUNS_CODE):
        load_model(path)
    assert not canary.exists()


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("nonlin", "os.system", "os.system"),
        ("norm_op", "torch.hub.load", ("norm_op", "torch.hub.load")),
        ("conv_op", ["torch.nn.Conv3d"], "conv_op"),
        ("n_stages", 10**9, ("n_stages", "1000000000")),
        ("features_per_stage", [2**40] * 3, "features_per_stage"),
        ("kernel_sizes", [[[3]]], "kernel_sizes"),
        ("kernel_sizes", [3] * 1000, "kernel_sizes"),
        ("norm_op_kwargs", {"eps": "__import__('os')"}, "norm_op_kwargs"),
        ("input_channels", 10**9, "input_channels"),
        (
            "n_conv_per_stage",
            [2],
            ("dynamic_network_architectures.architectures.unet.PlainConvUNet", "n_conv_per_stage", "resolution"),
        ),
    ],
)
def test_arguments_that_ask_for_more(folder: Folder, key: str, value: Any, said: str | tuple[str, ...]) -> None:
    plan = plans()
    path = folder(plan)
    arguments(plan)[key] = value
    (path / "plans.json").write_text(json.dumps(plan))
    with raises(ModelError, said):
        load_model(path)


def test_a_network_of_another_module(folder: Folder) -> None:
    plan = plans()
    path = folder(plan)
    configuration(plan)["architecture"]["network_class_name"] = "os.system"
    (path / "plans.json").write_text(json.dumps(plan))
    with raises(ModelError, "os.system", Kind.NOT_REBUILT, "plans.json"):
        load_model(path)


def test_a_huge_network_takes_no_memory(folder: Folder) -> None:
    """Its weights would fill terabytes; the file holds few, and that is found without making any."""
    plan = plans()
    path = folder(plan)
    arguments(plan)["features_per_stage"] = [1_000_000] * 3
    (path / "plans.json").write_text(json.dumps(plan))
    with raises(ModelError, 37448):
        load_model(path)


def test_weights_that_claim_to_be_larger_than_the_file(folder: Folder) -> None:
    def change(content: dict[str, Any]) -> None:
        content["network_weights"]["decoder.seg_layers.1.weight"] = torch.zeros(1).expand(10**12)

    with raises(ModelError, Kind.NO_DENSE_TENSOR, "decoder.seg_layers.1.weight"):
        load_model(replace_weights(folder(), change))


def test_a_number_of_the_log_that_asks_for_memory(folder: Folder) -> None:
    """A number of 2 GB without content makes numpy reserve them; here nothing of numpy is called."""
    huge = np.dtype("V2000000000")

    class Number:
        def __reduce__(self) -> tuple[Any, ...]:
            return type(np.float64(0)).__reduce__(np.float64(0))[0], (huge,)

    path = folder(logging=[Number()])
    tracemalloc.start()
    try:
        assert load_model(path).spec.out_channels == 2
        assert tracemalloc.get_traced_memory()[1] < 100_000_000
    finally:
        tracemalloc.stop()


def test_a_compressed_checkpoint(folder: Folder) -> None:
    path = folder()
    with zipfile.ZipFile(the_checkpoint(path)) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(the_checkpoint(path), "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in records.items():
            archive.writestr(name, content)
    with raises(ModelError, Kind.COMPRESSED, "checkpoint_final.pth"):
        load_model(path)


@pytest.mark.parametrize("name", ["plans.json", "dataset.json"])
def test_absurd_json(folder: Folder, name: str) -> None:
    path = folder()
    (path / name).write_text("[" * 100_000)
    with raises(ModelError, Kind.CANNOT_READ, name):
        load_model(path)
    with (path / name).open("wb") as file:
        file.truncate(30_000_000)
    with raises(ModelError, name, 4000000):
        load_model(path)


def test_a_checkpoint_of_a_single_number(tmp_path: Path) -> None:
    plan = plans()
    folder = write_folder(tmp_path, plan, dataset(), [checkpoint(make_network(plan), plan)])
    torch.save(1, folder / "fold_0" / "checkpoint_final.pth")
    with raises(ModelError, 2, "checkpoint_final.pth"):
        load_model(folder)
