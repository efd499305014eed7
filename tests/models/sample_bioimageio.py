"""A bioimage.io package with a small network: its weights, test tensors and description."""

from __future__ import annotations

import hashlib
import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from tests.models.sample import IN_CHANNELS, OUT_CHANNELS, Sample, once, reference_network

__all__ = [
    "NEEDS",
    "PAPERS",
    "describe",
    "describe_older",
    "make",
    "save_state_dict",
    "save_torchscript",
    "with_hash",
    "write",
    "zipped",
]

NEEDS = ("bioimageio.spec",)
# BasicUNet of reference_network, as a description names it.
ARCHITECTURE = {
    "import_from": "monai.networks.nets",
    "callable": "BasicUNet",
    "kwargs": {
        "spatial_dims": 3,
        "in_channels": IN_CHANNELS,
        "out_channels": OUT_CHANNELS,
        "features": [4, 4, 8, 8, 16, 4],
    },
}
SIDE = 32
# What every description has to say of where it comes from.
PAPERS: dict[str, Any] = {
    "type": "model",
    "format_version": "0.5.3",
    "authors": [{"name": "A. Author"}],
    "license": "CC-BY-4.0",
    "cite": [{"text": "Author et al. 2026", "doi": "10.1234/small.cells"}],
    "documentation": "README.md",
}


@once
def make(folder: Path) -> Sample:
    """Write the package as the folder ``bioimageio`` in *folder*, with the weights of an allow-listed network."""
    network = reference_network()
    package = folder / "bioimageio"
    package.mkdir(parents=True)
    write(package, describe(package, network, pytorch_state_dict=save_state_dict(package, network)))
    return Sample(package, network)


def write(package: Path, content: dict[str, Any], name: str = "rdf.yaml") -> Path:
    """Write the description *content* into the folder *package*, and return the folder."""
    (package / name).write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return package


def zipped(package: Path) -> Path:
    """Return the folder *package* as a zip beside it."""
    return Path(shutil.make_archive(str(package), "zip", package))


def describe(package: Path, network: torch.nn.Module, **weights: dict[str, Any]) -> dict[str, Any]:
    """Return a description of *network* with *weights*; its test tensors are written into *package*."""
    volume = np.random.default_rng(3).normal(100, 20, (1, IN_CHANNELS, SIDE, SIDE, SIDE)).astype(np.float32)
    normalised = (volume - volume.mean()) / (volume.std() + 1e-6)
    with torch.inference_mode():
        probabilities = network(torch.from_numpy(normalised)).sigmoid().numpy()
    np.save(package / "test_input.npy", volume)
    np.save(package / "test_output.npy", probabilities)
    space = {"type": "space", "unit": "nanometer"}
    scales = {"z": 400.0, "y": 100.0, "x": 100.0}
    return {
        **PAPERS,
        "name": "small cells",
        "description": "Cells,\nsmall ones.",
        "inputs": [
            {
                "id": "raw",
                "axes": [
                    {"type": "batch"},
                    {"type": "channel", "channel_names": ["membrane"]},
                    *(
                        {**space, "id": axis, "scale": scales[axis], "size": {"min": SIDE, "step": 16}}
                        for axis in "zyx"
                    ),
                ],
                "test_tensor": with_hash(package / "test_input.npy"),
                "preprocessing": [
                    {"id": "zero_mean_unit_variance", "kwargs": {"axes": ["channel", "z", "y", "x"], "eps": 1e-6}}
                ],
            }
        ],
        "outputs": [
            {
                "id": "cells",
                "axes": [
                    {"type": "batch"},
                    {"type": "channel", "channel_names": ["inside", "outline"]},
                    *(
                        {**space, "id": axis, "scale": scales[axis], "size": {"tensor_id": "raw", "axis_id": axis}}
                        for axis in "zyx"
                    ),
                ],
                "test_tensor": with_hash(package / "test_output.npy"),
                "postprocessing": [{"id": "sigmoid"}],
            }
        ],
        "weights": weights,
    }


def describe_older(package: Path, **weights: dict[str, Any]) -> dict[str, Any]:
    """Return a description of format 0.4 of the network and the test tensors that `make` has put into *package*."""
    zscore = {"name": "zero_mean_unit_variance", "kwargs": {"mode": "per_sample", "axes": "czyx", "eps": 1e-6}}
    tensor = {"axes": "bczyx", "data_type": "float32"}
    sides = {"min": [1, IN_CHANNELS, SIDE, SIDE, SIDE], "step": [0, 0, 16, 16, 16]}
    like = {"reference_tensor": "raw", "scale": [1, OUT_CHANNELS, 1, 1, 1], "offset": [0] * 5}
    return {
        **PAPERS,
        "format_version": "0.4.10",
        "name": "small cells",
        "description": "Cells,\nsmall ones.",
        "timestamp": "2022-01-01T00:00:00",
        "tags": [],
        "covers": [],
        "test_inputs": ["test_input.npy"],
        "test_outputs": ["test_output.npy"],
        "inputs": [{**tensor, "name": "raw", "shape": sides, "preprocessing": [zscore]}],
        "outputs": [{**tensor, "name": "cells", "shape": like, "postprocessing": [{"name": "sigmoid"}]}],
        "weights": weights or {"pytorch_state_dict": older_state_dict(package)},
    }


def older_state_dict(package: Path) -> dict[str, Any]:
    """Return what format 0.4 says of the weights that `make` has put into *package*."""
    architecture = f"{ARCHITECTURE['import_from']}.{ARCHITECTURE['callable']}"
    return {**with_hash(package / "weights.pt"), "architecture": architecture, "kwargs": ARCHITECTURE["kwargs"]}


def save_state_dict(package: Path, network: torch.nn.Module) -> dict[str, Any]:
    """Write the weights of *network*, and return their entry."""
    torch.save(network.state_dict(), package / "weights.pt")
    return {**with_hash(package / "weights.pt"), "pytorch_version": "2.10.0", "architecture": ARCHITECTURE}


def save_torchscript(package: Path, network: torch.nn.Module) -> dict[str, Any]:
    """Write *network* as TorchScript, and return its entry."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(network, torch.zeros(1, IN_CHANNELS, SIDE, SIDE, SIDE), check_trace=False)
        torch.jit.save(traced, str(package / "weights.torchscript"))
    return {**with_hash(package / "weights.torchscript"), "pytorch_version": "2.10.0"}


def with_hash(path: Path) -> dict[str, str]:
    """Return how a description names the file at *path*."""
    return {"source": path.name, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
