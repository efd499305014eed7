"""A small checkpoint of PyTorch Connectomics with its configuration."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from tests.models.sample import IN_CHANNELS, OUT_CHANNELS, Sample, once

__all__ = ["configuration", "make", "make_generation", "network", "older_configuration", "reseeded", "write"]

FEATURES = (4, 4, 8, 8, 16, 4)


def configuration() -> dict[str, Any]:
    """Return what an author of the newest generation writes."""
    return {
        "experiment_name": "reference",
        "default": {
            "model": {
                "arch": {"type": "monai_basic_unet3d"},
                "input_size": [32, 32, 32],
                "in_channels": IN_CHANNELS,
                "out_channels": OUT_CHANNELS,
                "monai": {"filters": list(FEATURES), "norm": "batch", "activation": "relu"},
            },
            "data": {"image_transform": {"normalize": "divide-255"}, "train": {"resolution": [30, 8, 8]}},
            "inference": {
                "model": {"channel_activations": [{"channels": ":", "activation": "sigmoid"}]},
                "window": {"window_size": [32, 32, 32], "overlap": 0.25, "blending": "bump"},
            },
        },
    }


def older_configuration(generation: str) -> dict[str, Any]:
    """Return what describes the same network to an older *generation*: B or A."""
    model = {
        "architecture": "monai_basic_unet3d",
        "input_size": [32, 32, 32],
        "in_channels": IN_CHANNELS,
        "out_channels": OUT_CHANNELS,
        "filters": list(FEATURES),
        "norm": "batch",
        "activation": "relu",
    }
    data = {"image_transform": {"normalize": "divide-255"}, "train_resolution": [30, 8, 8]}
    nested = {
        "sliding_window": {"window_size": [32, 32, 32], "overlap": 0.25},
        "test_time_augmentation": {"channel_activations": [[0, OUT_CHANNELS, "sigmoid"]]},
    }
    flat = {"window_size": [32, 32, 32], "overlap": 0.25, "output_act": "sigmoid"}
    return {"model": model, "data": data, "inference": nested if generation == "B" else flat}


def network() -> torch.nn.Module:
    """Return the network that `configuration` describes, with fixed weights and batch statistics."""
    from monai.networks.nets import BasicUNet

    torch.manual_seed(7)
    channels = {"in_channels": IN_CHANNELS, "out_channels": OUT_CHANNELS}
    return reseeded(BasicUNet(spatial_dims=3, features=FEATURES, act="relu", norm="batch", **channels).eval())


def reseeded(built: torch.nn.Module) -> torch.nn.Module:
    """Return *built* with random batch statistics."""
    for name, buffer in built.named_buffers():
        # Near what layers give, or their activations would all be off and hide every other number.
        if name.endswith("running_mean"):
            buffer.uniform_(-0.1, 0.1)
        elif name.endswith("running_var"):
            buffer.uniform_(0.1, 0.3)
    return built


def write(
    folder: Path, built: torch.nn.Module, config: Mapping[str, Any], *, prefix: str = "model.model.", **more: Any
) -> Path:
    """Write a checkpoint of a network, with *more* beside its weights, and *config* beside it; return its path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "last.ckpt"
    weights = {f"{prefix}{name}": tensor.clone() for name, tensor in built.state_dict().items()}
    weights["loss_functions.0.pos_weight"] = torch.ones(3)
    content = {"state_dict": weights, "epoch": 3, "hyper_parameters": {"skip_loss": False}, **more}
    torch.save(content, path)
    path.with_suffix(".yaml").write_text(yaml.safe_dump(dict(config)), encoding="utf-8")
    return path


@once
def make(folder: Path) -> Sample:
    """Write the sample into *folder*."""
    return Sample(write(folder, network(), configuration()), network())


@once
def make_generation(folder: Path, generation: str) -> Sample:
    """Write the sample as *generation* ("C", "B" or "A") does into *folder*."""
    config = configuration() if generation == "C" else older_configuration(generation)
    return Sample(write(folder, network(), config), network())
