"""torch.export."""

from __future__ import annotations

from pathlib import Path

import torch
from tests.models.sample import IN_CHANNELS, Sample, once, reference_network
from torch.export import Dim

__all__ = ["make"]


@once
def make(folder: Path, network: torch.nn.Module | None = None) -> Sample:
    """Write *network*, by default the reference network, for any number of windows and sides in steps of 16."""
    network = (network or reference_network()).eval()
    axes = {0: Dim("windows", min=1, max=64)} | {axis: 16 * Dim(f"n{axis}", min=2, max=32) for axis in (2, 3, 4)}
    program = torch.export.export(network, (torch.zeros(2, IN_CHANNELS, 32, 32, 32),), dynamic_shapes=(axes,))
    torch.export.save(program, folder / "small.pt2")
    return Sample(folder / "small.pt2", network, runs_code=True)
