"""The settings file: YAML whose sections and keys are where the declaration of each knob puts it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from napari_tessera.core.errors import OutputError, SettingsError, nearest
from napari_tessera.core.settings.connectomics import read_connectomics
from napari_tessera.core.settings.connectomics_config import is_connectomics, read_tree
from napari_tessera.core.settings.knobs import knobs
from napari_tessera.core.settings.views import count_reflections
from napari_tessera.core.writing import write_text

if TYPE_CHECKING:
    from pydantic import BaseModel

# Axes when a file switches augmentation on and names neither axes nor a number of views: all three of them.
DEFAULT_AXES = "zyx"
# The one key that is no knob: it stands for a number of views.
SWITCH = "test_time_augmentation"


def places(model: type[BaseModel]) -> dict[str, dict[str, str]]:
    """Return by section and key the setting that the file keeps there."""
    found: dict[str, dict[str, str]] = {}
    for knob in knobs(model):
        section, _, key = knob.place.partition(".")
        found.setdefault(section, {}).update(dict.fromkeys((key, *knob.also), knob.name))
    return found


def read_settings(path: Path, model: type[BaseModel]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return the fields of *model* that the file *path* gives, values not yet checked, and what is not carried over."""
    tree = read_tree(path, error=SettingsError, kind="settings file")
    if is_connectomics(tree):
        return read_connectomics(path)
    sections, switch = places(model), None
    values: dict[str, Any] = {}
    problems: dict[str, str] = {}
    for section, content in tree.items():
        if section not in sections:
            problems[section] = _unknown(section, sections)
        elif not isinstance(content, dict | None):
            problems[section] = f"'{section}' is {content!r}, but it must be a section of keys"
        for key, value in (content or {}).items() if isinstance(content, dict) and section in sections else ():
            if (section, key) == ("inference", SWITCH):
                switch = value
            elif key not in sections[section]:
                known = [*sections[section], *([SWITCH] if section == "inference" else [])]
                problems[f"{section}.{key}"] = _unknown(key, known, f"{section}.")
            elif value is not None:
                values[sections[section][key]] = value
    if not isinstance(switch, bool | None):
        problems[f"inference.{SWITCH}"] = f"'inference.{SWITCH}' is {switch!r}, but it must be true or false"
    if problems:
        raise file_error(path, model, problems)
    return values | _count_views(values, switch), ()


def file_error(path: Path, model: type[BaseModel], problems: Mapping[str, str]) -> SettingsError:
    """Return the error for *problems* of a file that has been read: clauses by dotted key, or by field of *model*."""
    fields, lines = places(model), dict[str, int]()
    root = yaml.compose(path.read_text(encoding="utf-8"), yaml.SafeLoader)
    for section, content in root.value if isinstance(root, yaml.MappingNode) else ():
        lines[str(section.value)] = section.start_mark.line + 1
        for key, _ in content.value if isinstance(content, yaml.MappingNode) else ():
            field = fields.get(str(section.value), {}).get(str(key.value))
            lines |= dict.fromkeys(filter(None, (f"{section.value}.{key.value}", field)), key.start_mark.line + 1)
    said = (f"line {lines[key]}: {clause}" if key in lines else clause for key, clause in problems.items())
    return SettingsError(f"{path}: {'; '.join(said)}")


def _unknown(key: str, known: Any, section: str = "") -> str:
    return f"unknown key '{section}{key}'{nearest(key, known)} (valid here: {', '.join(known)})"


def _count_views(values: dict[str, Any], switch: bool | None) -> dict[str, int]:
    """Return the number of views where the file says it in other words."""
    if switch is False:
        return {"tta_num": 1}
    if "tta_num" in values:
        return {}
    if isinstance(values.get("tta_views"), list):
        return {"tta_num": max(1, len(values["tta_views"]))}
    if switch or "tta_axes" in values:
        axes = values.get("tta_axes", DEFAULT_AXES)
        return {"tta_num": count_reflections(axes if isinstance(axes, str | list) else "")}
    return {}


def write_settings(path: Path, model: type[BaseModel], values: dict[str, Any]) -> None:
    """Write *values*, plain data by field of *model*, in one step: a reader never finds half of it."""
    content: dict[str, Any] = {"inference": {SWITCH: values["tta_num"] > 1}}
    for knob in knobs(model):
        if values[knob.name] not in (None, {}):
            section, _, key = knob.place.partition(".")
            content.setdefault(section, {})[key] = values[knob.name]
    try:
        write_text(path, yaml.safe_dump(content, sort_keys=False))
    except OSError as error:
        raise OutputError(f"cannot write the settings file {path}: {error.strerror or error}") from error


def file_schema(model: type[BaseModel]) -> dict[str, Any]:
    """Return the JSON Schema of the settings file."""
    flat, titles = model.model_json_schema(), {knob.name: knob.title for knob in knobs(model)}
    sections: dict[str, Any] = {}
    for section, keys in places(model).items():
        properties = {key: {"title": titles[name]} | flat["properties"][name] for key, name in keys.items()}
        if section == "inference":
            said = "Switches augmentation on or off; on without a number of views stands for all reflections."
            properties[SWITCH] = {"type": "boolean", "title": "Test-time augmentation", "description": said}
        sections[section] = {"type": ["object", "null"], "properties": properties, "additionalProperties": False}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Settings file of Tessera",
        "type": "object",
        "properties": sections,
        "additionalProperties": False,
        "$defs": flat.get("$defs", {}),
    }
