"""The project's own format."""

from __future__ import annotations

from pathlib import Path

import yaml
from tests.models.sample import IN_CHANNELS, OUT_CHANNELS, Sample, once, reference_arguments, reference_network

__all__ = ["make"]


@once
def make(folder: Path) -> Sample:
    """Write the reference network into *folder*."""
    from safetensors.torch import save_file

    network = reference_network()
    save_file(network.state_dict(), folder / "small.safetensors")
    description = {
        "format": "tessera-model/1",
        "name": "small",
        "architecture": {"class": "monai.networks.nets.BasicUNet", "arguments": reference_arguments()},
        "spatial_dims": 3,
        "in_channels": IN_CHANNELS,
        "out_channels": OUT_CHANNELS,
        "window": {"default": [32, 32, 32], "step": [16, 16, 16], "minimum": [32, 32, 32]},
    }
    (folder / "small.yaml").write_text(yaml.safe_dump(description))
    return Sample(folder / "small.yaml", network)
