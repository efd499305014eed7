"""Help comes at once, says what `Settings` says, and names every default."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, ClassVar

import pytest
import typer
from pydantic import Field
from scripts import settings_tables
from scripts.settings_tables import decoder_tables
from tests.refusals import raises

import napari_tessera as nt
from napari_tessera import decode
from napari_tessera.cli.app import app
from napari_tessera.core.settings.file import file_schema
from napari_tessera.core.settings.knobs import WHOLE, Knob, knob, knobs
from napari_tessera.core.settings.settings import Settings
from napari_tessera.decode import decoder_knobs, decoder_names
from napari_tessera.decode.threshold import ThresholdDecoder
from napari_tessera.images.writers.output import TiffOptions

COMMANDS = ("plan", "run", "demo", "doctor", "models", "settings")
OPTIONS = {
    "window_size": "--window",
    "overlap": "--overlap",
    "sw_batch_size": "--sw-batch-size",
    "batch_size": "--batch-size",
    "tta_num": "--tta",
    "tta_axes": "--tta-axes",
    "tta_mode": "--tta-mode",
    "blend": "--blend",
    "precision": "--precision",
    "accumulator": "--accumulator",
    "probabilities": "--probability-type",
    "device": "--device",
}


def help_of(command: str, option: str) -> str:
    group: Any = typer.main.get_command(app)
    named = group.commands[command]
    return next(p.help for p in named.get_params(typer.Context(named)) if option in p.opts)


def test_help_loads_neither_torch_nor_qt_nor_an_image_library() -> None:
    code = """
import sys
from napari_tessera.cli import main
for arguments in [["--version"], ["--help"], *([c, "--help"] for c in sys.argv[1:])]:
    try:
        main(arguments)
    except SystemExit as ended:
        assert ended.code == 0
    if len(arguments) == 1:
        assert not {"numpy", "pydantic"} & set(sys.modules)
loaded = {"torch", "monai", "napari", "qtpy", "tifffile", "skimage"} & set(sys.modules)
assert not loaded, loaded
"""
    done = subprocess.run([sys.executable, "-c", code, *COMMANDS], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_version(tessera: Callable[..., Any]) -> None:
    assert tessera("--version").out == f"tessera {nt.__version__}\n"


def test_no_command_shows_the_help(tessera: Callable[..., Any]) -> None:
    ended = tessera()
    assert ended.code == 0
    assert all(command in ended.out for command in COMMANDS)


@pytest.mark.parametrize("command", ["plan", "run", "calibrate"])
@pytest.mark.parametrize("knob", knobs(Settings), ids=lambda knob: knob.name)
def test_words_are_those_of_the_declaration(command: str, knob: Knob) -> None:
    said = help_of(command, knob.option)
    assert knob.description in said
    assert f"Default: {knob.default_text}." in said


@pytest.mark.parametrize("name", OPTIONS)
def test_defaults_are_those_of_settings(name: str) -> None:
    default = getattr(nt.Settings(), name)
    assert f"Default: {default or 'the model'}" in help_of("run", OPTIONS[name])


@pytest.mark.parametrize("name", ["blend", "precision", "tta_mode", "accumulator", "probabilities"])
def test_choices_are_those_of_settings(name: str) -> None:
    choices = type(getattr(nt.Settings(), name))
    assert all(choice.value in help_of("run", OPTIONS[name]) for choice in choices)


@pytest.mark.parametrize("command", ["plan", "run", "calibrate"])
def test_decoders_are_those_there_are(command: str) -> None:
    assert all(name in help_of(command, "--decoder") for name in decoder_names())
    for name in decoder_names():
        parameters = ", ".join(each.name for each in decoder_knobs(name))
        assert f"Of {name}: {parameters}." in help_of(command, "--decoder-option")


class _WithOneMore(Settings):
    trial: Annotated[int, Field(ge=2, le=9), WHOLE] = knob(3, "Trial", "A knob for a trial.", group="hardware")


def test_a_new_knob_is_in_help_file_and_schema(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("napari_tessera.core.settings.settings.Settings", _WithOneMore)
    assert help_of("run", "--trial") == "A knob for a trial. Default: 3."
    path = tmp_path / "s.yaml"
    _WithOneMore(trial=5).to_yaml(path)
    assert _WithOneMore.from_yaml(path).trial == 5
    schema = file_schema(_WithOneMore)["properties"]["inference"]["properties"]["trial"]
    assert (schema["minimum"], schema["maximum"], schema["default"]) == (2, 9, 3)
    for page in settings_tables.PAGES:
        text = (settings_tables.ROOT / page).read_text(encoding="utf-8")
        assert "| A knob for a trial. |" in settings_tables.written(page, text, _WithOneMore)
    path.write_text("inference: {trial: 10}")
    with raises(nt.SettingsError, "trial", 10, 2, 9):
        _WithOneMore.from_yaml(path)


class _Mode(ThresholdDecoder):
    name: ClassVar[str] = "trial"
    strength: Annotated[int, Field(ge=2, le=9), WHOLE] = knob(3, "Strength", "A parameter for a trial.")


def test_a_new_decoder_and_its_parameter_are_in_help_schema_and_table(
    tessera: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(decode.DECODERS, _Mode.name, _Mode)
    assert "contour-distance, trial." in help_of("run", "--decoder")
    assert "keep_largest, strength." in help_of("run", "--decoder-option")
    schema = json.loads(tessera("settings", "--schema").out)["properties"]["decoding"]["anyOf"]
    parameters = {one["properties"]["name"].get("const"): one["properties"].get("parameters") for one in schema}
    strength = parameters["trial"]["properties"]["strength"]
    assert (strength["minimum"], strength["maximum"], strength["default"]) == (2, 9, 3)
    assert "| `strength` | `3` | a whole number from 2 to 9 | A parameter for a trial. |" in decoder_tables()


class _WithOneMoreOption(TiffOptions):
    trial: Annotated[int, Field(ge=2, le=9), WHOLE] = knob(3, "Trial", "An option for a trial.")


def test_a_new_option_of_the_writer_is_one_of_run(tessera: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("napari_tessera.images.writers.output.TiffOptions", _WithOneMoreOption)
    assert help_of("run", "--trial") == "An option for a trial. Default: 3."
    with pytest.raises(StopIteration):
        help_of("plan", "--trial")
    ended = tessera("run", "a.tif", "-o", "b.tif", "--trial", "10")
    assert ended.code == 2
    assert "trial is 10, but it must be a whole number from 2 to 9" in ended.err


def test_options_of_the_writer_have_names_of_their_own() -> None:
    assert not {each.name for each in knobs(TiffOptions)} & {each.name for each in knobs(Settings)}


@pytest.mark.parametrize("page", settings_tables.PAGES)
def test_the_tables_are_those_of_the_declaration(page: str) -> None:
    text = (settings_tables.ROOT / page).read_text(encoding="utf-8")
    assert settings_tables.written(page, text) == text, "run: python scripts/settings_tables.py"
