"""Read the description of a bioimage.io package with bioimageio.spec, without a network and within bounds."""

from __future__ import annotations

import io
import warnings
from typing import TYPE_CHECKING, Any

from napari_tessera.core.errors import ModelError
from napari_tessera.core.plain_json import MAX_DIGITS
from napari_tessera.core.plain_yaml import MAX_BYTES

if TYPE_CHECKING:
    from napari_tessera.models.formats.bioimageio.files import DescribedPackage

# A few lines of YAML can refer to each other so that they stand for more than any memory holds.
MOST_VALUES = 200_000
# Of a whole number: Python itself refuses to write out those of some thousand digits, even for a message.
MOST_DIGITS = 300
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
        from ruyaml import YAML
        from ruyaml.constructor import SafeConstructor
        from ruyaml.error import YAMLError
    except ImportError as error:
        raise _missing(package) from error
    # YAML 1.2, which the format is of: there 'no' is a word and 1e-3 a number. Safe: tags make no objects.
    loader = YAML(typ="safe", pure=True)

    class Bounded(SafeConstructor):
        """With an end to what numbers and merge keys (``<<``) of merge keys stand for."""

        def flatten_mapping(self, node: Any) -> Any:
            merged = super().flatten_mapping(node)
            if len(node.value) > MOST_VALUES:
                raise ValueError(f"it stands for more than {MOST_VALUES} values, which no description does")
            return merged

        def construct_number(self, node: Any) -> Any:
            text = str(self.construct_scalar(node))
            # Of base 60, which YAML 1.1 has and a line of the file can ask for: they take quadratic time.
            if ":" in text:
                raise ValueError(f"'{text[:40]}' is a number of base 60, which is not read")
            if node.tag.endswith(":float"):
                return self.construct_yaml_float(node)
            if len(text) > MAX_DIGITS or abs(value := self.construct_yaml_int(node)) >= 10**MAX_DIGITS:
                raise ValueError(f"it holds an integer of more than {MAX_DIGITS} digits, which is not read")
            return value

    for kind in ("int", "float"):
        Bounded.add_constructor(f"tag:yaml.org,2002:{kind}", Bounded.construct_number)
    loader.Constructor = Bounded
    try:
        content = loader.load(io.StringIO(package.read(package.description, limit=MAX_BYTES).decode("utf-8")))
        _count(content)
    except RecursionError as error:
        raise ModelError(f"the description of {package.path} is nested too deeply to be one") from error
    # ruyaml raises plain errors of Python for values such as dates that are none.
    except (YAMLError, ValueError, TypeError, AttributeError, LookupError, OverflowError) as error:
        reason = " ".join(str(error).split())
        raise ModelError(f"cannot read {package.root}{package.description} of {package.path}: {reason}") from error
    if not isinstance(content, dict):
        raise ModelError(f"{package.root}{package.description} of {package.path} is no mapping of keys to values")
    return content


def _count(content: Any) -> None:
    """Raise ValueError where *content* stands for too many values, or for a whole number that nobody means.

    Lines that repeat each other may stand for any number of values, and 0x and a line of letters for any number.
    """
    waiting, seen = [content], 0
    while waiting:
        value = waiting.pop()
        seen += 1
        if seen + len(waiting) > MOST_VALUES:
            raise ValueError(f"it stands for more than {MOST_VALUES} values, which no description does")
        if isinstance(value, int) and abs(value) >= 10**MOST_DIGITS:
            raise ValueError(f"it holds a whole number of more than {MOST_DIGITS} digits")
        if isinstance(value, dict):
            waiting += [*value.keys(), *value.values()]
        elif isinstance(value, (list, tuple, set)):
            waiting += value


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
