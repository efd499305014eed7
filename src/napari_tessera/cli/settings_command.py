"""``tessera settings``: a settings file for another program, or from one."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from napari_tessera.cli import setup
from napari_tessera.cli.console import say, show_json, write_line
from napari_tessera.core.errors import SettingsError

SUFFIXES = (".yaml", ".yml")


class Program(StrEnum):
    """Who reads the file."""

    TESSERA = "tessera"
    CONNECTOMICS = "connectomics"


def settings(
    source: Annotated[
        Path | None,
        typer.Argument(
            metavar="YAML", help="A settings file of Tessera or PyTorch Connectomics. Left out: the defaults."
        ),
    ] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", metavar="YAML", help="The file to write.")] = None,
    to: Annotated[
        Program, typer.Option("--to", help="Who is to read it: Tessera, or PyTorch Connectomics.")
    ] = Program.TESSERA,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a file that exists.")] = False,
    schema: Annotated[
        bool, typer.Option("--schema", help="Print the JSON Schema of the settings file, by which editors check it.")
    ] = False,
) -> None:
    """Write settings as a file of Tessera or of PyTorch Connectomics; what is not carried over is named."""
    from napari_tessera.core.settings.connectomics_export import write_connectomics
    from napari_tessera.images.writers.output import check_writable
    from napari_tessera.session.wording import unknown_there

    if schema:
        show_json(_schema())
        return
    if output is None:
        raise SettingsError("no file to write is named: name it with --output, or ask for the schema with --schema")
    wanted = setup.merge_settings(source, {})
    check_writable(output, overwrite, SUFFIXES)
    if to is Program.TESSERA:
        wanted.to_yaml(output)
    elif names := write_connectomics(output, wanted):
        say(unknown_there(names), kind="Note")
    write_line(str(output))


def _schema() -> dict[str, Any]:
    from napari_tessera.core.settings.file import file_schema
    from napari_tessera.core.settings.settings import Settings
    from napari_tessera.decode import decoder_names, decoder_schema

    schema = file_schema(Settings)
    decoders = {name: decoder_schema(name) for name in decoder_names()}
    for decoder in decoders.values():
        schema["$defs"] |= decoder.pop("$defs", {})
    # Each decoder has parameters of its own; those of the one that a model suggests may be any of them.
    schema["properties"]["decoding"]["anyOf"] = [
        {"properties": {"name": {"const": name}, "parameters": decoder}} for name, decoder in decoders.items()
    ] + [{"properties": {"name": {"not": {"enum": list(decoders)}}}}]
    return schema
