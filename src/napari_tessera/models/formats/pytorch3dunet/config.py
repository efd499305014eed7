"""What a configuration of pytorch-3dunet says, section by section, within bounds."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from napari_tessera.core.errors import ModelError
from napari_tessera.core.plain_yaml import MAX_BYTES, load_yaml


@dataclass(frozen=True, slots=True)
class Section:
    """A part of the file *path*, which errors call *place*."""

    path: Path
    place: str
    content: dict[str, Any]

    def get(self, key: str, default: Any = None) -> Any:
        """Return the value of *key*; *default* where it is not given or null."""
        value = self.content.get(key)
        return default if value is None else value

    def section(self, key: str) -> Section:
        """Return the section *key*, an empty one where there is none."""
        value = self.get(key, {})
        if not isinstance(value, dict):
            raise self.complain(key, value, "a section")
        return Section(self.path, f"{self.place}{key}.", value)

    def integer(self, key: str, default: int, *, most: int = 65_536) -> int:
        """Return a whole number from 1 to *most*."""
        value = self.get(key, default)
        if type(value) is not int or not 1 <= value <= most:
            raise self.complain(key, value, f"a whole number from 1 to {most}")
        return value

    def number(self, key: str) -> float | None:
        """Return a finite number; None where none is given."""
        value = self.get(key)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e300:
            raise self.complain(key, value, "a finite number")
        return float(value)

    def sides(self, key: str, *, least: int = 1) -> tuple[int, ...] | None:
        """Return three whole numbers, z, y and x, of *least* or more; None where none are given."""
        value = self.get(key)
        if value is None:
            return None
        if (
            not isinstance(value, list)
            or len(value) != 3
            or not all(type(n) is int and least <= n < 65_536 for n in value)
        ):
            raise self.complain(key, value, f"three whole numbers from {least} up: z, y and x")
        return tuple(value)

    def complain(self, key: str, value: Any, wanted: str) -> ModelError:
        """Return the error for a *value* that is not what is wanted."""
        return ModelError(f"{self.path}: '{self.place}{key}' is {repr(value)[:80]}, but it must be {wanted}")


def read_config(path: Path) -> Section:
    """Return the whole of the file *path*."""
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise ModelError(f"{path} has {size} bytes; a configuration has at most {MAX_BYTES}")
        content = load_yaml(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ModelError(f"cannot read the configuration {path}: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict) or not isinstance(content.get("model"), dict):
        raise ModelError(f"{path} is no configuration of pytorch-3dunet: it has no section 'model'")
    return Section(path, "", content)
