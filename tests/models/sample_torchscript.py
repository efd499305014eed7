"""TorchScript."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
from tests.models.sample import Sample, once, reference_network

__all__ = ["make"]


@once
def make(folder: Path, network: torch.nn.Module | None = None) -> Sample:
    """Write *network*, by default the reference network, into *folder*."""
    network = (network or reference_network()).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.save(torch.jit.script(network), str(folder / "small.pt"))  # type: ignore[no-untyped-call]
    return Sample(folder / "small.pt", network, runs_code=True)
