"""The files that `loading.py` opens: one network of a chosen width, saved in each format of models."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

__all__ = ["SHARED", "WEIGHTS", "WRITERS"]

SIDE = 16
NETS = "monai.networks.nets"
CHANNELS = {"spatial_dims": 3, "in_channels": 1, "out_channels": 2}
# Whether the weights can stay in their file, mapped into memory, so that there is no copy of them.
SHARED = ("Tessera file", "MONAI bundle", "nnU-Net folder", "bioimage.io package", "PyTorch Connectomics checkpoint")


def widths(scale: int) -> list[int]:
    """Return the widths of the BasicUNet; its weights take about 0.36 MB at scale 1, and grow with its square."""
    return [scale * factor for factor in (4, 4, 8, 16, 32, 4)]


def build(scale: int, **more: Any) -> torch.nn.Module:
    """Return MONAI's BasicUNet with random weights."""
    from monai.networks.nets import BasicUNet

    torch.manual_seed(0)
    return BasicUNet(**CHANNELS, features=widths(scale), **more).eval()


def write_tessera(folder: Path, scale: int) -> Path:
    """Write a description and safetensors weights."""
    from safetensors.torch import save_file

    save_file(build(scale).state_dict(), folder / "net.safetensors")
    description = {
        "format": "tessera-model/1",
        "name": "net",
        "architecture": {"class": f"{NETS}.BasicUNet", "arguments": CHANNELS | {"features": widths(scale)}},
        **CHANNELS,
        "window": {"default": [SIDE * 2] * 3, "step": [SIDE] * 3, "minimum": [SIDE * 2] * 3},
    }
    (folder / "net.yaml").write_text(yaml.safe_dump(description))
    return folder / "net.yaml"


def write_monai(folder: Path, scale: int) -> Path:
    """Write a MONAI bundle, a folder."""
    for name in ("configs", "models"):
        (folder / name).mkdir()
    image = {"num_channels": 1, "spatial_shape": ["16*n"] * 3}
    formats = {"inputs": {"image": image}, "outputs": {"pred": {"num_channels": 2}}}
    (folder / "configs" / "metadata.json").write_text(json.dumps({"network_data_format": formats}))
    network = {"_target_": "BasicUNet", **CHANNELS, "features": widths(scale)}
    (folder / "configs" / "inference.json").write_text(json.dumps({"network_def": network}))
    torch.save(build(scale).state_dict(), folder / "models" / "model.pt")
    return folder


def write_nnunet(folder: Path, scale: int) -> Path:
    """Write a trained folder of nnU-Net without its optimiser's state, with a network of the same depth."""
    from dynamic_network_architectures.architectures.unet import PlainConvUNet

    features = widths(scale)[1:5]
    shared = {
        "n_stages": 4,
        "features_per_stage": features,
        "kernel_sizes": [[3, 3, 3]] * 4,
        "strides": [[1, 1, 1], *([[2, 2, 2]] * 3)],
        "n_conv_per_stage": [2] * 4,
        "n_conv_per_stage_decoder": [2] * 3,
        "conv_bias": True,
        "norm_op_kwargs": {"eps": 1e-5, "affine": True},
    }
    named = {"conv_op": "Conv3d", "norm_op": "InstanceNorm3d", "nonlin": "LeakyReLU"}
    layers = {key: getattr(torch.nn, name) for key, name in named.items()}
    torch.manual_seed(0)
    network = PlainConvUNet(input_channels=1, num_classes=2, deep_supervision=False, **shared, **layers)
    configuration = {
        "patch_size": [SIDE * 2] * 3,
        "spacing": [1.0, 1.0, 1.0],
        "normalization_schemes": ["ZScoreNormalization"],
        "use_mask_for_norm": [False],
        "architecture": {
            "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
            "arch_kwargs": shared | {key: f"torch.nn.{name}" for key, name in named.items()},
            "_kw_requires_import": list(named),
        },
    }
    plans = {
        "dataset_name": "Dataset001_Cells",
        "plans_name": "nnUNetPlans",
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "label_manager": "LabelManager",
        "configurations": {"3d_fullres": configuration},
    }
    dataset = {"channel_names": {"0": "image"}, "labels": {"background": 0, "cell": 1}, "file_ending": ".tif"}
    (folder / "plans.json").write_text(json.dumps(plans))
    (folder / "dataset.json").write_text(json.dumps(dataset))
    (folder / "fold_0").mkdir()
    content = {
        "network_weights": network.state_dict(),
        "init_args": {"configuration": "3d_fullres"},
        "trainer_name": "nnUNetTrainer",
    }
    torch.save(content, folder / "fold_0" / "checkpoint_final.pth")
    return folder


def write_bioimageio(folder: Path, scale: int) -> Path:
    """Write a bioimage.io package, a folder, without the SHA-256 that would have Tessera read all of it first."""
    import bioimageio.spec  # noqa: F401 - or it cannot be opened

    torch.save(build(scale).state_dict(), folder / "weights.pt")
    np.save(folder / "test.npy", np.zeros((1, 1, SIDE * 2, SIDE * 2, SIDE * 2), np.float32))

    def tensor(name: str, channels: list[str], size: Callable[[str], Any]) -> dict[str, Any]:
        space = [{"type": "space", "id": axis, "size": size(axis)} for axis in "zyx"]
        axes = [{"type": "batch"}, {"type": "channel", "channel_names": channels}, *space]
        return {"id": name, "axes": axes, "test_tensor": {"source": "test.npy"}}

    kwargs = CHANNELS | {"features": widths(scale)}
    architecture = {"import_from": NETS, "callable": "BasicUNet", "kwargs": kwargs}
    description = {
        "type": "model",
        "format_version": "0.5.3",
        "name": "network",
        "description": "a network",
        "authors": [{"name": "A. Author"}],
        "license": "CC-BY-4.0",
        "cite": [{"text": "Author 2026", "doi": "10.1234/net"}],
        "documentation": "README.md",
        "inputs": [tensor("raw", ["image"], lambda axis: {"min": SIDE * 2, "step": SIDE})],
        "outputs": [tensor("cells", ["inside", "outline"], lambda axis: {"tensor_id": "raw", "axis_id": axis})],
        "weights": {
            "pytorch_state_dict": {"source": "weights.pt", "pytorch_version": "2.10.0", "architecture": architecture}
        },
    }
    (folder / "rdf.yaml").write_text(yaml.safe_dump(description))
    return folder


def write_connectomics(folder: Path, scale: int) -> Path:
    """Write a Lightning checkpoint and its configuration."""
    network = build(scale, act="relu", norm="batch")
    weights = {f"model.model.{name}": tensor for name, tensor in network.state_dict().items()}
    torch.save({"state_dict": weights}, folder / "last.ckpt")
    model = {
        "arch": {"type": "monai_basic_unet3d"},
        "input_size": [SIDE * 2] * 3,
        "in_channels": 1,
        "out_channels": 2,
        "monai": {"filters": widths(scale), "norm": "batch", "activation": "relu"},
    }
    (folder / "last.yaml").write_text(yaml.safe_dump({"default": {"model": model}}))
    return folder / "last.ckpt"


def write_torchscript(folder: Path, scale: int) -> Path:
    """Write a TorchScript with a description beside it, so that no pass is needed to know it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.save(torch.jit.script(build(scale)), str(folder / "net.pt"))
    describe(folder)
    return folder / "net.pt"


def write_exported(folder: Path, scale: int) -> Path:
    """Write an exported program."""
    program = torch.export.export(build(scale), (torch.zeros(2, 1, *(SIDE * 2,) * 3),))
    torch.export.save(program, folder / "net.pt2")
    return folder / "net.pt2"


def write_onnx(folder: Path, scale: int) -> Path:
    """Write an ONNX graph."""
    import onnx  # noqa: F401 - what exports needs it
    import onnxruntime  # noqa: F401 - or it cannot be opened

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(build(scale), (torch.zeros(1, 1, *(SIDE * 2,) * 3),), folder / "net.onnx", dynamo=False)
    return folder / "net.onnx"


def describe(folder: Path) -> None:
    """Write a description without a network of its own."""
    window = {"default": [SIDE * 2] * 3, "step": [SIDE] * 3, "minimum": [SIDE * 2] * 3}
    description = {"format": "tessera-model/1", "name": "net", **CHANNELS, "window": window}
    (folder / "net.yaml").write_text(yaml.safe_dump(description))


# Format to what writes it, and the file of its weights within the folder.
WRITERS: dict[str, Callable[[Path, int], Path]] = {
    "Tessera file": write_tessera,
    "MONAI bundle": write_monai,
    "nnU-Net folder": write_nnunet,
    "bioimage.io package": write_bioimageio,
    "PyTorch Connectomics checkpoint": write_connectomics,
    "TorchScript archive": write_torchscript,
    "exported program": write_exported,
    "ONNX graph": write_onnx,
}
WEIGHTS = {
    "Tessera file": "net.safetensors",
    "MONAI bundle": "models/model.pt",
    "nnU-Net folder": "fold_0/checkpoint_final.pth",
    "bioimage.io package": "weights.pt",
    "PyTorch Connectomics checkpoint": "last.ckpt",
    "TorchScript archive": "net.pt",
    "exported program": "net.pt2",
    "ONNX graph": "net.onnx",
}
