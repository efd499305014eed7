"""Folders of pytorch-3dunet and PlantSeg: the configuration of a training beside its best checkpoint, read as data."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from napari_tessera.core.errors import ModelError, nearest
from napari_tessera.core.plain_data import Section, read_yaml
from napari_tessera.intensity.normalisation import Chain, Normalisation, NormalisationMode, chain_of, normalisation
from napari_tessera.models.formats.base import Description, ModelFormat, Risk
from napari_tessera.models.formats.saved_weights import fill, read_weights
from napari_tessera.models.model import Model
from napari_tessera.models.networks import architectures
from napari_tessera.models.safety import allowed
from napari_tessera.models.safety.trusted_files import NO_FILES, TrustedFiles
from napari_tessera.models.spec.sentences import assume
from napari_tessera.models.spec.spec import ModelSpec, OutputSpec, WindowRule

# Its own of percentiles.
LOW, HIGH = 1.0, 99.6
_PER_PATCH = "its program measures intensities in each patch by itself ({}); Tessera measures them in the whole volume"

_Step = Normalisation | Chain


def read_intensities(
    loaders: Section, phase: Section | None, channels: int
) -> tuple[_Step, tuple[str, ...], tuple[str, ...]]:
    """Return what is done to intensities before the network, what is taken for granted, and what is different there."""
    steps = [step for step in _raw_steps(phase) if _READERS.get(str(step.get("name"))) is not None]
    if not steps:
        return Normalisation("none"), assume("normalisation"), ()
    read = [_READERS[str(step.get("name"))](step, channels) for step in steps]
    globally = loaders.get("global_normalization")
    measured = any(is_measured for _, is_measured in read)
    is_z_score = all(step.get("name") == "Standardize" for step in steps)
    notes: tuple[str, ...] = ()
    assumed: tuple[str, ...] = ()
    if measured and (globally is False or (globally is True and not is_z_score)):
        notes = (_PER_PATCH.format("loaders.global_normalization" if globally is False else "Normalize, percentiles"),)
    elif measured and globally is None:
        assumed = (
            "normalisation is by the whole volume, as PlantSeg does it: pytorch-3dunet itself does so in most releases "
            "only with global_normalization, which the configuration does not name",
        )
    return chain_of([one for step, _ in read for one in step.steps]), assumed, notes


def _raw_steps(phase: Section | None) -> list[Section]:
    """Return the steps on the image; those that only make training images differ are left out."""
    if phase is None:
        return []
    transformer = phase.section("transformer")
    found = transformer.get("raw", [])
    if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
        raise transformer.complain("raw", found, "a list of steps with names")
    steps = [Section(phase.path, one, f"{transformer.place}raw.") for one in found]
    is_training = phase.place.endswith("train.")
    for step in steps:
        if step.get("name") not in allowed.UNET3D_STEPS.names and not is_training:
            raise step.complain("name", step.get("name"), f"one of {', '.join(allowed.UNET3D_STEPS.names)}")
    return steps


def _standardise(step: Section, channels: int) -> tuple[_Step, bool]:
    mean, std = _number(step, "mean"), _number(step, "std")
    if mean is not None and std is not None:
        return normalisation("fixed", mean=mean, std=max(std, 1e-10)), False
    return _measured("zscore", step, channels), True


def _normalise(step: Section, channels: int) -> tuple[_Step, bool]:
    """To -1 and 1, or 0 and 1, by a least and a largest value."""
    low, high = _number(step, "min_value"), _number(step, "max_value")
    is_01 = step.get("norm01", False) is True
    if low is None and high is None:
        to_01 = _measured("minmax", step, channels)
        return to_01 if is_01 else chain_of((to_01, normalisation("linear", gain=2, offset=-1))), True
    if low is None or high is None or not low < high:
        raise step.complain("min_value", [low, high], "given with max_value, and below it")
    middle, half = (low, high - low) if is_01 else ((low + high) / 2, (high - low) / 2)
    return normalisation("fixed", mean=middle, std=half, low=low, high=high), False


def _percentiles(step: Section, channels: int) -> tuple[_Step, bool]:
    low, high = _number(step, "pmin"), _number(step, "pmax")
    numbers = {"low": LOW if low is None else low, "high": HIGH if high is None else high, "clip": 0.0}
    return _measured("percentile", step, channels, **numbers), True


def _measured(mode: NormalisationMode, step: Section, channels: int, **numbers: float) -> Normalisation:
    """Return a step by statistics of all channels together, unless it is of each by itself."""
    together = {} if channels == 1 or step.get("channelwise", False) is True else {"together": 1.0}
    return normalisation(mode, **numbers, **together)


_READERS: dict[str, Any] = allowed.UNET3D_STEPS.handled(
    {
        **{"Standardize": _standardise, "Normalize": _normalise, "PercentileNormalizer": _percentiles},
        **dict.fromkeys(("ToTensor", "Identity")),
    }
)


def _number(section: Section, key: str) -> float | None:
    return None if section.get(key) is None else section.number(key, 0.0)


def _sides(section: Section, key: str, *, least: int = 1) -> tuple[int, ...] | None:
    """Return three whole numbers, z, y and x, of *least* or more; None where none are given."""
    value = section.get(key)
    if value is None:
        return None
    if not isinstance(value, list) or len(value) != 3 or not all(type(n) is int and least <= n < 65_536 for n in value):
        raise section.complain(key, value, f"three whole numbers from {least} up: z, y and x")
    return tuple(value)


def read_config(path: Path) -> Section:
    """Return the whole of the file *path*."""
    try:
        content = read_yaml(path, "configuration")
    except (OSError, ValueError) as error:
        raise ModelError(f"cannot read the configuration {path}: {error}") from error
    if not isinstance(content, dict) or not isinstance(content.get("model"), dict):
        raise ModelError(f"{path} is no configuration of pytorch-3dunet: it has no section 'model'")
    return Section(path, content)


CONFIG, CHECKPOINT = "config_train.yml", "best_checkpoint.pytorch"
# Levels of each class that names none.
_LEVELS = {"UNet2D": 4, "UNet3D": 4, "ResidualUNet2D": 5, "ResidualUNet3D": 5, "ResidualUNetSE3D": 5}
# What makes boundaries of labels for training.
_BOUNDARIES = (
    *("StandardLabelToBoundary", "LabelToBoundaryTransformer", "RandomLabelToBoundary"),
    "LabelToMaskAndAffinities",
)


class Pytorch3DUNetFolder(ModelFormat):
    """A folder with ``config_train.yml`` and ``best_checkpoint.pytorch``."""

    name = "pytorch-3dunet folder"

    def risk(self, path: Path) -> Risk | None:
        """Return None: weights and plain data alone, and a network of Tessera's own."""
        return None

    def describe(self, path: Path) -> Description:
        """Return what the configuration in the folder *path* says; no weights are looked at."""
        found = _read(path)
        return Description(found.spec, found.name, found.notes)

    def load(self, path: Path, trusted: TrustedFiles = NO_FILES) -> Model:
        """Open the folder *path*."""
        found = _read(path)
        weights = read_weights(path / CHECKPOINT, str(path / CHECKPOINT))
        try:
            network = architectures.build(architectures.UNET3D, found.arguments, weights.size)
        except ModelError as error:
            raise ModelError(f"{path / CONFIG}: {error}") from error
        taken = fill(network, weights, what=f"the {found.name} of {CONFIG}")
        return Model(network.requires_grad_(False), found.spec, str(path), (*found.notes, *taken))


FORMAT = Pytorch3DUNetFolder()


@dataclass(frozen=True, slots=True)
class _Found:
    name: str
    arguments: dict[str, Any]
    spec: ModelSpec
    notes: tuple[str, ...]


def _read(folder: Path) -> _Found:
    config = read_config(folder / CONFIG)
    model = config.section("model")
    name = model.get("name")
    if not isinstance(name, str) or name not in allowed.UNET3D_NETWORKS.names:
        raise ModelError(
            f"{config.path} names the network '{str(name)[:80]}', which Tessera does not rebuild"
            f"{nearest(str(name), list(allowed.UNET3D_NETWORKS.names))} (it rebuilds "
            f"{', '.join(allowed.UNET3D_NETWORKS.names)})"
        )
    arguments = _arguments(model, name)
    loaders = config.section("loaders")
    phase = next((loaders.section(each) for each in ("test", "val", "train") if loaders.get(each)), None)
    intensities, assumed, notes = read_intensities(loaders, phase, arguments["in_channels"])
    window, halo = _window(phase, arguments)
    output, unsure = _output(loaders, arguments["out_channels"])
    if halo is None:
        notes += (
            "its configuration says no halo: windows overlap by half and are averaged, where it sets patches side by "
            "side",
        )
    spec = ModelSpec(
        name=folder.resolve().name[:200],
        spatial_dims=arguments["spatial_dims"],
        in_channels=arguments["in_channels"],
        out_channels=arguments["out_channels"],
        window=window,
        normalisation=intensities,
        activation=_activation(model),
        output=output,
        halo=halo,
        assumed=(*assumed, *unsure),
    )
    return _Found(name, arguments, spec, notes)


def _arguments(model: Section, name: str) -> dict[str, Any]:
    levels, features = model.integer("num_levels", _LEVELS[name], most=10), model.get("f_maps", 64)
    if isinstance(features, int) and not isinstance(features, bool):
        features = [model.integer("f_maps", 64, most=4096) * 2**level for level in range(levels)]
    if not isinstance(features, list) or not all(type(one) is int and 1 <= one <= 2**20 for one in features):
        raise model.complain("f_maps", features, "a whole number above 0, or a list of them")
    for key, only in (("conv_kernel_size", 3), ("pool_kernel_size", 2)):
        if model.get(key, only) != only:
            raise model.complain(key, model.get(key), f"{only}: Tessera rebuilds no other")
    return {
        "spatial_dims": 2 if name.endswith("2D") else 3,
        "in_channels": model.integer("in_channels", 1),
        "out_channels": model.integer("out_channels", 1),
        "features": features,
        "residual": name.startswith("Residual"),
        "squeezes": "SE" in name,
        "layer_order": str(model.get("layer_order", "gcr")),
        "num_groups": model.integer("num_groups", 8),
        "conv_padding": model.integer("conv_padding", 1, most=1),
        "conv_upscale": model.integer("conv_upscale", 2, most=2),
        "upsample": str(model.get("upsample", "default")),
    }


def _activation(model: Section) -> Any:
    if model.get("is_segmentation", True) is False:
        return "none"
    return "sigmoid" if model.get("final_sigmoid", True) is True else "softmax"


def _window(phase: Section | None, arguments: dict[str, Any]) -> tuple[WindowRule, tuple[int, ...] | None]:
    """Return the windows, of the patch and what is around it, and how much that is; None where nothing says it."""
    dims, least = arguments["spatial_dims"], 2 ** (len(arguments["features"]) - 1)
    builder = phase.section("slice_builder") if phase is not None else None
    patch = _sides(builder, "patch_shape") if builder is not None else None
    halo = _sides(builder, "halo_shape", least=0) if builder is not None else None
    if patch is None:
        return WindowRule.free(dims, step=least), None
    around = halo[-dims:] if halo is not None and any(halo) else None
    sides = tuple(side + 2 * margin for side, margin in zip(patch[-dims:], around or (0,) * dims, strict=True))
    # The way up makes what it gets as large as what is beside it, so that any side goes.
    return WindowRule(sides, (1,) * dims, tuple(min(side, least) for side in sides)), around


def _output(loaders: Section, channels: int) -> tuple[OutputSpec, tuple[str, ...]]:
    """Return what channels mean, as far as what labels became for training tells it, and what was taken for granted."""
    labels = [
        str(one.get("name"))
        for each in ("train", "val")
        for one in (loaders.section(each).section("transformer").get("label") or [])
        if isinstance(one, dict)
    ]
    if channels == 1 and any(name in _BOUNDARIES for name in labels):
        return OutputSpec("boundary"), ()
    if channels > 1:
        return OutputSpec("semantic"), assume("output")
    return OutputSpec("foreground"), (
        "output is foreground, as nothing says what the channel means: it is high in objects",
    )
