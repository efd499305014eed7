"""bioimage.io packages of formats 0.4 and 0.5: a description, weights and test tensors in a folder or a zip."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from napari_tessera.core.errors import ModelError
from napari_tessera.intensity.normalisation import Normalisation
from napari_tessera.models.formats.base import Description, ModelFormat, Risk
from napari_tessera.models.formats.bioimageio.axes import Layout, read_layout
from napari_tessera.models.formats.bioimageio.files import DescribedPackage, open_package, read_description
from napari_tessera.models.formats.bioimageio.postprocessing import Postprocessing, read_postprocessing
from napari_tessera.models.formats.bioimageio.steps import read_normalisation
from napari_tessera.models.formats.bioimageio.weights import Weights, choose_weights, open_network
from napari_tessera.models.model import Model
from napari_tessera.models.networks import architectures
from napari_tessera.models.networks.adapters import AxesInOrder, ChannelLines
from napari_tessera.models.safety import allowed
from napari_tessera.models.safety.trusted_files import NO_FILES, TrustedFiles
from napari_tessera.models.spec.sentences import assume, refuse_embeddings
from napari_tessera.models.spec.spec import ModelSpec, OutputKind, OutputSpec, WindowRule

# Words for which the name of a single output channel stands.
_BOUNDARY_WORDS = ("boundar", "membrane", "edge", "border", "contour")


@dataclass(frozen=True, slots=True)
class _Read:
    """A package read, but for its weights."""

    package: DescribedPackage
    weights: Weights
    layout: Layout
    dtype: torch.dtype
    post: Postprocessing
    spec: ModelSpec
    notes: tuple[str, ...]


class BioimageIo(ModelFormat):
    """Packages as bioimage.io offers them for download."""

    name = "bioimage.io package"

    def risk(self, path: Path) -> Risk | None:
        """Return that TorchScript weights are a program; None for a state dict and ONNX, which are data."""
        package = open_package(path)
        description, _ = read_description(package)
        weights = choose_weights(package, description.weights)
        if not weights.runs_code:
            return None
        return Risk(
            "opening it runs code from its TorchScript weights, with your rights",
            (package.find(weights.files[0].source),),
        )

    def describe(self, path: Path) -> Description:
        """Return what the description in *path* says; no other file of the package is opened."""
        read = _read(path)
        return Description(read.spec, read.weights.title, read.notes)

    def load(self, path: Path, trusted: TrustedFiles = NO_FILES) -> Model:
        """Open the safest weights of the package *path*."""
        read = _read(path, trusted)
        layout = read.layout
        network, taken = open_network(read.package, read.weights, len(layout.in_channels), layout.spatial_dims)
        # A state dict's network has Tessera's axes already; the others may also give a list of one tensor.
        if not (layout.is_plain and read.weights.architecture):
            network = AxesInOrder(
                network, layout.order_in, layout.order_out, one_by_one=layout.one_by_one, dtype=read.dtype
            )
        if read.post.is_line:
            network = ChannelLines(network, read.post.gain, read.post.offset)
        return Model(network, read.spec, str(path), (*read.notes, *taken))


FORMAT = BioimageIo()


def _read(path: Path, trusted: TrustedFiles = NO_FILES) -> _Read:
    package = open_package(path, trusted)
    description, notes = read_description(package)
    if len(description.inputs) != 1 or len(description.outputs) != 1:
        raise ModelError(
            f"{path} has {len(description.inputs)} input and {len(description.outputs)} output tensors, but Tessera "
            f"runs networks with one of each"
        )
    taken, given = description.inputs[0], description.outputs[0]
    weights = choose_weights(package, description.weights)
    layout = read_layout(str(path), taken, given)
    refuse_embeddings([str(given.id), *layout.out_channels], str(path))
    before = read_normalisation(str(path), taken)
    post = read_postprocessing(str(path), given)
    if weights.architecture and not before.dtype.startswith("float"):
        raise ModelError(
            f"{path} gives its network {before.dtype}, but {weights.architecture} computes with floating-point numbers"
        )
    kind = _kind_of(layout)
    only = architectures.only_window(weights.architecture, weights.arguments, layout.spatial_dims)
    spec = ModelSpec(
        name=str(description.name),
        spatial_dims=layout.spatial_dims,
        in_channels=len(layout.in_channels),
        out_channels=len(layout.out_channels),
        window=WindowRule(only, (0,) * len(only), only) if only and layout.is_plain else layout.window,
        normalisation=before.normalisation,
        activation=post.activation,
        output=OutputSpec(kind),
        voxel_size_um=layout.voxel_size_um,
        classes=layout.out_channels if kind == "semantic" else (),
        halo=layout.halo,
        decoder=post.decoder,
        assumed=_assumed(before.normalisation, post, kind),
        description=" ".join(str(description.description).split()),
        licence=_licence_of(description),
        citation=_citation_of(description),
    )
    every = (*notes, *weights.notes, *layout.notes, *before.notes, *post.notes, *_notes_on(description))
    return _Read(package, weights, layout, _number_type(before.dtype), post, spec, every)


def _number_type(name: str) -> torch.dtype:
    found: torch.dtype = getattr(torch, allowed.BIOIMAGEIO_NUMBERS.names[name].removeprefix("torch."))
    return found


def _assumed(normalisation: object, post: Postprocessing, kind: OutputKind) -> tuple[str, ...]:
    unsaid = ["normalisation"] if normalisation == Normalisation() else []
    if post.activation == "none" and post.decoder is None:
        unsaid.append("activation")
    meaning = f"output is {kind}, by the names of its channels, as bioimage.io does not say what an output means"
    return (*assume(*unsaid), meaning)


def _kind_of(layout: Layout) -> OutputKind:
    if len(layout.out_channels) > 1:
        return "semantic"
    name = layout.out_channels[0].lower()
    return "boundary" if any(word in name for word in _BOUNDARY_WORDS) else "foreground"


def _licence_of(description: Any) -> str:
    licence = description.license
    if licence is None:
        return ""
    return f"see {licence.source} in the package" if hasattr(licence, "source") else str(licence)


def _citation_of(description: Any) -> str:
    """Return what to cite, or who made it where nothing is said."""
    cited = [
        " ".join(f"{entry.text} {f'https://doi.org/{entry.doi}' if entry.doi else entry.url or ''}".split())
        for entry in description.cite
    ]
    return "; ".join(cited) or ", ".join(str(author.name) for author in description.authors)


def _notes_on(description: Any) -> tuple[str, ...]:
    found = []
    if getattr(description, "run_mode", None) is not None:
        found.append(f"Its run mode '{description.run_mode.name}' is not taken over.")
    foreign = sorted((getattr(description.config, "model_extra", None) or {}).keys())
    if foreign:
        found.append(f"What its 'config' says to other programs is not taken over: {', '.join(foreign)}.")
    return tuple(found)
