"""ONNX."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
from tests.models.sample import IN_CHANNELS, Sample, once, reference_network

__all__ = ["NEEDS", "make"]

NEEDS = ("onnx", "onnxruntime")


@once
def make(folder: Path) -> Sample:
    """Write the reference network into *folder*, for any number of windows and any sides."""
    network = reference_network()
    axes = {0: "windows", 2: "z", 3: "y", 4: "x"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter that needs no further package is called deprecated
        torch.onnx.export(
            network,
            (torch.zeros(2, IN_CHANNELS, 32, 32, 32),),
            folder / "small.onnx",
            dynamo=False,
            input_names=["image"],
            output_names=["logits"],
            dynamic_axes={"image": axes, "logits": axes},
        )
    return Sample(folder / "small.onnx", network, tolerance=1e-4)
