"""`tessera settings`: a file for PyTorch Connectomics and back, and what has no match there."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

import napari_tessera as nt
from napari_tessera.decode import decoder_names

SETTINGS = nt.Settings(window_size=(32, 160, 160), overlap=0.25, sw_batch_size=6, tta_num=8, precision="bfloat16")


def test_there_and_back(tessera: Callable[..., Any], tmp_path: Path) -> None:
    mine, there, back = (tmp_path / name for name in ("mine.yaml", "there.yaml", "back.yaml"))
    SETTINGS.to_yaml(mine)
    ended = tessera("settings", mine, "--to", "connectomics", "-o", there)
    assert (ended.code, ended.out) == (0, f"{there}\n")
    assert "Note: PyTorch Connectomics has no key for blend, precision" in ended.err
    window = yaml.safe_load(there.read_text())["inference"]["window"]
    assert (window["window_size"], window["sw_batch_size"], window["overlap"]) == ([32, 160, 160], 6, 0.25)
    ended = tessera("settings", there, "-o", back)
    assert ended.code == 0
    assert not ended.err
    assert nt.Settings.from_yaml(back) == SETTINGS


def test_parameters_of_a_decoder_are_checked_where_the_file_is_known(
    tessera: Callable[..., Any], tmp_path: Path
) -> None:
    path = tmp_path / "s.yaml"
    path.write_text("decoding:\n  name: watershed\n  parameters: {threshold: 7}\n")
    ended = tessera("plan", "--shape", "8,16,16", "--settings", path)
    assert ended.code == nt.SettingsError.exit_code
    assert f"{path}: line 3: decoder parameter threshold is 7" in ended.err


def test_keys_without_a_match_are_named(tessera: Callable[..., Any], tmp_path: Path) -> None:
    config, mine = tmp_path / "config.yaml", tmp_path / "mine.yaml"
    content = {"inference": {"window": {"window_size": [8, 32, 32], "padding_mode": "reflect"}}, "model": {"a": 1}}
    config.write_text(yaml.safe_dump(content))
    ended = tessera("settings", config, "-o", mine)
    assert "config.yaml also says what is not carried over: inference.window.padding_mode" in ended.err
    assert nt.Settings.from_yaml(mine).window_size == (8, 32, 32)


def test_without_a_file_the_defaults_are_written_and_nothing_is_replaced(
    tessera: Callable[..., Any], tmp_path: Path
) -> None:
    path = tmp_path / "new.yml"
    assert tessera("settings", "-o", path).code == 0
    assert nt.Settings.from_yaml(path) == nt.Settings()
    ended = tessera("settings", "-o", path, "--to", "connectomics")
    assert ended.code == 2
    assert "--overwrite" in ended.err
    assert nt.Settings.from_yaml(path) == nt.Settings()
    assert tessera("settings", "-o", path, "--to", "connectomics", "--overwrite").code == 0
    assert "must end in .yaml or .yml" in tessera("settings", "-o", tmp_path / "x.json").err


def test_the_schema_checks_a_file(tessera: Callable[..., Any]) -> None:
    ended = tessera("settings", "--schema")
    assert ended.code == 0
    schema = json.loads(ended.out)
    assert schema["properties"]["inference"]["properties"]["overlap"]["exclusiveMaximum"] == 1
    names = [one["properties"]["name"].get("const") for one in schema["properties"]["decoding"]["anyOf"]]
    assert [name for name in names if name] == list(decoder_names())
    assert tessera("settings").code == nt.SettingsError.exit_code
