"""The files of a bioimage.io package: its description, and the safest of its weights; nothing outside of it."""

from __future__ import annotations

import hashlib
import os
import warnings
import weakref
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING, Any

from napari_tessera.core.errors import ModelError
from napari_tessera.core.plain_data import MAX_BYTES, load_yaml
from napari_tessera.models.formats.programs.stored_program import ProgramKind, open_script, remember_program
from napari_tessera.models.formats.saved_weights import fill, read_weights
from napari_tessera.models.networks import architectures
from napari_tessera.models.safety import allowed
from napari_tessera.models.safety.package import Package, find_files
from napari_tessera.models.safety.trusted_files import NO_FILES, TrustedFiles, fingerprint

if TYPE_CHECKING:
    import torch

# The newer name first.
DESCRIPTIONS = ("bioimageio.yaml", "rdf.yaml", "*.bioimageio.yaml")


@dataclass(frozen=True, slots=True)
class PackageFile:
    """A file that a description names, and what it says of its content."""

    source: str
    sha256: str | None = None


@dataclass(frozen=True, slots=True)
class DescribedPackage(Package):
    """A package whose *description*, a file in its root, names other files."""

    description: str = DESCRIPTIONS[0]

    def find(self, source: str) -> Path:
        """Return where the file *source* lies: a path on disk, or the zip that it is in."""
        return self.locate(self._name_of(source))

    def label_of(self, file: PackageFile) -> str:
        """Return how errors call *file*."""
        return f"'{file.source}' of {self.path}"

    def read_program(self, file: PackageFile) -> bytes:
        """Return the content of *file*, which the user allows to run, its SHA-256 verified."""
        content = self.read_code(self._name_of(file.source))
        self._verify(file, hashlib.sha256(content).hexdigest())
        return content

    @contextmanager
    def lend(self, first: PackageFile, *others: PackageFile) -> Iterator[Path]:
        """Lend the path of *first*, *others* beside it, their SHA-256 verified; of a zip, copies that vanish then."""
        names = [self._name_of(file.source) for file in (first, *others)]
        with self.on_disk(*names) as path:
            folder = path.parents[len(PurePosixPath(names[0]).parts) - 1]
            for file, name in zip((first, *others), names, strict=True):
                if file.sha256 is not None:  # else nothing is to be read for it
                    self._verify(file, fingerprint(folder / name))
            yield path

    def _verify(self, file: PackageFile, found: str) -> None:
        if file.sha256 is not None and found != file.sha256.lower():
            raise ModelError(
                f"'{file.source}' in {self.path} has the SHA-256 {found[:16]}..., but its description says "
                f"{file.sha256[:16]}...: it is damaged or another file; get the package again"
            )

    def _name_of(self, source: str) -> str:
        """Return the path of *source*, which is there, from the description on."""
        if PureWindowsPath(source).drive or "://" in source or source.lower().startswith(("http:", "https:")):
            kind = "a URL" if source.lower().startswith("http") or "://" in source else "an absolute path"
            raise ModelError(
                f"{self.path} names '{source}', {kind}; Tessera downloads nothing and reads nothing outside a package: "
                f"get the package with its files"
            )
        path = PurePosixPath(source.replace("\\", "/"))
        if path.is_absolute() or ".." in path.parts or not path.parts:
            raise ModelError(f"{self.path} names '{source}', which lies outside the package: such a path is not opened")
        if not self.holds(str(path)):
            raise ModelError(f"'{self.root}{path}' is missing in {self.path}: get the package again")
        return str(path)


def open_package(path: Path, trusted: TrustedFiles = NO_FILES) -> DescribedPackage:
    """Return the package in the folder or zip *path*, of which *trusted* may run code."""
    names = [file for name in DESCRIPTIONS for file in find_files(path, name, trusted)]
    if not names:
        raise ModelError(f"{path} holds no {' or '.join(DESCRIPTIONS)}")
    depth = min(len(PurePosixPath(name).parts) for name in names)
    nearest = sorted(name for name in names if len(PurePosixPath(name).parts) == depth)
    usual = [name for name in nearest if PurePosixPath(name).name in DESCRIPTIONS]
    if len({str(PurePosixPath(name).parent) for name in nearest}) > 1 or (not usual and len(nearest) > 1):
        raise ModelError(
            f"{path} holds several models ({', '.join(nearest[:3])}): name the one to open, in a folder of its own"
        )
    folder, name = os.path.split((usual or nearest)[0])
    return DescribedPackage(path, f"{folder}/" if folder else "", trusted, description=name)


# The validators of bioimageio.spec also fail on values that they did not expect.
_UNEXPECTED = (ValueError, TypeError, KeyError, AttributeError, AssertionError, RecursionError)


def read_description(package: DescribedPackage) -> tuple[Any, tuple[str, ...]]:
    """Return the `bioimageio.spec.model.v0_5.ModelDescr` of *package*, and notes."""
    try:
        content = load_yaml(package.read(package.description, limit=MAX_BYTES), newer=True)
    except ValueError as error:
        raise ModelError(f"cannot read {package.root}{package.description} of {package.path}: {error}") from error
    if not isinstance(content, dict):
        raise ModelError(f"{package.root}{package.description} of {package.path} is no mapping of keys to values")
    version = str(content.get("format_version", "none"))
    if content.get("type") != "model":
        raise ModelError(f"{package.path} describes a {content.get('type')!r}, not a model")
    if version.split(".")[:2] not in (["0", "4"], ["0", "5"]):
        raise ModelError(
            f"{package.path} is of bioimage.io format {version}, but Tessera reads 0.4 and 0.5: bring it up to date "
            f"with `bioimageio update-format` of bioimageio.core"
        )
    notes = _drop_what_is_looked_up(content)
    try:
        from bioimageio.spec import model as formats
    except ImportError as error:
        raise ModelError(
            f"{package.path} is a bioimage.io package, and reading it needs bioimageio.spec: pip install "
            f'"napari-tessera[bioimageio]"'
        ) from error
    if version.split(".")[1] == "4":
        found, more = _bring_up_to_date(package, content)
        return found, (*notes, *more)
    return _validate(package, content, formats.v0_5.ModelDescr), notes


def _drop_what_is_looked_up(content: dict[str, Any]) -> tuple[str, ...]:
    """Take out the one key that bioimageio.spec asks the network for, whatever its settings."""
    inputs = content.get("inputs")
    named = [
        str(tensor.pop("output_of"))
        for tensor in (inputs if isinstance(inputs, list) else ())
        if isinstance(tensor, dict) and tensor.get("output_of") is not None
    ]
    return tuple(f"The input is the output of another model, '{name}': run that one before." for name in named)


def _bring_up_to_date(package: DescribedPackage, content: dict[str, Any]) -> tuple[Any, tuple[str, ...]]:
    """Return what a description of format 0.4 is in format 0.5, as bioimageio.spec converts it, and notes."""
    from bioimageio.spec.model import v0_4, v0_5

    older = _validate(package, content, v0_4.ModelDescr)
    with warnings.catch_warnings(record=True) as doubts, _context(package):
        warnings.simplefilter("always")
        try:
            # The public way in fails with pydantic 2.14 and bioimageio.spec 0.5.12, see `_unscored`.
            newer = v0_5._model_conv.convert_as_dict(older)
            # The conversion leaves out what the weights must be.
            for kind, entry in older.weights:
                if entry is not None:
                    newer["weights"][kind]["sha256"] = entry.sha256
            found = _unscored(v0_5.ModelDescr).model_validate(newer)
        except _UNEXPECTED as error:
            raise _invalid(package, " ".join(str(error).split())) from error
    said = dict.fromkeys(str(doubt.message) for doubt in doubts if doubt.category is UserWarning)
    updated = f"It is of format {content['format_version']}, which bioimageio.spec brought up to 0.5."
    return found, (updated, *(f"bioimageio.spec says of that: {sentence}." for sentence in said))


def _validate(package: DescribedPackage, content: dict[str, Any], model: Any) -> Any:
    from bioimageio.spec import InvalidDescr

    try:
        found = _unscored(model).load(content, context=_context(package))
    except _UNEXPECTED as error:
        raise _invalid(package, " ".join(str(error).split())) from error
    if isinstance(found, InvalidDescr):
        errors = [error for detail in found.validation_summary.details for error in detail.errors]
        texts = [f"{'.'.join(map(str, error.loc)) or 'the file'}: {' '.join(error.msg.split())}" for error in errors]
        more = f" and {len(texts) - 3} more" if len(texts) > 3 else ""
        raise _invalid(package, f"{'; '.join(texts[:3])}{more}")
    return found


def _unscored(model: Any) -> Any:
    class Description(model):  # type: ignore[misc,unused-ignore]
        def _get_metadata_completeness(self) -> float:
            # A score by writing the description out, which fails with pydantic 2.14 and bioimageio.spec 0.5.12.
            return 0.0

    return Description


def _context(package: DescribedPackage) -> Any:
    """Return one without checks of files: nothing is downloaded or opened, as Tessera checks those that it uses."""
    from bioimageio.spec import ValidationContext

    return ValidationContext(root=package.path.parent, perform_io_checks=False, log_warnings=False)


def _invalid(package: DescribedPackage, reason: str) -> ModelError:
    return ModelError(f"{package.path} is no valid bioimage.io model: {reason}")


_NETS = "monai.networks.nets"
# From the safest to the one that is a program.
KINDS = tuple(allowed.BIOIMAGEIO_WEIGHTS.names)


@dataclass(frozen=True, slots=True)
class Weights:
    """The entry that is opened, and why no safer one is."""

    kind: str
    files: tuple[PackageFile, ...]  # the first is opened
    architecture: str = ""  # of a state dict: the allow-listed class, and what it is built from
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
        return replace(weights, notes=notes + unchecked)
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
    taken: tuple[str, ...] = ()
    if weights.kind == "torchscript":
        network = open_script(package.read_program(weights.files[0]), package.label_of(weights.files[0]))
        _remember(network, "torchscript", package, weights)
    else:
        network, taken = _build(package, weights)
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


def _build(package: DescribedPackage, weights: Weights) -> tuple[torch.nn.Module, tuple[str, ...]]:
    with package.lend(*weights.files) as path:
        saved = read_weights(path, package.label_of(weights.files[0]), mapped=package.is_mappable)
        network = architectures.build(weights.architecture, weights.arguments, saved.size)
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
