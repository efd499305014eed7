"""``tessera settings``: a settings file for another program, or from one."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from napari_tessera.cli import setup
from napari_tessera.cli.console import say, write_line

__all__ = ["settings"]

SUFFIXES = (".yaml", ".yml")


class Program(StrEnum):
    """Who reads the file."""

    TESSERA = "tessera"
    CONNECTOMICS = "connectomics"


def settings(
    output: Annotated[Path, typer.Option("--output", "-o", metavar="YAML", help="The file to write.")],
    source: Annotated[
        Path | None,
        typer.Argument(
            metavar="YAML", help="A settings file of Tessera or PyTorch Connectomics. Left out: the defaults."
        ),
    ] = None,
    to: Annotated[
        Program, typer.Option("--to", help="Who is to read it: Tessera, or PyTorch Connectomics.")
    ] = Program.TESSERA,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a file that exists.")] = False,
) -> None:
    """Write settings as a file of Tessera or of PyTorch Connectomics; what is not carried over is named."""
    from napari_tessera.core.settings.connectomics_export import write_connectomics
    from napari_tessera.images.writers.output import check_writable
    from napari_tessera.session.wording import unknown_there

    wanted = setup.merge_settings(source, {})
    check_writable(output, overwrite, SUFFIXES)
    if to is Program.TESSERA:
        wanted.to_yaml(output)
    elif names := write_connectomics(output, wanted):
        say(unknown_there(names), kind="Note")
    write_line(str(output))
