"""The settings file: YAML in the shape the field writes, checked key by key with pydantic.

The only module of the engine that needs more than torch and numpy; it is imported when a file is read or written.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from napari_tessera.core.errors import OutputError, SettingsError, nearest
from napari_tessera.core.plain_yaml import MAX_BYTES, load_yaml
from napari_tessera.core.writing import write_text

__all__ = ["read_settings", "write_settings"]

# Axes when a file switches augmentation on and names neither axes nor a number of views: all three of them.
DEFAULT_AXES = "zyx"


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", populate_by_name=True)


class _Data(_Section):
    resolution: list[float] | None = None
    resample: bool | None = Field(default=None, strict=True)


class _Inference(_Section):
    # Ranges are checked by Settings, for every front end alike; here only names and shapes are.
    window_size: Any = None
    overlap: Any = None
    sw_batch_size: Any = None
    batch_size: Any = None
    test_time_augmentation: bool | None = Field(default=None, strict=True)
    tta_num: Any = None
    tta_axes: Any = None
    tta_views: Any = None
    tta_mode: Any = None
    blend: Any = Field(default=None, alias="blending")
    precision: Any = None
    accumulator: Any = None
    probabilities: Any = None
    skip_below: Any = None
    device: Any = None


class _Decoding(_Section):
    name: str | None = None
    parameters: dict[str, Any] = Field(default_factory=dict)


class _SettingsFile(_Section):
    data: _Data = Field(default_factory=_Data)
    inference: _Inference = Field(default_factory=_Inference)
    decoding: _Decoding = Field(default_factory=_Decoding)


_SECTIONS: dict[str, type[_Section]] = {"data": _Data, "inference": _Inference, "decoding": _Decoding}


def _keys(section: type[_Section]) -> list[str]:
    aliases = [f.alias for f in section.model_fields.values() if f.alias]
    return [*section.model_fields, *aliases]


def _explain(problem: Any) -> str:
    """Return one clause for one of pydantic's findings, naming the key and what is valid in its place."""
    *parents, key = [str(part) for part in problem["loc"]]
    where = ".".join([*parents, key])
    if problem["type"] == "extra_forbidden":
        valid = _keys(_SECTIONS[parents[0]]) if parents else list(_SECTIONS)
        return f"unknown key '{where}'{nearest(key, valid)} (valid here: {', '.join(valid)})"
    return f"'{where}' is {problem['input']!r}: {problem['msg'].lower()}"


def read_settings(path: Path) -> dict[str, Any]:
    """Return the keyword arguments of `Settings` that the file *path* gives, ranges not yet checked.

    Raises
    ------
    SettingsError
        If the file cannot be read, is not YAML, or has an unknown or malformed key.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise SettingsError(f"{path} has {path.stat().st_size} bytes; a settings file has at most {MAX_BYTES}")
        content = load_yaml(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:  # ValueError: not UTF-8, or an impossible date
        reason = " ".join(str(error).split())
        raise SettingsError(f"cannot read the settings file {path}: {reason}") from error
    if content is not None and not isinstance(content, dict):
        raise SettingsError(f"the settings file {path} holds no sections; it needs {', '.join(_SECTIONS)}")
    try:
        parsed = _SettingsFile.model_validate(
            {name: section for name, section in (content or {}).items() if section is not None}
        )
    except ValidationError as error:
        raise SettingsError(f"{path}: " + "; ".join(_explain(p) for p in error.errors())) from error
    return _flatten(parsed)


def _flatten(parsed: _SettingsFile) -> dict[str, Any]:
    inference = parsed.inference.model_dump(exclude_none=True)
    augmented = inference.pop("test_time_augmentation", None)
    if augmented is False:
        inference["tta_num"] = 1
    elif "tta_num" not in inference and isinstance(inference.get("tta_views"), list):
        inference["tta_num"] = max(1, len(inference["tta_views"]))
    elif "tta_num" not in inference and (augmented or "tta_axes" in inference):
        axes = inference.get("tta_axes", DEFAULT_AXES)
        inference["tta_num"] = 2 ** (len(axes) if isinstance(axes, (str, list)) else 0)
    return {
        **inference,
        **parsed.data.model_dump(exclude_none=True),
        "decoder": parsed.decoding.name,
        "decoder_parameters": parsed.decoding.parameters,
    }


def write_settings(path: Path, values: dict[str, Any]) -> None:
    """Write `Settings.to_dict()` as a settings file, in one step: a reader never finds half of it.

    Raises
    ------
    OutputError
        If the file cannot be written.
    """
    inference = {name: values[name] for name in _Inference.model_fields if values.get(name) is not None}
    inference["test_time_augmentation"] = values["tta_num"] > 1
    content: dict[str, Any] = {"inference": inference}
    data = {"resolution": values["resolution"], "resample": values["resample"]}
    if any(value is not None for value in data.values()):
        content["data"] = {name: value for name, value in data.items() if value is not None}
    if values["decoder"] is not None or values["decoder_parameters"]:
        content["decoding"] = {"name": values["decoder"], "parameters": values["decoder_parameters"]}
    try:
        write_text(path, yaml.safe_dump(content, sort_keys=False))
    except OSError as error:
        raise OutputError(f"cannot write the settings file {path}: {error.strerror or error}") from error
