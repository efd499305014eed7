"""The weights in a file: tensors by name, found wherever training programs put them and however they prefixed them."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch

from napari_tessera.errors import ModelError
from napari_tessera.models.empty_network import StoredWeights
from napari_tessera.models.formats.state_dict import assign, describe_misfit, with_repeats
from napari_tessera.models.formats.tensors_only import dense_tensors, is_dense, read_tensors_only

__all__ = ["Fit", "SavedWeights", "fill", "read_weights"]

Tensors = Mapping[str, torch.Tensor]

# Of dictionaries in dictionaries, in which weights may lie, and of those that are looked at.
DEEPEST, MOST_PLACES = 4, 1000
# Of names and prefixes that may differ in one dictionary.
MOST_PREFIXES = 64
# What an optimiser keeps may have the names and the shapes of the weights.
_NO_WEIGHTS = re.compile("optim|grad", re.IGNORECASE)
# Names of averages over training steps, which are what their authors run.
_AVERAGE = re.compile(r"(^|[^a-z])(ema|swa|avg|shadow)([^a-z]|$)|averag", re.IGNORECASE)
# What `torch.compile` puts into names; and how many steps torch.optim.swa_utils averaged.
_COMPILED, _COUNTER = "_orig_mod.", "n_averaged"


@dataclass(frozen=True, slots=True, eq=False)
class Fit:
    """How far weights suit a network.

    Parameters
    ----------
    weights
        By the network's own names.
    misfit
        What is missing, unknown or of another shape; empty where all fit.
    notes
        What of the file was taken, one sentence each, where that is not plain.
    """

    weights: Tensors
    misfit: str
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class SavedWeights:
    """All tensors by name in a file: which of them are a network's is seen once that is there.

    Parameters
    ----------
    label
        How errors call the file.
    places
        Tensors by name, by their place in the file, such as ``model.ema``; "" is the file itself.
    """

    label: str
    places: Mapping[str, Tensors]

    @classmethod
    def of(cls, content: Any, label: str) -> SavedWeights:
        """Return the weights in *content*, a dictionary that holds them, or dictionaries of them.

        Raises
        ------
        ModelError
            If there are none.
        """
        places = dict(_iter_places(content))
        if not places:
            raise ModelError(f"the weights {label} hold a {type(content).__name__}, but Tessera needs tensors by name")
        return cls(label, places)

    @property
    def size(self) -> StoredWeights:
        """What a network that they are for can have at most."""
        every = [StoredWeights.of(_dense(tensors), self.label) for tensors in self.places.values()]
        return StoredWeights(self.label, max(one.n_tensors for one in every), max(one.n_numbers for one in every))

    def fit(self, network: torch.nn.Module, rename: Callable[[str], str | None] = str) -> Fit:
        """Return the weights that have exactly the names and shapes of *network*, else those that come nearest.

        *rename* returns what the network calls a stored name without its prefix; None for what is no part of it.

        Raises
        ------
        ModelError
            If they are no dense tensors of numbers.
        """
        wanted, fitting = network.state_dict(), list[_Named]()
        nearest, misfit = dict[str, torch.Tensor](), ""
        for named in self._iter_named(wanted, rename):
            complete = with_repeats(named.tensors, network)
            if not (problem := describe_misfit(complete, wanted)):
                fitting.append(named)
            elif not misfit or len(complete.keys() & wanted.keys()) > len(nearest.keys() & wanted.keys()):
                nearest, misfit = complete, problem
        if not fitting:
            return Fit(dense_tensors(nearest, self.label) if nearest else nearest, misfit)
        first, *others = sorted(fitting, key=lambda named: not named.is_average)
        weights = with_repeats(dense_tensors(first.tensors, self.label), network)
        return Fit(weights, "", (*self._left_out(fitting), *first.preferred_to(others)))

    def _left_out(self, fitting: list[_Named]) -> tuple[str, ...]:
        """Return a note on what lies beside weights that fit, in the same dictionary."""
        left = [
            name
            for place in {named.place for named in fitting}
            for name in self.places[place]
            if name != _COUNTER and not any(named.takes(place, name) for named in fitting)
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
                yield _Named(place, prefix, own)


@dataclass(frozen=True, slots=True, eq=False)
class _Named:
    """The tensors of one place whose names begin with a prefix, without it."""

    place: str
    prefix: str
    tensors: dict[str, torch.Tensor]

    def __str__(self) -> str:
        where = ".".join(filter(None, (self.place, self.prefix.rstrip("."))))
        return f"'{where[:80]}'" if where else "the file itself"

    @property
    def is_average(self) -> bool:
        return _AVERAGE.search(f"{self.place}.{self.prefix}") is not None

    def takes(self, place: str, name: str) -> bool:
        """Whether the tensor that a place of the file has under this name is one of these."""
        return place == self.place and name.replace(_COMPILED, "").startswith(self.prefix)

    def preferred_to(self, others: list[_Named]) -> tuple[str, ...]:
        """Return a note on *others* that fit, too, and hold other numbers."""
        differ = [other for other in others if not self._equals(other)]
        if not differ:
            return ()
        why = ", as it is an average over training steps" if self.is_average else ", the first"
        return (
            f"Weights that fit are in several places: {self} is taken{why}, and not {', '.join(map(str, differ))}.",
        )

    def _equals(self, other: _Named) -> bool:
        return all(torch.equal(tensor, other.tensors[name]) for name, tensor in self.tensors.items())


def read_weights(file: Path, label: str, *, mapped: bool = True) -> SavedWeights:
    """Return the weights in *file*, mapped into memory; errors call the file *label*.

    Raises
    ------
    ModelError
        If the file holds more than tensors and plain data, or is cut short.
    """
    return SavedWeights.of(read_tensors_only(file, label, mapped=mapped), label)


def fill(network: torch.nn.Module, saved: SavedWeights, *, what: str) -> tuple[str, ...]:
    """Give *network* its weights, which it then shares, and return notes on which were taken.

    Mapped ones stay in their file, unless they are of another type.

    Parameters
    ----------
    network
        As `empty_network.build_empty` returns it.
    saved
        Where its weights are.
    what
        How errors call the network.

    Raises
    ------
    ModelError
        If none in the file have exactly its names and shapes.
    """
    fit = saved.fit(network)
    if fit.misfit:
        raise ModelError(f"the weights {saved.label} do not fit {what}: {fit.misfit}")
    assign(network, fit.weights)
    return fit.notes


def _iter_places(content: Any) -> Iterator[tuple[str, dict[str, torch.Tensor]]]:
    """Yield each dictionary that holds tensors, those nearest to the top first."""
    waiting, seen = deque([("", content, 0)]), set[int]()
    while waiting and len(seen) < MOST_PLACES:
        place, value, depth = waiting.popleft()
        if not isinstance(value, Mapping) or id(value) in seen:
            continue
        seen.add(id(value))
        if tensors := {name: one for name, one in value.items() if isinstance(one, torch.Tensor)}:
            yield place, {str(name): one for name, one in tensors.items()}
        if depth < DEEPEST:
            inside = ((key, one) for key, one in value.items() if isinstance(key, str) and not _NO_WEIGHTS.search(key))
            waiting.extend((f"{place}.{key}".lstrip("."), one, depth + 1) for key, one in inside)


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
