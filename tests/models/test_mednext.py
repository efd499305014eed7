"""The MedNeXt of PyTorch Connectomics: its authors' weights in MONAI's class compute what they do in their own."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from tests.refusals import Kind, raises

from napari_tessera.core.errors import ModelError
from napari_tessera.models.formats.connectomics.connectomics_format import FORMAT
from napari_tessera.models.load import load_model
from napari_tessera.models.packing import pack

EXPANSION, BLOCKS = (1, 2, 1, 3, 1, 2, 1, 2, 1), (1, 2, 1, 1, 1, 1, 1, 2, 1)
WIDTH, CLASSES, KERNEL = 2, 2, 3
EXPECTED = [
    0.75529,
    0.22585,
    -0.02213,
    0.95328,
    0.52421,
    0.31192,
    0.65812,
    0.61947,
    0.89357,
    0.23356,
    0.71861,
    0.95827,
    0.90315,
    0.58993,
    0.49111,
    0.99812,
    0.74135,
    0.62412,
    0.85536,
    0.82269,
    0.86597,
    0.63531,
    0.78503,
    0.88285,
]


def shapes() -> dict[str, tuple[int, ...]]:
    """The weights of github.com/MIC-DKFZ/MedNeXt (commit 0b78ed8) by name: nine levels, each a row of blocks."""
    found: dict[str, tuple[int, ...]] = {
        "stem.weight": (WIDTH, 1, 1, 1, 1),
        "stem.bias": (WIDTH,),
        "dummy_tensor": (1,),
    }

    def block(name: str, n_in: int, n_out: int, ratio: int, *, resized: int = 0, grn: bool = True) -> None:
        wide = ratio * n_in
        found.update({f"{name}.conv1.weight": (n_in, 1, *(KERNEL,) * 3), f"{name}.conv1.bias": (n_in,)})
        found.update({f"{name}.norm.weight": (n_in,), f"{name}.norm.bias": (n_in,)})
        found.update({f"{name}.conv2.weight": (wide, n_in, 1, 1, 1), f"{name}.conv2.bias": (wide,)})
        found.update({f"{name}.conv3.weight": (n_out, wide, 1, 1, 1), f"{name}.conv3.bias": (n_out,)})
        if grn:
            found.update({f"{name}.grn_beta": (1, wide, 1, 1, 1), f"{name}.grn_gamma": (1, wide, 1, 1, 1)})
        if resized:
            pair = (n_out, n_in) if resized < 0 else (n_in, n_out)  # transposed convolutions begin with what comes in
            found.update({f"{name}.res_conv.weight": (*pair, 1, 1, 1), f"{name}.res_conv.bias": (n_out,)})

    for level in range(4):
        n, up = WIDTH << level, 8 - level
        for number in range(BLOCKS[level]):
            block(f"enc_block_{level}.{number}", n, n, EXPANSION[level])
        block(f"down_{level}", n, 2 * n, EXPANSION[level + 1], resized=-1, grn=level > 0)
        block(f"up_{level}", 2 * n, n, EXPANSION[up], resized=1)
        for number in range(BLOCKS[up]):
            block(f"dec_block_{level}.{number}", n, n, EXPANSION[up])
    for number in range(BLOCKS[4]):
        block(f"bottleneck.{number}", 16 * WIDTH, 16 * WIDTH, EXPANSION[4])
    for level in range(5):  # all but the first for training alone
        found.update({f"out_{level}.conv_out.weight": (WIDTH << level, CLASSES, 1, 1, 1)})
        found.update({f"out_{level}.conv_out.bias": (CLASSES,)})
    return found


def weights() -> dict[str, torch.Tensor]:
    """Values that differ from weight to weight, by a formula."""
    named = {}
    for number, (name, shape) in enumerate(sorted(shapes().items())):
        places = torch.arange(torch.Size(shape).numel(), dtype=torch.float64)
        named[name] = (0.6 * torch.sin(1.7 * places + number)).float().reshape(shape)
    return named


def window() -> torch.Tensor:
    return torch.cos(0.37 * torch.arange(16 * 16 * 32, dtype=torch.float64)).float().reshape(1, 1, 16, 16, 32)


def configured(**mednext: Any) -> dict[str, Any]:
    own = {"base_channels": WIDTH, "exp_r": list(EXPANSION), "block_counts": list(BLOCKS), "grn": True} | mednext
    model = {"arch": {"type": "mednext_custom"}, "input_size": [16, 16, 32], "in_channels": 1, "out_channels": CLASSES}
    return {"model": model | {"mednext": own}}


def written(folder: Path, config: dict[str, Any]) -> Path:
    path = folder / "x.ckpt"
    state = {f"model.model.{name}": tensor for name, tensor in weights().items()}
    torch.save({"state_dict": state, "pytorch-lightning_version": "2.5"}, path)
    path.with_suffix(".yaml").write_text(yaml.safe_dump(config))
    return path


def test_it_computes_what_its_authors_network_does(tmp_path: Path) -> None:
    """EXPECTED are voxels of what their class gives for `window` with `weights`, computed with their code."""
    loaded = FORMAT.load(written(tmp_path, configured()))
    with torch.inference_mode():
        found = loaded.network(window())
    assert found.shape == (1, CLASSES, 16, 16, 32)
    assert loaded.spec.window.step == (16, 16, 16)
    torch.testing.assert_close(found[0, :, ::8, ::8, 7::12].flatten(), torch.tensor(EXPECTED), rtol=1e-4, atol=1e-4)
    packed = tmp_path / "packed"
    packed.mkdir()
    again = load_model(pack(loaded, packed / "m.yaml")[0])
    with torch.inference_mode():
        torch.testing.assert_close(again.network(window()), found, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("name", "mednext", "reason"),
    [
        ("mednext", {"size": "XL"}, ("'model.mednext.size'", "'XL'", "S, B, M, L")),
        ("mednext", {"kernel_size": 4}, ("'model.mednext.kernel_size'", 4)),
        ("mednext_custom", {"norm": "layer"}, ("'model.mednext.norm'", "'layer'", "group")),
        ("mednext_custom", {"block_counts": [2, 2]}, ("'model.mednext.block_counts'", "[2, 2]")),
        ("mednext_custom", {"exp_r": "4"}, "'model.mednext.exp_r'"),
        ("mednext_custom", {"exp_r": 3}, (Kind.DOES_NOT_FIT, "mednext_custom")),
    ],
)
def test_another_one_is_refused(name: str, mednext: dict[str, Any], reason: Any, tmp_path: Path) -> None:
    config = configured(**mednext)
    config["model"]["arch"]["type"] = name
    with raises(ModelError, reason) as caught:
        FORMAT.load(written(tmp_path, config))
    assert re.search(r"x\.(yaml|ckpt)", str(caught.value))


def test_several_heads_are_refused(tmp_path: Path) -> None:
    config = configured()
    config["model"]["heads"] = {"aff": {"out_channels": 3}, "sdt": {"out_channels": 1}}
    with raises(ModelError, "MedNeXt", "model.heads", "TorchScript", "ONNX"):
        FORMAT.describe(written(tmp_path, config))
