"""What a MONAI bundle holds: its metadata and configuration, and the network that these and its weights make."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from napari_tessera.core.errors import ModelError
from napari_tessera.models.formats.monai_bundle.config import (
    DEEPEST,
    MAX_BYTES,
    MAX_VALUES,
    Config,
    iter_within,
    parse,
)
from napari_tessera.models.formats.programs.stored_program import open_script, remember_program
from napari_tessera.models.formats.registry import MOST_NAMED
from napari_tessera.models.formats.saved_weights import fill, read_weights
from napari_tessera.models.networks import architectures
from napari_tessera.models.safety import allowed
from napari_tessera.models.safety.package import Package, find_files
from napari_tessera.models.safety.trusted_files import NO_FILES, TrustedFiles
from napari_tessera.models.spec.sentences import refuse_embeddings

if TYPE_CHECKING:
    import torch

MARKER = "configs/metadata.json"
INFERENCE = ("configs/inference.json", "configs/inference.yaml", "configs/inference.yml")
MAX_CHANNELS = 100_000
_NETS = "monai.networks.nets"
_NETWORK_KEYS = ("network_def", "network", "net")
WEIGHTS, SCRIPT = "models/model.pt", "models/model.ts"
_FOLDER = "models"
_ENDINGS = (".pt", ".pth", ".ts")
_LOADER, _LOADED = "CheckpointLoader", "load_path"
# Keys at the top of a configuration that name weights; the first is MONAI's own, the others may be of something else.
_KEYS = ("ckpt_path", "checkpoint", "weights")
# Of a name, of an expression that is one, and of the texts that are read for it.
LONGEST_NAME, LONGEST_EXPRESSION, MOST_TEXTS = 200, 1000, 100
# The bundle's own folder, whatever a configuration says that it was on its author's computer.
_ROOT = "bundle_root"
# Of a path that is put together: references and texts in quotes, and what may stand between them.
_PART = re.compile(r"""@(?P<reference>\w+(?:(?:::|#)\w+)*)|'(?P<single>[^'"\\{}]*)'|"(?P<double>[^'"\\{}]*)\"""")
_BETWEEN = re.compile(r"(?:[\s+/,()]|os\.path\.join|str|(?:pathlib\.)?Path)*")
# Stands for what only running an expression would tell; no text that is read holds it.
_UNKNOWN = "\0"


@dataclass(frozen=True, slots=True)
class Bundle:
    """A bundle's files, read; *architecture* is None where the network is its TorchScript."""

    package: Package
    metadata: Metadata
    config: Config
    choice: Choice
    architecture: tuple[str, dict[str, Any]] | None
    notes: tuple[str, ...]


def open_bundle(path: Path, trusted: TrustedFiles = NO_FILES) -> Bundle:
    """Read the metadata and the inference configuration of the bundle *path*, and decide what its network is."""
    package = _find_bundle(path, trusted)
    metadata = _read_metadata(package)
    name = next((name for name in INFERENCE if package.holds(name)), None)
    if name is None:
        config = Config({}, package.label(INFERENCE[0]))
    else:
        content = package.read(name, limit=MAX_BYTES)
        label = package.label(name)
        config = Config(parse(content, label, is_yaml=not name.endswith(".json")), label)
    choice = _choose_weights(config, package)
    has_script = package.holds(choice.script)
    has_weights = not choice.only_script and package.holds(choice.weights)
    if not has_weights and not has_script:
        try:
            if config.content:
                _read_architecture(config)  # whose weights would be of no use, if it is none that Tessera builds
        except ModelError as error:
            raise ModelError(f"{error}; put a TorchScript of it into the bundle, as {choice.script}") from error
        said = f" ({choice.said})" if choice.said else ""
        raise ModelError(f"{path} holds no weights{said}: put its {choice.weights} (or {choice.script}) into it")
    if name is None and not has_script:
        raise ModelError(f"{path} holds no {INFERENCE[0]}, so nothing says what network its weights are of")
    try:
        if not has_weights:
            return Bundle(package, metadata, config, choice, None, choice.notes(choice.script))
        architecture, notes = _read_architecture(config)
    except ModelError as error:
        if not has_script:
            raise
        # The archive needs no description of its network; why the weights do not do is still worth knowing.
        note = f"Its {choice.script} is used, as the weights cannot be: {error}."
        return Bundle(package, metadata, config, choice, None, (note,))
    return Bundle(package, metadata, config, choice, architecture, (*choice.notes(choice.weights), *notes))


def load_network(bundle: Bundle) -> tuple[torch.nn.Module, tuple[str, ...]]:
    """Return the network and notes on which weights were taken."""
    if bundle.architecture is None:
        package, name = bundle.package, bundle.choice.script
        script = open_script(package.read_code(name), package.label(name))
        later = package.untrusted()
        remember_program(script, "torchscript", lambda: later.on_disk(name), later.locate(name))
        return script, ()
    label = bundle.package.label(bundle.choice.weights)
    with bundle.package.on_disk(bundle.choice.weights) as file:
        weights = read_weights(file, label, mapped=bundle.package.is_mappable)
        network = architectures.build(*bundle.architecture, weights.size)
        return network, fill(network, weights, what="the network of the bundle")


def _find_bundle(path: Path, trusted: TrustedFiles) -> Package:
    roots: list[str] = []
    for root in sorted(name.removesuffix(MARKER) for name in find_files(path, MARKER, trusted)):
        # A bundle may carry others inside, which follow it at once; the outermost is what the user chose.
        if not roots or not root.startswith(roots[-1]):
            roots.append(root)
    if not roots:
        raise ModelError(f"{path} holds no MONAI bundle, which has {MARKER}: open the folder or the zip that has it")
    if len(roots) > 1:
        more = ", ..." if len(roots) > MOST_NAMED else ""
        held = ", ".join(root[:80] for root in roots[:MOST_NAMED]) + more
        raise ModelError(f"{path} holds {len(roots)} MONAI bundles ({held}): open the folder or a zip of one of them")
    return Package(path, roots[0], trusted)


def _read_architecture(config: Config) -> tuple[tuple[str, dict[str, Any]], tuple[str, ...]]:
    """Return the allow-listed class and the literal arguments of the bundle's network, and notes."""
    key = next((key for key in _NETWORK_KEYS if key in config.content), None)
    found = None if key is None else config.component(config.content[key], key)
    if found is None:
        raise ModelError(f"{config.label} has no network_def with a _target_, so nothing says what network it is of")
    name = f"{_NETS}.{found.name}"
    # MONAI finds its networks by their own name, by the package's, and by that of the module that they are in.
    inside = found.target == found.name or found.target.startswith(f"{_NETS}.")
    if name not in allowed.MONAI_NETWORKS.names or not inside:
        known = ", ".join(one.rpartition(".")[2] for one in allowed.MONAI_NETWORKS.names)
        raise ModelError(
            f"{config.label}: the _target_ of '{found.where}' is '{found.target[:80]}', which is not one of the "
            f"networks that Tessera rebuilds ({known})"
        )
    arguments, notes = found.arguments(), []
    if name == f"{_NETS}.SwinUNETR" and "img_size" in arguments:
        # Only checked by older versions of MONAI, which refused other windows; the weights do not depend on it.
        notes.append(f"The img_size {str(arguments.pop('img_size'))[:40]} of SwinUNETR is not needed any more.")
    return (name, arguments), tuple(notes)


@dataclass(frozen=True, slots=True)
class Metadata:
    """The metadata, as far as Tessera uses it."""

    name: str
    description: str
    licence: str
    citation: str
    image_key: str  # what the transforms call the network's input
    prediction_key: str
    in_channels: int | None  # None if nothing is said
    out_channels: int | None
    spatial_shape: list[Any]  # rules for the sides of the input, in the network's order; may be empty
    channel_names: dict[str, str]  # of the output, by the number of the channel


def _read_metadata(package: Package) -> Metadata:
    label = package.label(MARKER)
    content = parse(package.read(MARKER, limit=MAX_BYTES), label)
    formats = _mapping(content.get("network_data_format"))
    inputs, outputs = _mapping(formats.get("inputs")), _mapping(formats.get("outputs"))
    if len(inputs) > 1:
        raise ModelError(
            f"{label}: the network takes {len(inputs)} inputs ({', '.join(str(key)[:40] for key in inputs)}), but "
            f"Tessera gives a network one image"
        )
    image_key, image = next(iter(inputs.items()), ("image", {}))
    prediction_key = "pred" if "pred" in outputs or not outputs else next(iter(outputs))
    image, prediction = _mapping(image), _mapping(outputs.get(prediction_key))
    said = (prediction_key, prediction.get("type"), prediction.get("format"))
    names = _mapping(prediction.get("channel_def")).values()
    refuse_embeddings([str(word) for word in (*said, *names)], label)
    shape, licence = image.get("spatial_shape"), "see LICENSE in the bundle" if package.holds("LICENSE") else ""
    return Metadata(
        name=_text(content.get("name")),
        description=_text(content.get("description")),
        licence=_text(content.get("license")) or _text(content.get("licence")) or licence,
        citation=_text(content.get("references")) or _text(content.get("authors")),
        image_key=str(image_key),
        prediction_key=str(prediction_key),
        in_channels=_count(image.get("num_channels")),
        out_channels=_count(prediction.get("num_channels")),
        spatial_shape=shape if isinstance(shape, list) else [],
        channel_names={str(key): _text(name)[:200] for key, name in _mapping(prediction.get("channel_def")).items()},
    )


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _text(value: Any) -> str:
    """Return a text, or a list of them, on one line; nothing of other values."""
    if isinstance(value, list):
        value = "; ".join(one for one in value if isinstance(one, str))
    return " ".join(value.split()) if isinstance(value, str) else ""


def _count(value: Any) -> int | None:
    is_count = isinstance(value, int) and not isinstance(value, bool) and 0 < value <= MAX_CHANNELS
    return value if is_count else None


@dataclass(frozen=True, slots=True)
class Choice:
    """Where a bundle's weights are, in it or not: a state_dict and a TorchScript."""

    weights: str = WEIGHTS
    script: str = SCRIPT
    only_script: bool = False  # the configuration names the script and not the weights
    said: str = ""  # what it says, a clause that begins with "its"; "" where that is the usual name

    def notes(self, taken: str) -> tuple[str, ...]:
        """Return a note that says why the file *taken* was taken, if that needs to be said."""
        return (f"I{self.said[1:]}, so {taken} is taken.",) if self.said else ()


def _choose_weights(config: Config, package: Package) -> Choice:
    """Return where the weights of *package* are, as its *config* says; the usual names where that says none."""
    named = [(where, value, _read_path(config, value)) for where, value in _iter_named(config)]
    if not named:
        return Choice()
    where, value, path = next((each for each in named if each[2]), named[0])
    places, said = _places(path), f"its '{where[:80]}' names {path or value[:80]} as its weights"
    found = next((name for name in places if package.holds(name)), None)
    if not path:
        is_expression = value.startswith(("$", "@", "%"))
        more = ", an expression that is not run" if is_expression else f", which end in none of {', '.join(_ENDINGS)}"
        return Choice(said=said + more)
    if found is None:
        return Choice() if WEIGHTS in places else Choice(said=f"{said}, which the bundle does not hold")
    usual = next((name for name in (WEIGHTS, SCRIPT) if name != found and package.holds(name)), "")
    said = f"its '{where[:80]}' names {found} as its weights" + (f" and not {usual}" if usual else "")
    if found.endswith(".ts"):
        return Choice(script=found, only_script=True, said=said if usual or found != SCRIPT else "")
    return Choice(weights=found, said="" if found == WEIGHTS else said)


def _iter_named(config: Config) -> Iterator[tuple[str, str]]:
    """Yield the place and the text of all that may name weights, what is loaded first."""
    for where, value in iter_within(config.content, "", DEEPEST, iter(range(MAX_VALUES))):
        target, loaded = (value.get("_target_"), value.get(_LOADED)) if isinstance(value, dict) else (None, None)
        is_loader = isinstance(target, str) and target.rpartition(".")[2] == _LOADER
        if is_loader and isinstance(loaded, str) and value.get("_disabled_") is not True:
            yield f"{where}::{_LOADED}".removeprefix("::"), loaded
    for key in _KEYS:
        value = config.content.get(key)
        if isinstance(value, str) and value and (key == _KEYS[0] or _read_path(config, value)):
            yield key, value


def _read_path(config: Config, value: str) -> str:
    """Return the path that *value* is, from the bundle's folder or "/" on; "" where none of weights can be read in it.

    What only running an expression would tell must end where a folder does; it is taken for the bundle's own.
    """
    text = _read_text(config, value, DEEPEST, iter(range(MOST_TEXTS))) or ""
    *before, path = text.split(_UNKNOWN)
    if before:
        path = path[1:] if path.startswith("/") else ""
    is_name = len(path) <= LONGEST_NAME and path.isprintable() and PurePosixPath(path).suffix in _ENDINGS
    return path if is_name else ""


def _read_text(config: Config, value: Any, depth: int, budget: Iterator[int]) -> str | None:
    """Return the text that *value* stands for, with `_UNKNOWN` for what is not read; None if it is no text."""
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 10**9:
        return str(value)
    if not isinstance(value, str) or len(value) > LONGEST_EXPRESSION or depth == 0 or next(budget, None) is None:
        return None
    if not value.startswith(("$", "@", "%")):
        return value.replace(_UNKNOWN, " ")
    text, end = "", int(value.startswith("$"))
    for part in _PART.finditer(value):
        between, end = value[end : part.start()], part.end()
        if not _BETWEEN.fullmatch(between) or len(text) > LONGEST_EXPRESSION:
            return None
        if text and ("," in between or "/" in between):
            text += "/"
        if part["reference"] is not None:
            text += _read_reference(config, part["reference"], depth, budget)
        else:
            text += part["single"] if part["double"] is None else part["double"]
    return text if _BETWEEN.fullmatch(value[end:]) else None


def _read_reference(config: Config, reference: str, depth: int, budget: Iterator[int]) -> str:
    known = None
    with suppress(ModelError):  # where it is not in this file, the command line or another file gives it
        value = None if reference == _ROOT else config.find(reference, reference)
        known = _read_text(config, value, depth - 1, budget)
    return _UNKNOWN if known is None else known


def _places(path: str) -> tuple[str, ...]:
    """Return the names in a bundle that *path* may be of, none where it leads out of it."""
    pure = PurePosixPath(path)
    if not path or ".." in pure.parts or "\\" in path or ":" in path:
        return ()
    if pure.is_absolute():  # of its author's computer
        return (f"{_FOLDER}/{pure.name}",) if pure.parent.name == _FOLDER else ()
    return (str(pure),) if len(pure.parts) > 1 else (f"{_FOLDER}/{pure}", str(pure))
