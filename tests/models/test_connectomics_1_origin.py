"""Networks of version 1 of PyTorch Connectomics compute what the original's own do.

The original is on no package index: `pip install --no-deps` its release from GitHub, where there is a network, or put a
copy of it on PYTHONPATH. Its networks need torch, numpy, monai and einops alone.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
import yaml
from numpy.typing import NDArray

import napari_tessera as nt
from napari_tessera.models.load import load_model

# Of its second version, none of these is there.
pytestmark = pytest.mark.origin("connectomics.model.arch.unet", "connectomics.model.utils.misc")

FILTERS = [16, 32, 48]
STRIDED, POOLED = (9, 17, 33), (8, 16, 32)
NETWORKS = [
    *(("unet_3d", {"BLOCK_TYPE": block}) for block in ("residual", "residual_pa", "residual_se", "residual_se_pa")),
    ("unet_3d", {"BLOCK_TYPE": "residual_pa", "NORM_MODE": "none", "ACT_MODE": "relu"}),
    ("unet_3d", {"NORM_MODE": "in", "ACT_MODE": "gelu", "PAD_MODE": "reflect"}),
    ("unet_3d", {"NORM_MODE": "gn", "ACT_MODE": "leaky_relu", "PAD_MODE": "zeros", "POOLING_LAYER": True}),
    ("unet_3d", {"BLOCK_TYPE": "residual_se", "ACT_MODE": "silu", "PAD_MODE": "circular", "IS_ISOTROPIC": True}),
    ("unet_plus_3d", {"BLOCK_TYPE": "residual_se", "NORM_MODE": "sync_bn"}),
    ("unet_plus_3d", {"BLOCK_TYPE": "residual", "NORM_MODE": "gn", "ACT_MODE": "swish", "POOLING_LAYER": True}),
    ("unet_plus_3d", {"BLOCK_TYPE": "residual_pa", "ACT_MODE": "efficient_swish", "IS_ISOTROPIC": True}),
    ("unet_2d", {"BLOCK_TYPE": "residual_se", "ACT_MODE": "leaky_relu", "NORM_MODE": "gn"}),
    ("unet_plus_2d", {"POOLING_LAYER": True}),
]


def original(name: str, options: dict[str, Any]) -> torch.nn.Module:
    """Return the original's own network, with random weights of every kind, in evaluation mode."""
    from connectomics.model.arch import unet

    cls = {"unet_3d": unet.UNet3D, "unet_plus_3d": unet.UNetPlus3D, "unet_2d": unet.UNet2D}
    cls["unet_plus_2d"] = unet.UNetPlus2D
    torch.manual_seed(3)
    arguments = {"block_type": "residual", "norm_mode": "bn", "act_mode": "elu", "pad_mode": "replicate"}
    arguments |= {"is_isotropic": False, "isotropy": [False, False, True], "pooling": False}
    arguments |= {key.lower().removesuffix("_layer"): value for key, value in options.items()}
    with contextlib.redirect_stdout(io.StringIO()):
        built: torch.nn.Module = cls[name](in_channel=1, out_channel=3, filters=FILTERS, **arguments).eval()
    with torch.no_grad():
        for key, value in [*built.named_buffers(), *built.named_parameters()]:
            if key.endswith("running_var") or (value.dim() == 1 and key.endswith("weight")):
                value.uniform_(0.6, 1.4)
            elif value.is_floating_point() and value.dim() == 1:
                value.uniform_(-0.2, 0.2)
    return built


def written(folder: Path, built: torch.nn.Module, name: str, options: dict[str, Any]) -> Path:
    """Write a checkpoint as its trainer does, with the YAML."""
    dims = 2 if name.endswith("2d") else 3
    window = POOLED if options.get("POOLING_LAYER") else STRIDED
    dataset = {"IS_ISOTROPIC": options.get("IS_ISOTROPIC", False), "DO_2D": dims == 2}
    model = {"ARCHITECTURE": name, "FILTERS": FILTERS, "ISOTROPY": [False, False, True], "OUT_PLANES": 3}
    model |= {
        "TARGET_OPT": ["0", "4-1-1", "5-2d-0-0-5.0-0"],
        "INPUT_SIZE": [1, *window[1:]] if dims == 2 else list(window),
    }
    model |= {key: value for key, value in options.items() if key != "IS_ISOTROPIC"}
    inference = {"OUTPUT_ACT": ["sigmoid", "sigmoid", "tanh"]}
    path = folder / "checkpoint_100000.pth.tar"
    torch.save({"iteration": 100_000, "state_dict": built.state_dict()}, path)
    content = {"MODEL": model, "DATASET": dataset, "INFERENCE": inference}
    (folder / "config.yaml").write_text(yaml.safe_dump(content))
    return path


@pytest.mark.parametrize(("name", "options"), NETWORKS)
def test_logits_are_those_of_its_own_network(name: str, options: dict[str, Any], tmp_path: Path) -> None:
    built = original(name, options)
    loaded = load_model(written(tmp_path, built, name, options))
    assert loaded.network.load_state_dict(built.state_dict(), strict=True)
    windows = torch.randn(2, 1, *loaded.spec.window.default, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected, found = built(windows.clone()), loaded.network(windows.clone())
    assert expected.std() > 0.01, "or anything would do"
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


# What the file of `normalize_range` imports for its figures.
DRAWING = ("matplotlib", "matplotlib.pyplot", "mpl_toolkits", "mpl_toolkits.axes_grid1", "skimage", "skimage.color")


def normalised_range(volume: NDArray[Any]) -> NDArray[np.uint8]:
    """Return what the original makes of *volume*; its file is loaded alone, as its package needs much more."""
    import connectomics

    path = Path(connectomics.__path__[0]) / "data" / "utils" / "data_misc.py"
    spec = importlib.util.spec_from_file_location("data_misc", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with mock.patch.dict(sys.modules, dict.fromkeys(DRAWING, mock.MagicMock())):
        spec.loader.exec_module(module)
    found: NDArray[np.uint8] = module.normalize_range(volume)
    return found


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_a_window_of_a_volume_is_what_its_own_inference_gives(dtype: type, tmp_path: Path) -> None:
    """From values to activations: range and normalisation, network, and an activation for each target."""
    from connectomics.model.utils.misc import SplitActivation

    options = {"BLOCK_TYPE": "residual_se"}
    built = original("unet_plus_3d", options)
    loaded = load_model(written(tmp_path, built, "unet_plus_3d", options))
    volume = np.random.default_rng(0).integers(30, 166, STRIDED).astype(dtype)
    with contextlib.redirect_stdout(io.StringIO()):
        activate = SplitActivation(["0", "4-1-1", "5-2d-0-0-5.0-0"], ["sigmoid", "sigmoid", "tanh"])
    image = torch.from_numpy(((normalised_range(volume) / 255.0).astype(np.float32) - 0.5) / 0.5)
    with torch.inference_mode():
        expected = activate(built(image[None, None]))[0].numpy()
    found = nt.predict(volume, loaded, nt.Settings(device="cpu", overlap=0))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
