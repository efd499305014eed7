"""The weights of a bioimage.io package: the safest entry that Tessera opens, and the network of it."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_tessera.core.errors import ModelError, OutOfMemoryError
from napari_tessera.models.formats.bioimageio.files import DescribedPackage, PackageFile
from napari_tessera.models.formats.programs.stored_program import ProgramKind, open_script, remember_program
from napari_tessera.models.formats.saved_weights import fill, read_weights
from napari_tessera.models.networks import architectures
from napari_tessera.models.safety import allowed

if TYPE_CHECKING:
    import torch

_NETS = "monai.networks.nets"
# From the safest to the one that is a program.
KINDS = tuple(allowed.BIOIMAGEIO_WEIGHTS.names)


@dataclass(frozen=True, slots=True)
class Weights:
    """The entry that is opened.

    Parameters
    ----------
    kind
        Its name in the description.
    files
        What it is made of; the first is opened.
    architecture, arguments
        The allow-listed class and what it is built from, for a state dict.
    notes
        Why a safer entry is not opened.
    """

    kind: str
    files: tuple[PackageFile, ...]
    architecture: str = ""
    arguments: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def runs_code(self) -> bool:
        """Whether opening it runs code from the package."""
        return self.kind == "torchscript"

    @property
    def title(self) -> str:
        """What it is, for people."""
        return self.architecture or {"onnx": "ONNX graph", "torchscript": "TorchScript archive"}[self.kind]


def choose_weights(package: DescribedPackage, entries: Any) -> Weights:
    """Return the safest of *entries*, a `WeightsDescr`, that Tessera opens and that the package holds."""
    reasons = []
    for kind in KINDS:
        entry = getattr(entries, kind, None)
        if entry is None:
            continue
        try:
            weights = _read_entry(package, kind, entry)
            for file in weights.files:
                package.find(file.source)
        except ModelError as error:
            reasons.append(f"{kind}: {error}")
            continue
        notes = tuple(f"Its weights of another kind are not used; {reason}." for reason in reasons)
        unchecked = tuple(
            f"The description has no SHA-256 of '{file.source}', so it may be another file than was meant."
            for file in weights.files
            if file.sha256 is None
        )
        return Weights(kind, weights.files, weights.architecture, weights.arguments, notes + unchecked)
    others = [str(kind) for kind, entry in entries if entry is not None and kind not in KINDS]
    if others:
        reasons.append(f"{', '.join(others)}: Tessera opens {', '.join(KINDS)}")
    raise ModelError(f"{package.path} has no weights that Tessera opens; {'; '.join(reasons)}")


def open_network(
    package: DescribedPackage, weights: Weights, in_channels: int, spatial_dims: int
) -> tuple[torch.nn.Module, tuple[str, ...]]:
    """Return the network, in evaluation mode, and notes on which of its weights were taken."""
    if weights.kind == "onnx":
        return _open_onnx(package, weights), ()
    where = f"'{weights.files[0].source}' of {package.path}"
    taken: tuple[str, ...] = ()
    if weights.kind == "torchscript":
        network = open_script(package.read_program(weights.files[0]), where)
        _remember(network, "torchscript", package, weights)
    else:
        with package.lend(*weights.files) as path:
            network, taken = _build(path, where, weights, mapped=package.is_mappable)
    kernel = next((p for p in network.parameters() if p.dim() in (4, 5)), None)
    if kernel is not None and (kernel.dim() - 2, int(kernel.shape[1])) != (spatial_dims, in_channels):
        raise ModelError(
            f"the network of {package.path} begins with {kernel.dim() - 2}D images of {kernel.shape[1]} channels, but "
            f"its description says {spatial_dims}D and {in_channels}"
        )
    return network.eval(), taken


def _read_entry(package: DescribedPackage, kind: str, entry: Any) -> Weights:
    files: tuple[PackageFile, ...] = (_file_of(entry),)
    if kind == "pytorch_state_dict":
        return Weights(kind, files, *_architecture_of(entry.architecture))
    if kind == "onnx":
        if find_spec("onnxruntime") is None:
            raise ModelError('onnxruntime is missing: pip install "napari-tessera[onnx]"')
        if getattr(entry, "external_data", None) is not None:
            files += (_file_of(entry.external_data),)
    return Weights(kind, files)


def _file_of(described: Any) -> PackageFile:
    return PackageFile(str(described.source), None if described.sha256 is None else str(described.sha256))


def _architecture_of(architecture: Any) -> tuple[str, dict[str, Any]]:
    """Return the allow-listed class and its arguments."""
    if not hasattr(architecture, "import_from"):
        raise ModelError(
            f"its architecture is code in the package ('{architecture.source}'), which Tessera does not run"
        )
    # A class is imported from the package of all networks or from its own module in it; Tessera imports the former.
    place = str(architecture.import_from)
    name = f"{place}.{architecture.callable}"
    if place == _NETS or place.startswith(f"{_NETS}."):
        name = f"{_NETS}.{architecture.callable}"
    if name not in allowed.MONAI_NETWORKS.names:
        raise ModelError(f"its architecture {name} is not one that Tessera rebuilds")
    return name, dict(architecture.kwargs)


def _build(path: Path, where: str, weights: Weights, *, mapped: bool) -> tuple[torch.nn.Module, tuple[str, ...]]:
    saved = read_weights(path, where, mapped=mapped)
    try:
        network = architectures.build(weights.architecture, weights.arguments, saved.size)
    except (ModelError, OutOfMemoryError) as error:
        raise type(error)(f"the description of {where}: {error}") from error
    return network, fill(network, saved, what=weights.architecture)


def _open_onnx(package: DescribedPackage, weights: Weights) -> torch.nn.Module:
    with ExitStack() as stack:
        path = stack.enter_context(package.lend(*weights.files))
        network: torch.nn.Module = import_module("napari_tessera.models.formats.onnx.onnx_format").OnnxNetwork(path)
        _remember(network, "onnx", package, weights)
        # onnxruntime may open the file again, for another device: a copy out of a zip lives as long as the network.
        weakref.finalize(network, stack.pop_all().close)
    return network


def _remember(network: torch.nn.Module, kind: ProgramKind, package: DescribedPackage, weights: Weights) -> None:
    """Remember which files of the package *network* is, for whoever packs it."""
    package = package.untrusted()

    @contextmanager
    def lend() -> Iterator[Path]:
        with package.lend(*weights.files) as path:
            yield path

    remember_program(network, kind, lend, *(package.find(file.source) for file in weights.files))
