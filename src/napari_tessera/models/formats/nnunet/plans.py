"""What the two JSON files of an nnU-Net folder say, checked with pydantic. Data only."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AliasChoices, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from napari_tessera.core.errors import ModelError
from napari_tessera.core.plain_data import load_json
from napari_tessera.models.formats.nnunet.training_folder import DATASET, PLANS, TrainedFolder
from napari_tessera.models.safety import allowed

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


def _as_text(value: object) -> str:
    return " ".join(value.split()) if isinstance(value, str) else ""


_Text = Annotated[str, BeforeValidator(_as_text)]


class Dataset(_Part):
    """dataset.json: channels and labels, and what people are told of the data."""

    channel_names: dict[str, str] = Field(validation_alias=AliasChoices("channel_names", "modality"), min_length=1)
    labels: dict[str, int | tuple[int, ...]]
    regions_class_order: tuple[int, ...] | None = None
    description: _Text = ""
    licence: _Text = Field("", validation_alias=AliasChoices("licence", "license"))
    reference: _Text = ""


def read_plans(trained: TrainedFolder) -> Plans:
    """Read plans.json."""
    return _parse(Plans, _read_json(trained, PLANS), trained.place(PLANS))


def read_dataset(trained: TrainedFolder) -> Dataset:
    """Read dataset.json; raises as `read_plans` does."""
    return _parse(Dataset, _read_json(trained, DATASET), trained.place(DATASET))


def _read_json(trained: TrainedFolder, name: str) -> Any:
    content = trained.read(name, limit=MAX_BYTES)
    try:
        return load_json(content.decode())
    except ValueError as error:
        raise ModelError(
            f"cannot read {trained.label(name)}, the file may be cut short ({error}): get it again"
        ) from error


def _parse(kind: type[Kind], content: Any, path: Path) -> Kind:
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        problems = [f"'{'.'.join(map(str, one['loc'])) or 'the file'}': {one['msg'].lower()}" for one in error.errors()]
        raise ModelError(f"{path} is not what nnU-Net writes: {'; '.join(problems[:5])}") from error
