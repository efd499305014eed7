"""A small checkpoint of version 1 of PyTorch Connectomics with its two configurations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import yaml
from tests.models.sample import IN_CHANNELS, OUT_CHANNELS, Sample, once
from tests.models.sample_connectomics import reseeded

from napari_tessera.models.networks.residual_unet import ResidualUNet

__all__ = ["BASE", "OWN", "make", "network", "write"]

FILTERS = [8, 16, 24]
# What `--config-base` and `--config-file` were given.
BASE: dict[str, Any] = {
    "SYSTEM": {"NUM_GPUS": 4},
    "MODEL": {
        **{"ARCHITECTURE": "unet_plus_3d", "BLOCK_TYPE": "residual_se", "FILTERS": FILTERS, "NORM_MODE": "sync_bn"},
        **{"ISOTROPY": [False, False, True], "INPUT_SIZE": [17, 33, 33], "OUTPUT_SIZE": [17, 33, 33]},
        "IN_PLANES": IN_CHANNELS,
    },
    "INFERENCE": {
        **{"INPUT_SIZE": [17, 33, 33], "STRIDE": [8, 16, 16], "AUG_MODE": "mean", "AUG_NUM": 4, "PAD_SIZE": [4, 8, 8]},
    },
}
OWN: dict[str, Any] = {
    "MODEL": {"OUT_PLANES": OUT_CHANNELS, "TARGET_OPT": ["0", "5-3d-1-0-1.0-0"]},
    "INFERENCE": {"OUTPUT_ACT": ["sigmoid", "tanh"]},
}


def network(**changed: Any) -> torch.nn.Module:
    """Return the network that `BASE` and `OWN` describe, with fixed weights and batch statistics."""
    torch.manual_seed(7)
    arguments: dict[str, Any] = {
        **{"spatial_dims": 3, "in_channels": IN_CHANNELS, "out_channels": OUT_CHANNELS, "filters": FILTERS},
        **{"block": "residual_se", "isotropy": [False, False, True], "norm": "bn", "attention": True},
    }
    return reseeded(ResidualUNet(**arguments | changed).eval())


def write(
    folder: Path,
    built: torch.nn.Module,
    *,
    own: dict[str, Any] = OWN,
    base: dict[str, Any] | None = BASE,
    name: str = "checkpoint_100000.pth.tar",
    prefix: str = "",
    **more: Any,
) -> Path:
    """Write a checkpoint of a network, with *more* beside its weights and its configurations beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = {f"{prefix}{key}": tensor.clone() for key, tensor in built.state_dict().items()}
    rate = {"base_lrs": [0.04], "last_epoch": 100_000, "_step_count": 100_001}
    optimizer = {"state": {0: {"momentum_buffer": torch.zeros(3)}}, "param_groups": [{"lr": 0.04, "params": [0]}]}
    content = {"iteration": 100_000, "state_dict": weights, "optimizer": optimizer, "lr_scheduler": rate}
    torch.save(content | more, folder / name)
    (folder / f"{name.partition('.')[0]}.yaml").write_text(yaml.safe_dump(own), encoding="utf-8")
    if base is not None:
        (folder / "Mito-Base.yaml").write_text(yaml.safe_dump(base), encoding="utf-8")
    return folder / name


@once
def make(folder: Path) -> Sample:
    """Write the sample into *folder*."""
    return Sample(write(folder, network()), network())
