"""``tessera trust``: which model files may run code, and the way to take that back."""

from pathlib import Path
from typing import Annotated

import typer

from napari_tessera.cli import options
from napari_tessera.cli.console import show_json, write_line
from napari_tessera.core.errors import ModelError

# Of a SHA-256, as many digits tell a user's files apart.
FEWEST_DIGITS = 6


def trust(
    revoke: Annotated[
        str | None,
        typer.Option("--revoke", metavar="SHA", help="Forget a file, by the first digits of its SHA-256."),
    ] = None,
    add: Annotated[
        Path | None, typer.Option("--add", metavar="FILE", help="Trust a model's file from now on, without opening it.")
    ] = None,
    as_json: options.Json = False,
) -> None:
    """List the model files that may run code, by their SHA-256; --revoke takes that back."""
    from napari_tessera.models.load import remember_trust
    from napari_tessera.models.safety.trusted_files import TrustStore

    store = TrustStore()
    if add is not None:
        remember_trust(add, store)
    if revoke is not None:
        store.revoke(_full(revoke, store.names()))
    names = store.names()
    if as_json:
        show_json(names)
    elif not names:
        write_line("No file may run code.")
    for sha, name in names.items() if not as_json else ():
        write_line(f"{sha[:16]}  {name}")


def _full(digits: str, names: dict[str, str]) -> str:
    """Return the SHA-256 that begins with *digits*."""
    found = [sha for sha in names if sha.startswith(digits.lower())]
    if len(digits) < FEWEST_DIGITS or len(found) != 1:
        raise ModelError(
            f"'{digits}' names {len(found)} trusted files: give at least {FEWEST_DIGITS} digits of a SHA-256 that "
            f"'tessera trust' lists"
        )
    return found[0]
