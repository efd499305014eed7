"""MONAI bundles, folders and zips: read as data with a table of allowed names, never through MONAI's own parser."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, cast

from napari_tessera.core.errors import ModelError, OutOfMemoryError
from napari_tessera.engine.geometry.grid import Padding
from napari_tessera.images.views.interpolation import ResamplingScheme
from napari_tessera.models.formats.base import Description, ModelFormat, Risk
from napari_tessera.models.formats.monai_bundle.bundle import (
    MARKER,
    MAX_CHANNELS,
    Bundle,
    load_network,
    open_bundle,
)
from napari_tessera.models.formats.monai_bundle.post_transforms import Postprocessing, read_postprocessing
from napari_tessera.models.formats.monai_bundle.pre_transforms import Preprocessing, read_preprocessing
from napari_tessera.models.formats.monai_bundle.window import Inferer, find_window, network_steps, read_inferer
from napari_tessera.models.model import Model
from napari_tessera.models.networks import architectures
from napari_tessera.models.networks.adapters import AxesInOrder
from napari_tessera.models.safety.trusted_files import NO_FILES, TrustedFiles
from napari_tessera.models.spec.sentences import assume
from napari_tessera.models.spec.spec import ModelSpec, OutputSpec, PlaneAxis, WindowRule

if TYPE_CHECKING:
    from napari_tessera.models.formats.monai_bundle.config import Config


class MonaiBundle(ModelFormat):
    """Folders and zips with ``configs/metadata.json``, as MONAI's Model Zoo and ``monai.bundle`` write them."""

    name = "MONAI bundle"

    def risk(self, path: Path) -> Risk | None:
        """Return None where the network is built from the reviewed table, else that its TorchScript is a program."""
        with _named(path):
            bundle = open_bundle(path)
        if bundle.architecture is not None:
            return None
        script = bundle.choice.script
        file = bundle.package.locate(script)
        return Risk(f"opening it runs code from its {script}, with your rights", (file,))

    def describe(self, path: Path) -> Description:
        """Return what the metadata and the inference configuration say."""
        with _named(path):
            bundle = open_bundle(path)
            spec, notes, _ = _describe(bundle)
        name = bundle.choice.script if bundle.architecture is None else bundle.architecture[0]
        return Description(spec, name, notes)

    def load(self, path: Path, trusted: TrustedFiles = NO_FILES) -> Model:
        """Open the bundle."""
        with _named(path):
            bundle = open_bundle(path, trusted)
            spec, notes, order = _describe(bundle)
            network, taken = load_network(bundle)
        if order != spec.axes:
            network = AxesInOrder.turned(network, order)
        return Model(network, spec, str(path), (*notes, *taken))


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


def _describe(bundle: Bundle) -> tuple[ModelSpec, tuple[str, ...], str]:
    """Return the description of the bundle's network, with its axes in image order, notes, and its own order."""
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
    # One channel by itself is objects against background.
    is_alone = outputs == 1 and post.activation != "softmax" and not post.is_decided_by("argmax")
    plane_axis = before.order[inferer.plane_dim] if inferer.plane_dim is not None else ""
    order, axes = (axes.replace(plane_axis, "") for axes in (before.order, "zyx"[-len(before.order) :]))
    size = tuple(before.voxel_size_um[axis] for axis in axes if axis in before.voxel_size_um)
    turn = [order.index(axis) for axis in axes]
    window = WindowRule(*(tuple(sides[i] for i in turn) for sides in (window.default, window.step, window.minimum)))
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
        output=OutputSpec("foreground" if is_alone else "semantic"),
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
    if order != axes:
        before.notes.append(
            f"The network has its axes as {', '.join(order)}, so windows are turned from {', '.join(axes)} on their "
            f"way in and back on their way out."
        )
    if keys := config.expressions():
        more = f" and {len(keys) - 8} more" if len(keys) > 8 else ""
        names = ", ".join(key[:40] for key in keys[:8])
        post.notes.append(f"Expressions in the configuration are never run; they are in {names}{more}.")
    every = (*bundle.notes, *notes, *before.notes, *said, *inferer.notes, *post.notes)
    return spec, every, "".join(spec.axes[axes.index(axis)] for axis in order)


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


def _find_sizes(bundle: Bundle) -> tuple[int, int, int, list[str]]:
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
