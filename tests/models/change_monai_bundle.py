"""What the tests of MONAI bundles do to a bundle."""

from __future__ import annotations

import copy
import warnings
from pathlib import Path
from typing import Any

import torch
from monai.networks import nets as networks
from tests.models.sample import reference_network
from tests.models.sample_monai_bundle import INFERENCE, write_bundle

from napari_tessera.models.formats.monai_bundle.monai_bundle_format import FORMAT

SMALL = {"spatial_dims": 3, "in_channels": 1, "out_channels": 1, "channels": [2, 4], "strides": [2]}


def changed(base: dict[str, Any], **keys: Any) -> dict[str, Any]:
    return copy.deepcopy(base) | keys


def inference(*transforms: dict[str, Any], **keys: Any) -> dict[str, Any]:
    """A configuration with these transforms of the image before the network."""
    before = {"_target_": "Compose", "transforms": [{"keys": "image"} | one for one in transforms]}
    return changed(INFERENCE, preprocessing=before, **keys)


def small_network() -> torch.nn.Module:
    torch.manual_seed(3)
    return networks.UNet(**SMALL).eval()


def save_script(network: torch.nn.Module, path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # Frozen, as many are: such a module has no mode of training that could be switched.
        torch.jit.save(torch.jit.freeze(torch.jit.trace(network, torch.zeros(1, 1, 16, 16, 16))), str(path))


def describe(folder: Path, content: dict[str, Any], metadata: dict[str, Any] | None = None) -> Any:
    return FORMAT.describe(write_bundle(folder / "bundle", reference_network(), inference=content, metadata=metadata))
