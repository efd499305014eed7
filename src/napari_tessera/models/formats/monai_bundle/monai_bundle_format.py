"""MONAI bundles, folders and zips: read as data with a table of allowed names, never through MONAI's own parser."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, cast

from napari_tessera.core.errors import ModelError, OutOfMemoryError
from napari_tessera.engine.geometry.grid import Padding
from napari_tessera.images.views.interpolation import ResamplingScheme
from napari_tessera.models.formats.base import Description, ModelFormat, Risk
from napari_tessera.models.formats.monai_bundle import config as monai_config
from napari_tessera.models.formats.monai_bundle.checkpoint import Choice, choose_weights
from napari_tessera.models.formats.monai_bundle.config import Component, Config
from napari_tessera.models.formats.monai_bundle.post_transforms import Postprocessing, read_postprocessing
from napari_tessera.models.formats.monai_bundle.transforms import Preprocessing, read_preprocessing
from napari_tessera.models.formats.monai_bundle.window import Inferer, find_window, network_steps, read_inferer
from napari_tessera.models.formats.programs.stored_program import open_script, remember_program
from napari_tessera.models.formats.registry import MOST_NAMED
from napari_tessera.models.formats.saved_weights import fill, read_weights
from napari_tessera.models.model import Model
from napari_tessera.models.networks import architectures
from napari_tessera.models.networks.adapters import AxesInOrder
from napari_tessera.models.safety import allowed
from napari_tessera.models.safety.package import Package, find_files
from napari_tessera.models.safety.trusted_files import NO_FILES, TrustedFiles
from napari_tessera.models.spec.sentences import assume, refuse_embeddings
from napari_tessera.models.spec.spec import Activation, ModelSpec, OutputSpec, PlaneAxis, WindowRule

if TYPE_CHECKING:
    import torch

    from napari_tessera.core.settings.choices import DecoderChoice


MARKER = "configs/metadata.json"
MAX_CHANNELS = 100_000


@dataclass(frozen=True, slots=True)
class Metadata:
    """The metadata, as far as Tessera uses it.

    Parameters
    ----------
    name, description, licence, citation
        For people; empty if nothing is said.
    image_key, prediction_key
        What the transforms call the network's input and output.
    in_channels, out_channels
        None if nothing is said.
    spatial_shape
        Rules for the sides of the input, in the network's order; may be empty.
    channel_names
        Of the output, by the number of the channel.
    """

    name: str
    description: str
    licence: str
    citation: str
    image_key: str
    prediction_key: str
    in_channels: int | None
    out_channels: int | None
    spatial_shape: list[Any]
    channel_names: dict[str, str]

    def classes(self, channels: int) -> tuple[str, ...]:
        """Return the names of all *channels* in order; nothing unless each has one."""
        names = [self.channel_names.get(str(number)) for number in range(channels)]
        return tuple(name for name in names if name) if all(names) else ()


def read_metadata(package: Package) -> Metadata:
    """Return what ``configs/metadata.json`` says."""
    label = package.label(MARKER)
    content = monai_config.parse(package.read(MARKER, limit=monai_config.MAX_BYTES), label)
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
    shape = image.get("spatial_shape")
    return Metadata(
        name=_text(content.get("name")),
        description=_text(content.get("description")),
        licence=_licence(content, package),
        citation=_text(content.get("references")) or _text(content.get("authors")),
        image_key=str(image_key),
        prediction_key=str(prediction_key),
        in_channels=_count(image.get("num_channels")),
        out_channels=_count(prediction.get("num_channels")),
        spatial_shape=shape if isinstance(shape, list) else [],
        channel_names={str(key): _text(name)[:200] for key, name in _mapping(prediction.get("channel_def")).items()},
    )


def _licence(content: dict[str, Any], package: Package) -> str:
    said = _text(content.get("license")) or _text(content.get("licence"))
    return said or ("see LICENSE in the bundle" if package.holds("LICENSE") else "")


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


INFERENCE = ("configs/inference.json", "configs/inference.yaml", "configs/inference.yml")
_NETS = "monai.networks.nets"
_NETWORK_KEYS = ("network_def", "network", "net")


class MonaiBundle(ModelFormat):
    """Folders and zips with ``configs/metadata.json``, as MONAI's Model Zoo and ``monai.bundle`` write them."""

    name = "MONAI bundle"

    def risk(self, path: Path) -> Risk | None:
        """Return None where the network is built from the reviewed table, else that its TorchScript is a program."""
        with _named(path):
            bundle = _open(path)
        if bundle.architecture is not None:
            return None
        script = bundle.choice.script
        file = bundle.package.locate(script)
        return Risk(f"opening it runs code from its {script}, with your rights", (file,))

    def describe(self, path: Path) -> Description:
        """Return what the metadata and the inference configuration say."""
        with _named(path):
            bundle = _open(path)
            parts = _describe(bundle)
        name = bundle.choice.script if bundle.architecture is None else bundle.architecture[0]
        return Description(parts.spec, name, parts.notes)

    def load(self, path: Path, trusted: TrustedFiles = NO_FILES) -> Model:
        """Open the bundle."""
        with _named(path):
            bundle = _open(path, trusted)
            parts = _describe(bundle)
            network, taken = _load_network(bundle)
        return Model(parts.turn(network), parts.spec, str(path), (*parts.notes, *taken))


FORMAT = MonaiBundle()


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Have every error name the bundle, also those of values that are refused further inside."""
    try:
        yield
    except OverflowError as error:
        raise ModelError(f"{path} holds a number that is too large: {error}") from error
    except (ModelError, OutOfMemoryError) as error:
        if str(path) in str(error):
            raise
        raise type(error)(f"{path}: {error}") from error


@dataclass(frozen=True, slots=True)
class _Bundle:
    """A bundle's files, read; *architecture* is None where the network is its TorchScript."""

    package: Package
    metadata: Metadata
    config: Config
    choice: Choice
    architecture: tuple[str, dict[str, Any]] | None
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Parts:
    """What a bundle is to Tessera."""

    spec: ModelSpec
    notes: tuple[str, ...]
    order: str

    def turn(self, network: torch.nn.Module) -> torch.nn.Module:
        """Return *network*, with its axes in this *order*, for windows in image order; itself if they are."""
        return network if self.order == self.spec.axes else AxesInOrder.turned(network, self.order)


def _open(path: Path, trusted: TrustedFiles = NO_FILES) -> _Bundle:
    """Read the metadata and the inference configuration of the bundle *path*, and decide what its network is."""
    package = _find_bundle(path, trusted)
    metadata = read_metadata(package)
    name = next((name for name in INFERENCE if package.holds(name)), None)
    if name is None:
        config = Config({}, package.label(INFERENCE[0]))
    else:
        content = package.read(name, limit=monai_config.MAX_BYTES)
        label = package.label(name)
        config = Config(monai_config.parse(content, label, is_yaml=not name.endswith(".json")), label)
    choice = choose_weights(config, package)
    has_script = package.holds(choice.script)
    has_weights = not choice.only_script and package.holds(choice.weights)
    if not has_weights and not has_script:
        _check_network(config, choice)  # whose weights would be of no use
        said = f" ({choice.said})" if choice.said else ""
        raise ModelError(f"{path} holds no weights{said}: put its {choice.weights} (or {choice.script}) into it")
    if name is None and not has_script:
        raise ModelError(f"{path} holds no {INFERENCE[0]}, so nothing says what network its weights are of")
    try:
        if not has_weights:
            return _Bundle(package, metadata, config, choice, None, choice.notes(choice.script))
        architecture, notes = _read_architecture(config)
    except ModelError as error:
        if not has_script:
            raise
        # The archive needs no description of its network; why the weights do not do is still worth knowing.
        note = f"Its {choice.script} is used, as the weights cannot be: {error}."
        return _Bundle(package, metadata, config, choice, None, (note,))
    return _Bundle(package, metadata, config, choice, architecture, (*choice.notes(choice.weights), *notes))


def _find_bundle(path: Path, trusted: TrustedFiles) -> Package:
    """Return the one bundle in the folder or zip *path*."""
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


def _check_network(config: Config, choice: Choice) -> None:
    """Raise `ModelError` if the configuration names a network that Tessera does not build, with what it would take."""
    if not config.content:
        return
    try:
        _read_architecture(config)
    except ModelError as error:
        raise ModelError(f"{error}; put a TorchScript of it into the bundle, as {choice.script}") from error


def _read_architecture(config: Config) -> tuple[tuple[str, dict[str, Any]], tuple[str, ...]]:
    """Return the allow-listed class and the literal arguments of the bundle's network."""
    key = next((key for key in _NETWORK_KEYS if key in config.content), None)
    found = None if key is None else config.component(config.content[key], key)
    if found is None:
        raise ModelError(f"{config.label} has no network_def with a _target_, so nothing says what network it is of")
    name = _allowed_name(found)
    arguments, notes = found.arguments(), []
    if name == f"{_NETS}.SwinUNETR" and "img_size" in arguments:
        # Only checked by older versions of MONAI, which refused other windows; the weights do not depend on it.
        notes.append(f"The img_size {str(arguments.pop('img_size'))[:40]} of SwinUNETR is not needed any more.")
    return (name, arguments), tuple(notes)


def _allowed_name(found: Component) -> str:
    """Return the full name of the network's class if it is in the reviewed table."""
    full = f"{_NETS}.{found.name}"
    # MONAI finds its networks by their own name, by the package's, and by that of the module that they are in.
    inside = found.target == found.name or found.target.startswith(f"{_NETS}.")
    if full not in allowed.MONAI_NETWORKS.names or not inside:
        known = ", ".join(one.rpartition(".")[2] for one in allowed.MONAI_NETWORKS.names)
        raise ModelError(
            f"{found.config.label}: the _target_ of '{found.where}' is '{found.target[:80]}', which is not one of the "
            f"networks that Tessera rebuilds ({known})"
        )
    return full


def _load_network(bundle: _Bundle) -> tuple[torch.nn.Module, tuple[str, ...]]:
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


def _describe(bundle: _Bundle) -> _Parts:
    """Return the description of the bundle's network, with its axes in image order."""
    config, metadata = bundle.config, bundle.metadata
    dims, inputs, outputs, notes = _find_sizes(bundle)
    inferer = read_inferer(config, dims)
    of_volumes = inferer.plane_dim is not None
    before = read_preprocessing(config, key=metadata.image_key, channels=inputs, spatial_dims=3 if of_volumes else dims)
    post = read_postprocessing(config, key=metadata.prediction_key, out_channels=outputs)
    if of_volumes and post.drops_parts:
        raise ModelError(
            f"{config.label}: the 'postprocessing' drops connected parts of volumes, but its SliceInferer runs slices, "
            f"which Tessera decodes one by one: take it out of the file, and do it to the labels yourself"
        )
    if of_volumes and before.resampling is not None:
        before.refuse_spacing("resamples volumes, and Tessera would resample the slices of its SliceInferer alone")
    name, arguments = bundle.architecture or ("", {})
    steps = network_steps(name.rpartition(".")[2], arguments, dims)
    window, said = find_window(
        metadata.spatial_shape, inferer, steps, only=architectures.only_window(name, arguments, dims)
    )
    classes = metadata.classes(outputs)
    plane_axis = before.order[inferer.plane_dim] if inferer.plane_dim is not None else ""
    order, axes = (axes.replace(plane_axis, "") for axes in (before.order, "zyx"[-len(before.order) :]))
    turn = [order.index(axis) for axis in axes]
    size = tuple(before.voxel_size_um[axis] for axis in axes if axis in before.voxel_size_um)
    window = _reordered(window, turn)
    # Connected parts may reach into what was padded by then, unlike into what the inferer pads.
    spares = inferer.padding == Padding() and not post.drops_parts
    spec = ModelSpec(
        name=metadata.name or PurePosixPath(bundle.package.root).name or bundle.package.path.stem,
        spatial_dims=dims,
        in_channels=inputs,
        out_channels=outputs,
        window=window,
        normalisation=before.steps.normalisation,
        activation=post.activation,
        output=_output(post.activation, post.decoder, outputs),
        voxel_size_um=size if len(size) == dims else None,
        resampling=_resampling(before, post),
        crop="none" if before.crop_above is None else "above",
        crop_above=before.crop_above or 0.0,
        classes=classes,
        planes="together" if of_volumes else "apart",
        plane_axis=cast("PlaneAxis", plane_axis or "z"),
        overlap=inferer.overlap,
        blend=inferer.blend,
        padding=inferer.padding,
        image_sides=before.image_sides(axes, window.default if spares else (0,) * dims),
        decoder=post.decoder,
        assumed=(*_assumed(config, post, classes), *_assumed_window(inferer, window)),
        description=metadata.description,
        licence=metadata.licence,
        citation=metadata.citation,
    )
    notes = [*bundle.notes, *notes, *before.notes, *_notes_on_axes(order, axes), *said, *inferer.notes, *post.notes]
    in_plane = "".join(spec.axes[axes.index(axis)] for axis in order)
    return _Parts(spec, (*notes, *_note_expressions(config)), in_plane)


def _assumed(config: Config, post: Postprocessing, classes: Sequence[str]) -> tuple[str, ...]:
    found = () if "preprocessing" in config.content else assume("normalisation")
    if post.decoder is not None:
        return found
    found += assume("activation") if post.activation == "none" else ()
    return found if classes else (*found, "output is by its number of channels: one for each class, or one for objects")


def _assumed_window(inferer: Inferer, window: WindowRule) -> tuple[str, ...]:
    if not inferer.whole or not any(window.step):
        return ()
    sides = " x ".join(map(str, window.default))
    return (f"window is {sides}, as {inferer.whole}: one as large as the image gives the bundle's own result",)


def _resampling(before: Preprocessing, post: Postprocessing) -> ResamplingScheme:
    if before.resampling is None:
        return ResamplingScheme()
    # The way back is interpolated as the way there.
    order = None if post.output_order is None else min(post.output_order, before.resampling.order)
    return replace(before.resampling, output_order=order, output_activated=post.output_activated)


def _reordered(window: WindowRule, turn: Sequence[int]) -> WindowRule:
    default, step, minimum = (tuple(sides[i] for i in turn) for sides in (window.default, window.step, window.minimum))
    return WindowRule(default, step, minimum)


def _find_sizes(bundle: _Bundle) -> tuple[int, int, int, list[str]]:
    """Return spatial dimensions, input and output channels: the network's own, else those of the metadata."""
    metadata, notes = bundle.metadata, []
    said = {
        "spatial_dims": len(metadata.spatial_shape) if len(metadata.spatial_shape) in (2, 3) else None,
        "in_channels": metadata.in_channels,
        "out_channels": metadata.out_channels,
    }
    own = _own_sizes(*bundle.architecture) if bundle.architecture else {}
    for key, value in own.items():
        if said[key] is not None and said[key] != value:
            notes.append(f"The metadata says {key} {said[key]}, but the network has {value}, which counts.")
    sizes = {key: own.get(key, value) for key, value in said.items()}
    missing = [key for key, value in sizes.items() if value is None]
    if missing:
        raise ModelError(
            f"{bundle.package.label(MARKER)} says nothing of {', '.join(missing)}: its "
            f"network_data_format needs num_channels and spatial_shape of the image and the prediction"
        )
    return sizes["spatial_dims"] or 0, sizes["in_channels"] or 0, sizes["out_channels"] or 0, notes


def _own_sizes(name: str, arguments: dict[str, Any]) -> dict[str, int]:
    """Return the sizes that the class *name* has with these *arguments* or by its defaults."""
    known = inspect.signature(architectures.network_class(name)).parameters
    sizes = {key: arguments.get(key, known[key].default) for key in ("spatial_dims", "in_channels", "out_channels")}
    for key, value in sizes.items():
        most = 3 if key == "spatial_dims" else MAX_CHANNELS  # lists as long as these are made before any weights are
        if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most:
            raise ModelError(
                f"the network {name} needs a whole number from 1 to {most} as its {key}, not {str(value)[:40]!r}"
            )
    return sizes


def _output(activation: Activation, decoder: DecoderChoice | None, channels: int) -> OutputSpec:
    """Return what the channels mean: one alone is objects against background, several are classes."""
    alone = channels == 1 and activation != "softmax" and (decoder is None or decoder.name != "argmax")
    return OutputSpec("foreground" if alone else "semantic")


def _notes_on_axes(order: str, image: str) -> list[str]:
    if order == image:
        return []
    return [
        f"The network has its axes as {', '.join(order)}, so windows are turned from {', '.join(image)} on "
        f"their way in and back on their way out."
    ]


def _note_expressions(config: Config) -> Sequence[str]:
    keys = config.expressions()
    if not keys:
        return ()
    more = f" and {len(keys) - 8} more" if len(keys) > 8 else ""
    return (
        f"Expressions in the configuration are never run; they are in {', '.join(k[:40] for k in keys[:8])}{more}.",
    )
