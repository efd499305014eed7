"""What is said of descriptions: what is wrong with one, what it leaves open, and what Tessera makes no labels of."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable
from functools import wraps
from typing import Any, TypeVar

from pydantic import ValidationError

from napari_tessera.core.errors import ModelError, nearest

# Of problems and of wrong values, as many as a sentence holds.
MOST_PROBLEMS, MOST_LETTERS = 5, 80

# What is taken for granted where nothing says it. Each sentence begins with its field and "is".
USUAL = {
    "normalisation": "none, as nothing names one: the network is given the image's own intensities",
    "activation": "none, as nothing names one: a threshold takes the network's values for probabilities",
    "output": "semantic, as nothing says what the channels mean: each is a class",
}
_EMBEDDINGS = re.compile(r"(.*[^a-z])?embeddings?([^a-z].*)?", re.IGNORECASE | re.DOTALL)

Kind = TypeVar("Kind")


def assume(*unsaid: str) -> tuple[str, ...]:
    """Return what `ModelSpec.assumed` says where nothing says what these fields of it are."""
    return tuple(f"{name} is {USUAL[name]}" for name in unsaid)


def still_assumed(assumed: Iterable[str], said: Iterable[str]) -> tuple[str, ...]:
    """Return *assumed* without the sentences on the fields that have been *said* since."""
    answered = tuple(f"{name} is " for name in said)
    return tuple(sentence for sentence in assumed if not sentence.startswith(answered))


def refuse_embeddings(said: Iterable[str], where: str) -> None:
    """Raise if a file calls its output, or a channel of it, embeddings; the error calls the file *where*.

    Examples
    --------
    >>> refuse_embeddings(["semantic", "bedding"], "cells.yaml")
    """
    name = next((name for name in said if _EMBEDDINGS.fullmatch(name)), None)
    if name is not None:
        raise ModelError(
            f"{where} gives embeddings ('{name[:40]}'), vectors that are alike within one object: only clustering them "
            f"makes labels, which Tessera does not do, so run it with the program that it was trained with, or take a "
            f"network of boundaries, affinities or distances"
        )


def explain(error: ValidationError, known: Iterable[str], *, within: str = "") -> str:
    """Return what is wrong with a description that has the keys *known*; the place *within* is none of its own."""
    problems = [_explain_one(problem, known, within) for problem in error.errors(include_url=False)]
    more = f"; and {len(problems) - MOST_PROBLEMS} more" if len(problems) > MOST_PROBLEMS else ""
    return "; ".join(problems[:MOST_PROBLEMS]) + more


def _explain_one(problem: Any, known: Iterable[str], within: str) -> str:
    places = [str(part) for part in problem["loc"] if part != within]
    where = ".".join(places)
    if problem["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        return f"unknown key '{where}'{nearest(where, known) if len(places) == 1 else ''}"
    if problem["type"] == "missing":
        return f"the key '{where}' is missing"
    value, wanted = (
        repr(problem["input"]),
        problem["msg"].removeprefix("Value error, ").replace("Input should", "it must"),
    )
    shown = value if len(value) <= MOST_LETTERS else f"{value[:MOST_LETTERS]}..."
    return f"'{where or 'the file'}' is {shown}: {wanted}"


def raising_model_errors(kind: type[Kind]) -> type[Kind]:
    """Have the constructor of *kind*, a pydantic dataclass, raise `ModelError` for what is wrong with its fields."""
    made: Callable[..., None] = kind.__init__
    known = list(inspect.signature(kind).parameters)

    @wraps(made)
    def init(self: Kind, *args: Any, **kwargs: Any) -> None:
        try:
            made(self, *args, **kwargs)
        except ValidationError as error:
            raise ModelError(explain(error, known)) from error

    type.__setattr__(kind, "__init__", init)
    return kind
