"""Which file of a MONAI bundle holds its weights: the one that its configuration loads, where that can be read."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from napari_tessera.core.errors import ModelError
from napari_tessera.models.formats.monai_bundle.config import DEEPEST, MAX_VALUES

if TYPE_CHECKING:
    from napari_tessera.models.formats.monai_bundle.config import Config
    from napari_tessera.models.safety.package import Package

WEIGHTS, SCRIPT = "models/model.pt", "models/model.ts"
_FOLDER = "models"
_ENDINGS = (".pt", ".pth", ".ts")
_LOADER, _LOADED = "CheckpointLoader", "load_path"
# Keys at the top of a configuration that name weights; the first is MONAI's own, the others may be of something else.
_KEYS = ("ckpt_path", "checkpoint", "weights")
# Of a name, of an expression that is one, and of the texts that are read for it.
LONGEST_NAME, LONGEST_EXPRESSION, MOST_TEXTS = 200, 1000, 100
# The bundle's own folder, whatever a configuration says that it was on its author's computer.
_ROOT = "bundle_root"
# Of a path that is put together: references and texts in quotes, and what may stand between them.
_PART = re.compile(r"""@(?P<reference>\w+(?:(?:::|#)\w+)*)|'(?P<single>[^'"\\{}]*)'|"(?P<double>[^'"\\{}]*)\"""")
_BETWEEN = re.compile(r"(?:[\s+/,()]|os\.path\.join|str|(?:pathlib\.)?Path)*")
# Stands for what only running an expression would tell; no text that is read holds it.
_UNKNOWN = "\0"


@dataclass(frozen=True, slots=True)
class Choice:
    """Where a bundle's weights are.

    Parameters
    ----------
    weights, script
        Names in the bundle, whether they are there or not: of a state_dict, and of a TorchScript.
    only_script
        Whether the configuration names the script and not the weights.
    said
        What the configuration says, a clause for people that begins with "its"; "" where that is the usual name.
    """

    weights: str = WEIGHTS
    script: str = SCRIPT
    only_script: bool = False
    said: str = ""

    def notes(self, taken: str) -> tuple[str, ...]:
        """Return a note that says why the file *taken* was taken, if that needs to be said."""
        return (f"I{self.said[1:]}, so {taken} is taken.",) if self.said else ()


def choose_weights(config: Config, package: Package) -> Choice:
    """Return where the weights of *package* are, as its *config* says; the usual names where that says none."""
    named = [(where, value, _read_path(config, value)) for where, value in _iter_named(config)]
    if not named:
        return Choice()
    where, value, path = next((each for each in named if each[2]), named[0])
    places, said = _places(path), f"its '{where[:80]}' names {path or value[:80]} as its weights"
    found = next((name for name in places if package.holds(name)), None)
    if not path:
        is_expression = value.startswith(("$", "@", "%"))
        more = ", an expression that is not run" if is_expression else f", which end in none of {', '.join(_ENDINGS)}"
        return Choice(said=said + more)
    if found is None:
        return Choice() if WEIGHTS in places else Choice(said=f"{said}, which the bundle does not hold")
    usual = next((name for name in (WEIGHTS, SCRIPT) if name != found and package.holds(name)), "")
    said = f"its '{where[:80]}' names {found} as its weights" + (f" and not {usual}" if usual else "")
    if found.endswith(".ts"):
        return Choice(script=found, only_script=True, said=said if usual or found != SCRIPT else "")
    return Choice(weights=found, said="" if found == WEIGHTS else said)


def _iter_named(config: Config) -> Iterator[tuple[str, str]]:
    """Yield the place and the text of all that may name weights, what is loaded first."""
    yield from _iter_loaded(config.content, "", DEEPEST, iter(range(MAX_VALUES)))
    for key in _KEYS:
        value = config.content.get(key)
        if isinstance(value, str) and value and (key == _KEYS[0] or _read_path(config, value)):
            yield key, value


def _iter_loaded(value: Any, where: str, depth: int, budget: Iterator[int]) -> Iterator[tuple[str, str]]:
    """Yield what the handlers in *value* load that are not switched off."""
    if depth == 0 or next(budget, None) is None:
        return
    if isinstance(value, dict):
        target, loaded = value.get("_target_"), value.get(_LOADED)
        is_loader = isinstance(target, str) and target.rpartition(".")[2] == _LOADER
        if is_loader and isinstance(loaded, str) and value.get("_disabled_") is not True:
            yield f"{where}{_LOADED}", loaded
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, one in inside:
        yield from _iter_loaded(one, f"{where}{str(key)[:40]}::", depth - 1, budget)


def _read_path(config: Config, value: str) -> str:
    """Return the path that *value* is, from the bundle's folder or "/" on; "" where none of weights can be read in it.

    What only running an expression would tell must end where a folder does; it is taken for the bundle's own.
    """
    text = _read_text(config, value, DEEPEST, iter(range(MOST_TEXTS))) or ""
    *before, path = text.split(_UNKNOWN)
    if before:
        path = path[1:] if path.startswith("/") else ""
    is_name = len(path) <= LONGEST_NAME and path.isprintable() and PurePosixPath(path).suffix in _ENDINGS
    return path if is_name else ""


def _read_text(config: Config, value: Any, depth: int, budget: Iterator[int]) -> str | None:
    """Return the text that *value* stands for, with `_UNKNOWN` for what is not read; None if it is no text."""
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 10**9:
        return str(value)
    if not isinstance(value, str) or len(value) > LONGEST_EXPRESSION or depth == 0 or next(budget, None) is None:
        return None
    if not value.startswith(("$", "@", "%")):
        return value.replace(_UNKNOWN, " ")
    text, end = "", int(value.startswith("$"))
    for part in _PART.finditer(value):
        between, end = value[end : part.start()], part.end()
        if not _BETWEEN.fullmatch(between) or len(text) > LONGEST_EXPRESSION:
            return None
        if text and ("," in between or "/" in between):
            text += "/"
        if part["reference"] is not None:
            text += _read_reference(config, part["reference"], depth, budget)
        else:
            text += part["single"] if part["double"] is None else part["double"]
    return text if _BETWEEN.fullmatch(value[end:]) else None


def _read_reference(config: Config, reference: str, depth: int, budget: Iterator[int]) -> str:
    if reference == _ROOT:
        return _UNKNOWN
    try:
        value = config.find(reference, reference)
    except ModelError:  # it is not in this file: the command line or another file gives it
        return _UNKNOWN
    known = _read_text(config, value, depth - 1, budget)
    return _UNKNOWN if known is None else known


def _places(path: str) -> tuple[str, ...]:
    """Return the names in a bundle that *path* may be of, none where it leads out of it."""
    pure = PurePosixPath(path)
    if not path or ".." in pure.parts or "\\" in path or ":" in path:
        return ()
    if pure.is_absolute():  # of its author's computer
        return (f"{_FOLDER}/{pure.name}",) if pure.parent.name == _FOLDER else ()
    return (str(pure),) if len(pure.parts) > 1 else (f"{_FOLDER}/{pure}", str(pure))
