"""The weights in a file: tensors by name, found wherever training programs put them and however they prefixed them."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch

from napari_tessera.core.errors import ModelError
from napari_tessera.models.networks.empty import StoredWeights
from napari_tessera.models.safety.tensors_only import dense_tensors, is_dense, no_tensors, read_tensors_only

# Of this batch normalisation makes use in training alone, so files that hold all in half precision are right, too.
_UNUSED = "num_batches_tracked"


def assign(network: torch.nn.Module, weights: Mapping[str, torch.Tensor]) -> None:
    """Give *network* exactly its *weights*, which it then shares: mapped ones stay in their file, unless converted."""
    wanted = network.state_dict()
    network.load_state_dict({name: tensor.to(wanted[name].dtype) for name, tensor in weights.items()}, assign=True)


def describe_misfit(weights: Mapping[str, torch.Tensor], wanted: Mapping[str, torch.Tensor]) -> str:
    """Return which of *weights* are missing, unknown or of another shape or kind than *wanted*; empty where all fit."""
    shared = weights.keys() & wanted.keys()
    differ = {name for name in shared if weights[name].shape != wanted[name].shape}
    converted = {
        name
        for name in shared - differ
        if _is_real(weights[name]) != _is_real(wanted[name]) and not name.endswith(_UNUSED)
    }
    parts = [
        f"{text} {', '.join(name[:80] for name in sorted(names)[:3])}{' and more' if len(names) > 3 else ''}"
        for text, names in (
            ("it lacks", wanted.keys() - weights.keys()),
            ("it has unknown", weights.keys() - wanted.keys()),
            ("of another shape are", differ),
            ("of another kind of numbers are", converted),
        )
        if names
    ]
    if differ:
        first = min(differ)
        parts[-1 - bool(converted)] += (
            f" ({first} is {tuple(weights[first].shape)}, but the network has {tuple(wanted[first].shape)})"
        )
    if converted:
        first = min(converted)
        parts[-1] += (
            f" ({first} is {weights[first].dtype}, but the network has {wanted[first].dtype}: save the weights that it "
            f"was trained with, not quantised ones)"
        )
    return "; ".join(parts)


def _is_real(tensor: torch.Tensor) -> bool:
    """Whether it holds real numbers as they are; those of one byte need a scale, as whole numbers do."""
    return tensor.is_floating_point() and tensor.element_size() > 1


def once_each(network: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Return the weights of *network* by name, in memory of their own; what has several names has its first alone.

    nnU-Net's networks hold every layer under up to four names.
    """
    found: dict[str, torch.Tensor] = {}
    seen: set[int] = set()
    places: set[int] = set()
    for name, tensor in network.state_dict(keep_vars=True).items():
        if id(tensor) in seen:
            continue
        plain = tensor.detach().cpu().contiguous()
        # Two tensors over the same numbers are two all the same, of which safetensors wants a place for each.
        found[name] = plain.clone() if plain.data_ptr() in places else plain
        seen.add(id(tensor))
        places.add(plain.data_ptr())
    return found


def with_repeats(weights: Mapping[str, torch.Tensor], network: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Return *weights*, as `once_each` gives them, under all names by which *network* knows each."""
    found = dict(weights)
    names: dict[int, list[str]] = {}
    for name, tensor in network.state_dict(keep_vars=True).items():
        names.setdefault(id(tensor), []).append(name)
    for same in names.values():
        first = next((found[name] for name in same if name in found), None)
        if first is not None:
            found |= {name: first for name in same if name not in found}
    return found


Tensors = Mapping[str, torch.Tensor]

# Of dictionaries in dictionaries, in which weights may lie, and of those that are looked at.
DEEPEST, MOST_PLACES = 4, 1000
# Of names and prefixes that may differ in one dictionary.
MOST_PREFIXES = 64
# What an optimiser keeps may have the names and the shapes of the weights.
_NO_WEIGHTS = frozenset(("optim", "optims", "optimizer", "optimizers", "optimiser", "optimisers", "grads", "gradients"))
# A key says that it is an average over training steps, which is what its author runs, if it says nothing else.
_AVERAGE = frozenset(("ema", "swa", "avg", "averaged", "average", "shadow"))
_OF_ANY_WEIGHTS = frozenset(
    ("model", "models", "net", "network", "module", "state", "dict", "weights", "params", "parameters", "callback")
)
_WORDS = re.compile("[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
# What `torch.compile` puts into names; and what torch.optim.swa_utils does, and how many steps it averaged.
_COMPILED, _AVERAGED, _COUNTER = "_orig_mod.", "module.", "n_averaged"


@dataclass(frozen=True, slots=True, eq=False)
class Fit:
    """How far weights suit a network."""

    weights: Tensors  # by the network's own names
    misfit: str  # what is missing, unknown or of another shape; empty where all fit
    notes: tuple[str, ...] = ()  # what of the file was taken, where that is not plain


@dataclass(frozen=True, slots=True, eq=False)
class SavedWeights:
    """All tensors by name in a file: which of them are a network's is seen once that is there."""

    label: str  # how errors call the file
    places: Mapping[str, Tensors]  # by their place in the file, such as ``model.ema``; "" is the file itself

    @classmethod
    def of(cls, content: Any, label: str) -> SavedWeights:
        """Return the weights in *content*, a dictionary that holds them, or dictionaries of them."""
        places = dict(_iter_places(content))
        if not places:
            raise no_tensors(content, label)
        return cls(label, places)

    @property
    def size(self) -> StoredWeights:
        """What a network that they are for can have at most."""
        every = [StoredWeights.of(_dense(tensors), self.label) for tensors in self.places.values()]
        return StoredWeights(self.label, max(one.n_tensors for one in every), max(one.n_numbers for one in every))

    def fit(self, network: torch.nn.Module, rename: Callable[[str], str | None] = str) -> Fit:
        """Return the weights that have exactly the names and shapes of *network*, else those that come nearest.

        *rename* returns what the network calls a stored name without its prefix; None for what is no part of it.
        """
        wanted, fitting = network.state_dict(), list[_Named]()
        nearest, misfit = dict[str, torch.Tensor](), ""
        for named in self._iter_named(wanted, rename):
            complete = with_repeats(named.tensors, network)
            if not (problem := describe_misfit(complete, wanted)):
                fitting.append(replace(named, tensors=complete))
            elif not misfit or len(complete.keys() & wanted.keys()) > len(nearest.keys() & wanted.keys()):
                nearest, misfit = complete, problem
        if not fitting:
            return Fit(dense_tensors(nearest, self.label) if nearest else nearest, misfit)
        taken, notes = self._choose(fitting)
        return Fit(dense_tensors(taken.tensors, self.label), "", (*self._left_out(fitting), *notes))

    def _choose(self, fitting: list[_Named]) -> tuple[_Named, tuple[str, ...]]:
        """Return which of those that fit is taken, and a note on the others where they hold other numbers."""
        differing = list[_Named]()
        for named in fitting:
            if not any(named.equals(other) for other in differing):
                differing.append(named)
        if len(differing) == 1:
            return differing[0], ()
        # What averages no step yet holds what training began with.
        begun = [named for named in differing if named.n_averaged != 0]
        averages = [named for named in begun if named.is_average]
        if len(begun) == 2 and len(averages) == 1:
            (taken,), why = averages, "as it is an average over training steps"
        elif len(begun) == 1:
            (taken,), why = begun, "as an average of 0 training steps is what training began with"
        else:
            raise ModelError(
                f"weights that fit are in several places of {self.label}, {', '.join(map(str, differing))}, and "
                f"nothing says which are meant: save the ones that you want by themselves{differing[-1].how_to_save}"
            )
        others = ", ".join(str(named) for named in differing if named is not taken)
        return taken, (f"Weights that fit are in several places: {taken} is taken, {why}, and not {others}.",)

    def _left_out(self, fitting: list[_Named]) -> tuple[str, ...]:
        """Return a note on what lies beside weights that fit, in the same dictionary."""
        left = [
            name
            for place in {named.place for named in fitting}
            for name in self.places[place]
            if name.rpartition(".")[2] != _COUNTER and not any(named.takes(place, name) for named in fitting)
        ]
        if not left:
            return ()
        return (f"{len(left)} tensors beside the weights, such as '{left[0][:80]}', are no part of the network.",)

    def _iter_named(self, wanted: Tensors, rename: Callable[[str], str | None]) -> Iterator[_Named]:
        for place, tensors in self.places.items():
            plain = {name.replace(_COMPILED, ""): tensor for name, tensor in tensors.items()}
            for prefix in _prefixes(plain, wanted):
                below = {name[len(prefix) :]: tensor for name, tensor in plain.items() if name.startswith(prefix)}
                own = {new: tensor for name, tensor in below.items() if (new := rename(name)) is not None}
                yield _Named(place, prefix, own, _count_averaged(plain, prefix))


@dataclass(frozen=True, slots=True, eq=False)
class _Named:
    """The tensors of one place whose names begin with a prefix, without it."""

    place: str
    prefix: str
    tensors: dict[str, torch.Tensor]
    n_averaged: int | None = None

    def __str__(self) -> str:
        where = ".".join(filter(None, (self.place, self.prefix.rstrip("."))))
        return f"'{where[:80]}'" if where else "the file itself"

    @property
    def is_average(self) -> bool:
        if self.n_averaged is not None:
            return self.n_averaged > 0
        keys = map(_words, f"{self.place}.{self.prefix}".split("."))
        return any(words & _AVERAGE and words <= _AVERAGE | _OF_ANY_WEIGHTS for words in keys)

    @property
    def how_to_save(self) -> str:
        """An example for a key at the top of the file, else nothing."""
        if self.prefix or not self.place or "." in self.place:
            return ""
        key = self.place if self.place.isdecimal() else repr(self.place[:80])
        return f", such as with torch.save(torch.load(FILE)[{key}], NEW_FILE)"

    def takes(self, place: str, name: str) -> bool:
        """Whether the tensor that a place of the file has under this name is one of these."""
        return place == self.place and name.replace(_COMPILED, "").startswith(self.prefix)

    def equals(self, other: _Named) -> bool:
        """Whether *other*, which fits, too, holds the same numbers."""
        return all(_are_equal(tensor, other.tensors[name]) for name, tensor in self.tensors.items())


def read_weights(file: Path, label: str, *, mapped: bool = True) -> SavedWeights:
    """Return the weights in *file*, mapped into memory; errors call the file *label*."""
    return SavedWeights.of(read_tensors_only(file, label, mapped=mapped), label)


def fill(network: torch.nn.Module, saved: SavedWeights, *, what: str) -> tuple[str, ...]:
    """Give *network* its weights, which it then shares, and return notes on which were taken.

    Mapped ones stay in their file, unless they are of another type.
    """
    fit = saved.fit(network)
    if fit.misfit:
        raise ModelError(f"the weights {saved.label} do not fit {what}: {fit.misfit}")
    assign(network, fit.weights)
    return fit.notes


def _iter_places(content: Any) -> Iterator[tuple[str, dict[str, torch.Tensor]]]:
    """Yield each dictionary that holds tensors, also in lists, those nearest to the top first."""
    waiting, seen = deque([("", content, 0)] if isinstance(content, (Mapping, list, tuple)) else []), set[int]()
    while waiting and len(seen) < MOST_PLACES:
        place, value, depth = waiting.popleft()
        if id(value) in seen:
            continue
        seen.add(id(value))
        items = value.items() if isinstance(value, Mapping) else enumerate(value)
        below = [(key, one) for key, one in items if isinstance(one, (Mapping, list, tuple))]
        if isinstance(value, Mapping) and (
            tensors := {str(name): one for name, one in value.items() if isinstance(one, torch.Tensor)}
        ):
            yield place, tensors
        if depth < DEEPEST:
            inside = ((key, one) for key, one in below if isinstance(key, (str, int)) and not _is_of_training(key))
            waiting.extend((f"{place}.{key}".lstrip("."), one, depth + 1) for key, one in inside)


def _words(key: object) -> set[str]:
    return {word.lower() for word in _WORDS.findall(str(key))}


def _is_of_training(key: object) -> bool:
    words = _words(key)
    return bool(words & _NO_WEIGHTS) or words == {"grad"}


def _count_averaged(tensors: Tensors, prefix: str) -> int | None:
    """Return of how many training steps the weights below *prefix* are an average; None if that is not said."""
    counter = tensors.get(f"{prefix.removesuffix(_AVERAGED)}{_COUNTER}") if prefix.endswith(_AVERAGED) else None
    if counter is None or not is_dense(counter) or counter.numel() != 1 or counter.is_floating_point():
        return None
    return int(counter)


def _are_equal(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one is other or (is_dense(one) and is_dense(other) and one.dtype == other.dtype and torch.equal(one, other))


def _prefixes(tensors: Tensors, wanted: Tensors) -> list[str]:
    """Return what may stand before a network's own names in those of *tensors*, "" first."""
    # The longest name tells most. Where it lacks, the first stored one tells which fit best.
    longest = max(wanted, key=len, default="")
    before = [name[: -len(longest)] for name in tensors if longest and name.endswith(longest)]
    leading = accumulate(f"{part}." for part in next(iter(tensors), "").split(".")[:DEEPEST])
    found = dict.fromkeys(["", *(prefix for prefix in before if prefix.endswith(".")), *leading])
    return list(found)[:MOST_PREFIXES]


def _dense(tensors: Tensors) -> dict[str, torch.Tensor]:
    return {name: tensor for name, tensor in tensors.items() if is_dense(tensor)}
