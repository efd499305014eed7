"""``tessera pack``: any model in Tessera's own format, as a description with weights or, if need be, a program."""

from pathlib import Path
from typing import Annotated

import typer

from napari_tessera.cli import options, setup
from napari_tessera.cli.console import write_line


def pack(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A model's file or folder.")],
    output: Annotated[
        Path,
        typer.Option("--output", "-o", metavar="YAML", help="The description's file; weights or program go beside it."),
    ],
    trust: options.Trust = False,
    network_output: options.NetworkOutput = "",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace files that exist.")] = False,
) -> None:
    """Write a model as a YAML description and safetensors weights, which never run code.

    TorchScript, exported programs and ONNX graphs stay what they are: their file is copied beside the description.
    """
    network = setup.open_model(model, trust=trust, network_output=network_output)
    from napari_tessera.models.packing import pack

    for path in pack(network, output.with_suffix(".yaml"), overwrite=overwrite):
        write_line(str(path))
