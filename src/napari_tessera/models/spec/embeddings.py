"""Outputs that are embeddings, which Tessera makes no labels of: one refusal for all formats that can declare them."""

from __future__ import annotations

import re
from collections.abc import Iterable

from napari_tessera.core.errors import ModelError

_EMBEDDINGS = re.compile(r"(.*[^a-z])?embeddings?([^a-z].*)?", re.IGNORECASE | re.DOTALL)


def refuse_embeddings(said: Iterable[str], where: str) -> None:
    """Raise if a file calls its output embeddings.

    Parameters
    ----------
    said
        Words of the file for the kind of its output, or for channels of it.
    where
        How the error calls the file.

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
