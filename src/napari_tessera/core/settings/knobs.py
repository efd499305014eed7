"""The declaration of knobs: what a field of a pydantic model says, and what widgets, options, files and tables read.

A setting, a decoder's parameter and a writer's option are each one field of a `Declared` model, made by `knob`.
Nothing about it is written down anywhere else.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass
from functools import cache
from math import isfinite
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from napari_tessera.core.errors import SettingsError, nearest

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

Kind = Literal["int", "float", "bool", "choice", "text", "ints", "floats", "texts", "mapping"]

# Groups in the order in which they are shown, with their headings.
GROUPS = {
    "windows": "Windows and passes",
    "views": "Views (test-time augmentation)",
    "hardware": "Hardware",
    "result": "Result",
}
_KINDS: dict[str, Kind] = {
    "integer": "int",
    "number": "float",
    "boolean": "bool",
    "string": "text",
    "object": "mapping",
}
_NOUNS = {"int": "whole number", "float": "number", "text": "name"}


@dataclass(frozen=True, slots=True)
class Knob:
    """One knob as its declaration has it.

    Of ``"ints"``, ``"floats"`` and ``"texts"`` the bounds are those of each item, and *lengths* the least and the
    largest number of items. *unset* says what None, or a mapping or list without items, stands for; *place* is where
    the settings file has it, ``"section.key"``, and *also* are other keys of it there. Without a *step* the widget
    chooses one.
    """

    name: str
    kind: Kind
    title: str
    description: str
    default: Any
    optional: bool = False
    unset: str = ""
    unit: str = ""
    group: str = "result"
    level: str = "basic"
    minimum: float | None = None
    maximum: float | None = None
    exclusive_minimum: bool = False
    exclusive_maximum: bool = False
    step: float | None = None
    choices: tuple[str, ...] = ()
    lengths: tuple[int, int | None] | None = None
    option: str = ""
    place: str = ""
    also: tuple[str, ...] = ()

    @property
    def range(self) -> str:
        """The bounds in words, empty without any."""
        low, high = self.minimum, self.maximum
        words = "" if low is None else f"above {low:g}" if self.exclusive_minimum else f"from {low:g}"
        if high is None:
            return f"{words} up" if words.startswith("from") else words
        return f"{words} up to, not including, {high:g}" if self.exclusive_maximum else f"{words} to {high:g}".strip()

    @property
    def wanted(self) -> str:
        """What a value must be, in words."""
        if self.kind == "bool":
            return "true or false"
        if self.kind == "choice":
            return f"one of {', '.join(self.choices)}"
        if self.kind == "mapping":
            return "a mapping of names to values"
        noun = "fraction" if self.unit == "fraction" else _NOUNS[self.kind.removesuffix("s")]
        if self.kind in _NOUNS:
            noun = f"finite {noun}" if self.kind == "float" and not self.range else noun
            return f"a {noun} {self.range}".strip()
        low, high = self.lengths or (0, None)
        count = "" if high is None else f"{low} " if low == high else f"{low} or {high} "
        return f"a list of {count}{noun}s {self.range}".strip()

    @property
    def default_text(self) -> str:
        """The default in words."""
        if self.default in (None, (), ""):
            return self.unset
        return str(self.default).lower() if isinstance(self.default, bool) else f"{self.default}"


def knob(
    default: Any,
    title: str,
    description: str,
    *,
    group: str = "result",
    level: Literal["basic", "advanced"] = "basic",
    unit: str = "",
    unset: str = "",
    step: float | None = None,
    option: str = "",
    place: str = "",
    also: tuple[str, ...] = (),
) -> Any:
    """Return the field of a `Declared` model for one knob (see `Knob` for the words); bounds go to its type."""
    said: dict[str, Any] = {"group": group, "level": level, "unit": unit, "unset": unset, "step": step}
    said |= {"option": option, "place": place, "also": also}
    return Field(
        default,
        title=title,
        description=description,
        json_schema_extra={f"x-{word}": value for word, value in said.items() if value},
    )


@cache
def knobs(model: type[BaseModel]) -> tuple[Knob, ...]:
    """Return the knobs that *model* declares, in the order of its fields."""
    schema = model.model_json_schema()
    return tuple(
        _knob_of(name, schema["properties"][name], schema.get("$defs", {}), field)
        for name, field in model.model_fields.items()
    )


def _knob_of(name: str, said: dict[str, Any], definitions: dict[str, Any], field: FieldInfo) -> Knob:
    types = said.get("anyOf", [said])
    held = _resolved(next(one for one in types if one.get("type") != "null"), definitions)
    items = held.get("items", {})
    each = items or held
    kind = "choice" if "enum" in held else _KINDS[each["type"]]
    low, high = (each.get(bound, each.get(f"exclusive{bound.capitalize()}")) for bound in ("minimum", "maximum"))
    extra = {word: said[f"x-{word}"] for word in ("group", "level", "unit", "unset", "step") if f"x-{word}" in said}
    return Knob(
        name,
        f"{kind}s" if items else kind,  # type: ignore[arg-type]
        field.title or name,
        field.description or "",
        field.default,
        optional=len(types) > 1,
        minimum=low,
        maximum=high,
        exclusive_minimum="exclusiveMinimum" in each,
        exclusive_maximum="exclusiveMaximum" in each,
        choices=tuple(held.get("enum", ())),
        lengths=(held.get("minItems", 0), held.get("maxItems")) if items else None,
        option=said.get("x-option", f"--{name.replace('_', '-')}"),
        place=said.get("x-place", f"inference.{name}"),
        also=tuple(said.get("x-also", ())),
        **extra,
    )


def _resolved(schema: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any]:
    return definitions[schema["$ref"].rpartition("/")[2]] if "$ref" in schema else schema


class Declared(BaseModel):
    """A frozen, hashable model of knobs, whose errors are `SettingsError` and name value, limit and remedy."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    # What one of its fields is called, and the whole, where a name is unknown.
    WORD: ClassVar[str] = ""
    UNKNOWN: ClassVar[str] = "unknown setting '{name}'{nearest} (valid: {known})"

    def __init__(self, /, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            found = _explain(type(self), values, error)
            raise SettingsError("; ".join(found.values()), by_field=found) from None

    def replace(self, **changes: Any) -> Self:
        """Return a copy with *changes*, checked as a new object is."""
        return type(self)(**{**dict(self), **changes})


def _explain(model: type[Declared], values: dict[str, Any], error: ValidationError) -> dict[str, str]:
    """Return one clause for each field that is wrong."""
    declared = {one.name: one for one in knobs(model)}
    found: dict[str, str] = {}
    for problem in error.errors():
        name = str(problem["loc"][0]) if problem["loc"] else ""
        said = str(problem["ctx"]["error"]) if problem["type"] == "value_error" else ""
        if not name:
            found.setdefault(name, said)
        elif name not in declared:
            known = ", ".join(declared) or "none"
            found[name] = model.UNKNOWN.format(model=model, name=name, nearest=nearest(name, declared), known=known)
        else:
            one = declared[name]
            hint = nearest(str(values[name]), one.choices)
            reason = said or f"it must be {one.wanted}{hint}"
            found.setdefault(name, f"{model.WORD}{name} is {values[name]!r}, but {reason}")
    return found


def _whole(value: Any) -> int:
    """Return an integer, be it one of numpy's."""
    try:
        if isinstance(value, bool):
            raise ValueError
        return operator.index(value)
    except TypeError:
        raise ValueError from None


def _number(value: Any) -> float:
    """Return a number, be it one of numpy's; text, truth values and arrays are none."""
    if isinstance(value, bool | str) or not hasattr(value, "__float__") or getattr(value, "ndim", 0) != 0:
        raise ValueError
    if not isfinite(number := float(value)):
        raise ValueError
    return number


def list_items(value: Any) -> list[Any]:
    """Return the items of a list, a tuple or a one-dimensional array."""
    if getattr(value, "ndim", 1) != 1 or not (isinstance(value, list | tuple) or hasattr(value, "__array__")):
        raise ValueError
    return list(value)


# To stand last in an `Annotated` type. An error without words leaves them to the declaration: `Knob.wanted`.
WHOLE, NUMBER, ITEMS = BeforeValidator(_whole), BeforeValidator(_number), BeforeValidator(list_items)
