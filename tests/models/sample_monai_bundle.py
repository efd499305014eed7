"""A small MONAI bundle: a folder, or a zip of it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from tests.models.sample import IN_CHANNELS, OUT_CHANNELS, Sample, once, reference_network

__all__ = ["INFERENCE", "METADATA", "make", "make_zip", "write_bundle"]

METADATA: dict[str, Any] = {
    "name": "Nuclei of a test",
    "description": "Made by a test.",
    "license": "CC0-1.0",
    "references": ["Somebody et al. 2026"],
    "network_data_format": {
        "inputs": {
            "image": {
                "type": "image",
                "num_channels": IN_CHANNELS,
                "spatial_shape": ["16*n", "16*n", "16*n"],
                "value_range": [0, 1],
            }
        },
        "outputs": {
            "pred": {
                "type": "image",
                "num_channels": OUT_CHANNELS,
                "channel_def": {"0": "background", "1": "nucleus"},
            }
        },
    },
}
# Much of it is what MONAI's own template writes: expressions that Tessera has no need for.
INFERENCE: dict[str, Any] = {
    "imports": ["$import glob"],
    "bundle_root": ".",
    "device": "$torch.device('cpu')",
    "ckpt_path": "$@bundle_root + '/models/model.pt'",
    "dataset_dir": "/workspace/data",
    "datalist": "$list(sorted(glob.glob(@dataset_dir + '/*.npy')))",
    "features": [4, 4, 8, 8, 16, 4],
    "network_def": {
        "_target_": "BasicUNet",
        "spatial_dims": 3,
        "in_channels": IN_CHANNELS,
        "out_channels": OUT_CHANNELS,
        "features": "@features",
    },
    "network": "$@network_def.to(@device)",
    "preprocessing": {
        "_target_": "Compose",
        "transforms": [
            {"_target_": "LoadImaged", "keys": "image", "reader": "NumpyReader"},
            {"_target_": "EnsureChannelFirstd", "keys": "image", "channel_dim": "no_channel"},
            {"_target_": "Spacingd", "keys": "image", "pixdim": [0.002, 0.001, 0.001]},
            {"_target_": "ScaleIntensityd", "keys": "image"},
            {"_target_": "EnsureTyped", "keys": "image", "device": "@device"},
        ],
    },
    "inferer": {
        "_target_": "SlidingWindowInferer",
        "roi_size": [32, 48, 48],
        "sw_batch_size": 2,
        "overlap": 0.5,
        "mode": "gaussian",
    },
    "postprocessing": {
        "_target_": "Compose",
        "transforms": [
            {"_target_": "Activationsd", "keys": "pred", "softmax": True},
            {"_target_": "AsDiscreted", "keys": "pred", "argmax": True},
        ],
    },
}


def write_bundle(
    folder: Path,
    network: torch.nn.Module | None = None,
    *,
    metadata: dict[str, Any] | None = None,
    inference: dict[str, Any] | None = None,
) -> Path:
    """Write a bundle with the weights of *network*, without any if it is None, and return *folder*."""
    (folder / "configs").mkdir(parents=True)
    (folder / "models").mkdir()
    (folder / "configs" / "metadata.json").write_text(json.dumps(METADATA if metadata is None else metadata))
    (folder / "configs" / "inference.json").write_text(json.dumps(INFERENCE if inference is None else inference))
    if network is not None:
        torch.save({"model": network.state_dict()}, folder / "models" / "model.pt")
    return folder


@once
def make(folder: Path) -> Sample:
    """Return a bundle in *folder*."""
    network = reference_network()
    return Sample(write_bundle(folder / "bundle", network), network)


@once
def make_zip(folder: Path) -> Sample:
    """Return a zipped bundle, compressed, with its folder's name inside, as the Model Zoo's are."""
    sample = make(folder)
    archive = shutil.make_archive(str(folder / "zipped"), "zip", folder, "bundle")
    return Sample(Path(archive), sample.network)
