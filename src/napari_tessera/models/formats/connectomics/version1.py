"""Version 1 of PyTorch Connectomics: what its YAML, read by yacs there, says of a network and how it is applied."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from napari_tessera.core.errors import ModelError
from napari_tessera.core.settings.choices import DecoderChoice
from napari_tessera.core.settings.connectomics import read_blend, read_overlap
from napari_tessera.core.settings.connectomics_views import read_views
from napari_tessera.intensity.normalisation import Chain, Normalisation, chain_of, normalisation
from napari_tessera.models.formats.connectomics.blueprint import Blueprint, known_architecture
from napari_tessera.models.formats.connectomics.channel_use import PLAIN_ACTIVATIONS, Channels
from napari_tessera.models.networks.architectures import RESIDUAL
from napari_tessera.models.safety import allowed
from napari_tessera.models.spec.spec import Activation, ModelSpec, OutputKind, OutputSpec, WindowRule

if TYPE_CHECKING:
    from napari_tessera.core.settings.connectomics_config import Configuration
    from napari_tessera.models.safety.allowed import Names


# By the first letter of an option: channels, and what they are to a decoder.
_KINDS = {
    "0": (1, "binary"),
    "1": (3, "polarity"),
    "2": (3, "affinities"),
    "3": (1, "small objects"),
    "4": (1, "contour"),
    "5": (1, "distance"),
    "6": (1, "distance"),
    "7": (2, "flows"),
    "8": (1, "skeleton"),
    "a": (1, "distance"),
}
QUANTISED = 11
SYNAPSES = ("presynaptic", "postsynaptic")
# Objects that its own decoding drops by default.
SMALLEST_VOX = 128
MOST_TARGETS = 64


@dataclass(frozen=True, slots=True)
class _Target:
    """One target: the option as it is written, what it is, its channels, its activation, and offsets of affinities."""

    option: str
    kind: str
    channels: tuple[int, ...]
    activation: Activation
    offsets: tuple[tuple[int, ...], ...] = ()


def read_targets(config: Configuration, out_channels: int, spatial_dims: int) -> Channels:
    """Return how the *out_channels* of a network are used."""
    targets = _read(config, out_channels, spatial_dims)
    use, used = _choose(targets)
    left_out = [f"'{one.option}' ({one.kind})" for one in targets if one not in used]
    if any(one.kind == "flows" for one in used):
        raise ModelError(
            f"{config.path} describes a network of flows (MODEL.TARGET_OPT {[one.option for one in targets]}): Tessera "
            f"has no decoder that follows flows to objects"
        )
    note = f"of its targets, these are left out, as no decoder of Tessera uses them beside the others: {left_out}"
    notes = (*use.notes, note.replace("[", "").replace("]", "").replace('"', "")) if left_out else use.notes
    return replace(use, notes=notes)


def _read(config: Configuration, out_channels: int, dims: int) -> list[_Target]:
    options = config.get("MODEL.TARGET_OPT", ["0"])
    names = config.get("INFERENCE.OUTPUT_ACT", ["sigmoid"])
    valid = isinstance(options, list) and all(isinstance(one, str | int) and str(one) for one in options)
    if not valid or not 1 <= len(options) <= MOST_TARGETS:
        raise config.complain("MODEL.TARGET_OPT", options, "a list of targets, such as ['0', '4-1-1']")
    if not isinstance(names, list) or len(names) != len(options):
        raise config.complain("INFERENCE.OUTPUT_ACT", names, f"a list of an activation for each target of {options}")
    targets: list[_Target] = []
    for option, name in zip(map(str, options), names, strict=True):
        start = targets[-1].channels[-1] + 1 if targets else 0
        count, kind = _kind_of(config, option, out_channels - start, dims)
        if kind == "polarity" and name == "softmax":
            kind = "classes"
        channels = tuple(range(start, start + count))
        offsets = _offsets(option, dims) if kind == "affinities" else ()
        targets.append(_Target(option, kind, channels, _activation(config, name), offsets))
    found = targets[-1].channels[-1] + 1
    if found != out_channels:
        raise config.complain("MODEL.OUT_PLANES", out_channels, f"{found}, the channels of the targets {options}")
    return targets


def _kind_of(config: Configuration, option: str, remaining: int, dims: int) -> tuple[int, str]:
    first, *rest = option.split("-")
    if option == "all":
        count, kind = remaining, "of its user's own"
    elif first in ("9", "I"):
        count = int(rest[0]) if rest and rest[0].isdecimal() and len(rest[0]) < 6 else 1 if first == "I" else 0
        kind = "classes" if first == "9" else "an image"
    elif first == "5" and len(rest) > 2 and rest[2] not in ("0", ""):
        count, kind = QUANTISED, "a distance in steps"
    else:
        count, kind = _KINDS.get(option[0], (0, ""))
        if kind == "affinities" and dims == 2:
            count = 2
        if kind == "polarity" and rest:
            kind = "classes"  # that exclude each other: background, before and behind the synapse
    if not 1 <= count <= 10_000:
        raise config.complain("MODEL.TARGET_OPT", option, f"a target such as one that begins with {', '.join(_KINDS)}")
    return count, kind


def _activation(config: Configuration, name: object) -> Activation:
    if str(name) not in PLAIN_ACTIVATIONS:
        raise config.complain("INFERENCE.OUTPUT_ACT", name, f"one of {', '.join(PLAIN_ACTIVATIONS)} for each target")
    return PLAIN_ACTIVATIONS[str(name)]


def _offsets(option: str, dims: int) -> tuple[tuple[int, ...], ...]:
    """Return where the partner of a voxel lies for each channel; empty where it lies on both sides.

    Plain ``2``, ``2-z-y-x-v1`` and ``2-z-y-x-pni`` keep an edge at its far end. ``pni`` has x first.
    """
    _, *rest = option.split("-")
    *lengths, version = rest if len(rest) == 4 else ["1", "1", "1", "v1"]
    if version not in ("v1", "pni") or not all(one.isdecimal() and int(one[:6]) > 0 for one in lengths):
        return ()
    steps = [tuple(-int(one[:6]) * (axis == at) for axis in range(3))[-dims:] for at, one in enumerate(lengths)][-dims:]
    return tuple(reversed(steps) if version == "pni" else steps)


def _choose(targets: list[_Target]) -> tuple[Channels, list[_Target]]:
    """Return how the channels are used, by the first kind of output that is all there, and the targets it is of."""
    of = {kind: [one for one in targets if one.kind == kind] for kind in {one.kind for one in targets}}
    first = {kind: found[0] for kind, found in of.items()}
    with_offsets = [one for one in of.get("affinities", []) if one.offsets]
    if with_offsets:
        offsets = tuple(offset for one in with_offsets for offset in one.offsets)
        return _of(with_offsets, OutputSpec("affinities", offsets)), with_offsets
    if {"binary", "distance"} <= first.keys():
        parts = [first[kind] for kind in ("binary", "contour", "distance") if kind in first]
        return _of(parts, OutputSpec("contour-distance"), _GROWN), parts
    if {"binary", "contour"} <= first.keys():
        parts = [first["binary"], first["contour"]]
        note = "its foreground also stands for the distance that it lacks: seeds grow where that is surest first"
        return _of([*parts, parts[0]], OutputSpec("contour-distance"), _GROWN, notes=(note,)), parts
    if "classes" in first:
        one = first["classes"]
        names = ("background", *SYNAPSES) if one.option[0] == "1" else ()
        return _of([one], OutputSpec("semantic"), classes=names), [one]
    if "polarity" in first:
        return _polarity(first["polarity"]), [first["polarity"]]
    one = next((first[kind] for kind in ("binary", "contour") if kind in first), targets[0])
    kind: OutputKind = "boundary" if one.kind == "contour" else "foreground" if len(one.channels) == 1 else "semantic"
    plain = one.kind in ("binary", "contour", "small objects", "skeleton")
    note = f"Tessera has no decoder for '{one.option}' ({one.kind}); its channels are read as {kind}"
    return _of([one], OutputSpec(kind), notes=() if plain else (note,)), [one]


# Its own decoding has the same thresholds, in the same order.
_GROWN = DecoderChoice("contour-distance", (("min_size_vox", SMALLEST_VOX),))


def _of(
    targets: list[_Target],
    output: OutputSpec,
    decoder: DecoderChoice | None = None,
    *,
    notes: tuple[str, ...] = (),
    classes: tuple[str, ...] = (),
) -> Channels:
    channels = tuple(channel for one in targets for channel in one.channels)
    activations = tuple(one.activation for one in targets for _ in one.channels)
    return Channels(channels, activations, output, decoder, notes, classes)


def _polarity(target: _Target) -> Channels:
    """Return the use of synapses: of three channels the last is both others together, so two are labelled."""
    channels = target.channels[:2]
    decoder = DecoderChoice("regions", (("labels", (1, 2)),))
    note = "presynaptic voxels become label 1 and postsynaptic ones 2, and not pairs of objects"
    activations = (target.activation,) * 2
    return Channels(channels, activations, OutputSpec("semantic"), decoder, (note,), SYNAPSES)


# (spatial_dims, whether it attends) by type.
ARCHITECTURES: dict[str, tuple[int, bool]] = allowed.CONNECTOMICS_1_NETWORKS.handled(
    {"unet_3d": (3, False), "unet_plus_3d": (3, True), "unet_2d": (2, False), "unet_plus_2d": (2, True)}
)
# What a YAML that leaves something out means, as of its release 1.0.
FILTERS, ISOTROPY, WINDOW = (28, 36, 48, 64, 80), (False, False, False, True, True), (8, 256, 256)
MEAN = STD = 0.5
EIGHT_BITS = 255.0
RANGE_EPS = 1e-6
# Keys of inference that say nothing of how a network is applied (None), or ask for what Tessera does with this value.
_NEUTRAL: dict[str, Any] = {
    **dict.fromkeys(("AUG_NUM", "AUG_MODE", "OUTPUT_SIZE", "OUTPUT_NAME", "OUTPUT_PATH", "IMAGE_NAME", "INPUT_PATH")),
    **{"IS_ABSOLUTE_PATH": None, "TEST_NUM": 1, "DO_SINGLY_STEP": 1, "UNPAD": True, "DO_EVAL": True},
    **{"BLENDING": "gaussian", "OUTPUT_SCALE": [1, 1, 1]},
}


def read_version_1(config: Configuration, name: str) -> tuple[Blueprint, ModelSpec, tuple[str, ...]]:
    """Return how the network of *config* is built, its description under *name*, and what is not taken over."""
    key, elsewhere = "MODEL.ARCHITECTURE", allowed.CONNECTOMICS_1_ELSEWHERE
    named = config.get(key, "unet_3d")
    architecture = known_architecture(config, key, named, ARCHITECTURES, elsewhere, which=" of version 1")
    dims, attends = ARCHITECTURES[architecture]
    in_channels, out_channels = (config.integer(f"MODEL.{key}_PLANES", 1) for key in ("IN", "OUT"))
    use = read_targets(config, out_channels, dims)
    arguments = _arguments(config, dims) | {
        **{"spatial_dims": dims, "in_channels": in_channels, "out_channels": out_channels, "attention": attends},
        **({} if use.kept == tuple(range(out_channels)) else {"outputs": list(use.kept)}),
    }
    # A value that its second file would have given.
    hint = "" if config.base else "; a second file that training was given must lie beside it, with 'base' in its name"
    recipes = ((RESIDUAL, arguments),)
    blueprint = Blueprint(architecture, dims, in_channels, out_channels, 1, False, recipes, hint)
    spec, notes = _describe(config, name, blueprint, arguments, use)
    return blueprint, spec, (*use.notes, *notes, *_left_out(config))


def _arguments(config: Configuration, dims: int) -> dict[str, Any]:
    filters = config.numbers("MODEL.FILTERS") or FILTERS
    if not all(width == int(width) and 1 <= width <= 16_384 for width in filters):
        raise config.complain("MODEL.FILTERS", list(filters), "whole numbers from 1 to 16384")
    isotropic = _switch(config, "DATASET.IS_ISOTROPIC", default=False)
    levels = config.get("MODEL.ISOTROPY", list(ISOTROPY))
    if dims == 2 or isotropic:
        levels = [isotropic] * len(filters)
    elif not isinstance(levels, list) or len(levels) != len(filters) or not all(isinstance(x, bool) for x in levels):
        raise config.complain("MODEL.ISOTROPY", levels, f"true or false for each of {len(filters)} MODEL.FILTERS")
    pooling = _switch(config, "MODEL.POOLING_LAYER", default=False)
    words = {
        "block": ("MODEL.BLOCK_TYPE", "residual", allowed.RESIDUAL_BLOCKS),
        "padding": ("MODEL.PAD_MODE", "replicate", allowed.RESIDUAL_PADDINGS),
        "act": ("MODEL.ACT_MODE", "elu", allowed.RESIDUAL_ACTIVATIONS),
        "norm": ("MODEL.NORM_MODE", "bn", allowed.RESIDUAL_NORMS),
    }
    chosen = {argument: _word(config, key, default, row) for argument, (key, default, row) in words.items()}
    sides = {"filters": list(map(int, filters)), "isotropy": levels, "isotropic": isotropic, "pooling": pooling}
    return {**sides, **chosen}


def _switch(config: Configuration, key: str, *, default: bool) -> bool:
    value = config.get(key, default)
    if not isinstance(value, bool):
        raise config.complain(key, value, "true or false")
    return value


def _word(config: Configuration, key: str, default: str, row: Names) -> str:
    value = config.get(key, default)
    if not isinstance(value, str) or value not in row.names:
        raise config.complain(key, value, f"one of {', '.join(row.names)}")
    return value


def _describe(
    config: Configuration, name: str, blueprint: Blueprint, arguments: dict[str, Any], use: Channels
) -> tuple[ModelSpec, tuple[str, ...]]:
    dims = blueprint.spatial_dims
    given = config.sides("INFERENCE.INPUT_SIZE", "MODEL.INPUT_SIZE") or WINDOW
    overlap, note = read_overlap(config, given)
    blend, other = read_blend(config)
    steps, notes = _normalisation(config)
    seen = read_views(config, dims)
    window = _window(given[-dims:], arguments)
    spec = ModelSpec(
        name=name[:200],
        spatial_dims=dims,
        planes="together" if dims == 2 else "apart",
        in_channels=blueprint.in_channels,
        out_channels=len(use.kept),
        window=window,
        normalisation=steps,
        activation=use.activations,
        output=use.output,
        classes=use.classes,
        overlap=overlap,
        blend=blend,
        **seen.as_description(dims),
        decoder=use.decoder,
        description=" ".join(str(config.get("DESCRIPTION", "")).split())[:2000],
    )
    activated = "windows and views are activated before they are averaged there, and after it by Tessera"
    activates = set(use.activations) != {"none"}
    said = filter(None, (note, other, *seen.notes(activates=False), activated if activates else ""))
    return spec, (*said, *notes)


def _window(wanted: tuple[int, ...], arguments: dict[str, Any]) -> WindowRule:
    """Return the windows that suit the network: any size goes, but on others its levels lie beside each other.

    Strides want 1 + n * step, so that corners stay corners, and pooling n * step. What its author chose is kept.
    """
    deep = arguments["isotropy"][1:]
    steps = (2 ** sum(deep), *(2 ** len(deep),) * 2)[-len(wanted) :]
    rest = 0 if arguments["pooling"] else 1
    minimum = tuple(min(side, step + (rest or step)) for side, step in zip(wanted, steps, strict=True))
    suits = [side % step == rest % step for side, step in zip(wanted, steps, strict=True)]
    return WindowRule(wanted, tuple(step if fits else 1 for step, fits in zip(steps, suits, strict=True)), minimum)


def _normalisation(config: Configuration) -> tuple[Normalisation | Chain, tuple[str, ...]]:
    """Return what is done to images: those of other than 8 bits are brought to 8 bits first."""
    config.used.add("DATASET")
    notes: tuple[str, ...] = ()
    stretches = _switch(config, "DATASET.NORMALIZE_RANGE", default=True)
    if stretches:
        notes = (
            "images of 8 bits are taken as they are, as by release 1.0; code from before March 2022 brought them to 0 "
            "to 255 by their minimum and maximum, too: do so first for networks of that time (DATASET.NORMALIZE_RANGE)",
        )
    match = str(config.get("DATASET.MATCH_ACT", "none"))
    if match not in _MATCHED:
        raise config.complain("DATASET.MATCH_ACT", match, f"one of {', '.join(_MATCHED)}")
    to_bytes = (normalisation("eight-bits", eps=RANGE_EPS, together=1),) if stretches else ()
    return chain_of((*to_bytes, _MATCHED[match](config))), notes


def _by_mean(config: Configuration) -> Normalisation:
    mean, std = config.number("DATASET.MEAN", MEAN), config.number("DATASET.STD", STD)
    if std <= 0:
        raise config.complain("DATASET.STD", std, "above 0")
    return Normalisation("fixed", (("mean", mean * EIGHT_BITS), ("std", std * EIGHT_BITS)))


_MATCHED: dict[str, Callable[[Configuration], Normalisation]] = {
    "none": _by_mean,
    "sigmoid": lambda config: Normalisation("divide", (("by", EIGHT_BITS),)),
    "tanh": lambda config: Normalisation("fixed", (("mean", EIGHT_BITS / 2), ("std", EIGHT_BITS / 2))),
}


def _left_out(config: Configuration) -> tuple[str, ...]:
    notes: list[str] = []
    scale = config.numbers("INFERENCE.DATA_SCALE", "DATASET.DATA_SCALE")
    if scale is not None and set(scale) != {1}:
        notes.append(
            f"images are enlarged by {scale} before the network there, and not by Tessera: scale them first, or give "
            f"voxel sizes (DATASET.DATA_SCALE)"
        )
    if config.get("INFERENCE.DO_EVAL") is False:
        notes.append("norms are applied with what training kept, not with what each window has (INFERENCE.DO_EVAL)")
    inference = config.content.get("INFERENCE")
    said = inference if isinstance(inference, dict) else {}
    config.used |= {f"INFERENCE.{key}" for key, value in _NEUTRAL.items() if value in (None, said.get(key))}
    return tuple(notes)
