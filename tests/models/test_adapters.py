"""What stands around a network computes what its description says, as torch does."""

from __future__ import annotations

import pytest
import torch
from pydantic import TypeAdapter

from napari_tessera.models.networks.adapters import take_off, wrap
from napari_tessera.models.spec.model_file import Adapter

WINDOWS = torch.rand(2, 1, 5, 6, 7, generator=torch.Generator().manual_seed(3))


def network() -> torch.nn.Module:
    torch.manual_seed(4)
    return torch.nn.Conv3d(1, 3, (3, 1, 5), padding=(1, 0, 2)).eval()


@pytest.mark.parametrize(
    ("adapter", "written"),
    [
        ({"do": "reorder", "order": [2, 0, 1]}, {"do": "turn", "axes": "xzy"}),
        ({"do": "turn", "axes": "xzy"}, {"do": "turn", "axes": "xzy"}),
    ],
)
@torch.no_grad()
def test_axes_are_turned(adapter: dict[str, object], written: dict[str, object]) -> None:
    around = [TypeAdapter(Adapter).validate_python(adapter)]
    core = network()
    wrapped = wrap(core, around)
    expected = core(WINDOWS.permute(0, 1, 4, 2, 3)).permute(0, 1, 3, 4, 2)  # the network's axes are x, z, y
    torch.testing.assert_close(wrapped(WINDOWS), expected)
    assert take_off(wrapped) == (core, [written])


@pytest.mark.parametrize(
    "adapter",
    [
        {"do": "channels", "kept": [2, 0], "scales": [1.0, 1.0]},
        {"do": "channels", "kept": [2, 0], "scales": [0.5, -2.0]},
        {"do": "line", "gain": [2.0, 0.5, 1.0], "offset": [0.0, -1.0, 4.0]},
    ],
)
@torch.no_grad()
def test_channels_are_chosen_and_scaled(adapter: dict[str, object]) -> None:
    core = network()
    wrapped = wrap(core, [TypeAdapter(Adapter).validate_python(adapter)])
    kept = torch.tensor(adapter.get("kept", [0, 1, 2]))
    gain, offset = torch.tensor(adapter.get("scales") or adapter["gain"]), torch.tensor(adapter.get("offset", [0.0]))
    expected = core(WINDOWS)[:, kept] * gain[:, None, None, None] + offset[:, None, None, None]
    torch.testing.assert_close(wrapped(WINDOWS), expected)
    assert take_off(wrapped) == (core, [adapter])
