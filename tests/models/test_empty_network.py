"""Networks without values: complete once filled, and none far larger than the weights that are there for it."""

from __future__ import annotations

import gc
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.models.absurd import CALLERS
from tests.refusals import raises

from napari_tessera.core.errors import ModelError
from napari_tessera.models.formats.saved_weights import SavedWeights, fill
from napari_tessera.models.load import load_model
from napari_tessera.models.networks import architectures
from napari_tessera.models.networks.empty import StoredWeights, build_empty
from napari_tessera.models.safety import allowed

NETS = "monai.networks.nets"
SMALL_PEAK_BYTES = 150e6

NETWORKS: dict[str, tuple[str, dict[str, Any], tuple[int, ...]]] = {
    "AttentionUnet": ("AttentionUnet", {"spatial_dims": 2, "channels": [4, 8], "strides": [2]}, (16, 16)),
    "BasicUNet": ("BasicUNet", {"features": [4] * 6, "norm": "batch"}, (32, 32, 32)),
    "DynUNet": (
        "DynUNet",
        {"spatial_dims": 2, "kernel_size": [3] * 3, "strides": [1, 2, 2], "upsample_kernel_size": [2, 2]}
        | {"filters": [4, 8, 8], "deep_supervision": True},
        (16, 16),
    ),
    "FlexibleUNet": (
        "FlexibleUNet",
        {"backbone": "resnet10", "spatial_dims": 3, "decoder_channels": [8] * 5, "pretrained": False},
        (32, 32, 32),
    ),
    "SegResNet": ("SegResNet", {"init_filters": 8}, (16, 16, 16)),
    "SwinUNETR": ("SwinUNETR", {"feature_size": 12, "spatial_dims": 2, "dropout_path_rate": 0.2}, (64, 64)),
    "UNETR": (
        "UNETR",
        {"img_size": [32, 32], "spatial_dims": 2, "feature_size": 4, "hidden_size": 24, "mlp_dim": 32, "num_heads": 2},
        (32, 32),
    ),
    "UNETR of sines": (
        "UNETR",
        {"img_size": [32, 32], "spatial_dims": 2, "feature_size": 4, "hidden_size": 24, "mlp_dim": 32, "num_heads": 2}
        | {"proj_type": "conv"},
        (32, 32),
    ),
    "UNet": ("UNet", {"spatial_dims": 3, "channels": [4, 8], "strides": [2], "num_res_units": 1}, (16, 16, 16)),
    "VNet": ("VNet", {}, (16, 16, 16)),
}


@pytest.mark.parametrize("case", NETWORKS)
def test_a_network_of_the_table_is_complete_once_it_is_filled(case: str) -> None:
    import monai.networks.nets as nets

    name, arguments, window = NETWORKS[case]
    if name in ("SwinUNETR", "UNETR"):
        pytest.importorskip("einops", reason="einops is not installed, which transformers need")
    arguments = {"in_channels": 1, "out_channels": 2} | arguments
    torch.manual_seed(1)
    original = getattr(nets, name)(**arguments).eval()
    weights = original.state_dict()
    network = architectures.build(f"{NETS}.{name}", arguments, StoredWeights.of(weights, "w"))
    fill(network, SavedWeights.of(weights, "w"), what="it")
    assert not network.training
    windows = torch.rand(1, 1, *window)
    with torch.inference_mode():
        assert torch.equal(network(windows), original(windows))
    shared = {tensor.data_ptr() for tensor in weights.values()}
    assert {tensor.data_ptr() for tensor in network.parameters()} <= shared
    assert architectures.built_from(network) == (f"{NETS}.{name}", arguments)


def test_every_class_of_the_table_is_tried() -> None:
    assert {f"{NETS}.{name}" for name, *_ in NETWORKS.values()} == set(allowed.MONAI_NETWORKS.names)


class Computed(torch.nn.Module):
    """Keeps tables that its state_dict does not hold."""

    def __init__(self, place: str) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(3, 3)
        torch.nn.init.constant_(self.linear.weight, 2.0)
        table = torch.arange(3.0) * torch.ones(3)
        if place == "buffer":
            self.register_buffer("table", table, persistent=False)
        elif place == "list":
            self.table = [table]
        else:
            self.table = table
        self.nothing = torch.empty(0)


@pytest.mark.parametrize("place", ["buffer", "attribute", "list"])
def test_what_no_file_holds_has_its_values(place: str) -> None:
    weights = torch.nn.Linear(3, 3).state_dict(prefix="linear.")
    network = build_empty(lambda: Computed(place), StoredWeights.of(weights, "w"))
    fill(network, SavedWeights.of(weights, "w"), what="it")
    table = network.table[0] if place == "list" else network.table
    assert torch.equal(torch.as_tensor(table), torch.arange(3.0))
    assert network.linear.weight.data_ptr() == weights["linear.weight"].data_ptr()
    assert not any(tensor.is_meta for tensor in (*network.parameters(), *network.buffers(), network.nothing))


def test_weights_of_half_precision_fill_a_network_of_full_precision() -> None:
    half = {name: tensor.half() for name, tensor in torch.nn.Linear(3, 3).state_dict().items()}
    network = build_empty(lambda: torch.nn.Linear(3, 3), StoredWeights.of(half, "w"))
    fill(network, SavedWeights.of(half, "w"), what="it")
    assert network.weight.dtype == torch.float32


@pytest.fixture
def peak() -> Callable[[], float]:
    """Return a function that gives the bytes by which this process has been larger since the test began."""
    status, start_anew = Path("/proc/self/status"), Path("/proc/self/clear_refs")
    if not os.access(start_anew, os.W_OK):
        pytest.skip("the peak of a process's memory can be measured anew on Linux only")

    def read() -> float:
        found = re.search(r"VmHWM:\s+(\d+)", status.read_text())
        assert found is not None
        return 1024.0 * int(found[1])

    gc.collect()
    start_anew.write_text("5")
    before = read()
    return lambda: read() - before


@pytest.mark.parametrize("case", CALLERS)
def test_no_description_can_ask_for_memory(case: str, tmp_path: Path, peak: Callable[[], float]) -> None:
    import monai.networks.nets  # noqa: F401 - so that its import is not counted

    path = CALLERS[case](tmp_path)
    with pytest.raises(ModelError) as error:
        load_model(path)
    assert peak() < SMALL_PEAK_BYTES
    sentence = str(error.value)
    assert len(sentence) < 1000
    said = (
        r"far more weights than the \d+ \w+ that .* holds|among its arguments, but no network|whole number from 1|"
        r"more than 1000000 voxels"
    )
    if case.endswith("-heads"):  # no head would have a channel of its own, which the constructor refuses
        said += "|cannot be built from"
    assert re.search(said, sentence), sentence


def test_numbers_of_any_length_are_told_in_a_sentence() -> None:
    few = StoredWeights("w", 1, 1)
    for number, shown in ((10**6 + 1, "1000001"), (-(10**9), "-1000000000"), (10**5000, 18)):
        with raises(ModelError, shown):
            architectures.build(f"{NETS}.UNet", {"channels": [number]}, few)
    loop: list[Any] = []
    loop.append(loop)
    with raises(ModelError, 10000):
        architectures.build(f"{NETS}.UNet", {"channels": loop}, few)
