"""``tessera models``, ``inspect``, ``trust`` and ``pack``: what models there are, what they say, and what they may do.

Nothing of a model's file is run but by ``pack``, which opens it.
"""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from napari_tessera.cli import options, setup
from napari_tessera.cli.console import OUT, say, say_assumed, show_json, write_line
from napari_tessera.core.errors import ModelError, without_control
from napari_tessera.core.units import format_bytes, format_parameters, format_sides, format_voxel_size

if TYPE_CHECKING:
    from napari_tessera.images.views.interpolation import ResamplingScheme
    from napari_tessera.intensity.normalisation import Chain, Normalisation
    from napari_tessera.models.formats.base import Description, Risk
    from napari_tessera.models.spec.spec import ModelSpec, WindowRule


def models(as_json: options.Json = False) -> None:
    """List the networks that come with Tessera, and those in your own folder of models; none is opened."""
    from napari_tessera.models.folder import models_folder, stored_bytes, user_models
    from napari_tessera.models.load import bundled_models

    found = {**user_models(), **bundled_models()}  # a bundled name wins, as it does for --model
    facts = {name: _look(path) for name, path in found.items()}
    sizes = {name: stored_bytes(path) for name, path in found.items()}
    if as_json:
        show_json([{"name": name, "bytes": sizes[name], **_plain(*fact)} for name, fact in facts.items()])
        return
    for name, (form, spec, problem) in facts.items():
        OUT.print(Text.assemble((without_control(name), "bold"), f"  {format_bytes(sizes[name])}"))
        OUT.print(problem or _line(form, spec))
    write_line(f"Your own: put files or folders into {models_folder()}")


_Facts = tuple[str, "ModelSpec | None", str]


def _look(path: Path) -> _Facts:
    """Return the format, the description and what is wrong with a model."""
    from napari_tessera.models.load import describe_model

    try:
        form, description = describe_model(path)
    except ModelError as error:
        return "", None, str(error)
    return form.name, description.spec, ""


def _plain(form: str, spec: "ModelSpec | None", problem: str) -> dict[str, Any]:
    known = {"format": form, "problem": problem}
    if spec is None:
        return known
    return known | {
        "spatial_dims": spec.spatial_dims,
        "voxel_size_um": spec.voxel_size_um,
        "description": spec.description,
        "licence": spec.licence,
    }


def _line(form: str, spec: "ModelSpec | None") -> str:
    if spec is None:
        return f"{form}; only running it tells more"
    voxel_size = format_voxel_size(spec.voxel_size_um) if spec.voxel_size_um else "any size"
    window = format_sides(spec.window.default)
    facts = f"{spec.spatial_dims}D, voxels of {voxel_size}, window {window}, decoder {spec.suggested_decoder.name}"
    return f"{form}: {facts}" + (f"\n{spec.description}" if spec.description else "")


def inspect(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="A model's file or folder, or the name of a bundled one.")
    ],
    network_output: options.NetworkOutput = "",
    as_json: options.Json = False,
) -> None:
    """Show what a model's file says of its network, or why it does not open; nothing of it is run."""
    from napari_tessera.models.load import check_model, describe_model, find_risk
    from napari_tessera.models.safety.trusted_files import TrustStore

    form, description = describe_model(model, network_output=network_output)
    risk = find_risk(model)
    trusted = risk is not None and all(TrustStore().allows(file) for file in risk.files)
    check_model(model, network_output=network_output)
    if as_json:
        show_json(_as_dict(form.name, description, risk, trusted=trusted))
        return
    table = Table.grid(padding=(0, 2))
    table.add_row("format", form.name)
    if description.architecture:
        table.add_row("network", without_control(description.architecture))
    for name, fact in _facts(description.spec).items():
        table.add_row(name, without_control(fact))
    table.add_row("opening", _opening(risk, trusted=trusted))
    OUT.print(table)
    if description.spec is None:
        say("the file does not describe its network: only running it tells channels and axes", kind="Note")
    say_assumed(description.assumed)
    for note in description.notes:
        say(note, kind="Note")


def _as_dict(name: str, description: "Description", risk: "Risk | None", *, trusted: bool) -> dict[str, Any]:
    return {
        "format": name,
        "architecture": description.architecture,
        "spec": None if description.spec is None else asdict(description.spec),
        "risk": None if risk is None else risk.does,
        "trusted": trusted,
        "assumed": list(description.assumed),
        "notes": list(description.notes),
    }


def _opening(risk: "Risk | None", *, trusted: bool) -> str:
    if risk is None:
        return "runs nothing of the file"
    files = ", ".join(without_control(Path(file).name) for file in risk.files)
    return f"{risk.does} ({files}): {'you trust it' if trusted else 'refused until you trust it, with --trust'}"


def _facts(spec: "ModelSpec | None") -> dict[str, str]:
    """Return what is known, in the order and the words of the description's own keys."""
    if spec is None:
        return {}
    from napari_tessera.session.model_summary import mirrored_axes

    rule = spec.window
    steps = _steps(rule) if any(rule.step) else "no other"
    facts = {
        "name": spec.name,
        "axes": f"{spec.axes}, {spec.in_channels} channel(s) in, {spec.out_channels} out",
        "window": f"{format_sides(rule.default)}; {steps}",
        "overlap": "" if spec.overlap_at() is None else f"{spec.overlap_at():g}",
        "halo": "" if spec.halo is None else f"{format_sides(spec.halo)} voxels on each side",
        "mirrored axes": mirrored_axes(spec),
        "voxel size": format_voxel_size(spec.voxel_size_um) if spec.voxel_size_um else "unknown",
        "resampling": _resampling(spec.resampling),
        "crop": _crop(spec),
        "tiling": "" if spec.tiling == "monai" else "spread evenly, weighted by nnU-Net's Gaussian",
        "blend": spec.blend or "",
        "padding": _padding(spec),
        "planes of a stack": _planes(spec),
        "normalisation": "; ".join(dict.fromkeys(map(_normalisation, spec.normalisations))),
        "activation": ", ".join(dict.fromkeys(spec.activations)),
        "output": spec.output.kind,
        "network output": spec.network_output,
        "classes": ", ".join(spec.classes),
        "decoder": f"{spec.suggested_decoder.name} {format_parameters(spec.suggested_decoder.parameters)}".strip(),
        "licence": spec.licence,
        "citation": spec.citation,
        "": spec.description,
    }
    return {name: fact for name, fact in facts.items() if fact}


def _steps(rule: "WindowRule") -> str:
    return f"minimum {format_sides(rule.minimum)}, steps of {format_sides(rule.step)}"


def _crop(spec: "ModelSpec") -> str:
    if spec.crop == "none":
        return ""
    counts = "not zero" if spec.crop_limit is None else f"above {spec.crop_limit:g}"
    return f"to what is {counts} in any channel; the rest is background"


def _padding(spec: "ModelSpec") -> str:
    padding, sides = spec.padding, spec.image_sides
    said = [] if padding == type(padding)() else [f"{padding.mode} {padding.value:g}".removesuffix(" 0")]
    said += [] if sides is None else [f"images of {_steps(sides)} alone"]
    return "; ".join(said)


def _planes(spec: "ModelSpec") -> str:
    said = [] if spec.plane_axis == "z" else [f"they lie along {spec.plane_axis}"]
    said += [] if spec.planes == "apart" else ["cropped and normalised as one volume"]
    return ", ".join(said)


def _resampling(scheme: "ResamplingScheme") -> str:
    """Return how images are resampled, where it is not the usual way."""
    if scheme == type(scheme)():
        return ""
    order = {0: "nearest", 1: "linear", 3: "cubic"}
    parts = [f"{order[scheme.order]}, edges {scheme.edge}"]
    if scheme.separate_above is not None:
        parts.append(f"{order[scheme.separate_order]} along an axis more than {scheme.separate_above:g} times coarser")
    if scheme.grid == "corner":
        parts.append("first voxels aligned, as in MONAI")
    if scheme.output_order is not None:
        parts.append(f"labels decided in the image's own voxels ({order[scheme.output_order]})")
    parts.append("unless switched off" if scheme.usual else "where asked for")
    return "; ".join(parts)


def _normalisation(normalisation: "Normalisation | Chain") -> str:
    return ", then ".join(f"{step.mode} {format_parameters(step.parameters)}".strip() for step in normalisation.steps)


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
