"""YAML and JSON of a stranger as plain data, within bounds: no tags that make objects, no endless values in small text.

A key that a section of YAML names twice is refused: which of the two its author meant, no reader can know.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from yaml.constructor import ConstructorError

from napari_tessera.core.errors import ModelError, TesseraError

# A description or a settings file is a page of text; anything much larger is not one.
MAX_BYTES = 1_000_000
# A description of a network has some hundred values, a configuration of a training program some thousand.
MAX_VALUES = 100_000
# Levels of lists and sections in each other.
MAX_DEPTH = 100
# The largest number that a computer counts with has 309 digits. Longer ones fail later, and not as what they
# are: they become no float, and Python refuses to print them.
MAX_DIGITS = 300
# A number may be multiplied by a hundred, or by nanometres per micrometre, and is still one.
LARGEST_NUMBER = 1e300
MOST_LETTERS = 80  # of a value that an error shows
# Characters of a key that is a number.
MAX_KEY = 15
# YAML 1.1's numbers, but for those of base 60, which take quadratic time, and which YAML 1.2 reads as text.
_INTEGER = re.compile(r"[-+]?(?:0b[01_]+|0[0-7_]+|0|[1-9][0-9_]*|0x[0-9a-fA-F_]+)$")
_FLOAT = re.compile(
    r"(?:[-+]?[0-9][0-9_]*\.[0-9_]*(?:[eE][-+][0-9]+)?|\.[0-9][0-9_]*(?:[eE][-+][0-9]+)?"
    r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
)
_TOO_DEEP = "it is nested too deeply"
_SWITCH = "tag:yaml.org,2002:bool"
_NUMBERS = {"tag:yaml.org,2002:int": _INTEGER, "tag:yaml.org,2002:float": _FLOAT}


class _Loader(yaml.SafeLoader):
    """PyYAML's loader of plain data, with an end to what numbers and merge keys (``<<``) of merge keys stand for."""

    def __init__(self, stream: str | bytes) -> None:
        super().__init__(stream)
        self._checked: set[int] = set()  # mappings, by their identity; what they merge is no key of their own

    yaml_implicit_resolvers = {  # noqa: RUF012 - PyYAML's own way to be told
        first: [(tag, _NUMBERS.get(tag, pattern)) for tag, pattern in resolvers]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_number(self, node: yaml.ScalarNode) -> int | float:
        """Return the number *node*, written in base 60 by none, and an integer of no more digits than can be used."""
        text = str(self.construct_scalar(node))
        if node.tag.endswith(":float"):
            if ":" in text or not text.strip("_+-"):
                raise ConstructorError(None, None, f"'{text[:40]}' is no number", node.start_mark)
            return float(self.construct_yaml_float(node))
        if not _INTEGER.match(text):
            raise ConstructorError(None, None, f"'{text[:40]}' is no integer", node.start_mark)
        # By its length first, as to make one of many digits takes quadratic time; then those of other bases.
        if len(text) > MAX_DIGITS or abs(value := int(self.construct_yaml_int(node))) >= 10**MAX_DIGITS:
            reason = f"it holds an integer of more than {MAX_DIGITS} digits, which is not read"
            raise ConstructorError(None, None, reason, node.start_mark)
        return value

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Put what *node* merges into it, as long as that is no more than a whole file may hold."""
        # Integers whose hashes are alike fill a dictionary in quadratic time; those below 2^61 - 1 have their own.
        if any(key.tag in _NUMBERS and len(key.value) > MAX_KEY for key, _ in node.value):
            raise ConstructorError(None, None, f"a key is a number of more than {MAX_KEY} characters", node.start_mark)
        self._refuse_twice(node)
        super().flatten_mapping(node)
        if len(node.value) > MAX_VALUES:
            raise ConstructorError(None, None, f"it stands for more than {MAX_VALUES} values", node.start_mark)

    def _refuse_twice(self, node: yaml.MappingNode) -> None:
        if id(node) in self._checked:
            return
        self._checked.add(id(node))
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                value = self.construct_object(key)
                if value in seen:
                    raise ConstructorError(None, None, f"it names '{str(value)[:80]}' twice", key.start_mark)
                seen.add(value)


for _tag in _NUMBERS:
    _Loader.add_constructor(_tag, _Loader.construct_number)


class _Newer(_Loader):
    """The same with the words and numbers of YAML 1.2, where ``no`` is a text and ``1e-3`` a number."""

    yaml_implicit_resolvers = {  # noqa: RUF012 - PyYAML's own way to be told
        first: [(tag, pattern) for tag, pattern in resolvers if tag not in {*_NUMBERS, _SWITCH}]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


_Newer.add_implicit_resolver(_SWITCH, re.compile(r"(?:true|True|TRUE|false|False|FALSE)$"), [*"tTfF"])
_Newer.add_implicit_resolver(
    "tag:yaml.org,2002:int", re.compile(r"[-+]?(?:0|[1-9][0-9]*)$|0x[0-9a-fA-F]+$"), [*"-+0123456789"]
)
_Newer.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(
        r"(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
    ),
    [*"-+.0123456789"],
)


def load_json(text: str | bytes) -> Any:
    """Return what *text* says; ``NaN`` and ``Infinity``, which are no JSON but are written, stay numbers.

    `ValueError` if it is no JSON, holds an integer of more than `MAX_DIGITS` digits, or is nested too deeply.
    """
    try:
        content = json.loads(text, parse_int=_integer)
    except RecursionError as error:
        raise ValueError(_TOO_DEEP) from error
    # It has no aliases: the length of the text bounds how many values it stands for.
    _check_extent(content, len(text))
    return content


def load_yaml(text: str | bytes, *, newer: bool = False) -> Any:
    """Return what *text* says; *newer*: its words and numbers are those of YAML 1.2.

    `ValueError` if it is no YAML, asks for anything but plain data, is nested too deeply, or stands for more than
    `MAX_VALUES` values, those that aliases repeat included.
    """
    try:
        content = yaml.load(text, Loader=_Newer if newer else _Loader)
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from error
    except RecursionError as error:
        raise ValueError(_TOO_DEEP) from error
    # PyYAML's own stumbles over a tag such as !!bool or !!timestamp before what is none.
    except (AttributeError, LookupError, OverflowError, TypeError) as error:
        raise ValueError("a value is not what its tag says") from error
    _check_extent(content, MAX_VALUES)
    return content


def read_yaml(path: Path, kind: str) -> Any:
    """Return what the YAML file *path*, of at most `MAX_BYTES`, says; errors, as of `load_yaml`, call it a *kind*."""
    with path.open("rb") as file:
        content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise ValueError(f"it has {path.stat().st_size} bytes; a {kind} has at most {MAX_BYTES}")
    return load_yaml(content.decode())


def is_number(value: Any) -> bool:
    """Whether *value* is a number that still is one when it is multiplied by a hundred, or by a thousand."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < LARGEST_NUMBER


@dataclass(slots=True)
class Section:
    """The part of the file *path* that errors call *place*, in which keys with dots lead into sections of it."""

    path: Path
    content: dict[str, Any]
    place: str = ""
    error: type[TesseraError] = ModelError

    def get(self, key: str, default: Any = None) -> Any:
        """Return the value of *key*; *default* where it is not given or null."""
        value: Any = self.content
        for part in key.split("."):
            if not isinstance(value, dict) or value.get(part) is None:
                return default
            value = value[part]
        return value

    def section(self, key: str) -> Section:
        """Return the section *key*, an empty one where there is none."""
        value = self.get(key, {})
        if not isinstance(value, dict):
            raise self.complain(key, value, "a section")
        return Section(self.path, value, f"{self.place}{key}.", self.error)

    def integer(self, key: str, default: int, *, most: int = 65_536) -> int:
        """Return a whole number from 1 to *most*."""
        value = self.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
            raise self.complain(key, value, f"a whole number from 1 to {most}")
        return value

    def number(self, key: str, default: float) -> float:
        """Return a finite number."""
        value = self.get(key, default)
        if not is_number(value):
            raise self.complain(key, value, f"a finite number below {LARGEST_NUMBER:g}")
        return float(value)

    def complain(self, key: str, value: Any, wanted: str) -> TesseraError:
        """Return the error for a *value* that is not what is wanted."""
        text = repr(value)
        shown = text if len(text) <= MOST_LETTERS else f"{text[: MOST_LETTERS - 3]}..."
        return self.error(f"{self.path}: '{self.place}{key}' is {shown}, but it must be {wanted}")


def _integer(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise ValueError(f"it holds an integer of more than {MAX_DIGITS} digits, which is not read")
    return int(digits)


def _check_extent(content: Any, most_values: int) -> None:
    seen, depth, level = 1, 0, [content]
    # Pairs (!!pairs, !!omap) are tuples.
    while level := [value for value in level if isinstance(value, dict | list | tuple)]:
        seen, depth = seen + sum(map(len, level)), depth + 1
        if seen > most_values or depth > MAX_DEPTH:
            raise ValueError(f"it stands for more than {MAX_VALUES} values or {MAX_DEPTH} levels")
        level = [inside for value in level for inside in (value.values() if isinstance(value, dict) else value)]
