"""UNETR takes windows of one size: the rule says so in every format that rebuilds it, and other sizes are refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.models.absurd import write_bioimageio, write_connectomics, write_monai, write_tessera
from tests.refusals import raises

from napari_tessera.core.errors import SettingsError
from napari_tessera.models.load import describe_model
from napari_tessera.models.networks.architectures import only_window
from napari_tessera.models.spec.spec import WindowRule

UNETR = {"in_channels": 1, "out_channels": 2, "img_size": [32, 48, 64]}


def connectomics(folder: Path, name: str, arguments: dict[str, Any]) -> Path:
    return write_connectomics(folder, "monai_unetr", {"input_size": arguments["img_size"]})


@pytest.mark.parametrize("write", [write_tessera, write_monai, write_bioimageio, connectomics])
def test_the_rule_allows_one_window(write: Callable[[Path, str, dict[str, Any]], Path], tmp_path: Path) -> None:
    _, description = describe_model(write(tmp_path, "UNETR", UNETR))
    assert description.spec is not None
    only = (32, 48, 64)
    assert description.spec.window == WindowRule(only, (0, 0, 0), only)
    with raises(SettingsError, 64, 48, "window_size"):
        description.spec.window.check((32, 64, 64))


def test_another_window_in_a_description_is_said_to_be_left(tmp_path: Path) -> None:
    _, description = describe_model(write_tessera(tmp_path, "UNETR", UNETR))
    assert description.notes == (
        "The window is (32, 48, 64), the network's img_size, and not (32, 32, 32), which it does not take.",
    )


@pytest.mark.parametrize(
    ("size", "expected"),
    [(96, (96, 96)), ([96, 64], (96, 64)), ([96], None), ("x", None), ([0, 4], None), (None, None)],
)
def test_sizes_as_monai_takes_them(size: Any, expected: tuple[int, ...] | None) -> None:
    assert only_window("monai.networks.nets.UNETR", {"img_size": size}, 2) == expected
    assert only_window("monai.networks.nets.UNet", {"img_size": size}, 2) is None
