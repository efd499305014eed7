"""From nnU-Net's plans to Tessera's description of a network, and what of them has no place in it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_tessera.core.errors import ModelError
from napari_tessera.core.settings.choices import DecoderChoice
from napari_tessera.engine.geometry.grid import Tiling
from napari_tessera.intensity.steps import Normalisation
from napari_tessera.models.formats.nnunet.resampling import read_resampling
from napari_tessera.models.formats.nnunet.spacing import read_spacing
from napari_tessera.models.safety import allowed
from napari_tessera.models.spec.spec import ModelSpec, WindowRule

if TYPE_CHECKING:
    from napari_tessera.models.formats.nnunet.plans import Configuration, Dataset, Plans
    from napari_tessera.models.formats.nnunet.training_folder import TrainedFolder

# nnU-Net's own inference moves its window by half of its side.
OVERLAP = 0.5
# nnU-Net divides by nothing smaller.
SMALLEST_STD = 1e-8
# Where most of the training images was zero, which is left so.
MASKED_ZSCORE = Normalisation("zscore", (("masked", 1.0),))
# Trainers that build the network of the plans; others may build another.
_PLAIN_TRAINERS = re.compile(r"nnUNetTrainer(_\d+epochs?|NoMirroring|NoDeepSupervision|_onlyMirror01)?")


@dataclass(frozen=True, slots=True)
class Outputs:
    """What the network's channels stand for.

    Parameters
    ----------
    classes
        Names, in channel order.
    region_labels
        For regions that may overlap, the label of each; a later one covers an earlier one. Empty for classes of which
        every voxel has one.
    """

    classes: tuple[str, ...]
    region_labels: tuple[int, ...] = ()


def read_outputs(dataset: Dataset, path: Path) -> Outputs:
    """Return what ``labels`` of the dataset say; *path* is its file."""
    if dataset.labels.get("background") != 0:
        raise ModelError(f"{path}: the label 'background' is {dataset.labels.get('background')}, but it must be 0")
    # Voxels of the label 'ignore' are left out of training; the network has no channel for it.
    labels = {name: value for name, value in dataset.labels.items() if name != "ignore"}
    if not any(isinstance(value, tuple) and len(value) > 1 for value in labels.values()):
        names: dict[int, list[str]] = {}
        for name, value in labels.items():
            for number in _many(value):
                names.setdefault(number, []).append(name)
        return Outputs(tuple(" / ".join(names[number]) for number in sorted(names)))
    regions = tuple(name for name, value in labels.items() if set(_many(value)) != {0})
    order = dataset.regions_class_order or ()
    if len(order) != len(regions):
        raise ModelError(
            f"{path} has {len(regions)} regions and {len(order)} entries of regions_class_order; it needs as many"
        )
    return Outputs(regions, order)


def _many(value: int | tuple[int, ...]) -> tuple[int, ...]:
    return value if isinstance(value, tuple) else (value,)


def axis_order(plans: Plans, spatial_dims: int, path: Path) -> tuple[int, ...]:
    """Return which axis of the image each of the network's axes is; *path* is that of the plans.

    A 2D network sees planes across the first of nnU-Net's three axes; its two axes are those of the plane.
    """
    given = plans.transpose_forward
    if spatial_dims not in (2, 3):
        raise ModelError(f"{path}: the patch has {spatial_dims} axes, but nnU-Net's networks have 2 or 3")
    if sorted(given) != [0, 1, 2]:
        raise ModelError(f"{path}: transpose_forward is {list(given)}, but it must be an order of the axes 0, 1 and 2")
    kept = given[-spatial_dims:]
    return tuple(sorted(kept).index(axis) for axis in kept)


def make_spec(
    plans: Plans,
    configuration: Configuration,
    dataset: Dataset,
    outputs: Outputs,
    order: Sequence[int],
    *,
    mirroring_axes: Sequence[int],
    name: str,
    path: Path,
) -> ModelSpec:
    """Return the description of a network.

    Parameters
    ----------
    plans, configuration, dataset, outputs
        What the folder says.
    order
        From `axis_order`.
    mirroring_axes
        Of the network, in its own order, from the checkpoint.
    name
        For people.
    path
        The folder, for errors.
    """
    dims, channels = len(configuration.patch_size), len(dataset.channel_names)
    regions = outputs.region_labels
    try:
        return ModelSpec(
            name=name,
            spatial_dims=dims,
            in_channels=channels,
            out_channels=len(outputs.classes),
            window=_window_rule(configuration, order),
            normalisation=_normalisations(plans, configuration, channels),
            activation="sigmoid" if regions else "softmax",
            voxel_size_um=read_spacing(plans, configuration, order).voxel_size_um,
            resampling=read_resampling(configuration).scheme,
            crop="nonzero",
            tiling=Tiling.NNUNET,
            planes="together" if dims == 2 and plans.is_of_volumes else "apart",
            classes=outputs.classes,
            overlap=OVERLAP,
            mirror_axes=_mirror_axes(mirroring_axes, order),
            decoder=DecoderChoice("regions", (("labels", regions),)) if regions else None,
            description=dataset.description,
            licence=dataset.licence,
            citation=dataset.reference,
        )
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from error


def _in_image_order(values: Sequence[Any], order: Sequence[int]) -> tuple[Any, ...]:
    return tuple(values[order.index(axis)] for axis in range(len(order)))


def _mirror_axes(mirroring_axes: Sequence[int], order: Sequence[int]) -> str:
    """Return the image's axes whose reflections nnU-Net averages over, in all combinations."""
    names = "zyx"[-len(order) :]
    # A network of planes has no third axis to mirror.
    mirrored = {order[axis] for axis in mirroring_axes if axis < len(order)}
    return "".join(names[axis] for axis in sorted(mirrored))


def _window_rule(configuration: Configuration, order: Sequence[int]) -> WindowRule:
    patch = configuration.patch_size
    strides = configuration.architecture.arch_kwargs.get("strides")
    if not isinstance(strides, (list, tuple)):
        raise ModelError(f"the architecture's strides are {strides!r}, but they must be a list, one entry per stage")
    per_axis = [stride if isinstance(stride, (list, tuple)) else [stride] * len(patch) for stride in strides]
    if any(len(stride) != len(patch) or not all(type(s) is int for s in stride) for stride in per_axis):
        raise ModelError(f"the architecture's strides are {strides}, but each needs {len(patch)} whole numbers")
    if per_axis and set(per_axis[0]) != {1}:
        raise ModelError(f"the first stage has the stride {per_axis[0]}, so its output would be coarser than its input")
    step = tuple(prod(stride[axis] for stride in per_axis) for axis in range(len(patch)))
    # Two voxels at the coarsest stage where the patch has them: instance normalisation refuses a single one.
    minimum = tuple(min(2 * one, side) for one, side in zip(step, patch, strict=True))
    return WindowRule(*(_in_image_order(values, order) for values in (patch, step, minimum)))


def _normalisations(plans: Plans, configuration: Configuration, channels: int) -> tuple[Normalisation, ...]:
    schemes = configuration.normalization_schemes
    if len(schemes) != channels:
        raise ModelError(f"it has {channels} channels and {len(schemes)} normalisation schemes; it needs one for each")
    masks = configuration.use_mask_for_norm or (None,) * channels
    if len(masks) != channels:
        raise ModelError(f"it has {channels} channels and {len(masks)} use_mask_for_norm; it needs one for each")
    each = (_normalisation(plans, scheme, channel) for channel, scheme in enumerate(schemes))
    # nnU-Net's other schemes take no notice of the mask.
    return tuple(MASKED_ZSCORE if mask and one.mode == "zscore" else one for one, mask in zip(each, masks, strict=True))


def _normalisation(plans: Plans, scheme: str, channel: int) -> Normalisation:
    if scheme not in _SCHEMES:
        raise ModelError(
            f"channel {channel} has the normalisation scheme '{scheme}', which is not one of nnU-Net's own "
            f"({', '.join(_SCHEMES)})"
        )
    fixed = _SCHEMES[scheme]
    if fixed is not None:
        return fixed
    known = plans.intensities.get(str(channel))
    if known is None:
        raise ModelError(f"channel {channel} has the scheme {scheme}, but the plans lack its intensities")
    numbers = {"mean": known.mean, "std": max(known.std, SMALLEST_STD), "low": known.low, "high": known.high}
    return Normalisation("fixed", tuple(sorted(numbers.items())))


# None takes its numbers from the plans.
_SCHEMES: dict[str, Normalisation | None] = allowed.NNUNET_BEFORE.handled(
    {
        "CTNormalization": None,
        "ZScoreNormalization": Normalisation("zscore"),
        "NoNormalization": Normalisation("none"),
        "RescaleTo01Normalization": Normalisation("minmax"),
        "RGBTo01Normalization": Normalisation("divide", (("by", 255.0),)),
    }
)


def iter_notes(
    plans: Plans,
    configuration: Configuration,
    order: Sequence[int],
    *,
    trainer: str,
    trained: TrainedFolder,
) -> Iterator[str]:
    """Yield what nnU-Net does and Tessera does not, one sentence each.

    Parameters
    ----------
    plans, configuration
        What the folder says.
    order
        From `axis_order`.
    trainer
        What the checkpoint says.
    trained
        The folder.
    """
    dims = len(order)
    if dims == 2 and plans.transpose_forward[0] != 0:
        across = "zyx"[plans.transpose_forward[0]]
        yield f"It was trained on planes across {across}, not z: give it images whose planes are cut that way."
    yield from read_spacing(plans, configuration, order).notes
    yield from read_resampling(configuration).notes
    if configuration.preprocessor_name != "DefaultPreprocessor":
        yield f"Its preprocessor {configuration.preprocessor_name} is not nnU-Net's default one and is not taken over."
    if not _PLAIN_TRAINERS.fullmatch(trainer):
        yield (
            f"It was trained by '{trainer}', whose code may change the network; Tessera builds the one that the plans "
            f"name, whose weights fit."
        )
    if any(trained.holds(name) for name in _post_processing_files()):
        yield "Its post-processing (the choice to keep only the largest component) is not applied."


def _post_processing_files() -> tuple[str, ...]:
    places = ("", "crossval_results_folds_0_1_2_3_4/")
    return tuple(f"{place}postprocessing.{suffix}" for place in places for suffix in ("pkl", "json"))
