"""What the YAML files of PyTorch Connectomics say, whichever of its four generations wrote them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from napari_tessera.core.errors import ModelError, TesseraError
from napari_tessera.core.plain_data import Section, is_number, read_yaml

# Windows, strides and widths, each of at most as many letters as that.
_NUMBER, LONGEST_TUPLE = re.compile(r"-?\d{1,9}(\.\d{1,9})?"), 200
_TOP_OF_V1 = {"SYSTEM", "MODEL", "DATASET", "AUGMENTOR", "SOLVER", "MONITOR", "INFERENCE"}
_TOP = {
    *("_base_", "default", "evaluation", "experiment_name", "model", "monitor", "optimization", "save_path", "system"),
    *("test", "train", "tune"),
}
_OF_INFERENCE = {
    *("chunking", "data", "decoding", "evaluation", "execution", "model", "output_act", "output_channel"),
    *("output_dtype", "output_scale", "padding_mode", "postprocessing", "prediction_transform", "save_dtype"),
    *("sliding_window", "stride", "tta_act", "tta_channel", "tta_ensemble_mode", "tta_flip_axes", "window"),
}
# Where a name stands for values that its program keeps among its own files, of those that Tessera reads.
_PROFILES = (
    *("pipeline_profile", "model.arch.profile", "data.dataloader.profile", "data.label_transform.profile"),
    "inference.model.activation_profile",
)
# Files below files.
MAX_BASES = 8
# Sections of which every key is told when it is not carried over; of `data`, the first key; of others, the section.
_TOLD_BY_KEY = ("inference", "decoding", "INFERENCE")


class Generation(StrEnum):
    """Which of its programs a file was written for."""

    V1 = "v1"
    A = "A"
    B = "B"
    C = "C"


@dataclass(slots=True)
class Configuration(Section):
    """One file, its stages merged into what holds when the network is applied.

    *error* is what is raised about its values, *base* the file of what holds where it says nothing. Keys that were
    asked for are *used*; all others are `left_out`.
    """

    generation: Generation = Generation.A
    used: set[str] = field(default_factory=set)
    base: Path | None = None

    def get(self, key: str, default: Any = None) -> Any:
        """Return the value at the dotted *key*, which then counts as used; *default* where it is not given or null."""
        self.used.add(key)
        return Section.get(self, key, default)

    def says(self, key: str) -> bool:
        """Whether the dotted *key* is given, be it as null."""
        *sections, last = key.split(".")
        value: Any = self.content
        for section in sections:
            value = value.get(section) if isinstance(value, dict) else None
        return isinstance(value, dict) and last in value

    def first(self, *keys: str) -> Any:
        """Return the first of the values that is given, None if none is; all of the keys count as used."""
        return next((value for value in [self.get(key) for key in keys] if value is not None), None)

    def numbers(self, *keys: str) -> tuple[float, ...] | None:
        """Return the first list of finite numbers that is given, of at most 16; None if none is."""
        return next((self._checked(key, value) for key in keys if (value := self.get(key)) not in (None, [])), None)

    def _checked(self, key: str, value: Any) -> tuple[float, ...]:
        if not isinstance(value, list) or len(value) > 16 or not all(map(is_number, value)):
            raise self.complain(key, value, "a list of numbers, one per axis")
        return tuple(value)

    def sides(self, *keys: str) -> tuple[int, ...] | None:
        """Return the first list of two or three whole numbers above 0 that is given; None if none is."""
        for key in keys:
            found = self.numbers(key)
            if found is None:
                continue
            if len(found) not in (2, 3) or not all(side == int(side) and 1 <= side <= 65_536 for side in found):
                raise self.complain(key, list(found), "two or three whole numbers from 1 up, one per axis")
            return tuple(map(int, found))
        return None

    def left_out(self) -> tuple[str, ...]:
        """Return what is said and was not asked for: keys of inference and decoding, else the sections, each once."""
        found: dict[str, None] = {}
        for key in _iter_keys(self.content):
            if not any(key == used or key.startswith(f"{used}.") for used in self.used):
                section, *rest = key.split(".")
                whole = key if section in _TOLD_BY_KEY else ".".join([section, *rest[:1]])
                found[whole if section in (*_TOLD_BY_KEY, "data") else section] = None
        return tuple(found)


def read_configuration(
    path: Path, *, base: Path | None = None, error: type[TesseraError] = ModelError
) -> Configuration:
    """Read a file of PyTorch Connectomics, in version 1 over its *base*; *error* is what is raised."""
    tree = _with_bases(path, error, ())
    if not is_connectomics(tree):
        raise error(f"{path} is no configuration of PyTorch Connectomics: it has no section such as model or inference")
    if tree.keys() & _TOP_OF_V1:
        below = read_tree(base, error=error) if base is not None else {}
        return Configuration(
            path, _as_yacs_reads(_overlay(below, tree)), error=error, generation=Generation.V1, base=base
        )
    config = Configuration(path, merged := _merge_stages(tree), error=error, generation=_generation_of(merged))
    left = next((key for key in _PROFILES if config.get(key) is not None), None)
    if left is not None:
        raise error(
            f"{path} leaves what '{left}' stands for to PyTorch Connectomics, which keeps it among its own files: use "
            f"the config.yaml that training writes beside its checkpoints"
        )
    return config


def _with_bases(path: Path, error: type[TesseraError], under: tuple[Path, ...]) -> dict[str, Any]:
    """Return what *path* says over the files that it names as its ``_base_``, which lie in its folder.

    *under* are the files that led to it.
    """
    tree = read_tree(path, error=error)
    merged: dict[str, Any] = {}
    named = tree.pop("_base_", None)
    for name in named if isinstance(named, list) else [] if named is None else [named]:
        base = path.parent / str(name)
        if not base.is_file() or base.resolve().parent != path.resolve().parent:
            raise error(
                f"{path} begins with '{str(name)[:200]}' (_base_), which is no file of its folder: put it there and "
                f"name it so, or use the config.yaml that training writes beside its checkpoints"
            )
        if len(under) >= MAX_BASES or base.resolve() in (*under, path.resolve()):
            raise error(f"{path} begins with '{name}' (_base_), which begins with it, or with too many others")
        merged = _overlay(merged, _with_bases(base, error, (*under, path.resolve())))
    return _overlay(merged, tree)


def read_tree(path: Path, *, error: type[TesseraError] = ModelError, kind: str = "configuration") -> dict[str, Any]:
    """Return the YAML file *path* as plain data; an empty one as an empty dictionary. *kind* is for error messages."""
    try:
        tree = _plain(read_yaml(path, kind))
    except (OSError, ValueError) as problem:
        raise error(f"cannot read the {kind} {path}: {problem}") from problem
    if tree is not None and not isinstance(tree, dict):
        raise error(f"the {kind} {path} holds no sections, such as inference")
    return tree or {}


def is_connectomics(tree: dict[str, Any]) -> bool:
    """Whether *tree* is of PyTorch Connectomics, and not a settings file of Tessera, which has some of its keys."""
    if tree.keys() & (_TOP | _TOP_OF_V1):
        return True
    inference = tree.get("inference")
    inside = inference if isinstance(inference, dict) else {}
    decoding = tree.get("decoding")
    nested = isinstance(inside.get("test_time_augmentation"), dict)
    return bool(inside.keys() & _OF_INFERENCE) or nested or (isinstance(decoding, dict) and "steps" in decoding)


def _plain(node: Any) -> Any:
    """Return a copy of *node* with texts as keys and in the place of dates and the like."""
    if isinstance(node, dict):
        return {str(key): _plain(value) for key, value in node.items()}
    if isinstance(node, list):
        return [_plain(value) for value in node]
    return node if node is None or isinstance(node, bool | int | float | str) else str(node)


def _as_yacs_reads(value: Any) -> Any:
    """Return *value* as version 1 reads it: the word None stands for null, and numbers in parentheses for a list."""
    if isinstance(value, dict):
        return {key: _as_yacs_reads(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_as_yacs_reads(one) for one in value]
    if value == "None":
        return None
    if isinstance(value, str) and len(value) <= LONGEST_TUPLE and value.startswith("(") and value.endswith(")"):
        parts = [part.strip() for part in value[1:-1].removesuffix(",").split(",")]
        if all(map(_NUMBER.fullmatch, parts)):
            return [float(part) if "." in part else int(part) for part in parts]
    return value


def _merge_stages(tree: dict[str, Any]) -> dict[str, Any]:
    """Return the sections that hold for inference.

    A file as its author writes it keeps them under `default` and `test`. The one that training leaves beside its
    checkpoints has them merged at the top, and writes every default of a stage out, so that stages say nothing.
    """
    stages = {name: value for name, value in tree.items() if name in ("default", "test") and isinstance(value, dict)}
    top = {name: value for name, value in tree.items() if name not in stages}
    if "model" in top and "default" in stages:
        return _overlay(stages["default"], top)
    return _overlay(_overlay(top, stages.get("default", {})), stages.get("test", {}))


def _overlay(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Return *below* with what *above* says, null included, which takes a value away."""
    merged = dict(below)
    for key, value in above.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _overlay(merged[key], value) if both else value
    return merged


def _generation_of(tree: dict[str, Any]) -> Generation:
    inference = tree.get("inference")
    inside = inference.keys() if isinstance(inference, dict) else set()
    model = tree.get("model")
    newest = isinstance(model, dict) and isinstance(model.get("arch"), dict)
    if inside & {"window", "model", "execution", "chunking"}:
        return Generation.C
    if "sliding_window" in inside or (
        isinstance(inference, dict) and isinstance(inference.get("test_time_augmentation"), dict) and not newest
    ):
        return Generation.B
    if newest or isinstance(tree.get("decoding"), dict):
        return Generation.C
    return Generation.A


def _iter_keys(tree: dict[str, Any], before: str = "") -> Iterator[str]:
    """Yield the dotted keys of all that says something: what is off, empty or null does not."""
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _iter_keys(value, f"{before}{key}.")
        elif value not in (None, False, "", []):
            yield f"{before}{key}"
