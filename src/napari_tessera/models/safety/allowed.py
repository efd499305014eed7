"""The reviewed table: every name that a stranger's file may say, what it becomes here, and why that is safe.

Strings alone: nothing is imported here, and nothing is run. What reads a kind of name looks it up in its row first, so
what is not in a row is refused, or named in a note and left out. A new name belongs here once the ``reviewed`` of its
row has been checked for it. ``docs/models.md`` shows the table; `tests.models.allowed_page` writes that section. Words
of Tessera's own, such as kinds of output, are the types of `spec`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TypeVar

# Formats, each by its `ModelFormat.name`.
TESSERA, BUNDLE, BIOIMAGEIO = "Tessera model", "MONAI bundle", "bioimage.io package"
CONNECTOMICS, NNUNET = "PyTorch Connectomics checkpoint", "nnU-Net folder"
UNET3D = "pytorch-3dunet folder"

Handler = TypeVar("Handler")


@dataclass(frozen=True, slots=True, eq=False)
class Names:
    """One kind of name: a row of the table."""

    kind: str  # what is named, for people
    formats: tuple[str, ...]  # which may say it, each by its `ModelFormat.name`
    names: Mapping[str, str]  # what each becomes, in the order in which errors list them
    reviewed: str  # why it is safe: what was checked for each of the names

    def __post_init__(self) -> None:
        object.__setattr__(self, "names", MappingProxyType(dict(self.names)))

    def handled(self, handlers: Mapping[str, Handler]) -> dict[str, Handler]:
        """Return *handlers*, which must be for exactly the names of this row, in its order."""
        if differing := sorted(handlers.keys() ^ self.names.keys()):
            raise LookupError(f"{self.kind}: {', '.join(differing)} must be both in the reviewed table and handled")
        return {name: handlers[name] for name in self.names}


def itself(*names: str) -> dict[str, str]:
    """Return each of *names* as what it becomes."""
    return {name: name for name in names}


_NETS = "monai.networks.nets"
_DYNAMIC = "dynamic_network_architectures"
_PLAIN, _RESIDUAL = (f"{_DYNAMIC}.architectures.unet.{name}" for name in ("PlainConvUNet", "ResidualEncoderUNet"))
_INSTALL = "pip install git+https://github.com/PytorchConnectomics/pytorch_connectomics"
_NO_CODE = "the name chooses a function of Tessera, which takes plain numbers and texts from the file"

# Networks, and the layers that their arguments name.

MONAI_NETWORKS = Names(
    "Network classes",
    (TESSERA, BUNDLE, BIOIMAGEIO, CONNECTOMICS),
    itself(
        *(f"{_NETS}.{name}" for name in ("AttentionUnet", "BasicUNet", "DynUNet", "FlexibleUNet", "SegResNet")),
        *(f"{_NETS}.{name}" for name in ("SwinUNETR", "UNETR", "UNet", "VNet")),
    ),
    "constructors neither run code given as an argument nor read or fetch files (that of FlexibleUNet would, and is "
    "always told not to); texts among the arguments choose layers in MONAI's own tables",
)
CONNECTOMICS_NETWORKS = Names(
    "Network types",
    (CONNECTOMICS,),
    {
        "monai_basic_unet3d": f"{_NETS}.BasicUNet",
        "monai_unet": f"{_NETS}.UNet, or Tessera's InterpolatingUNet of it",
        "monai_unetr": f"{_NETS}.UNETR",
        "monai_swin_unetr": f"{_NETS}.SwinUNETR",
        **dict.fromkeys(("mednext", "mednext_custom"), "napari_tessera.MedNeXt"),
    },
    "each is one of the network classes above or of Tessera's below, built from arguments that are read and checked "
    "one by one",
)
# What Tessera's own networks are. Their names in a file are not their places here, which may change.
OWN_NETWORKS = Names(
    "Network classes of Tessera",
    (TESSERA, CONNECTOMICS, UNET3D),
    {
        "napari_tessera.InterpolatingUNet": f"{_NETS}.UNet with another way up",
        "napari_tessera.MedNeXt": f"{_NETS}.MedNeXt with other widths on its way down",
        "napari_tessera.ResidualUNet": "the residual U-Net of PyTorch Connectomics 1, written anew",
        "napari_tessera.Pytorch3DUNet": "the U-Nets of pytorch-3dunet, written anew",
    },
    "the first two are classes of MONAI, with its own layers in the place of others; the constructors of "
    "the others only make layers of torch, of the kinds in the rows below, and check every argument first",
)
UNET3D_NETWORKS = Names(
    "Network classes of pytorch-3dunet",
    (UNET3D,),
    dict.fromkeys(
        ("UNet2D", "UNet3D", "ResidualUNet2D", "ResidualUNet3D", "ResidualUNetSE3D"), "napari_tessera.Pytorch3DUNet"
    ),
    "all are the network class of Tessera above, built from arguments that are read and checked one by one",
)
UNET3D_LAYERS = Names(
    "Letters of layers in pytorch-3dunet",
    (TESSERA, UNET3D),
    {"g": "groupnorm", "b": "batchnorm", "c": "conv", "r": "ReLU", "l": "LeakyReLU", "e": "ELU"}
    | {"d": "dropout", "D": "dropout2d"},
    "layers of torch that are given numbers of channels",
)
UNET3D_UPSAMPLING = Names(
    "Ways up in pytorch-3dunet",
    (TESSERA, UNET3D),
    itself("default", "deconv", "nearest", "linear", "bilinear", "trilinear", "area"),
    "modes of torch's interpolation, or a transposed convolution",
)
UNET3D_STEPS = Names(
    "Steps before the network in pytorch-3dunet",
    (UNET3D,),
    {
        "Standardize": "normalisation: zscore or fixed",
        "Normalize": "normalisation: minmax or fixed",
        "PercentileNormalizer": "normalisation: percentile",
        "ToTensor": "nothing",
        "Identity": "nothing",
    },
    f"no step is ever run: {_NO_CODE}",
)
RESIDUAL_NORMS = Names(
    "Norms of the residual U-Net",
    (TESSERA, CONNECTOMICS),
    dict.fromkeys(("bn", "sync_bn"), "BatchNorm") | {"in": "InstanceNorm", "gn": "GroupNorm", "none": "Identity"},
    "layers of torch that are given a number of channels",
)
RESIDUAL_ACTIVATIONS = Names(
    "Activations of the residual U-Net",
    (TESSERA, CONNECTOMICS),
    {"relu": "ReLU", "leaky_relu": "LeakyReLU", "elu": "ELU", "gelu": "GELU"}
    | dict.fromkeys(("silu", "swish", "efficient_swish"), "SiLU")
    | {"none": "Identity"},
    "layers of torch that are given nothing from the file",
)
RESIDUAL_PADDINGS = Names(
    "Paddings of the residual U-Net",
    (TESSERA, CONNECTOMICS),
    itself("zeros", "reflect", "replicate", "circular"),
    "words that torch's convolutions know",
)
RESIDUAL_BLOCKS = Names(
    "Blocks of the residual U-Net",
    (TESSERA, CONNECTOMICS),
    {
        "residual": "convolutions, then the activation",
        "residual_pa": "the activation, then convolutions",
        "residual_se": "the first of them, with squeeze and excitation",
        "residual_se_pa": "the second of them, with squeeze and excitation",
    },
    "switches of Tessera's own layers",
)
CONNECTOMICS_1_NETWORKS = Names(
    "Network types of version 1",
    (CONNECTOMICS,),
    dict.fromkeys(("unet_3d", "unet_plus_3d", "unet_2d", "unet_plus_2d"), "napari_tessera.ResidualUNet"),
    "all are the network class of Tessera above, built from arguments that are read and checked one by one",
)
CONNECTOMICS_1_ELSEWHERE = Names(
    "Network types of version 1 that are refused, with what they need",
    (CONNECTOMICS,),
    {
        **dict.fromkeys(
            ("fpn_3d", "deeplabv3a", "deeplabv3b", "deeplabv3c", "unetr", "swinunetr"),
            f"PyTorch Connectomics 1 itself ({_INSTALL}@v1.0.0)",
        ),
        **dict.fromkeys(
            ("unet_residual_3d", "unet_residual_2d", "unet_super", "super", "fpn"),
            f"PyTorch Connectomics of before 2021 ({_INSTALL}@v0.20)",
        ),
    },
    "the name only chooses a sentence; nothing is built or installed",
)
CONNECTOMICS_ELSEWHERE = Names(
    "Network types that are refused, with what they need",
    (CONNECTOMICS,),
    {
        "nnunet": "nnU-Net, whose own folders Tessera opens: keep plans.json and dataset.json with the weights",
        "rsunet": "PyTorch Connectomics itself",
        "rsunet_iso": "PyTorch Connectomics itself",
    },
    "the name only chooses a sentence; nothing is built or installed",
)
NNUNET_NETWORKS = Names(
    "Network classes, as plans of several versions write them",
    (NNUNET, TESSERA),
    itself(_PLAIN, _RESIDUAL) | {f"{_DYNAMIC}.architectures.residual_unet.ResidualEncoderUNet": _RESIDUAL},
    "constructors only make layers, of the classes and blocks listed below; every argument is checked first",
)
NNUNET_OLD_NETWORKS = Names(
    "Network classes in the oldest plans",
    (NNUNET,),
    {"PlainConvUNet": _PLAIN, "ResidualEncoderUNet": _RESIDUAL},
    "they are turned into names of the row above, which are then looked up there",
)
NNUNET_LAYERS = Names(
    "Layers",
    (NNUNET, TESSERA),
    {
        name: f"torch.nn.{cls}"
        for module, classes in {
            "conv": ("Conv2d", "Conv3d"),
            "instancenorm": ("InstanceNorm2d", "InstanceNorm3d"),
            "batchnorm": ("BatchNorm2d", "BatchNorm3d"),
            "dropout": ("Dropout2d", "Dropout3d"),
            "activation": ("LeakyReLU", "ReLU", "ELU", "GELU", "SiLU"),
        }.items()
        for cls in classes
        for name in (f"torch.nn.{cls}", f"torch.nn.modules.{module}.{cls}")
    },
    "layers of torch whose constructors take numbers and switches, and make weights at most",
)
NNUNET_BLOCKS = Names(
    "Blocks of residual encoders",
    (NNUNET, TESSERA),
    itself(*(f"{_DYNAMIC}.building_blocks.residual.{name}" for name in ("BasicBlockD", "BottleneckD"))),
    "constructors only make layers, of the classes that they are given",
)
BIOIMAGEIO_WEIGHTS = Names(
    "Entries of weights, the safest first",
    (BIOIMAGEIO,),
    {
        "pytorch_state_dict": "one of the network classes above, and tensors to fill it",
        "onnx": "a graph that onnxruntime runs",
        "torchscript": "a TorchScript archive, opened where the user trusts the file",
    },
    "the first two hold no code, and the third is asked about",
)

# What happens before the network.

MONAI_CONSTANTS = Names(
    "Constants that an expression may name",
    (BUNDLE,),
    {
        f"monai.utils.{place}CommonKeys.{key}": key.lower()
        for place in ("", "enums.")
        for key in ("IMAGE", "LABEL", "PRED")
    },
    "the name stands for a text, and the expression is not run",
)
MONAI_AXES = Names(
    "Transforms of axes and extent before the network",
    (BUNDLE,),
    {
        "CropForeground": "crop",
        "LoadImage": "order of axes",
        "Orientation": "order of axes",
        "Spacing": "voxel size, and resampling",
    },
    f"no transform is ever made: {_NO_CODE}",
)
MONAI_INTENSITIES = Names(
    "Transforms of intensities before the network",
    (BUNDLE,),
    {
        "AdjustContrast": "normalisation: gamma",
        "ClipIntensityPercentiles": "normalisation: clip-percentiles",
        "HistogramNormalize": "normalisation: equalise",
        "NormalizeIntensity": "normalisation: zscore or fixed",
        "ScaleIntensity": "normalisation: minmax, fixed or linear",
        "ScaleIntensityRange": "normalisation: fixed, linear or clip",
        "ScaleIntensityRangePercentiles": "normalisation: percentile",
        "ShiftIntensity": "normalisation: fixed",
        "ThresholdIntensity": "normalisation: threshold",
    },
    f"no transform is ever made: {_NO_CODE}",
)
MONAI_NEUTRAL = Names(
    "Transforms that are passed over, before the network and after it",
    (BUNDLE,),
    dict.fromkeys(
        (
            *("AddChannel", "AsChannelFirst", "CastToType", "CopyItems", "DataStats", "DeleteItems"),
            *("EnsureChannelFirst", "EnsureType", "Identity", "SaveImage", "SelectItems", "ToDevice", "ToNumpy"),
            "ToTensor",
        ),
        "nothing",
    ),
    "nothing is done, as they change neither values nor axes of what Tessera hands to a network: a type without "
    "fractions is refused where there may be some",
)
MONAI_PADDING = Names(
    "Transforms before the network that pad",
    (BUNDLE,),
    dict.fromkeys(("DivisiblePad", "SpatialPad"), "sides of images that the network is given as they are"),
    "no transform is ever made: images that it would pad are refused",
)
MONAI_REFUSED = Names(
    "Transforms before the network that are refused, with what they do (all others are, too)",
    (BUNDLE,),
    {
        **dict.fromkeys(("BorderPad", "Pad"), "pads images"),
        **dict.fromkeys(("CenterSpatialCrop", "ResizeWithPadOrCrop", "SpatialCrop"), "cuts images to a part"),
        **dict.fromkeys(("Flip", "Rotate90", "Transpose"), "turns images"),
        **dict.fromkeys(("Resize", "Zoom"), "brings images to another size"),
    },
    "the name only chooses a sentence",
)
MONAI_LISTS = Names(
    "Lists of transforms",
    (BUNDLE,),
    {"Compose": "the transforms in it, one after another"},
    "it is read as a list, of at most as many transforms and levels as the reader allows",
)
NNUNET_PREPROCESSING = Names(
    "Normalisation schemes",
    (NNUNET,),
    {
        "CTNormalization": "normalisation: fixed, with the numbers of the plans",
        "ZScoreNormalization": "normalisation: zscore",
        "NoNormalization": "normalisation: none",
        "RescaleTo01Normalization": "normalisation: minmax",
        "RGBTo01Normalization": "normalisation: divide by 255",
    },
    f"no scheme of nnU-Net is ever made: {_NO_CODE}",
)
NNUNET_RESAMPLING = Names(
    "Resampling",
    (NNUNET,),
    {
        "resample_data_or_seg_to_shape": "resampling: a cubic spline, output linearly",
        "resample_torch_fornnunet": "resampling: linear, output linearly",
        "no_resampling_hack": "resampling: none",
    },
    f"no function of nnU-Net is ever called: {_NO_CODE}",
)
BIOIMAGEIO_PREPROCESSING = Names(
    "Steps before the network",
    (BIOIMAGEIO,),
    {
        "binarize": "normalisation: binarise",
        "clip": "normalisation: clip or clip-percentiles",
        "ensure_dtype": "type of the numbers that the network is given",
        "fixed_zero_mean_unit_variance": "normalisation: fixed",
        "scale_linear": "normalisation: linear",
        "scale_range": "normalisation: minmax or percentile",
        "sigmoid": "normalisation: sigmoid",
        "zero_mean_unit_variance": "normalisation: zscore",
    },
    _NO_CODE,
)
BIOIMAGEIO_NUMBERS = Names(
    "Types of numbers",
    (BIOIMAGEIO, TESSERA),
    {
        name: f"torch.{name}"
        for name in (
            *("float32", "float64", "uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64"),
            "bool",
        )
    },
    "constants of torch, to which windows are converted",
)

# What happens with the network, and after it.

MONAI_INFERERS = Names(
    "Inferers",
    (BUNDLE,),
    {
        "SlidingWindowInferer": "window, overlap, blend and padding",
        "SlidingWindowInfererAdapt": "window, overlap, blend and padding",
        # It runs a network of two axes over the slices of a volume, each of them window by window.
        "SliceInferer": "window, overlap, blend and padding of planes",
        "SimpleInferer": "nothing: its window is as large as the image",
    },
    f"no inferer is ever made: {_NO_CODE}",
)
MONAI_POSTPROCESSING = Names(
    "Transforms after the network",
    (BUNDLE,),
    {
        "Activations": "activation: sigmoid or softmax",
        "AsDiscrete": "decoder: argmax or threshold",
        "Invert": "resampling: the way back",
        "KeepLargestConnectedComponent": "keep_largest of the decoder",
        "Lambda": "decoder: regions, where its function says no more than which channel becomes which label",
        "RemoveSmallObjects": "min_size_vox of the decoder",
    },
    f"no transform is ever made: {_NO_CODE}",
)
BIOIMAGEIO_POSTPROCESSING = Names(
    "Steps after the network",
    (BIOIMAGEIO,),
    {
        "binarize": "decoder: threshold",
        "clip": "nothing of probabilities; else the threshold of the decoder",
        "ensure_dtype": "nothing, as labels have a type of their own",
        "fixed_zero_mean_unit_variance": "a line of the network's output, or the threshold of the decoder",
        "scale_linear": "a line of the network's output, or the threshold of the decoder",
        "sigmoid": "activation: sigmoid",
        "softmax": "activation: softmax",
    },
    _NO_CODE,
)
BIOIMAGEIO_REFUSED = Names(
    "Steps after the network whose outputs are refused, with what these are",
    (BIOIMAGEIO,),
    {"cellpose_flow_dynamics": "flows", "stardist_postprocessing": "distances along rays"},
    "the name only chooses a sentence",
)
CONNECTOMICS_ACTIVATIONS = Names(
    "Activations",
    (CONNECTOMICS,),
    itself("sigmoid", "softmax", "tanh", "none") | {"scale_sigmoid": "sigmoid"},
    "Tessera's own, chosen by name; the factor of scale_sigmoid is read as a number",
)
CONNECTOMICS_DECODERS = Names(
    "Decoding steps",
    (CONNECTOMICS,),
    {
        "decode_instance_binary_contour_distance": "decoder: contour-distance",
        "decode_binary_contour_distance_watershed": "decoder: contour-distance",
        "decoding_bcd": "decoder: contour-distance",
        "binary_thresholding": "decoder: threshold",
        "decode_binary_thresholding": "decoder: threshold",
    },
    f"no step is ever run: {_NO_CODE}",
)
CONNECTOMICS_COMMANDS = Names(
    "Decoding steps that are left out, with a note that says so",
    (CONNECTOMICS,),
    {"decode_abiss": "a command that the file names"},
    "the command is never run; the name only chooses a sentence",
)

# What pickles refer to, in files that torch.save wrote, all of which are read with ``weights_only=True``.

_CHECKPOINTS = (TESSERA, BUNDLE, BIOIMAGEIO, CONNECTOMICS, NNUNET, UNET3D)

PICKLED = Names(
    "Pickled types and functions",
    _CHECKPOINTS,
    itself(
        *("collections.OrderedDict", "collections.Counter", "builtins.set", "builtins.complex", "torch.Size"),
        *("torch.device", "torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_parameter"),
        *("torch.nn.parameter.Parameter", "torch.serialization._get_layout"),
    ),
    "all that tensors, and the plain numbers beside them, are made of; narrower than what weights_only=True accepts, "
    "which has things that take any amount of memory, such as bytearray and storages that are made of a size",
)
PICKLED_PATTERNS = Names(
    "Pickled storages and types of numbers, as regular expressions that the whole name matches",
    _CHECKPOINTS,
    {
        r"torch\.(cuda\.)?[A-Z][A-Za-z0-9]*Storage": "where the numbers of a tensor lie in the file",
        r"torch\.(b?float\d+|u?int\d+|bool|complex\d+)": "itself",
    },
    "torch's restricted reader takes them for types of numbers and makes no objects of them; it refuses those that "
    "it does not know",
)
PICKLED_BESIDE = Names(
    "Pickled types that training programs put beside weights: numbers of numpy, paths, options, times, dictionaries",
    _CHECKPOINTS,
    {
        **dict.fromkeys(
            (
                *(f"builtins.{name}" for name in ("bool", "dict", "float", "int", "list", "str", "tuple")),
                *("pathlib.PosixPath", "pathlib.WindowsPath", "typing.Any", "argparse.Namespace", "_codecs.encode"),
                *("numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar"),
                *("numpy.core.multiarray._reconstruct", "numpy._core.multiarray._reconstruct", "numpy.ndarray"),
                *("builtins.slice", "datetime.date", "datetime.datetime", "datetime.timedelta", "datetime.timezone"),
                *("numpy.dtype", "numpy.dtypes.Float64DType", "numpy.dtypes.Float32DType", "numpy.dtypes.Int64DType"),
            ),
            "an object that does nothing",
        ),
        "collections.defaultdict": "an empty dictionary",
        "collections.deque": "an empty list",
    },
    "none of them is made: what stands in its place takes whatever it is given, and does nothing with it; none of "
    "numpy's functions is called, which would let a file ask for gigabytes",
)
CONNECTOMICS_PICKLED_PACKAGES = Names(
    "Packages of pickled configurations, whatever of them is named",
    (CONNECTOMICS,),
    dict.fromkeys(("connectomics", "omegaconf"), "an object that does nothing"),
    "neither package is imported: what stands in the place of their objects does nothing",
)

TABLE = tuple(row for row in list(globals().values()) if isinstance(row, Names))
