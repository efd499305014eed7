"""The configuration of a MONAI bundle as plain data: references are followed, expressions never run.

MONAI's own parser imports whatever ``_target_`` names and evaluates every text that starts with ``$``. Nothing here
does: a class is a name to look up in a table, and an expression is a text to refuse, unless it is of a few that can be
read without being run: a reference, the length of a list, a plain value, numbers added and multiplied, lists of all
these, one or the other by a third, or a constant of a table.
"""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from napari_tessera.core.errors import ModelError
from napari_tessera.core.plain_data import load_json, load_yaml
from napari_tessera.models.safety import allowed

# A configuration is a few pages of text.
MAX_BYTES = 1_000_000
# References to references, and lists within lists: what people write has a handful.
DEEPEST = 32
# YAML can name one list many times over, so a small file can stand for an endless one.
MAX_VALUES = 100_000
MAX_COMPONENTS = 1_000
# Voxels, of windows and of images that are padded.
LARGEST_SIDE = 100_000
# Of the place in a list that a reference names.
MOST_DIGITS = 9
# An expression that is one reference and nothing else has the value of that reference.
_REFERENCE = re.compile(r"\$?@(\w+(?:(?:::|#)\w+)*)")
_LENGTH = re.compile(r"\$\s*len\(\s*@(\w+(?:(?:::|#)\w+)*)\s*\)")
_VALUE = re.compile(r"\$\s*([\w.+-]{1,80})")
# A list, or a sum: what people write for a voxel size.
LONGEST_FORMULA, LARGEST_NUMBER = 120, 10**18
LONGEST_LIST = 100
_SUMS: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}
_SEPARATOR = re.compile(r"::|#")
# Keys of a component that are about it, and no arguments.
_RESERVED = ("_target_", "_desc_", "_requires_", "_disabled_", "_mode_")
# What transforms call the items that they make of others.
_MADE = ("name", "names", "output_key", "output_keys")
_FLOATS = frozenset({"float", "float32", "float64", "double", "single", "float16", "half", "bfloat16"})


def parse(content: bytes, label: str, *, is_yaml: bool = False) -> dict[str, Any]:
    """Return the JSON or YAML *content* of the file that errors call *label* as plain data."""
    try:
        found = load_yaml(content) if is_yaml else load_json(content)
    except ValueError as error:
        raise ModelError(f"{label} is not valid, so mend it or get it again: {error}") from error
    if not isinstance(found, dict):
        raise ModelError(f"{label} holds a {type(found).__name__}, but a MONAI bundle has names and values there")
    return {str(key): value for key, value in found.items()}


@dataclass(frozen=True, slots=True)
class Config:
    """What a configuration file says."""

    content: dict[str, Any]
    label: str  # how errors call the file

    def literal(self, value: Any, where: str) -> Any:
        """Return *value* with its references replaced by the plain values that they lead to."""
        return self._literal(value, where, DEEPEST, iter(range(MAX_VALUES)))

    def component(self, value: Any, where: str) -> Component | None:
        """Return the object that *value* describes; None if it describes none."""
        value = self.follow(value, where)
        if not isinstance(value, dict) or "_target_" not in value:
            return None
        component = Component(self, str(self.literal(value["_target_"], f"{where}::_target_")), where, value)
        if component.literal("_mode_", "default") != "default":
            raise ModelError(
                f"{self.label}: '{where}' has the _mode_ '{value['_mode_']}', which runs code; Tessera runs none"
            )
        return component

    def components(self, value: Any, where: str) -> list[Component]:
        """Return the enabled transforms that *value*, a list or a Compose of them, describes, in their order."""
        return list(self._components(value, where, DEEPEST, iter(range(MAX_COMPONENTS))))

    def follow(self, value: Any, where: str, *, calculates: bool = True) -> Any:
        """Return *value*, or what it refers to, in the end, if it is a reference; *calculates*: or a formula."""
        for _ in range(DEEPEST):
            reference = _REFERENCE.fullmatch(value) if isinstance(value, str) else None
            if reference is not None:
                value = self.find(reference[1], where)
            elif _is_expression(value):
                return self._read(value, where, calculates=calculates)
            else:
                return value
        raise ModelError(f"{self.label}: '{where}' refers on and on, more than {DEEPEST} times: write the value there")

    def _read(self, expression: str, where: str, *, calculates: bool) -> Any:
        """Return what *expression* stands for, if it is one that can be read."""
        length, value = _LENGTH.fullmatch(expression), _VALUE.fullmatch(expression)
        if length is not None:
            counted = self.find(length[1], where)
            if isinstance(counted, list | dict):
                return len(counted)
        elif value is not None and value[1] in allowed.MONAI_CONSTANTS.names:
            return allowed.MONAI_CONSTANTS.names[value[1]]
        elif value is not None:
            with suppress(ValueError, SyntaxError):
                plain = ast.literal_eval(value[1])
                if plain is None or isinstance(plain, int | float):
                    return plain
        with suppress(_NotPlainError, SyntaxError, ValueError, ArithmeticError, RecursionError, MemoryError):
            if calculates:
                return self._calculate(expression, where)
        raise ModelError(
            f"{self.label}: '{where}' is {_short(expression)}, which only running it would tell; Tessera runs no code "
            f"of a bundle: write the value itself there"
        )

    def _calculate(self, expression: str, where: str) -> Any:
        """Return what a formula of plain numbers, lists of them and references to such comes to."""
        references: dict[str, Any] = {}

        def named(match: re.Match[str]) -> str:
            name = f"reference{len(references)}"
            # Formulas of formulas would take any time.
            references[name] = self.follow(match[0], where, calculates=False)
            return name

        if len(expression) > LONGEST_FORMULA:
            raise _NotPlainError
        text = _REFERENCE.sub(named, expression.removeprefix("$").strip())
        return _plain_value(ast.parse(text, mode="eval").body, references)

    def expressions(self) -> list[str]:
        """Return the top-level keys that hold an expression somewhere."""
        budget = iter(range(MAX_VALUES))
        within = {key: iter_within(value, key, DEEPEST, budget) for key, value in self.content.items()}
        return [key for key, parts in within.items() if any(_is_expression(part) for _, part in parts)]

    def _components(self, value: Any, where: str, depth: int, budget: Iterator[int]) -> Iterator[Component]:
        if depth == 0 or next(budget, None) is None:
            raise ModelError(f"{self.label}: '{where}' has more than {MAX_COMPONENTS} transforms, which no bundle has")
        found = self.component(value, where)
        if found is not None and found.literal("_disabled_", False):
            return
        if found is not None and found.name not in allowed.MONAI_LISTS.names:
            yield found
            return
        inner = self.follow(value if found is None else found.raw.get("transforms", []), where)
        if not isinstance(inner, list):
            raise ModelError(f"{self.label}: '{where}' is {_short(inner)}, but it must be a list of transforms")
        place = where if found is None else f"{where}::transforms"
        for number, one in enumerate(inner):
            yield from self._components(one, f"{place}::{number}", depth - 1, budget)

    def _literal(self, value: Any, where: str, depth: int, budget: Iterator[int]) -> Any:
        if depth == 0 or next(budget, None) is None:
            raise ModelError(
                f"{self.label}: '{where.split('::')[0]}' is deeper than {DEEPEST} levels or has more than "
                f"{MAX_VALUES} values, which no network's description has"
            )
        value = self.follow(value, where)
        if isinstance(value, list):
            return [self._literal(one, f"{where}::{i}", depth - 1, budget) for i, one in enumerate(value)]
        if isinstance(value, dict):
            if "_target_" in value:
                raise ModelError(
                    f"{self.label}: '{where}' makes an object of {_short(value['_target_'])}, but Tessera takes over "
                    f"numbers, texts and lists of them: write such a value there"
                )
            return {str(key): self._literal(one, f"{where}::{key}", depth - 1, budget) for key, one in value.items()}
        return value

    def find(self, reference: str, where: str) -> Any:
        """Return what *reference*, without its ``@``, leads to; *where* it stands is for errors."""
        found: Any = self.content
        for part in _SEPARATOR.split(reference):
            if isinstance(found, dict) and part in found:
                found = found[part]
            # Longer places are in no list, and Python makes no number of thousands of digits.
            elif isinstance(found, list) and part.isdecimal() and len(part) <= MOST_DIGITS and int(part) < len(found):
                found = found[int(part)]
            else:
                raise ModelError(
                    f"{self.label}: '{where}' refers to {_short('@' + reference)}, which is not in the file"
                )
        return found


@dataclass(frozen=True, slots=True)
class Component:
    """An object that a configuration describes and that is never made from it."""

    config: Config
    target: str  # the class as it is written, ``UNet`` or ``monai.networks.nets.UNet``
    where: str
    raw: dict[str, Any]  # its own part of the content
    position: int = 0  # of a transform: where the key that matters stands among those that it works on

    @property
    def name(self) -> str:
        """The last part of the class's name."""
        return self.target.rpartition(".")[2]

    @property
    def is_monai(self) -> bool:
        """Whether the class would be MONAI's own; bare names are looked up there."""
        return "." not in self.target or self.target.startswith("monai.")

    @property
    def named(self) -> tuple[str, ...]:
        """The arguments that are given."""
        return tuple(key for key in self.raw if key not in _RESERVED)

    def literal(self, argument: str, default: Any) -> Any:
        """Return the plain value of one argument, *default* where it is not given."""
        if argument not in self.raw:
            return default
        return self.config.literal(self.raw[argument], f"{self.where}::{argument}")

    def number(self, argument: str, default: float | None) -> float | None:
        """Return one argument that must be a number or nothing."""
        value = self.literal(argument, default)
        if value is None or (isinstance(value, int | float) and not isinstance(value, bool)):
            return None if value is None else float(value)  # OverflowError: a whole number of hundreds of digits
        raise ModelError(f"{self.config.label}: '{self.where}::{argument}' is {_short(value)}, but it must be a number")

    def numbers(self, *needed: str, **usual: float) -> list[float]:
        """Return arguments that must all be numbers, and those that *usual* has defaults for."""
        found = {argument: self.number(argument, usual.get(argument)) for argument in (*needed, *usual)}
        missing = [argument for argument, number in found.items() if number is None]
        if missing:
            raise self.unusable(f"no {' and '.join(missing)}, which Tessera needs")
        return [number for number in found.values() if number is not None]

    def arguments(self) -> dict[str, Any]:
        """Return all arguments as plain values."""
        return {key: self.literal(key, None) for key in self.named}

    def keys(self, key: str) -> list[str]:
        """Return what a transform works on: *key* where it names nothing."""
        keys = self.literal("keys", key)
        return keys if isinstance(keys, list) else [keys]

    def on(self, key: str) -> Component | None:
        """Return the transform as it works on *key*; None if it does not."""
        keys = self.keys(key)
        return replace(self, position=keys.index(key)) if key in keys else None

    def of_key(self, argument: str, default: Any = None, *, as_written: bool = False) -> Any:
        """Return an argument that may be given for each key; *as_written*: or the expression that it is."""
        value = self.raw.get(argument, default) if as_written else self.literal(argument, default)
        if isinstance(value, list):
            return value[self.position] if self.position < len(value) else None
        return value

    def makes(self) -> set[str]:
        """Return the items that a transform makes of those that it works on."""
        made = [self.literal(argument, None) for argument in _MADE if argument in self.raw]
        return {str(one) for some in made for one in (some if isinstance(some, list) else [some]) if one is not None}

    @property
    def is_float(self) -> bool:
        """Whether what a transform gives has fractions, as far as its ``dtype`` says; no expression is run for it."""
        said = self.of_key("dtype", as_written=True)
        if isinstance(said, str) and said.startswith("@"):
            said = self.literal("dtype", None)
        return said is None or (isinstance(said, str) and said.removeprefix("$").rpartition(".")[2].strip() in _FLOATS)

    def error(self, said: str) -> ModelError:
        """Return the error of which this is what is *said*."""
        return ModelError(f"{self.config.label}: '{self.where}', {self.name[:40]}, {said}")

    def unusable(self, reason: str) -> ModelError:
        """Return the error of something that it has."""
        return self.error(f"has {reason}")


def base_name(name: str, known: Iterable[str]) -> str:
    """Return *name* without the ending of transforms that work on dictionaries: d, D or Dict."""
    bases = (name.removesuffix(ending) for ending in ("Dict", "d", "D") if name.endswith(ending))
    return name if name in known else next((base for base in bases if base in known), name)


def key_of(said: str, transforms: Iterable[Component], *, label: str) -> str:
    """Return the key that *transforms* have for what the metadata calls *said*: this, or the only one there is."""
    found = list(dict.fromkeys(str(key) for transform in transforms for key in transform.keys(said)))
    if not found or said in found:
        return said
    if len(found) > 1:
        raise ModelError(
            f"{label}: its transforms work on {', '.join(repr(key[:40]) for key in found[:8])}, but the metadata calls "
            f"the network's own '{said[:40]}', so which of them is meant is unknown: use one name in both files"
        )
    return found[0]


def check_key(transform: Component, key: str, copies: set[str], *, changes: bool) -> None:
    """Raise `ModelError` if *transform* makes *key* of other items, or *changes* one of its *copies*, not the key.

    A copy that it makes itself goes into *copies*.
    """
    made, keys = transform.makes(), set(transform.keys(key))
    if key in made:
        raise transform.error(
            f"makes '{key[:40]}' of {', '.join(repr(str(one)[:40]) for one in transform.keys(key)[:8])}, which Tessera "
            f"does not do: take it out of the file, have all transforms work on '{key[:40]}', and give images with all "
            f"channels"
        )
    other = sorted(copies & keys)
    if {key, *copies} & keys:
        copies |= made
    if other and changes and key not in keys:
        raise transform.error(
            f"changes '{other[0][:40]}', a copy of '{key[:40]}', so which of the two is meant is unknown: have it work "
            f"on '{key[:40]}', or take it out"
        )


class _NotPlainError(Exception):
    """A formula holds more than numbers, lists and references."""


def _plain_value(node: ast.expr, references: dict[str, Any]) -> Any:
    """Return what *node* comes to; looks at every part of it once."""
    match node:
        case ast.Constant(value=value) if _is_number(value):
            return value
        case ast.Name(id=name) if name in references:
            return references[name]
        case ast.List(elts=parts) | ast.Tuple(elts=parts):
            return [_plain_value(part, references) for part in parts]
        case ast.UnaryOp(op=ast.USub(), operand=part):
            return _combined(0, ast.Sub(), _plain_value(part, references))
        case ast.BinOp(left=left, op=op, right=right):
            return _combined(_plain_value(left, references), op, _plain_value(right, references))
        case ast.Call(func=ast.Name(id="len"), args=[part], keywords=[]):
            found = _plain_value(part, references)
            if isinstance(found, list | dict):
                return len(found)
        case ast.IfExp(test=test, body=body, orelse=other):
            return _plain_value(body if _plain_value(test, references) else other, references)
    raise _NotPlainError


def _combined(left: Any, op: ast.operator, right: Any) -> Any:
    """Return the sum, difference, product or quotient of two numbers, two lists joined, or one repeated."""
    if isinstance(left, list) and isinstance(op, ast.Add) and isinstance(right, list):
        if len(left) + len(right) <= LONGEST_LIST:
            return left + right
    elif isinstance(left, list) and isinstance(op, ast.Mult) and _is_number(right) and isinstance(right, int):
        if len(left) * right <= LONGEST_LIST:
            return left * right
    elif type(op) in _SUMS and _is_number(left) and _is_number(right):
        return _SUMS[type(op)](left, right)
    raise _NotPlainError


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < LARGEST_NUMBER


def iter_within(value: Any, where: str, depth: int, budget: Iterator[int]) -> Iterator[tuple[str, Any]]:
    """Yield the place and the value of *value* and all in it, no deeper than *depth*, as many as *budget* has."""
    if depth == 0 or next(budget, None) is None:
        return
    yield where, value
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, one in inside:
        yield from iter_within(one, f"{where}::{str(key)[:40]}", depth - 1, budget)


def _is_expression(value: Any) -> bool:
    return isinstance(value, str) and value.startswith(("$", "%"))


def _short(value: Any) -> str:
    """Return *value* for a sentence; nothing of a stranger's file fills the screen."""
    text = " ".join(str(value)[:200].split()) if isinstance(value, str) else f"a {type(value).__name__}"
    return f"'{text[:80]}...'" if len(text) > 80 else f"'{text}'" if isinstance(value, str) else text
