"""What the modules ``sample_<format>.py`` give: a small network saved in that format, and the network itself."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import cache, wraps
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

__all__ = ["IN_CHANNELS", "OUT_CHANNELS", "Sample", "make_or_skip", "once", "reference_arguments", "reference_network"]

IN_CHANNELS, OUT_CHANNELS = 1, 2


@dataclass(frozen=True)
class Sample:
    """A file or folder of one format, and what it must compute.

    Attributes
    ----------
    path
        To open.
    network
        What was saved, in evaluation mode: windows as `ModelSpec` normalises them in, output before activation.
    tolerance
        How far predictions may differ from its own.
    runs_code
        Whether opening it needs trust.
    """

    path: Path
    network: torch.nn.Module
    tolerance: float = 1e-5
    runs_code: bool = False


def reference_arguments() -> dict[str, Any]:
    """Return what the reference network is built with."""
    return {
        "spatial_dims": 3,
        "in_channels": IN_CHANNELS,
        "out_channels": OUT_CHANNELS,
        "features": [4, 4, 8, 8, 16, 4],
    }


def reference_network() -> torch.nn.Module:
    """Return MONAI's BasicUNet with fixed random weights, one channel in, two out; sides in steps of 16."""
    from monai.networks.nets import BasicUNet

    torch.manual_seed(7)
    return BasicUNet(**reference_arguments()).eval()


def once(make: Callable[..., Sample]) -> Callable[..., Sample]:
    """Let *make* write a sample once in this process, and give each that asks a copy, which may be changed.

    A network of the caller's own is not kept.
    """

    @cache
    def original(*arguments: Any) -> tuple[Path, Sample]:
        folder = Path(tempfile.mkdtemp(prefix="sample-"))
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        return folder, make(folder, *arguments)

    @wraps(make)
    def copied(folder: Path, *arguments: Any) -> Sample:
        if any(isinstance(argument, torch.nn.Module) for argument in arguments):
            return make(folder, *arguments)
        made, sample = original(*arguments)
        shutil.copytree(made, folder, dirs_exist_ok=True)
        return replace(sample, path=folder / sample.path.relative_to(made), network=deepcopy(sample.network))

    return copied


def make_or_skip(name: str, folder: Path) -> Sample:
    """Return the sample that ``sample_<format>.py`` makes in *folder*; skip the test without what the format needs."""
    import pytest

    module = import_module(f"tests.models.{name}")
    for package in getattr(module, "NEEDS", ()):
        pytest.importorskip(package, reason=f"{package}, which this format needs, is not installed")
    made: Sample = module.make(folder)
    return made
