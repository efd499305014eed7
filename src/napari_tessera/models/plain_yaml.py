"""YAML of a stranger as plain data, within bounds: no tags that make objects, and no small text for endless values."""

from __future__ import annotations

from typing import Any

import yaml
from yaml.constructor import ConstructorError

__all__ = ["MAX_VALUES", "load_yaml"]

# A description of a network has some hundred values, a configuration of a training program some thousand.
MAX_VALUES = 100_000


class _Loader(yaml.SafeLoader):
    """PyYAML's loader of plain data, with an end to what merge keys (``<<``) of merge keys stand for."""

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Put what *node* merges into it, as long as that is no more than a whole file may hold."""
        super().flatten_mapping(node)
        if len(node.value) > MAX_VALUES:
            raise ConstructorError(None, None, f"it stands for more than {MAX_VALUES} values", node.start_mark)


def load_yaml(text: str | bytes) -> Any:
    """Return what *text* says.

    Raises
    ------
    ValueError, yaml.YAMLError
        If it is no YAML, asks for anything but plain data, is nested too deeply, or stands for more than `MAX_VALUES`
        values, those that aliases repeat included.
    """
    try:
        content = yaml.load(text, Loader=_Loader)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    seen, waiting = 0, [content]
    while waiting:
        value = waiting.pop()
        seen += 1
        if seen > MAX_VALUES:
            raise ValueError(f"it stands for more than {MAX_VALUES} values")
        if isinstance(value, dict):
            waiting.extend(value.values())
        elif isinstance(value, list):
            waiting.extend(value)
    return content
