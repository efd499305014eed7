"""What the parts run on: whole size on CUDA, toy size anywhere else; MONAI's networks where they can be imported."""

from __future__ import annotations

from dataclasses import replace
from importlib.util import find_spec
from typing import TYPE_CHECKING

import numpy as np
from cases import CASES, CUDA_CASES, Case
from engines import choose_device
from memory_networks import BARE, NETWORKS

import napari_tessera as nt

if TYPE_CHECKING:
    import torch

__all__ = ["MIB", "cases", "device_of", "is_toy", "memory_names", "plain_model", "random_volume"]

MIB = 2**20
ENGINES = ("passes", "passes-tuned", "tessera", "monai", "nnunet")
TOY = Case((24, 48, 48), (16, 32, 32), 3, "plain", sw_batch_size=2, engines=ENGINES)
# In the order of what they tell.
WIDE = ("MONAI UNet", "nnU-Net PlainConvUNet", "MONAI DynUNet", "MONAI SegResNet", "MONAI AttentionUnet")


def device_of(name: str) -> torch.device:
    """Return the device called *name*."""
    return choose_device(name)


def is_toy(device: torch.device) -> bool:
    """Whether a device is only there to test the script."""
    return device.type != "cuda"


def cases(device: torch.device) -> dict[str, Case]:
    """Return the cases of `cases.py` for a device, those that say most first; without MONAI with a network of torch."""
    if is_toy(device):
        return {"toy": TOY}
    first = ("cuda-unet", "cuda-unet-bfloat16", "stitching", "cuda-dynunet")
    chosen = {name: CASES[name] for name in (*first, *(name for name in CUDA_CASES if name not in first))}
    if find_spec("monai") is None:
        plain = {name: replace(chosen[name], network="plain") for name in first[:2]}
        chosen = {name.replace("unet", "plain"): case for name, case in plain.items()} | {first[2]: chosen[first[2]]}
    # The others keep their sums on the host and would take most of the time.
    return {
        name: replace(case, engines=tuple(e for e in ENGINES if e in case.engines)) for name, case in chosen.items()
    }


def memory_names(device: torch.device) -> list[str]:
    """Return the networks of `memory_networks` that can be built here, those that say most first."""
    if is_toy(device):
        return list(BARE)
    there = [name for name in (*WIDE, *(name for name in NETWORKS if name not in WIDE)) if not NETWORKS[name].missing]
    return there or list(BARE)


def plain_model(*, thin: bool) -> nt.Model:
    """Return a model of the network that needs torch alone."""
    ((network, _),) = BARE["plain U-Net"].built(thin=thin)
    return nt.Model.from_network(network, in_channels=1, out_channels=3, name="plain U-Net")


def random_volume(shape: tuple[int, ...]) -> np.ndarray:
    """Return random float32 values."""
    return np.random.default_rng(0).random(shape, np.float32)
