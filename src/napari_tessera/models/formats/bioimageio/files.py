"""The files that the description of a bioimage.io package names: found and checked, never outside of it."""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from napari_tessera.core.errors import ModelError
from napari_tessera.core.plain_data import MAX_BYTES, load_yaml
from napari_tessera.models.safety.package import Package, find_files
from napari_tessera.models.safety.trusted_files import NO_FILES, TrustedFiles, fingerprint

# The validators of bioimageio.spec also fail on values that they did not expect.
_UNEXPECTED = (ValueError, TypeError, KeyError, AttributeError, AssertionError, RecursionError)


def read_description(package: DescribedPackage) -> tuple[Any, tuple[str, ...]]:
    """Return the `bioimageio.spec.model.v0_5.ModelDescr` of *package*, and notes."""
    content = _parse(package)
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
        raise _missing(package) from error
    if version.split(".")[1] == "4":
        found, more = _bring_up_to_date(package, content)
        return found, (*notes, *more)
    return _validate(package, content, formats.v0_5.ModelDescr), notes


def _parse(package: DescribedPackage) -> dict[str, Any]:
    try:
        content = load_yaml(package.read(package.description, limit=MAX_BYTES), newer=True)
    except ValueError as error:
        raise ModelError(f"cannot read {package.root}{package.description} of {package.path}: {error}") from error
    if not isinstance(content, dict):
        raise ModelError(f"{package.root}{package.description} of {package.path} is no mapping of keys to values")
    return content


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
    """Return *content* as bioimageio.spec's class *model*."""
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


def _missing(package: DescribedPackage) -> ModelError:
    return ModelError(
        f'{package.path} is a bioimage.io package, and reading it needs bioimageio.spec: pip install "napari-tessera['
        f'bioimageio]"'
    )


# The newer name first.
DESCRIPTIONS = ("bioimageio.yaml", "rdf.yaml", "*.bioimageio.yaml")


@dataclass(frozen=True, slots=True)
class PackageFile:
    """A file that a description names.

    Parameters
    ----------
    source
        As the description has it.
    sha256
        What the description says of its content; None if nothing.
    """

    source: str
    sha256: str | None = None


@dataclass(frozen=True, slots=True)
class DescribedPackage(Package):
    """A package whose *description*, a file in its root, names other files."""

    description: str = DESCRIPTIONS[0]

    def find(self, source: str) -> Path:
        """Return where the file *source* lies: a path on disk, or the zip that it is in."""
        return self.locate(self._name_of(source))

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
                if file.sha256 is not None:
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
    """Return the package that the folder or zip *path* is, of which *trusted* may run code.

    Its description may lie some folders down.
    """
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
