"""Version 1 of PyTorch Connectomics: what its YAML, read by yacs there, says of a network and how it is applied."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from napari_tessera.core.errors import ModelError, nearest
from napari_tessera.core.settings.connectomics import read_blend, read_overlap
from napari_tessera.core.settings.connectomics_views import read_views
from napari_tessera.intensity.steps import Chain, Normalisation, chain_of, normalisation
from napari_tessera.models.formats.connectomics.network import Blueprint
from napari_tessera.models.formats.connectomics.targets import Use, read_targets
from napari_tessera.models.networks.architectures import RESIDUAL
from napari_tessera.models.safety import allowed
from napari_tessera.models.spec.spec import ModelSpec, WindowRule

if TYPE_CHECKING:
    from napari_tessera.core.settings.connectomics_config import Configuration
    from napari_tessera.models.safety.allowed import Names

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
    architecture = _architecture(config)
    dims, attends = ARCHITECTURES[architecture]
    in_channels, out_channels = (config.integer(f"MODEL.{key}_PLANES", 1) for key in ("IN", "OUT"))
    use = read_targets(config, out_channels, dims)
    arguments = _arguments(config, dims) | {
        **{"spatial_dims": dims, "in_channels": in_channels, "out_channels": out_channels, "attention": attends},
        **({} if use.channels == tuple(range(out_channels)) else {"outputs": list(use.channels)}),
    }
    # A value that its second file would have given.
    hint = "" if config.base else "; a second file that training was given must lie beside it, with 'base' in its name"
    recipes = ((RESIDUAL, arguments),)
    blueprint = Blueprint(architecture, dims, in_channels, out_channels, 1, False, recipes, hint)
    spec, notes = _describe(config, name, blueprint, arguments, use)
    return blueprint, spec, (*use.notes, *notes, *_left_out(config))


def _architecture(config: Configuration) -> str:
    name = config.get("MODEL.ARCHITECTURE", "unet_3d")
    if not isinstance(name, str):
        raise config.complain("MODEL.ARCHITECTURE", name, f"a name such as {', '.join(ARCHITECTURES)}")
    elsewhere = allowed.CONNECTOMICS_1_ELSEWHERE.names
    if name in elsewhere:
        raise ModelError(
            f"{config.path} names the architecture '{name}', which needs {elsewhere[name]}; Tessera rebuilds "
            f"{', '.join(ARCHITECTURES)}: export it from there as TorchScript, .pt2 or ONNX"
        )
    if name not in ARCHITECTURES:
        raise ModelError(
            f"{config.path} names the architecture '{name[:80]}', which Tessera does not know of version 1"
            f"{nearest(name, ARCHITECTURES)} (it rebuilds {', '.join(ARCHITECTURES)})"
        )
    return name


def _arguments(config: Configuration, dims: int) -> dict[str, Any]:
    """Return what the network is built with, beside its channels."""
    filters = config.numbers("MODEL.FILTERS") or FILTERS
    if not all(width == int(width) and 1 <= width <= 16_384 for width in filters):
        raise config.complain("MODEL.FILTERS", list(filters), "whole numbers from 1 to 16384")
    isotropic = config.get("DATASET.IS_ISOTROPIC", False)
    levels = config.get("MODEL.ISOTROPY", list(ISOTROPY))
    if not isinstance(isotropic, bool):
        raise config.complain("DATASET.IS_ISOTROPIC", isotropic, "true or false")
    if dims == 2 or isotropic:
        levels = [isotropic] * len(filters)
    elif not isinstance(levels, list) or len(levels) != len(filters) or not all(isinstance(x, bool) for x in levels):
        raise config.complain("MODEL.ISOTROPY", levels, f"true or false for each of {len(filters)} MODEL.FILTERS")
    pooling = config.get("MODEL.POOLING_LAYER", False)
    if not isinstance(pooling, bool):
        raise config.complain("MODEL.POOLING_LAYER", pooling, "true or false")
    words = {
        "block": ("MODEL.BLOCK_TYPE", "residual", allowed.RESIDUAL_BLOCKS),
        "padding": ("MODEL.PAD_MODE", "replicate", allowed.RESIDUAL_PADDINGS),
        "act": ("MODEL.ACT_MODE", "elu", allowed.RESIDUAL_ACTIVATIONS),
        "norm": ("MODEL.NORM_MODE", "bn", allowed.RESIDUAL_NORMS),
    }
    chosen = {argument: _word(config, key, default, row) for argument, (key, default, row) in words.items()}
    sides = {"filters": list(map(int, filters)), "isotropy": levels, "isotropic": isotropic, "pooling": pooling}
    return {**sides, **chosen}


def _word(config: Configuration, key: str, default: str, row: Names) -> str:
    value = config.get(key, default)
    if not isinstance(value, str) or value not in row.names:
        raise config.complain(key, value, f"one of {', '.join(row.names)}")
    return value


def _describe(
    config: Configuration, name: str, blueprint: Blueprint, arguments: dict[str, Any], use: Use
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
        out_channels=len(use.channels),
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
    stretches = config.get("DATASET.NORMALIZE_RANGE", True)
    if not isinstance(stretches, bool):
        raise config.complain("DATASET.NORMALIZE_RANGE", stretches, "true or false")
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
    """Return what of the inference there is not done here, one sentence each."""
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
