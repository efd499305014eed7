"""2D models of every kind of file, run over a stack: the same as plane by plane, in Python and on the command line."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import pytest
import torch
import yaml
from tests.models import sample_bioimageio, sample_nnunet
from tests.refusals import raises
from typer.testing import CliRunner

import napari_tessera as nt
from napari_tessera.cli.app import app
from napari_tessera.core.errors import InputError
from napari_tessera.images.readers.tiff import open_tiff
from napari_tessera.images.volume import Volume
from napari_tessera.images.writers.tiff import write_tiff
from napari_tessera.intensity.normalisation import Normalisation
from napari_tessera.models.safety.trusted_files import TrustStore
from napari_tessera.models.spec.suggestions import with_views_of

PLANES = 5
SETTINGS = nt.Settings(window_size=(32, 32), overlap=0.25, sw_batch_size=3, device="cpu")


@pytest.fixture(autouse=True)
def _private_trust(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "configuration"))


@pytest.fixture(scope="module")
def stack() -> np.ndarray:
    """Planes of different brightness, so that numbers of the whole stack would not do for one of them."""
    noise = np.random.default_rng(4).normal(100, 20, (PLANES, 40, 52))
    return (noise * np.arange(1, PLANES + 1)[:, None, None]).astype(np.float32)


ARGUMENTS: dict[str, Any] = {
    "spatial_dims": 2,
    "in_channels": 1,
    "out_channels": 2,
    "features": [4, 4, 8, 8, 16, 4],
}


def small_network() -> torch.nn.Module:
    from monai.networks.nets import BasicUNet

    torch.manual_seed(7)
    return BasicUNet(**ARGUMENTS).eval()


def description(**more: Any) -> dict[str, Any]:
    return {
        "format": "tessera-model/1",
        "name": "flat",
        "spatial_dims": 2,
        "in_channels": 1,
        "out_channels": 2,
        "window": {"default": [32, 32], "step": [16, 16], "minimum": [32, 32]},
        "normalisation": {"mode": "zscore"},
        **more,
    }


def as_tessera(folder: Path) -> Path:
    from safetensors.torch import save_file

    save_file(small_network().state_dict(), folder / "flat.safetensors")
    architecture = {"class": "monai.networks.nets.BasicUNet", "arguments": ARGUMENTS}
    (folder / "flat.yaml").write_text(yaml.safe_dump(description(architecture=architecture)))
    return folder / "flat.yaml"


def as_torchscript(folder: Path) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.script(small_network()).save(str(folder / "flat.pt"))
    (folder / "flat.yaml").write_text(yaml.safe_dump(description()))
    return folder / "flat.pt"


def as_exported(folder: Path) -> Path:
    axes = {0: torch.export.Dim("windows", min=1, max=64)}
    program = torch.export.export(small_network(), (torch.zeros(2, 1, 32, 32),), dynamic_shapes=(axes,))
    torch.export.save(program, folder / "flat.pt2")
    rule = {"default": [32, 32], "step": [0, 0], "minimum": [32, 32]}
    (folder / "flat.yaml").write_text(yaml.safe_dump(description(window=rule)))
    return folder / "flat.pt2"


def as_onnx(folder: Path) -> Path:
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    axes = {0: "windows", 2: "y", 3: "x"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            small_network(),
            (torch.zeros(2, 1, 32, 32),),
            folder / "flat.onnx",
            dynamo=False,
            input_names=["image"],
            output_names=["logits"],
            dynamic_axes={"image": axes, "logits": axes},
        )
    (folder / "flat.yaml").write_text(yaml.safe_dump(description()))
    return folder / "flat.onnx"


def as_nnunet(folder: Path) -> Path:
    pytest.importorskip("dynamic_network_architectures")
    plan = sample_nnunet.plans(2, patch_size=[32, 32])
    network = sample_nnunet.make_network(plan)
    checkpoint = sample_nnunet.checkpoint(network, plan, inference_allowed_mirroring_axes=(0, 1))
    return sample_nnunet.write_folder(
        folder / "nnUNetTrainer__nnUNetPlans__2d", plan, sample_nnunet.dataset(), [checkpoint]
    )


def as_bioimageio(folder: Path) -> Path:
    pytest.importorskip("bioimageio.spec")
    network, package = small_network(), folder / "bioimageio"
    package.mkdir()
    image = np.random.default_rng(3).normal(100, 20, (1, 1, 32, 32)).astype(np.float32)
    with torch.inference_mode():
        output = network(torch.from_numpy((image - image.mean()) / (image.std() + 1e-6))).sigmoid().numpy()
    np.save(package / "test_input.npy", image)
    np.save(package / "test_output.npy", output)
    torch.save(network.state_dict(), package / "weights.pt")

    def axes(channels: list[str], **size: dict[str, Any]) -> list[dict[str, Any]]:
        space = [{"type": "space", "id": axis, "size": size[axis]} for axis in "yx"]
        return [{"type": "batch"}, {"type": "channel", "channel_names": channels}, *space]

    sides = {axis: {"min": 32, "step": 16} for axis in "yx"}
    normalise = {"id": "zero_mean_unit_variance", "kwargs": {"axes": ["channel", "y", "x"], "eps": 1e-6}}
    content = {
        **sample_bioimageio.PAPERS,
        "name": "flat cells",
        "description": "Flat ones.",
        "inputs": [
            {
                "id": "raw",
                "axes": axes(["membrane"], **sides),
                "test_tensor": sample_bioimageio.with_hash(package / "test_input.npy"),
                "preprocessing": [normalise],
            }
        ],
        "outputs": [
            {
                "id": "cells",
                "axes": axes(["inside", "outline"], **{a: {"tensor_id": "raw", "axis_id": a} for a in "yx"}),
                "test_tensor": sample_bioimageio.with_hash(package / "test_output.npy"),
                "postprocessing": [{"id": "sigmoid"}],
            }
        ],
        "weights": {
            "pytorch_state_dict": {
                **sample_bioimageio.with_hash(package / "weights.pt"),
                "pytorch_version": "2.10.0",
                "architecture": {"import_from": "monai.networks.nets", "callable": "BasicUNet", "kwargs": ARGUMENTS},
            }
        },
    }
    return sample_bioimageio.write(package, content)


FORMATS = {
    "tessera": as_tessera,
    "torchscript": as_torchscript,
    "exported": as_exported,
    "onnx": as_onnx,
    "nnunet": as_nnunet,
    "bioimageio": as_bioimageio,
}


@pytest.mark.parametrize("make", FORMATS.values(), ids=FORMATS)
def test_a_stack_is_predicted_plane_by_plane(make: Callable[[Path], Path], stack: np.ndarray, tmp_path: Path) -> None:
    path = make(tmp_path)
    model = nt.load_model(path, trust=True)
    assert model.spec.spatial_dims == 2
    settings = with_views_of(SETTINGS, model.spec)  # as the command line does
    planes, alone, how = stack, model, "one by one"
    if model.spec.planes == "together":
        planes, alone = (stack - stack.mean()) / stack.std(), model.with_spec(normalisation=Normalisation())
        how += ", cropped and normalised together"
    expected = np.stack([nt.predict(plane, alone, settings) for plane in planes], axis=1)
    assert np.ptp(expected) > 1e-2, "or anything would do"
    passes: list[Any] = []
    found = nt.predict(stack, model, settings, on_event=passes.append)
    np.testing.assert_allclose(found, expected, rtol=0, atol=0 if alone is model else 1e-5)
    planned = nt.plan(stack.shape, model, settings)
    done = [event for event in passes if type(event).__name__ == "PassFinished"]
    assert len(planned.volumes) == PLANES
    assert planned.forward_passes == len(done)

    image, out = tmp_path / "stack.tif", tmp_path / "out.tif"
    write_tiff(image, stack, axes="ZYX", voxel_size_um=(0.5, 0.1, 0.2))
    if path.suffix in (".pt", ".pt2"):
        TrustStore().add(path)
    options = ["-m", str(path), "--window", "32,32", "--overlap", "0.25", "--sw-batch-size", "3", "--device", "cpu"]
    options += ["--no-resample"]  # the voxels of the model are others
    for command in (["plan", str(image)], ["run", str(image), "-o", str(out), "--probabilities"]):
        ended = CliRunner().invoke(app, [*command, *options], env={"COLUMNS": "200"})
        assert ended.exit_code == 0, ended.output
        note = f"'stack.tif' is 3D and the model '{model.spec.name}' is 2D: its {PLANES} planes run {how}\n"
        assert ended.output.count(note) == 1
    written = open_tiff(out)
    assert (written.axes, written.voxel_size_um) == ("CZYX", pytest.approx((0.5, 0.1, 0.2)))
    np.testing.assert_array_equal(np.asarray(written.data), found)


@pytest.fixture
def flat() -> nt.Model:
    """Bright pixels are class 1."""

    class Bright(torch.nn.Module):
        def forward(self, windows: torch.Tensor) -> torch.Tensor:
            brightness = windows.mean(1, keepdim=True)
            return torch.cat([0.5 - brightness, brightness - 0.5], 1)

    return nt.Model.from_network(Bright(), in_channels=1, out_channels=2, spatial_dims=2)


def test_stacks_of_every_kind(flat: nt.Model) -> None:
    image = np.zeros((4, 40, 52), np.float32)
    image[1:3, 8:24, 8:24] = 1
    for stack in (image, da.from_array(image, chunks=2), torch.from_numpy(image), Volume(image, "ZYX", (2, 1, 1))):
        labels = nt.segment(stack, flat, SETTINGS)
        np.testing.assert_array_equal(labels, image > 0.5)
    two = nt.Model(flat.network, flat.with_spec(in_channels=2).spec)
    for stack in (np.stack([image, image]), np.stack([image, image], axis=-1)):
        np.testing.assert_array_equal(nt.segment(stack, two, SETTINGS), image > 0.5)
    np.testing.assert_array_equal(nt.segment(image[0], flat, SETTINGS), image[0] > 0.5)
    with raises(InputError, "TZYX"):
        nt.segment(Volume(image[None], "TZYX"), flat, SETTINGS)


def test_masks_and_empty_windows_count_for_each_plane(flat: nt.Model) -> None:
    image = np.zeros((4, 64, 64), np.float32)
    image[1, :8, :8] = 1
    settings = nt.Settings(window_size=(32, 32), overlap=0, skip_below=0.5, device="cpu")
    window_mask = nt.find_window_mask(image, flat, settings)
    assert window_mask is not None
    assert window_mask.shape == (4, 2, 2)
    assert window_mask.sum() == 1
    assert nt.plan(image.shape, flat, settings, window_masks=[window_mask]).windows == 1
    np.testing.assert_array_equal(nt.segment(image, flat, settings), image > 0.5)
    mask = np.zeros(image.shape, bool)
    mask[2] = True
    assert not nt.segment(image, flat, SETTINGS, mask=mask).any()
    with raises(InputError, "(64, 64)", "(4, 64, 64)", "mask"):
        nt.segment(image, flat, SETTINGS, mask=mask[0])


def test_a_plan_names_every_plane_once(flat: nt.Model) -> None:
    planned = nt.plan([(3, 64, 64), (64, 64)], flat, SETTINGS, voxel_size_um=[(2, 1, 1), (1, 1)])
    assert [volume.image_shape for volume in planned.volumes] == [(64, 64)] * 4
    with raises(InputError, 3, "(0, 64, 64)"):
        nt.plan((0, 64, 64), flat, SETTINGS)
    with raises(InputError, 4, "(2, 3, 64, 64)"):
        nt.plan((2, 3, 64, 64), flat, SETTINGS)
