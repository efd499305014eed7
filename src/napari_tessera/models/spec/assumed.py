"""What is taken for granted where nothing says it: one sentence for each field of a model's description."""

from __future__ import annotations

from collections.abc import Iterable

# Each sentence begins with its field and "is".
_USUAL = {
    "normalisation": "none, as nothing names one: the network is given the image's own intensities",
    "activation": "none, as nothing names one: a threshold takes the network's values for probabilities",
    "output": "semantic, as nothing says what the channels mean: each is a class",
}


def assume(*fields: str) -> tuple[str, ...]:
    """Return what `ModelSpec.assumed` says where nothing says what these *fields* of it are."""
    return tuple(f"{field} is {_USUAL[field]}" for field in fields)


def still_assumed(assumed: Iterable[str], said: Iterable[str]) -> tuple[str, ...]:
    """Return *assumed* without the sentences on the fields that have been *said* since."""
    answered = tuple(f"{field} is " for field in said)
    return tuple(sentence for sentence in assumed if not sentence.startswith(answered))
