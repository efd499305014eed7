"""Which of a bundle's transforms work on what its network takes or gives, and what they make of its numbers' type."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from napari_tessera.core.errors import ModelError

if TYPE_CHECKING:
    from napari_tessera.models.formats.monai_bundle.config import Component

# What transforms call the items that they make of others.
_MADE = ("name", "names", "output_key", "output_keys")
_FLOATS = frozenset({"float", "float32", "float64", "double", "single", "float16", "half", "bfloat16"})


def base_name(name: str, known: dict[str, Any]) -> str:
    """Return *name* without the ending of transforms that work on dictionaries: d, D or Dict."""
    endings = ("Dict", "d", "D")
    bases = (name.removesuffix(ending) for ending in endings if name.endswith(ending))
    return name if name in known else next((base for base in bases if base in known), name)


def keys_of(transform: Component, key: str) -> list[str]:
    """Return what *transform* works on: *key* where it names nothing."""
    keys = transform.literal("keys", key)
    return keys if isinstance(keys, list) else [keys]


def position_of(transform: Component, key: str) -> int | None:
    """Return where *key* stands among what *transform* works on; None if it is not among it."""
    many = keys_of(transform, key)
    return many.index(key) if key in many else None


def at_position(value: Any, position: int) -> Any:
    """Return the entry of an argument that may be given for each key, at the *position* of one."""
    if isinstance(value, list):
        return value[position] if position < len(value) else None
    return value


def key_of(said: str, transforms: Iterable[Component], *, label: str) -> str:
    """Return the key that *transforms* have for what the metadata calls *said*: this, or the only one there is."""
    found = list(dict.fromkeys(str(key) for transform in transforms for key in keys_of(transform, said)))
    if not found or said in found:
        return said
    if len(found) > 1:
        raise ModelError(
            f"{label}: its transforms work on {', '.join(repr(key[:40]) for key in found[:8])}, but the metadata calls "
            f"the network's own '{said[:40]}', so which of them is meant is unknown: use one name in both files"
        )
    return found[0]


def made_by(transform: Component) -> set[str]:
    """Return the items that *transform* makes of those that it works on."""
    made = [transform.literal(argument, None) for argument in _MADE if argument in transform.raw]
    return {str(one) for some in made for one in (some if isinstance(some, list) else [some]) if one is not None}


def check_key(transform: Component, key: str, copies: set[str], *, changes: bool) -> None:
    """Raise `ModelError` if *transform* makes *key* of other items, or *changes* one of its *copies*, not the key.

    A copy that it makes itself goes into *copies*.
    """
    made, keys = made_by(transform), set(keys_of(transform, key))
    if key in made:
        raise ModelError(
            f"{transform.config.label}: '{transform.where}', {transform.name[:40]}, makes '{key[:40]}' of "
            f"{', '.join(repr(str(one)[:40]) for one in keys_of(transform, key)[:8])}, which Tessera does not do: "
            f"take it out of the file, have all transforms work on '{key[:40]}', and give images with all channels"
        )
    other = sorted(copies & keys)
    if {key, *copies} & keys:
        copies |= made
    if other and changes and position_of(transform, key) is None:
        raise ModelError(
            f"{transform.config.label}: '{transform.where}', {transform.name[:40]}, changes '{other[0][:40]}', a copy "
            f"of '{key[:40]}', so which of the two is meant is unknown: have it work on '{key[:40]}', or take it out"
        )


def is_float(transform: Component, position: int) -> bool:
    """Whether what *transform* gives has fractions, as far as its ``dtype`` says; no expression is run for it."""
    said = at_position(transform.raw.get("dtype"), position)
    if isinstance(said, str) and said.startswith("@"):
        said = transform.literal("dtype", None)
    return said is None or (isinstance(said, str) and said.removeprefix("$").rpartition(".")[2].strip() in _FLOATS)
