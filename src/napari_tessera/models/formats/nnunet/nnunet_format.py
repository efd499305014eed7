"""nnU-Net v2's trained folders. Plans and weights are data, networks are from a reviewed list: no trust is needed."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import isfinite, prod
from pathlib import Path
from typing import Any

import torch

from napari_tessera.core.errors import ModelError
from napari_tessera.core.settings.choices import DecoderChoice
from napari_tessera.engine.geometry.grid import Tiling
from napari_tessera.images.views.interpolation import ResamplingScheme
from napari_tessera.intensity.normalisation import Normalisation
from napari_tessera.models.formats.base import Description, ModelFormat, Risk, naming
from napari_tessera.models.formats.nnunet.nnunet_networks import FoldAverage, build_network
from napari_tessera.models.formats.nnunet.trained_folder import (
    DATASET,
    PLANES_READER,
    PLANS,
    Checkpoint,
    Configuration,
    Dataset,
    Plans,
    TrainedFolder,
    find_checkpoints,
    open_trained_folder,
    read_checkpoint,
    read_part,
)
from napari_tessera.models.formats.saved_weights import fill
from napari_tessera.models.model import Model
from napari_tessera.models.networks.adapters import AxesInOrder
from napari_tessera.models.safety import allowed
from napari_tessera.models.safety.trusted_files import NO_FILES, TrustedFiles
from napari_tessera.models.spec.spec import ModelSpec, WindowRule

# Voxels this much longer along one axis than along the shortest are resampled plane by plane.
ANISOTROPIC = 3.0
# Of what plans say, as much as a sentence holds.
MOST_LETTERS = 200

# nnU-Net normalises first, decides labels on the image's grid, and resamples every image.
_COMMON = ResamplingScheme(
    antialias=False, edge="repeat", separate_above=ANISOTROPIC, normalise_first=True, output_order=1, usual=True
)
# For each of nnU-Net's functions: how images and output are resampled without arguments, and arguments that change
# nothing, each with the values that Tessera knows.
RESAMPLINGS: dict[str, ResamplingScheme] = allowed.NNUNET_RESAMPLING.handled(
    {
        "resample_data_or_seg_to_shape": replace(_COMMON, order=3, clip=True, separate_above=None),
        "resample_torch_fornnunet": _COMMON,
        "no_resampling_hack": ResamplingScheme(),
    }
)
_WITHOUT_EFFECT: dict[str, tuple[Any, ...]] = {
    "is_seg": (False,),
    "mode": ("linear",),
    "aniso_axis_mode": ("nearest-exact",),
    "memefficient_seg_resampling": (True, False),
}
# Whatever they are, they change how long it takes and no value.
_OF_NO_CONSEQUENCE = ("num_threads", "device")
# Readers of files that state a voxel size in millimetres.
_MILLIMETRE_READERS = ("SimpleITKIO", "SimpleITKIOWithReorient", "NibabelIO", "NibabelIOWithReorient")
_MM_IN_UM = 1000.0
# nnU-Net's own inference moves its window by half of its side.
OVERLAP = 0.5
# nnU-Net divides by nothing smaller.
SMALLEST_STD = 1e-8
# Where most of the training images was zero, which is left so.
MASKED_ZSCORE = Normalisation("zscore", (("masked", 1.0),))
# Trainers that build the network of the plans; others may build another.
_PLAIN_TRAINERS = re.compile(r"nnUNetTrainer(_\d+epochs?|NoMirroring|NoDeepSupervision|_onlyMirror01)?")


class NnUNetFolder(ModelFormat):
    """What nnU-Net v2 leaves of a training: plans.json, dataset.json and one folder per fold; also in a zip."""

    name = "nnU-Net folder"

    def risk(self, path: Path) -> Risk | None:
        """Return None: checkpoints are read as data alone, and architectures are from a reviewed list."""
        return None

    def describe(self, path: Path) -> Description:
        """Return what the plans and the heads of the checkpoints in *path* say."""
        with naming(path):
            found = _read(path, heads_only=True)
        network = found.configuration.architecture.network_class_name.rpartition(".")[2]
        folds = found.folds
        return Description(found.spec, f"{network} (mean of {folds} folds)" if folds > 1 else network, found.notes)

    def load(self, path: Path, trusted: TrustedFiles = NO_FILES) -> Model:
        """Open the folder or zip *path*; several folds become one network that averages them."""
        with naming(path):
            found = _read(path)
        spec, notes, folds = found.spec, list(found.notes), list[torch.nn.Module]()
        sizes = spec.in_channels, spec.out_channels
        for checkpoint in found.checkpoints:
            weights, architecture = checkpoint.weights, found.configuration.architecture
            folds.append(build_network(architecture, *sizes, found.folder.place(PLANS), weights.size))
            notes += fill(folds[-1], weights, what="the architecture in the plans")
        network = folds[0] if len(folds) == 1 else FoldAverage(folds)
        if found.order != tuple(sorted(found.order)):
            network = AxesInOrder.turned(network, "".join(spec.axes[axis] for axis in found.order))
        return Model(network.eval(), spec, str(path), tuple(notes))


FORMAT = NnUNetFolder()


@dataclass(frozen=True, slots=True)
class _Found:
    folder: TrainedFolder
    spec: ModelSpec
    configuration: Configuration
    order: tuple[int, ...]
    folds: int
    checkpoints: tuple[Checkpoint, ...]
    notes: tuple[str, ...]


def _read(path: Path, *, heads_only: bool = False) -> _Found:
    trained = open_trained_folder(path)
    label = trained.place(PLANS)
    plans, dataset = read_part(trained, PLANS, Plans), read_part(trained, DATASET, Dataset)
    if plans.label_manager != "LabelManager":
        raise ModelError(
            f"{label} has the label manager '{plans.label_manager}', whose code says what the channels mean; "
            f"Tessera knows only nnU-Net's own"
        )
    files, left_out = find_checkpoints(trained)
    # To read the head of a checkpoint in a zip is to unpack it: one tells enough, and opening them all compares them.
    read = files[:1] if heads_only and trained.is_zip else files
    checkpoints = tuple(read_checkpoint(trained, file) for file in read)
    first, head = checkpoints[0], checkpoints[0].head
    for other in checkpoints[1:]:
        if (other.head.configuration, other.head.trainer) != (head.configuration, head.trainer):
            raise ModelError(
                f"{first.path} is of {head.configuration} by {head.trainer} and {other.path} of "
                f"{other.head.configuration} by {other.head.trainer}: folds of one network must be alike"
            )
    configuration = plans.configuration(head.configuration, label)
    order = _axis_order(plans, len(configuration.patch_size), label)
    classes, regions = _read_labels(dataset, trained.place(DATASET))
    size, notes_on_size = _read_spacing(plans, configuration, order)
    resampling, notes_on_resampling = _read_resampling(configuration)
    spec = ModelSpec(
        name=f"{plans.dataset_name} {head.configuration}",
        spatial_dims=len(order),
        in_channels=len(dataset.channel_names),
        out_channels=len(classes),
        window=_window_rule(configuration, order),
        normalisation=_normalisations(plans, configuration, len(dataset.channel_names)),
        activation="sigmoid" if regions else "softmax",
        voxel_size_um=size,
        resampling=resampling,
        crop="nonzero",
        tiling=Tiling.NNUNET,
        planes="together" if len(order) == 2 and plans.is_of_volumes else "apart",
        classes=classes,
        overlap=OVERLAP,
        mirror_axes=_mirror_axes(head.mirroring_axes, order),
        decoder=DecoderChoice("regions", (("labels", regions),)) if regions else None,
        description=dataset.description,
        licence=dataset.licence,
        citation=dataset.reference,
    )
    more = _iter_notes(plans, configuration, head.trainer, trained)
    notes = (*left_out, *notes_on_size, *notes_on_resampling, *more)
    return _Found(trained, spec, configuration, order, len(files), () if heads_only else checkpoints, notes)


def _read_resampling(configuration: Configuration) -> tuple[ResamplingScheme, tuple[str, ...]]:
    """Return how images are resampled, and output back, as far as Tessera can do the same, and notes."""
    name, back = configuration.resampling_fn_data, configuration.resampling_fn_probabilities
    if name == back == "no_resampling_hack":
        return ResamplingScheme(), ("nnU-Net takes images for this network as they are: leave resample off.",)
    kwargs, kwargs_back = configuration.resampling_fn_data_kwargs, configuration.resampling_fn_probabilities_kwargs
    there, output = _scheme(name, kwargs), _scheme(back, kwargs_back)
    if there is None:
        return _unknown(name, kwargs)
    if output is None or output.order == 3:
        return _unknown(back, kwargs_back)
    if (there.separate_above, there.separate_order) != (output.separate_above, output.separate_order):
        return _unknown(back, kwargs_back)
    return replace(there, output_order=output.order), ()


def _scheme(name: str, arguments: Mapping[str, Any]) -> ResamplingScheme | None:
    """Return what a function does with *arguments*; None where Tessera does not do the same."""
    known = RESAMPLINGS.get(name)
    if known is None or name == "no_resampling_hack":
        return None
    rest = dict(arguments)
    orders = rest.pop("order", known.order), rest.pop("order_z", 0)
    if not all(order in (0, 1, 3) and type(order) is int for order in orders) or orders[1] == 3:
        return None
    if orders == (3, 1):  # between planes that have been cut to limits of their own
        return None
    above = rest.pop("separate_z_anisotropy_threshold", ANISOTROPIC)
    # Not forced means that the threshold decides; to be left out means so for one of the functions alone.
    forced = rest.pop("force_separate_z", False if known.separate_above is None else None)
    if type(above) not in (int, float) or not above >= 1 or forced not in (None, False):
        return None
    understood = all(
        argument in _OF_NO_CONSEQUENCE or value in _WITHOUT_EFFECT.get(argument, ()) for argument, value in rest.items()
    )
    if not understood:
        return None
    separate = None if forced is False else float(above)
    return replace(known, order=orders[0], separate_order=orders[1], separate_above=separate, clip=orders[0] == 3)


def _unknown(function: str, arguments: Mapping[str, Any]) -> tuple[ResamplingScheme, tuple[str, ...]]:
    said = ", ".join(f"{name}={value}" for name, value in arguments.items())[:MOST_LETTERS]
    note = (
        f"Its resampling by {function[:MOST_LETTERS]}({said}) is none that Tessera does: switch resample on for "
        f"Tessera's own, or bring images to its voxel size first."
    )
    return ResamplingScheme(), (note,)


def _read_spacing(
    plans: Plans, configuration: Configuration, order: Sequence[int]
) -> tuple[tuple[float, ...] | None, tuple[str, ...]]:
    """Return the voxel size that a network was trained at, axes as the image's; None, and why, where unknown."""
    spacing, reader = configuration.spacing, plans.image_reader_writer
    if len(spacing) != len(order):
        raise ModelError(f"the spacing is {spacing}, but the network has {len(order)} axes")
    if not all(isfinite(length) and length > 0 for length in spacing):
        raise ModelError(f"the spacing is {spacing}, but each of its lengths must be a number above 0")
    in_order = _in_image_order(spacing, order)
    if reader in _MILLIMETRE_READERS:
        # Floats of the plans times 1000 would show digits that nobody wrote.
        return tuple(round(mm * _MM_IN_UM, 6) for mm in in_order), ()
    said, axes = " x ".join(f"{length:g}" for length in in_order), " ".join("zyx"[-len(order) :])
    if reader == PLANES_READER:  # it takes no voxel size from anywhere: every pixel is 1 by 1
        note = (
            f"It was trained on pixels, whatever their size: its spacing is {said}, as {reader} says of every image. "
            f"Images are taken as they are, as nnU-Net does; where you know the pixel size, set resolution to it "
            f"(--resolution, in micrometres)."
        )
        return None, (note,)
    # Where no file says a spacing, nnU-Net takes 1 for every axis, which is no size at all.
    unsaid = ", or nothing said one and nnU-Net took 1" if set(in_order) == {1.0} else ""
    given = ",".join(f"{length:g}" for length in in_order)
    note = (
        f"Its spacing is {said} ({axes}) in a unit that {reader} does not know{unsaid}, so it is not taken over as a "
        f"voxel size and images are taken as they are: set resolution to it in micrometres (--resolution {given} where "
        f"that is the unit), and they are resampled."
    )
    return None, (note,)


def _read_labels(dataset: Dataset, path: Path) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Return the classes, by channel; and for regions that may overlap the label of each, later ones covering earlier.

    *path* is that of the dataset.
    """
    if dataset.labels.get("background") != 0:
        raise ModelError(f"{path}: the label 'background' is {dataset.labels.get('background')}, but it must be 0")
    # Voxels of the label 'ignore' are left out of training; the network has no channel for it.
    labels = {name: value for name, value in dataset.labels.items() if name != "ignore"}
    if not any(isinstance(value, tuple) and len(value) > 1 for value in labels.values()):
        names: dict[int, list[str]] = {}
        for name, value in labels.items():
            for number in _many(value):
                names.setdefault(number, []).append(name)
        return tuple(" / ".join(names[number]) for number in sorted(names)), ()
    regions = tuple(name for name, value in labels.items() if set(_many(value)) != {0})
    order = dataset.regions_class_order or ()
    if len(order) != len(regions):
        raise ModelError(
            f"{path} has {len(regions)} regions and {len(order)} entries of regions_class_order; it needs as many"
        )
    return regions, order


def _many(value: int | tuple[int, ...]) -> tuple[int, ...]:
    return value if isinstance(value, tuple) else (value,)


def _axis_order(plans: Plans, spatial_dims: int, path: Path) -> tuple[int, ...]:
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
    if scheme not in SCHEMES:
        raise ModelError(
            f"channel {channel} has the normalisation scheme '{scheme}', which is not one of nnU-Net's own "
            f"({', '.join(SCHEMES)})"
        )
    fixed = SCHEMES[scheme]
    if fixed is not None:
        return fixed
    known = plans.intensities.get(str(channel))
    if known is None:
        raise ModelError(f"channel {channel} has the scheme {scheme}, but the plans lack its intensities")
    numbers = {"mean": known.mean, "std": max(known.std, SMALLEST_STD), "low": known.low, "high": known.high}
    return Normalisation("fixed", tuple(sorted(numbers.items())))


# None takes its numbers from the plans.
SCHEMES: dict[str, Normalisation | None] = allowed.NNUNET_PREPROCESSING.handled(
    {
        "CTNormalization": None,
        "ZScoreNormalization": Normalisation("zscore"),
        "NoNormalization": Normalisation("none"),
        "RescaleTo01Normalization": Normalisation("minmax"),
        "RGBTo01Normalization": Normalisation("divide", (("by", 255.0),)),
    }
)


def _iter_notes(plans: Plans, configuration: Configuration, trainer: str, trained: TrainedFolder) -> Iterator[str]:
    if len(configuration.patch_size) == 2 and plans.transpose_forward[0] != 0:
        across = "zyx"[plans.transpose_forward[0]]
        yield f"It was trained on planes across {across}, not z: give it images whose planes are cut that way."
    if configuration.preprocessor_name != "DefaultPreprocessor":
        yield f"Its preprocessor {configuration.preprocessor_name} is not nnU-Net's default one and is not taken over."
    if not _PLAIN_TRAINERS.fullmatch(trainer):
        yield (
            f"It was trained by '{trainer}', whose code may change the network; Tessera builds the one that the plans "
            f"name, whose weights fit."
        )
    places = ("", "crossval_results_folds_0_1_2_3_4/")
    if any(trained.holds(f"{place}postprocessing.{suffix}") for place in places for suffix in ("pkl", "json")):
        yield "Its post-processing (the choice to keep only the largest component) is not applied."
