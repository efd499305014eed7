"""Checkpoints of PyTorch Connectomics with the configuration beside them: read as data, nothing of them is run."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from napari_tessera.core.errors import ModelError
from napari_tessera.core.settings.connectomics import read_blend, read_decoder, read_overlap
from napari_tessera.core.settings.connectomics_config import Configuration, Generation, read_configuration
from napari_tessera.core.settings.connectomics_views import read_views
from napari_tessera.intensity.normalisation import Normalisation
from napari_tessera.models.formats.base import Description, ModelFormat, Risk
from napari_tessera.models.formats.connectomics.blueprint import ONLY, Blueprint, read_blueprint
from napari_tessera.models.formats.connectomics.channel_use import Channels, read_channels
from napari_tessera.models.formats.connectomics.version1 import read_version_1
from napari_tessera.models.formats.registry import DESCRIPTIONS, MODEL_SUFFIXES, model_stem
from napari_tessera.models.formats.saved_weights import SavedWeights
from napari_tessera.models.model import Model
from napari_tessera.models.networks.adapters import ChannelLines
from napari_tessera.models.safety import allowed
from napari_tessera.models.safety.tensors_only import Inert, read_tensors_only, refuse_more_than_tensors
from napari_tessera.models.safety.trusted_files import NO_FILES, TrustedFiles
from napari_tessera.models.spec.spec import ModelSpec, WindowRule

# Parts of a Lightning module that only training needs, and how many an average of version 1 is of.
_OF_TRAINING = ("loss_functions.", "loss_weighter.", "n_averaged")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What a checkpoint holds of a network."""

    weights: SavedWeights  # as the last training step left them
    averaged: SavedWeights | None  # their exponential moving average (EMA)
    architecture: str = ""  # what the file says that it is of


def stand_in(name: str) -> Callable[..., Any] | None:
    """Return what takes the place of *name* in a checkpoint; None where it is of no package of configurations."""
    return Inert if name.partition(".")[0] in allowed.CONNECTOMICS_PICKLED_PACKAGES.names else None


def read_checkpoint(path: Path) -> Checkpoint:
    """Read the checkpoint *path*; its tensors are mapped into memory, not copied."""
    content = read_tensors_only(path, str(path), stand_in=stand_in)
    if not isinstance(content, dict):
        raise ModelError(
            f"{path} is no checkpoint of PyTorch Connectomics, as it holds no weights by name: if it is one itself, "
            f"put a description beside it that names its architecture (docs/models/tessera.md)"
        )
    metadata = content.get("pytc_metadata")
    named = metadata.get("model_arch") if isinstance(metadata, dict) else None
    averaged = _averaged(content.get("callbacks"))
    return Checkpoint(
        SavedWeights.of(_without_training(content), str(path)),
        None if averaged is None else SavedWeights.of(averaged, str(path)),
        named if isinstance(named, str) else "",
    )


def _without_training(content: dict[str, Any]) -> dict[str, Any]:
    """Return *content* without the parts of a Lightning module that only training needs."""
    found = {key: value for key, value in content.items() if key != "callbacks"}
    state = found.get("state_dict")
    if isinstance(state, dict):
        found["state_dict"] = {k: value for k, value in state.items() if not str(k).startswith(_OF_TRAINING)}
    return found


def _averaged(callbacks: Any) -> dict[str, Any] | None:
    states = callbacks.items() if isinstance(callbacks, dict) else ()
    kept = (state for name, state in states if str(name).startswith("EMAWeightsCallback") and isinstance(state, dict))
    return next((found for state in kept if isinstance(found := state.get("ema_state"), dict) and found), None)


UM_PER_NM = 1 / 1000
# A word of a file's name, as in MitoEM-R-Base.
_BASE = re.compile(r"(^|[-_. ])base([-_. ]|$)", re.IGNORECASE)
_WINDOWS = (
    *("inference.window.window_size", "inference.sliding_window.window_size", "inference.window_size"),
    *("model.output_size", "data.dataloader.patch_size", "data.patch_size", "model.input_size"),
)
_RESOLUTIONS = (
    *("data.train.resolution", "data.train_resolution", "data.test.resolution", "data.test_resolution"),
    *("inference.data.test_resolution", "inference.data.resolution", "data.label_transform.resolution"),
)

_NORMALISE = "data.image_transform.normalize"
_NORMALISED = "normalisation is '0-1', PyTorch Connectomics' own default, as the file names none"


class Connectomics(ModelFormat):
    """Checkpoints of PyTorch Connectomics, of version 1 or with Lightning, with its YAML file beside them."""

    name = "PyTorch Connectomics checkpoint"

    def risk(self, path: Path) -> Risk | None:
        """Return None: weights and plain data alone, and architectures from a reviewed list."""
        return None

    def describe(self, path: Path) -> Description:
        """Return what the configuration of the checkpoint *path* says; no weights are looked at."""
        opened = _Opened.read(path)
        return Description(opened.spec, opened.blueprint.name, opened.notes)

    def load(self, path: Path, trusted: TrustedFiles = NO_FILES, *, averaged: bool | None = None) -> Model:
        """Open the checkpoint *path*.

        *averaged*: whether to take the exponential moving average (EMA) of the weights. None takes it where there is
        one, unless the configuration says that checkpoints are judged without (``optimization.ema.validate_with_ema``).
        """
        opened = _Opened.read(path)
        checkpoint = read_checkpoint(path)
        if checkpoint.architecture and checkpoint.architecture != opened.blueprint.name:
            raise ModelError(
                f"{path} holds a {checkpoint.architecture}, but {opened.config.path} describes a "
                f"{opened.blueprint.name}: put the configuration that it was trained with beside it"
            )
        weights, note = _choose(checkpoint, opened.config, averaged, path)
        network, taken = opened.blueprint.build(weights)
        channels = opened.channels
        if channels.kept != tuple(range(opened.blueprint.out_channels)) or {*channels.scales} - {1.0}:
            network = ChannelLines(network, channels.scales, kept=channels.kept)
        return Model(network, opened.spec, str(path), (*note, *taken, *opened.notes))


FORMAT = Connectomics()


@dataclass(frozen=True, slots=True)
class _Opened:
    config: Configuration
    blueprint: Blueprint
    channels: Channels
    spec: ModelSpec
    notes: tuple[str, ...]

    @classmethod
    def read(cls, checkpoint: Path) -> _Opened:
        path = _configuration_of(checkpoint)
        config = read_configuration(path)
        if config.generation is Generation.V1:
            return cls._read_version_1(checkpoint, read_configuration(path, base=_base_of(path)))
        blueprint = read_blueprint(config)
        channels = read_channels(config, blueprint.out_channels, blueprint.spatial_dims)
        spec, notes = _describe(model_stem(checkpoint), config, blueprint, channels)
        return cls(config, blueprint, channels, spec, (*channels.notes, *notes, *_left_out(config)))

    @classmethod
    def _read_version_1(cls, checkpoint: Path, config: Configuration) -> _Opened:
        blueprint, spec, notes = read_version_1(config, model_stem(checkpoint))
        if config.base is not None:
            notes = (f"{config.base.name} holds where {config.path.name} says nothing", *notes)
        # Its network returns the channels that are used itself.
        channels = Channels(tuple(range(blueprint.out_channels)), spec.activations, spec.output)
        return cls(config, blueprint, channels, spec, (*notes, *_left_out(config)))


def _left_out(config: Configuration) -> tuple[str, ...]:
    keys = [key for key in config.left_out() if key.split(".")[0] in ("inference", "INFERENCE", "decoding", "data")]
    return (f"{config.path.name} also says what Tessera does not take over: {', '.join(keys)}",) if keys else ()


def _configuration_of(checkpoint: Path) -> Path:
    """Return the configuration of *checkpoint*.

    It is ``<stem>.yaml``, else the only one in its folder, else in the folder above, where training puts it. A base
    (see `_base_of`) does not count beside others, nor one that has the name of another model.
    """
    beside = [checkpoint.with_name(model_stem(checkpoint) + suffix) for suffix in DESCRIPTIONS]
    if named := [file for file in beside if file.is_file()]:
        return named[0]
    for folder in (checkpoint.absolute().parent, checkpoint.absolute().parent.parent):
        every = [file for file in _configurations_in(folder) if not _is_of_another(file)]
        found = [file for file in every if not _BASE.search(file.stem)] or every
        if len(found) == 1:
            return found[0]
        if found:
            raise ModelError(
                f"{checkpoint} has no configuration of its name, and {folder} holds {len(found)}: copy the one that it "
                f"was trained with to {beside[0].name} beside it"
            )
    refuse_more_than_tensors(checkpoint, str(checkpoint), stand_in=stand_in)
    raise ModelError(
        f"{checkpoint} holds weights alone, which do not say of what network they are: put {beside[0].name} beside it, "
        f"the configuration of PyTorch Connectomics that it was trained with or a description that names its "
        f"architecture (docs/models/tessera.md), or export the whole network as TorchScript, .pt2 or ONNX"
    )


def _is_of_another(configuration: Path) -> bool:
    others = (suffix for suffix in MODEL_SUFFIXES if suffix not in DESCRIPTIONS)
    return any(configuration.with_name(configuration.stem + suffix).is_file() for suffix in others)


def _base_of(configuration: Path) -> Path | None:
    """Return the file that lies below *configuration*, as version 1 takes it: the one with ``base`` in its name."""
    found = [file for file in _configurations_in(configuration.parent) if _BASE.search(file.stem)]
    others = [file for file in found if not file.samefile(configuration)]
    if len(others) > 1 and len(found) == len(others):
        raise ModelError(
            f"{configuration} lies beside {len(others)} files with 'base' in their names: keep the one that its "
            f"training began with"
        )
    return others[0] if others and len(found) == len(others) else None


def _configurations_in(folder: Path) -> list[Path]:
    return sorted(file for suffix in DESCRIPTIONS for file in folder.glob(f"*{suffix}") if file.is_file())


def _choose(
    checkpoint: Checkpoint, config: Configuration, averaged: bool | None, path: Path
) -> tuple[SavedWeights, tuple[str, ...]]:
    if checkpoint.averaged is None:
        if averaged:
            raise ModelError(f"{path} holds no averaged (EMA) weights: open it without asking for them")
        return checkpoint.weights, ()
    if averaged is None:
        judged = (config.get(f"{section}optimization.ema.validate_with_ema") for section in ("", "train."))
        averaged = False not in list(judged)
    key = "optimization.ema.validate_with_ema"
    if not averaged:
        return checkpoint.weights, (f"the weights of the last training step are taken, not their average (EMA; {key})",)
    note = f"the averaged (EMA) weights are taken; '{key}: false' in {config.path.name} takes those of the last step"
    return checkpoint.averaged, (note,)


def _describe(
    name: str, config: Configuration, blueprint: Blueprint, channels: Channels
) -> tuple[ModelSpec, tuple[str, ...]]:
    normalisation, notes = _normalisation(config)
    window, more = _window(config, blueprint)
    decoder, left_out = read_decoder(config)
    if decoder is not None and (decoder.name == "contour-distance") != (channels.output.kind == "contour-distance"):
        left_out += (f"the decoder {decoder.name} is left out: the output is {channels.output.kind}",)
        decoder = None
    seen = read_views(config, blueprint.spatial_dims)
    overlap, note = read_overlap(config, window.default)
    blend, other = read_blend(config)
    notes += tuple(filter(None, (note, other, *seen.notes(activates=set(channels.activations) != {"none"}))))
    spec = ModelSpec(
        name=str(config.get("experiment_name", name))[:200],
        spatial_dims=blueprint.spatial_dims,
        planes="together" if blueprint.spatial_dims == 2 else "apart",
        in_channels=blueprint.in_channels,
        out_channels=len(channels.kept),
        window=window,
        normalisation=normalisation,
        activation=channels.activations,
        output=channels.output,
        voxel_size_um=_voxel_size(config, blueprint.spatial_dims),
        overlap=overlap,
        blend=blend,
        **seen.as_description(blueprint.spatial_dims),
        decoder=decoder,
        description=" ".join(str(config.get("description", "")).split())[:2000],
        assumed=channels.assumed if config.get(_NORMALISE) else (*channels.assumed, _NORMALISED),
    )
    return spec, (*notes, *more, *left_out)


def _window(config: Configuration, blueprint: Blueprint) -> tuple[WindowRule, tuple[str, ...]]:
    """Return the windows that the network takes; a default that it does not take is brought to the next one up."""
    dims, step = blueprint.spatial_dims, blueprint.step
    keys = ("model.input_size",) if step == ONLY else _WINDOWS
    found = [sides for key in keys if (sides := config.sides(key)) is not None and len(sides) == dims]
    wanted = found[0] if found else (128,) * dims
    if step == ONLY:
        return WindowRule(wanted, (ONLY,) * dims, wanted), ()
    if not blueprint.exact:
        # Odd sides are padded within the network, so its author may well have trained with them.
        steps = tuple(step if side % step == 0 else 1 for side in wanted)
        minimum = tuple(min(step, side) for side in wanted)
        return WindowRule(wanted, steps, minimum), ()
    default = tuple(-(-side // step) * step for side in wanted)
    note = () if default == wanted else (f"the window {wanted} is no multiple of {step}, so {default} is taken",)
    return WindowRule(default, (step,) * dims, (step,) * dims), note


def _normalisation(config: Configuration) -> tuple[Normalisation, tuple[str, ...]]:
    """Return how intensities are brought to the network, which PyTorch Connectomics does by volume, too."""
    place = "data.image_transform"
    mode = str(config.get(_NORMALISE, "0-1"))
    low = config.number(f"{place}.clip_percentile_low", 0.0)
    high = config.number(f"{place}.clip_percentile_high", 1.0)
    if not 0 <= low < high <= 1:
        raise config.complain(f"{place}.clip_percentile_low", low, f"from 0 to below clip_percentile_high, {high}")
    notes: tuple[str, ...] = ()
    if config.get("data.nnunet_preprocessing.enabled") is True:
        notes += ("its preprocessing after nnU-Net (cropping, resampling, normalisation) is left out",)
    clipped = (low, high) != (0, 1)
    if mode == "0-1":
        both = (("high", high * 100), ("low", low * 100))
        return (Normalisation("percentile", both) if clipped else Normalisation("minmax")), notes
    if clipped:
        notes += (f"intensities are not clipped to the percentiles {low:g} and {high:g} before '{mode}'",)
    if mode in ("none", "normal"):
        return Normalisation("zscore" if mode == "normal" else "none"), notes
    try:
        divisor = float(mode.removeprefix("divide-"))
    except ValueError:
        divisor = 0.0
    if not mode.startswith("divide-") or not 0 < divisor < float("inf"):
        raise config.complain(_NORMALISE, mode, "0-1, normal, none, or divide- and a number, such as divide-255")
    return Normalisation("divide", (("by", divisor),)), notes


def _voxel_size(config: Configuration, dims: int) -> tuple[float, ...] | None:
    sizes = config.numbers(*_RESOLUTIONS)
    if sizes is None or len(sizes) < dims or min(sizes) <= 0:
        return None
    return tuple(round(size * UM_PER_NM, 12) for size in sizes[-dims:])
