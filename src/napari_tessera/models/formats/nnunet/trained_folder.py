"""What a trained nnU-Net folder says, on disk or in a zip as `nnUNetv2_export_model_to_zip` writes it. Data only."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    AliasChoices,
    AliasPath,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictInt,
    ValidationError,
)

from napari_tessera.core.errors import ModelError
from napari_tessera.core.plain_data import load_json
from napari_tessera.models.formats.saved_weights import SavedWeights
from napari_tessera.models.safety import allowed
from napari_tessera.models.safety.archive import split_at_zip
from napari_tessera.models.safety.package import Package, find_files
from napari_tessera.models.safety.tensors_only import read_tensors_only
from napari_tessera.models.spec.model_file import MOST_FOLDS

PLANS, DATASET = "plans.json", "dataset.json"
# As many trained folders are named where there are several, and so much of the name of each.
MOST_NAMED, MOST_CHARACTERS = 6, 90


@dataclass(frozen=True, slots=True)
class TrainedFolder(Package):
    """A folder with plans, a dataset and folds."""

    def place(self, name: str = "") -> Path:
        """Return the path of the file *name*, which may lead through the zip."""
        return self.path / self.root / name

    def label(self, name: str = "") -> str:
        """Return how errors call the file *name*."""
        return str(self.place(name))

    def locate(self, name: str) -> Path:
        """Return the file *name* on disk, or the zip; folds may be links to where a cluster keeps them."""
        return self.path if self.is_zip else self.place(name)

    def folds(self) -> list[str]:
        """Return the names of the folders ``fold_*``, in order."""
        if self.entries is None:
            return sorted(fold.name for fold in self.place().glob("fold_*") if fold.is_dir())
        tops = (PurePosixPath(name).parts for name in self.entries)
        return sorted({parts[0] for parts in tops if len(parts) > 1 and parts[0].startswith("fold_")})


def open_trained_folder(path: Path) -> TrainedFolder:
    """Return the one trained folder in *path*: a folder, a zip, or a folder in a zip (``a.zip/folder``)."""
    home, place = (path, "") if path.is_dir() else split_at_zip(path)
    datasets = set(find_files(home, DATASET))
    roots = sorted(name.removesuffix(PLANS) for name in find_files(home, PLANS) if name.startswith(place))
    roots = [root for root in roots if f"{root}{DATASET}" in datasets]
    if not roots:
        raise ModelError(f"{path} holds no trained nnU-Net folder, which has {PLANS} and {DATASET}")
    if len(roots) > 1:
        shown = [(root.removeprefix(place).rstrip("/") or ".")[:MOST_CHARACTERS] for root in roots[:MOST_NAMED]]
        more = "" if len(roots) <= MOST_NAMED else f" and {len(roots) - MOST_NAMED} more"
        raise ModelError(
            f"{path} holds {len(roots)} trained nnU-Net folders ({', '.join(shown)}{more}): name the one to open, "
            f"such as {path / shown[0]}"
        )
    return TrainedFolder(home, roots[0])


# Plans are some pages of text; a dataset.json may list thousands of training cases.
MAX_BYTES = 4_000_000
# What nnU-Net's own planner writes, and what older plans without a word of it mean.
DEFAULT_RESAMPLING = "resample_data_or_seg_to_shape"
# What reads images of single planes.
PLANES_READER = "NaturalImage2DIO"
# What functions are given by name: numbers, switches, names; nothing that could be called.
ResamplingArguments = dict[str, bool | int | float | str | None]


class _Part(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True, populate_by_name=True)


Kind = TypeVar("Kind", bound=_Part)


class Architecture(_Part):
    """A network class by name, its arguments, and which of these are themselves names to import."""

    network_class_name: str
    arch_kwargs: dict[str, Any]
    requires_import: tuple[str, ...] = Field((), alias="_kw_requires_import")


class Configuration(_Part):
    """One entry of ``configurations``. Lengths per axis are in nnU-Net's order of axes (see `Plans`)."""

    patch_size: tuple[int, ...]
    spacing: tuple[float, ...]
    normalization_schemes: tuple[str, ...]
    use_mask_for_norm: tuple[bool | None, ...] = ()
    previous_stage: str | None = None
    preprocessor_name: str = "DefaultPreprocessor"
    resampling_fn_data: str = DEFAULT_RESAMPLING
    resampling_fn_data_kwargs: ResamplingArguments = {"order": 3, "force_separate_z": None}
    resampling_fn_probabilities: str = DEFAULT_RESAMPLING
    resampling_fn_probabilities_kwargs: ResamplingArguments = {"order": 1, "force_separate_z": None}
    architecture: Architecture


class OldConfiguration(_Part):
    """How plans described a U-Net before they had ``architecture``."""

    unet: Literal["PlainConvUNet", "ResidualEncoderUNet"] = Field(alias="UNet_class_name")
    base_features: int = Field(alias="UNet_base_num_features")
    most_features: int = Field(alias="unet_max_num_features")
    encoder: tuple[int, ...] = Field(alias="n_conv_per_stage_encoder", max_length=64)
    decoder: tuple[int, ...] = Field(alias="n_conv_per_stage_decoder")
    strides: tuple[tuple[int, ...], ...] = Field(alias="pool_op_kernel_sizes")
    kernels: tuple[tuple[int, ...], ...] = Field(alias="conv_kernel_sizes")
    patch_size: tuple[int, ...]

    def to_architecture(self) -> dict[str, Any]:
        """Return the same in the way of newer plans."""
        dims, stages = len(self.patch_size), len(self.encoder)
        per_stage = "n_conv_per_stage" if self.unet == "PlainConvUNet" else "n_blocks_per_stage"
        arguments = {
            "n_stages": stages,
            "features_per_stage": [min(self.base_features * 2**stage, self.most_features) for stage in range(stages)],
            "conv_op": f"torch.nn.modules.conv.Conv{dims}d",
            "kernel_sizes": self.kernels,
            "strides": self.strides,
            per_stage: self.encoder,
            "n_conv_per_stage_decoder": self.decoder,
            "conv_bias": True,
            "norm_op": f"torch.nn.modules.instancenorm.InstanceNorm{dims}d",
            "norm_op_kwargs": {"eps": 1e-5, "affine": True},
            "nonlin": "torch.nn.LeakyReLU",
            "nonlin_kwargs": {"inplace": True},
        }
        return {
            "network_class_name": allowed.NNUNET_OLD_NETWORKS.names[self.unet],
            "arch_kwargs": arguments,
            "_kw_requires_import": ("conv_op", "norm_op", "nonlin"),
        }


class IntensityProperties(_Part):
    """Of the foreground of one channel, over the training set, in the images' own units."""

    mean: float
    std: float
    low: float = Field(alias="percentile_00_5")
    high: float = Field(alias="percentile_99_5")


class Plans(_Part):
    """plans.json: what nnU-Net decided for a dataset.

    Axis ``i`` of nnU-Net's arrays is axis ``transpose_forward[i]`` of the image's (z, y, x).
    """

    dataset_name: str
    transpose_forward: tuple[int, ...] = (0, 1, 2)
    image_reader_writer: str = "SimpleITKIO"
    median_shape: tuple[float, ...] = Field((), alias="original_median_shape_after_transp")
    label_manager: str = "LabelManager"
    configurations: dict[str, dict[str, Any]]
    intensities: dict[str, IntensityProperties] = Field(
        default_factory=dict,
        validation_alias=AliasChoices(
            "foreground_intensity_properties_per_channel", "foreground_intensity_properties_by_modality"
        ),
    )

    @property
    def is_of_volumes(self) -> bool:
        """Whether the training images were volumes, whose planes a 2D network sees, and not single planes."""
        if self.median_shape:
            return self.median_shape[0] > 1
        return self.image_reader_writer != PLANES_READER

    def configuration(self, name: str, path: Path) -> Configuration:
        """Return the configuration *name*, what it inherits included; *path* is that of the plans."""
        content = self._resolve(name, path)
        if content.get("previous_stage") is not None:
            raise ModelError(
                f"{path}: the configuration '{name}' is the second stage of a cascade, whose input is the segmentation "
                f"of '{content['previous_stage']}'; Tessera runs one network: open that stage, or 3d_fullres"
            )
        if "architecture" not in content:
            content |= {"architecture": _parse(OldConfiguration, content, path).to_architecture()}
        return _parse(Configuration, content, path)

    def _resolve(self, name: str, path: Path) -> dict[str, Any]:
        chain = [name]
        while True:
            if chain[-1] not in self.configurations:
                raise ModelError(
                    f"{path} has no configuration '{chain[-1]}': it has {', '.join(sorted(self.configurations))}"
                )
            parent = self.configurations[chain[-1]].get("inherits_from")
            if parent is None:
                break
            if parent in chain:
                raise ModelError(f"{path}: the configuration '{name}' inherits from itself, by way of '{parent}'")
            chain.append(str(parent))
        return {key: value for one in reversed(chain) for key, value in self.configurations[one].items()}


_Text = Annotated[str, BeforeValidator(lambda value: " ".join(value.split()) if isinstance(value, str) else "")]


class Dataset(_Part):
    """dataset.json: channels and labels, and what people are told of the data."""

    channel_names: dict[str, str] = Field(validation_alias=AliasChoices("channel_names", "modality"), min_length=1)
    labels: dict[str, int | tuple[int, ...]]
    regions_class_order: tuple[int, ...] | None = None
    description: _Text = ""
    licence: _Text = Field("", validation_alias=AliasChoices("licence", "license"))
    reference: _Text = ""


def read_part(trained: TrainedFolder, name: str, kind: type[Kind]) -> Kind:
    """Read the JSON file *name* as *kind*."""
    content = trained.read(name, limit=MAX_BYTES)
    try:
        found = load_json(content.decode())
    except ValueError as error:
        raise ModelError(
            f"cannot read {trained.label(name)}, the file may be cut short ({error}): get it again"
        ) from error
    return _parse(kind, found, trained.place(name))


def _parse(kind: type[Kind], content: Any, path: Path) -> Kind:
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        problems = [f"'{'.'.join(map(str, one['loc'])) or 'the file'}': {one['msg'].lower()}" for one in error.errors()]
        raise ModelError(
            f"{path} is not what nnU-Net writes: {'; '.join(problems[:5])}; it may be of another version or program"
        ) from error


# The first of these that any fold has is used of all folds, as nnU-Net does.
CHECKPOINTS = ("checkpoint_final.pth", "checkpoint_best.pth")


class CheckpointHead(_Part):
    """What a fold's checkpoint says beside its weights. Axes are in nnU-Net's order."""

    configuration: str = Field(validation_alias=AliasPath("init_args", "configuration"))
    trainer: str = Field("", alias="trainer_name")
    mirroring_axes: Annotated[
        tuple[Annotated[StrictInt, Field(ge=0, lt=3)], ...], BeforeValidator(lambda axes: axes or ())
    ] = Field((), alias="inference_allowed_mirroring_axes")
    network_weights: Any


@dataclass(frozen=True, slots=True, eq=False)
class Checkpoint:
    """What one fold's checkpoint gives; its weights stay in the file until they are used."""

    path: Path  # for people: it may lead through a zip
    head: CheckpointHead
    weights: SavedWeights


def read_checkpoint(trained: TrainedFolder, name: str) -> Checkpoint:
    """Open the checkpoint *name* of a trained folder."""
    path = trained.place(name)
    with trained.on_disk(name) as file:
        content = read_tensors_only(file, str(path), mapped=trained.is_mappable)
    if not isinstance(content, dict):
        raise ModelError(f"{path} holds {type(content).__name__} data, not what nnU-Net 2 writes: get it again")
    head = _parse(CheckpointHead, content, path)
    return Checkpoint(path, head, SavedWeights.of(head.network_weights, str(path)))


def find_checkpoints(trained: TrainedFolder) -> tuple[list[str], list[str]]:
    """Return the names of the checkpoints to average, and notes on those that are left out."""
    everything = "fold_all"
    folds = [fold for fold in trained.folds() if fold != everything]
    for name in CHECKPOINTS:
        for chosen, rest in ((folds, [everything]), ([everything], [])):
            files = [f"{fold}/{name}" for fold in chosen if trained.holds(f"{fold}/{name}")]
            if len(files) > MOST_FOLDS:
                raise ModelError(f"{trained.label()} has {len(files)} folds, but Tessera averages at most {MOST_FOLDS}")
            if files:
                lacking = [fold for fold in chosen if not trained.holds(f"{fold}/{name}")]
                spare = [fold for fold in rest if any(trained.holds(f"{fold}/{other}") for other in CHECKPOINTS)]
                notes = [f"The fold {fold} has no {name} and is left out of the mean." for fold in lacking]
                notes += [f"{fold} is left out: the single folds are averaged, as nnU-Net does." for fold in spare]
                return files, notes
    raise ModelError(
        f"{trained.label()} has no weights: there is no fold_*/{CHECKPOINTS[0]} and no fold_*/{CHECKPOINTS[1]} in it"
    )
