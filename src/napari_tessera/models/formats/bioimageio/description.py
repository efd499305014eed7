"""Read the description of a bioimage.io package with bioimageio.spec, without a network and within bounds."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import yaml

from napari_tessera.core.errors import ModelError
from napari_tessera.core.plain_yaml import MAX_BYTES, load_yaml

if TYPE_CHECKING:
    from napari_tessera.models.formats.bioimageio.files import DescribedPackage

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
    except (ValueError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise ModelError(f"cannot read {package.root}{package.description} of {package.path}: {reason}") from error
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
