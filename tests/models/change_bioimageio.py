"""What the tests of bioimage.io packages do to a package."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import yaml
from tests.models.sample_bioimageio import write

import napari_tessera as nt
from napari_tessera.models.model import Model

if TYPE_CHECKING:
    from tests.models.sample import Sample

ONE_WINDOW = nt.Settings(window_size=(32, 32, 32), overlap=0)
Change = Callable[[dict[str, Any]], None]


def change(package: Path, how: Change) -> Path:
    content = yaml.safe_load((package / "rdf.yaml").read_text(encoding="utf-8"))
    how(content)
    return write(package, content)


def merge(**changes: Any) -> Change:
    """Return a change of the description: keys are paths such as ``inputs__0__axes``."""

    def apply(content: dict[str, Any]) -> None:
        for path, value in changes.items():
            *keys, last = (int(key) if key.isdecimal() else key for key in path.split("__"))
            place: Any = content
            for key in keys:
                place = place[key]
            if value is None:
                del place[last]
            else:
                place[last] = value

    return apply


def space(side: Any, **more: Any) -> list[dict[str, Any]]:
    return [{"type": "space", "id": axis, "size": side, **more} for axis in "zyx"]


def steps(*described: Any) -> Change:
    return merge(inputs__0__preprocessing=list(map(as_step, described)))


def after(*described: Any) -> Change:
    return merge(outputs__0__postprocessing=list(map(as_step, described)))


def as_step(described: tuple[str, dict[str, Any]]) -> dict[str, Any]:
    name, kwargs = described
    return {"id": name, "kwargs": kwargs} if kwargs else {"id": name}


def with_channels(count: int) -> Change:
    return merge(inputs__0__axes__1={"type": "channel", "channel_names": [f"c{i}" for i in range(count)]})


def with_first_axis(axis: dict[str, Any]) -> Change:
    """Return a change of z, in and out, and of the steps that name it."""

    def apply(content: dict[str, Any]) -> None:
        content["inputs"][0]["axes"][2] = axis
        content["inputs"][0]["preprocessing"] = []
        del content["outputs"][0]["axes"][2]

    return apply


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def resave(package: Path, tensors: Any, **options: Any) -> None:
    torch.save(tensors, package / "weights.pt", **options)
    change(package, merge(weights__pytorch_state_dict__sha256=sha256(package / "weights.pt")))


def save_torchscript_of(package: Path, network: torch.nn.Module, example: torch.Tensor) -> dict[str, Any]:
    path = package / "weights.torchscript"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.trace(network, example, check_trace=False), str(path))
    return {"source": path.name, "sha256": sha256(path), "pytorch_version": "2.10.0"}


def same_prediction(model: Model, sample: Sample) -> None:
    volume = np.random.default_rng(0).normal(50, 9, (40, 33, 48)).astype(np.float32)
    settings = nt.Settings(window_size=(32, 32, 32), overlap=0.25)
    expected = nt.predict(volume, Model(sample.network, model.spec), settings)
    np.testing.assert_allclose(nt.predict(volume, model, settings), expected, atol=sample.tolerance)
