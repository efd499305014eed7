"""Small files whose description asks for a network of terabytes, one writer for each format that rebuilds networks."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from tests.models import sample_bioimageio, sample_connectomics, sample_monai_bundle, sample_nnunet, sample_tessera

__all__ = ["CALLERS", "NETWORKS"]

NETS = "monai.networks.nets"
SIZES = {"spatial_dims": 3, "in_channels": 1, "out_channels": 2}
# Class and arguments, as a stranger may write them into a Tessera file, a MONAI bundle or a bioimage.io package.
NETWORKS: dict[str, tuple[str, dict[str, Any]]] = {
    "features": ("BasicUNet", {**SIZES, "features": [10**9] * 6}),
    "wide": ("UNet", {**SIZES, "channels": [900_000, 900_000], "strides": [2]}),
    "kernel": ("UNet", {**SIZES, "channels": [8, 8], "strides": [2], "kernel_size": 100_001}),
    "units": ("UNet", {**SIZES, "channels": [8, 8], "strides": [2], "num_res_units": 10**6}),
    "levels": ("UNet", {**SIZES, "channels": [8] * 1000, "strides": [2] * 999}),
    "depth": ("SegResNet", {**SIZES, "blocks_down": [10**6]}),
    "drops": ("SwinUNETR", {"in_channels": 1, "out_channels": 2, "feature_size": 12, "depths": [10**6, 2, 2, 2]}),
    "heads": (
        "SwinUNETR",
        {"in_channels": 1, "out_channels": 2, "feature_size": 12, "num_heads": [10**6] * 4},
    ),
    "window": ("SwinUNETR", {"in_channels": 1, "out_channels": 2, "feature_size": 12, "window_size": 10**6}),
    "image": ("UNETR", {"in_channels": 1, "out_channels": 2, "img_size": 10**6}),
    "outputs": (
        "DynUNet",
        {**SIZES, "kernel_size": [3, 3, 3], "strides": [1, 2, 2], "upsample_kernel_size": [2, 2]}
        | {"deep_supervision": True, "deep_supr_num": 10**9},
    ),
    "channels": ("VNet", {**SIZES, "out_channels": 90_000_000}),
    "dims": ("VNet", {**SIZES, "spatial_dims": 10**9}),
}


def write_tessera(folder: Path, name: str, arguments: dict[str, Any]) -> Path:
    path = sample_tessera.make(folder).path
    content = yaml.safe_load(path.read_text()) | {"architecture": {"class": f"{NETS}.{name}", "arguments": arguments}}
    path.write_text(yaml.safe_dump(content))
    return path


def write_monai(folder: Path, name: str, arguments: dict[str, Any]) -> Path:
    inferer = sample_monai_bundle.INFERENCE["inferer"] | {"roi_size": [32, 32, 32]}  # which every network here divides
    content = sample_monai_bundle.INFERENCE | {"network_def": {"_target_": name, **arguments}, "inferer": inferer}
    return sample_monai_bundle.write_bundle(folder / "bundle", torch.nn.Conv3d(1, 2, 3), inference=content)


def write_bioimageio(folder: Path, name: str, arguments: dict[str, Any]) -> Path:
    pytest.importorskip("bioimageio.spec")
    package = sample_bioimageio.make(folder).path
    content = yaml.safe_load((package / "rdf.yaml").read_text())
    content["weights"]["pytorch_state_dict"]["architecture"] |= {"callable": name, "kwargs": arguments}
    return sample_bioimageio.write(package, content)


def write_nnunet(folder: Path, name: str, arguments: dict[str, Any]) -> Path:
    pytest.importorskip("dynamic_network_architectures")
    path = sample_nnunet.make(folder).path
    plan = json.loads((path / "plans.json").read_text())
    (configuration,) = plan["configurations"].values()
    configuration["architecture"]["arch_kwargs"] |= arguments
    (path / "plans.json").write_text(json.dumps(plan))
    return path


def write_connectomics(folder: Path, name: str, arguments: dict[str, Any]) -> Path:
    path = sample_connectomics.make(folder).path
    content = yaml.safe_load(path.with_suffix(".yaml").read_text())
    content["default"]["model"] |= {"arch": {"type": name}, **arguments}
    path.with_suffix(".yaml").write_text(yaml.safe_dump(content))
    return path


_NNUNET = {
    "features": {"features_per_stage": [1_000_000] * 3},
    "depth": {"n_conv_per_stage": [1_000_000] * 3},
    "kernel": {"kernel_sizes": [[100_001] * 3] * 3},
}
_CONNECTOMICS = {
    "features": ("monai_basic_unet3d", {"monai": {"filters": [16_384] * 6}}),
    "levels": ("monai_unet", {"monai": {"filters": [16_384] * 16, "num_res_units": 64, "kernel_size": 31}}),
    "upsampling": (
        "monai_unet",
        {"monai": {"filters": [16_384] * 16, "num_res_units": 64, "upsample_mode": "pixelshuffle"}},
    ),
    "heads": ("monai_unetr", {"transformer": {"hidden_size": 65_536, "mlp_dim": 65_536, "num_heads": 4096}}),
    "swin": ("monai_swin_unetr", {"transformer": {"feature_size": 4092}}),
    "image": ("monai_unetr", {"input_size": [65_536] * 3}),
}

# Name to what writes the file into a folder.
CALLERS: dict[str, Callable[[Path], Path]] = {
    **{
        f"{caller.__name__.removeprefix('write_')}-{case}": lambda folder, caller=caller, network=network: caller(
            folder, *network
        )
        for caller in (write_tessera, write_monai, write_bioimageio)
        for case, network in NETWORKS.items()
    },
    **{f"nnunet-{case}": lambda folder, own=own: write_nnunet(folder, "", own) for case, own in _NNUNET.items()},
    **{
        f"connectomics-{case}": lambda folder, own=own: write_connectomics(folder, *own)
        for case, own in _CONNECTOMICS.items()
    },
}
