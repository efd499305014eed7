"""A small folder of pytorch-3dunet: its configuration and its best checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import yaml
from tests.models.sample import IN_CHANNELS, OUT_CHANNELS, Sample, once

from napari_tessera.models.networks.unet3d import Pytorch3DUNet

__all__ = ["configuration", "make", "network", "write"]


def configuration(**model: Any) -> dict[str, Any]:
    """Return what its training is given, after its own example for boundaries of cells."""
    own = {"name": "UNet3D", "in_channels": IN_CHANNELS, "out_channels": OUT_CHANNELS, "layer_order": "gcr"}
    augmented = [{"name": "Standardize"}, {"name": "RandomFlip"}, {"name": "ToTensor", "expand_dims": True}]
    plain = [{"name": "Standardize"}, {"name": "ToTensor", "expand_dims": True}]
    label = [{"name": "StandardLabelToBoundary", "append_label": True}]
    patches = {"name": "FilterSliceBuilder", "patch_shape": [32, 64, 64], "stride_shape": [20, 40, 40]}
    return {
        "model": {**own, "f_maps": 8, "num_levels": 3, "num_groups": 4, "final_sigmoid": True} | model,
        "loaders": {
            "global_normalization": True,
            "train": {"slice_builder": patches, "transformer": {"raw": augmented, "label": label}},
            "val": {"slice_builder": patches, "transformer": {"raw": plain, "label": label}},
        },
        "trainer": {"max_num_epochs": 1000},
    }


def network() -> torch.nn.Module:
    """Return the network that `configuration` describes, with fixed random weights."""
    torch.manual_seed(7)
    built = Pytorch3DUNet(
        spatial_dims=3, in_channels=IN_CHANNELS, out_channels=OUT_CHANNELS, features=[8, 16, 32], num_groups=4
    )
    return built.eval()


def write(folder: Path, original: torch.nn.Module, config: dict[str, Any]) -> Path:
    """Write what its trainer and PlantSeg leave in *folder*, and return that."""
    folder.mkdir(parents=True, exist_ok=True)
    state = {"model_state_dict": original.state_dict(), "optimizer_state_dict": {"state": {}, "param_groups": []}}
    torch.save(
        {"num_epochs": 3, "num_iterations": 10, "best_eval_score": 0.1, **state}, folder / "best_checkpoint.pytorch"
    )
    (folder / "config_train.yml").write_text(yaml.safe_dump(config), encoding="utf-8")
    return folder


@once
def make(folder: Path) -> Sample:
    """Write a folder."""
    original = network()
    return Sample(write(folder / "boundaries", original, configuration()), original)
