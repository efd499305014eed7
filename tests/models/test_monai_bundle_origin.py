"""MONAI bundles compute what MONAI itself makes of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from tests.models.change_monai_bundle import changed
from tests.models.sample import reference_network
from tests.models.sample_monai_bundle import INFERENCE, write_bundle

import napari_tessera as nt
from napari_tessera.models.load import load_model

pytestmark = pytest.mark.origin("monai.bundle")


@pytest.mark.parametrize("mode", ["constant", "gaussian"])
@pytest.mark.parametrize("order", ["zyx", "xyz"])
def test_probabilities_are_those_of_monais_own_parser_and_inferer(tmp_path: Path, mode: str, order: str) -> None:
    """The whole chain of MONAI, from the file of the image to probabilities, against Tessera's on the array."""
    volume = (np.random.default_rng(1).random((36, 20, 24)) * 900 + 50).astype(np.float32)
    stored = volume if order == "zyx" else volume.transpose()
    np.save(tmp_path / "image.npy", stored)
    content = changed(INFERENCE)
    content["inferer"] |= {"mode": mode, "overlap": 0.25, "roi_size": [32, 16, 16]}
    content["preprocessing"]["transforms"] = [
        {"_target_": "LoadImaged", "keys": "image", "image_only": True}
        | ({"reader": "NumpyReader"} if order == "zyx" else {}),
        {"_target_": "EnsureChannelFirstd", "keys": "image", "channel_dim": "no_channel"},
        {"_target_": "ScaleIntensityRanged", "keys": "image", "a_min": 100, "a_max": 800, "b_min": -1, "b_max": 1}
        | {"clip": True},
        {"_target_": "NormalizeIntensityd", "keys": "image", "subtrahend": 0.1, "divisor": 0.5},
        {"_target_": "EnsureTyped", "keys": "image", "device": "@device"},
    ]
    folder = write_bundle(tmp_path / "bundle", reference_network(), inference=content)
    expected = run_with_monai(folder, tmp_path / "image.npy").numpy()
    if order == "xyz":
        expected = expected.transpose(0, 3, 2, 1)

    model = load_model(folder)
    assert model.spec.window.default == ((32, 16, 16) if order == "zyx" else (16, 16, 32))
    settings = nt.Settings(blend=mode, overlap=model.spec.overlap or 0)
    np.testing.assert_allclose(nt.predict(volume, model, settings), expected, rtol=0, atol=1e-5)


def run_with_monai(folder: Path, image: Path) -> torch.Tensor:
    from monai.bundle import ConfigParser
    from monai.transforms import Activationsd

    parser = ConfigParser()
    parser.read_config(str(folder / "configs" / "inference.json"))
    parser["bundle_root"] = str(folder)
    network = parser.get_parsed_content("network")
    network.load_state_dict(torch.load(parser.get_parsed_content("ckpt_path"), weights_only=True)["model"])
    data = parser.get_parsed_content("preprocessing")({"image": str(image)})
    with torch.inference_mode():
        data["pred"] = parser.get_parsed_content("inferer")(data["image"][None], network.eval())[0]
    after = parser.get_parsed_content("postprocessing").transforms[0]
    assert isinstance(after, Activationsd)
    return torch.as_tensor(after(data)["pred"]).as_tensor()
