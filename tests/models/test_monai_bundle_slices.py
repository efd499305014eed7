"""MONAI bundles that run a network of planes over volumes: the values of MONAI's own SliceInferer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai import inferers
from monai import transforms as monai_transforms
from monai.networks import nets as networks
from tests.models.change_monai_bundle import SMALL, changed, inference
from tests.models.sample import reference_network
from tests.models.sample_monai_bundle import INFERENCE, write_bundle
from tests.refusals import raises

import napari_tessera as nt
from napari_tessera.core.errors import ModelError
from napari_tessera.models.load import load_model

PLANES = {**SMALL, "spatial_dims": 2, "out_channels": 3, "norm": "batch"}
SHAPE = (9, 22, 19)
READERS: dict[str, list[dict[str, Any]]] = {
    "zyx": [{"_target_": "LoadImaged", "reader": "NumpyReader"}],
    "xyz": [{"_target_": "LoadImaged", "reader": "ITKReader"}],
    "yzx": [{"_target_": "LoadImaged"}, {"_target_": "Orientationd", "axcodes": "ASR"}],
}
# Every one looks at all planes together.
STEPS = (
    {"_target_": "NormalizeIntensityd"},
    {"_target_": "ScaleIntensityd"},
    {"_target_": "ScaleIntensityRangePercentilesd", "lower": 2, "upper": 97, "b_min": 0, "b_max": 1, "clip": True},
)


def volume() -> np.ndarray:
    """Return (z, y, x): contrast rises along every axis, so planes differ whichever way they lie."""
    values = np.random.default_rng(1).normal(100, 20, SHAPE)
    for axis, side in enumerate(SHAPE):
        values *= np.linspace(0.3, 1.5, side).reshape([-1 if other == axis else 1 for other in range(3)])
    return values.astype(np.float32)


def planes_network() -> torch.nn.Module:
    """Return a network that is not symmetric and whose classes depend on the scale of intensities."""
    torch.manual_seed(5)
    network = networks.UNet(**PLANES).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter *= 2
    return network


def monai_logits(network: torch.nn.Module, order: str, step: dict[str, Any], inferer: dict[str, Any]) -> np.ndarray:
    """Return the output, (C, z, y, x), of MONAI's own transform of the volume and its own inferer."""
    to_bundle = ["zyx".index(axis) for axis in order]
    arguments = {key: value for key, value in step.items() if key != "_target_"}
    transform = getattr(monai_transforms, step["_target_"])(keys="image", **arguments)
    image = transform({"image": torch.tensor(volume().transpose(to_bundle).copy())[None]})["image"]
    with torch.inference_mode():
        found = inferers.SliceInferer(**inferer)(torch.as_tensor(image)[None], network)
    assert isinstance(found, torch.Tensor)
    return np.asarray(found)[0].transpose(0, *(1 + order.index(axis) for axis in "zyx"))


@pytest.mark.parametrize("step", STEPS, ids=lambda step: step["_target_"])
@pytest.mark.parametrize("dim", [None, 0, 1, 2])
@pytest.mark.parametrize("order", READERS)
def test_slices_lie_and_are_normalised_as_in_monai(
    tmp_path: Path, order: str, dim: int | None, step: dict[str, Any]
) -> None:
    arguments = {"roi_size": [16, 8], "overlap": 0.5, "mode": "gaussian"} | (
        {} if dim is None else {"spatial_dim": dim}
    )
    content = inference(*READERS[order], step, network_def={"_target_": "UNet", **PLANES})
    content["inferer"] = {"_target_": "SliceInferer", **arguments}
    content["postprocessing"] = []
    network = planes_network()
    model = load_model(write_bundle(tmp_path / "bundle", network, inference=content))
    assert (model.spec.planes, model.spec.plane_axis) == ("together", order[dim or 0])
    expected = monai_logits(network, order, step, arguments)
    settings = nt.Settings(overlap=0.5, blend="gaussian", device="cpu")
    np.testing.assert_allclose(nt.predict(volume(), model, settings), expected, rtol=0, atol=2e-4)
    labels = nt.segment(volume(), model, settings, decoder="argmax")
    assert np.unique(labels).size > 1, "else any labels would be equal"
    assert np.mean(labels == expected.argmax(0)) > 0.9999
    apart = nt.segment(volume(), model.with_spec(planes="apart"), settings, decoder="argmax")
    assert np.mean(apart == expected.argmax(0)) < 0.99, "or how planes are normalised would not matter"


@pytest.mark.parametrize("dim", [3, -1, "axial", True])
def test_a_slice_inferer_that_monai_could_not_run_is_refused(tmp_path: Path, dim: Any) -> None:
    inferer = {"_target_": "SliceInferer", "roi_size": [16, 8], "spatial_dim": dim}
    content = changed(INFERENCE, inferer=inferer, network_def={"_target_": "UNet", **PLANES})
    with raises(ModelError, "SliceInferer", "spatial_dim"):
        load_model(write_bundle(tmp_path / "bundle", planes_network(), inference=content))


def test_a_slice_inferer_of_a_network_of_three_axes_is_refused(tmp_path: Path) -> None:
    content = changed(INFERENCE, inferer={"_target_": "SliceInferer", "roi_size": [16, 8]})
    with raises(ModelError, 3, "SliceInferer"):
        load_model(write_bundle(tmp_path / "bundle", reference_network(), inference=content))
