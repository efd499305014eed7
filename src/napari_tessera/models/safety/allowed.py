"""The reviewed table: every name that a stranger's file may say, what it becomes here, and why that is safe.

Strings alone: nothing is imported here, and nothing is run. What reads a kind of name looks it up in its row first, so
what is not in a row is refused, or named in a note and left out. A new name belongs here once the ``reviewed`` of its
row has been checked for it. ``docs/models.md`` shows the table; `tests.models.allowed_page` writes that section.
"""

from __future__ import annotations

from napari_tessera.models.safety.allowed_pickles import (
    CONNECTOMICS_PICKLED_PACKAGES,
    PICKLED,
    PICKLED_BESIDE,
    PICKLED_PATTERNS,
)
from napari_tessera.models.safety.names import BIOIMAGEIO, BUNDLE, CONNECTOMICS, NNUNET, TESSERA, UNET3D, Names, itself

__all__ = [
    "BIOIMAGEIO",
    "BUNDLE",
    "CONNECTOMICS",
    "CONNECTOMICS_PICKLED_PACKAGES",
    "NNUNET",
    "PICKLED",
    "PICKLED_BESIDE",
    "PICKLED_PATTERNS",
    "TABLE",
    "TESSERA",
    "UNET3D",
    "Names",
]

# All that take a description of Tessera's own, beside the file or inside it.
_DESCRIBED = (TESSERA, "TorchScript archive", "exported program", "ONNX graph")

_NETS = "monai.networks.nets"
_DYNAMIC = "dynamic_network_architectures"
_NO_CODE = "the name chooses a function of Tessera, which takes plain numbers and texts from the file"

# Networks, and the layers that their arguments name.

MONAI_NETWORKS = Names(
    "Network classes",
    (TESSERA, BUNDLE, BIOIMAGEIO, CONNECTOMICS),
    itself(
        f"{_NETS}.AttentionUnet",
        f"{_NETS}.BasicUNet",
        f"{_NETS}.DynUNet",
        f"{_NETS}.FlexibleUNet",
        f"{_NETS}.SegResNet",
        f"{_NETS}.SwinUNETR",
        f"{_NETS}.UNETR",
        f"{_NETS}.UNet",
        f"{_NETS}.VNet",
    ),
    "constructors neither run code given as an argument nor read or fetch files (that of FlexibleUNet would, and is "
    "always told not to); texts among the arguments choose "
    "layers in MONAI's own tables",
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
    {
        **{"g": "groupnorm", "b": "batchnorm", "c": "conv", "r": "ReLU", "l": "LeakyReLU", "e": "ELU"},
        **{"d": "dropout", "D": "dropout2d"},
    },
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
    {
        **dict.fromkeys(("bn", "sync_bn"), "BatchNorm"),
        **{"in": "InstanceNorm", "gn": "GroupNorm", "none": "Identity"},
    },
    "layers of torch that are given a number of channels",
)
RESIDUAL_ACTIVATIONS = Names(
    "Activations of the residual U-Net",
    (TESSERA, CONNECTOMICS),
    {
        **{"relu": "ReLU", "leaky_relu": "LeakyReLU", "elu": "ELU", "gelu": "GELU"},
        **dict.fromkeys(("silu", "swish", "efficient_swish"), "SiLU"),
        "none": "Identity",
    },
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
            "PyTorch Connectomics 1 itself "
            "(pip install git+https://github.com/PytorchConnectomics/pytorch_connectomics@v1.0.0)",
        ),
        **dict.fromkeys(
            ("unet_residual_3d", "unet_residual_2d", "unet_super", "super", "fpn"),
            "PyTorch Connectomics of before 2021 "
            "(pip install git+https://github.com/PytorchConnectomics/pytorch_connectomics@v0.20)",
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
    {
        f"{_DYNAMIC}.architectures.unet.PlainConvUNet": f"{_DYNAMIC}.architectures.unet.PlainConvUNet",
        f"{_DYNAMIC}.architectures.unet.ResidualEncoderUNet": f"{_DYNAMIC}.architectures.unet.ResidualEncoderUNet",
        f"{_DYNAMIC}.architectures.residual_unet.ResidualEncoderUNet": (
            f"{_DYNAMIC}.architectures.unet.ResidualEncoderUNet"
        ),
    },
    "constructors only make layers, of the classes and blocks listed below; every argument is checked first",
)
NNUNET_OLD_NETWORKS = Names(
    "Network classes in the oldest plans",
    (NNUNET,),
    {
        "PlainConvUNet": f"{_DYNAMIC}.architectures.unet.PlainConvUNet",
        "ResidualEncoderUNet": f"{_DYNAMIC}.architectures.unet.ResidualEncoderUNet",
    },
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
    itself(
        f"{_DYNAMIC}.building_blocks.residual.BasicBlockD",
        f"{_DYNAMIC}.building_blocks.residual.BottleneckD",
    ),
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

# What happens before the network. Tessera's own words, here and below, are the types of `spec` too: a test compares.

TESSERA_NORMALISATIONS = Names(
    "Normalisation modes",
    _DESCRIBED,
    itself(
        *("none", "zscore", "minmax", "percentile", "divide", "fixed", "linear", "clip", "clip-percentiles", "gamma"),
        *("threshold", "binarise", "sigmoid", "equalise", "eight-bits"),
    ),
    "Tessera's own, with plain numbers",
)

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
            "AddChannel",
            "AsChannelFirst",
            "CastToType",
            "CopyItems",
            "DataStats",
            "DeleteItems",
            "EnsureChannelFirst",
            "EnsureType",
            "Identity",
            "SaveImage",
            "SelectItems",
            "ToDevice",
            "ToNumpy",
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

TESSERA_ACTIVATIONS = Names(
    "Activations", _DESCRIBED, itself("none", "sigmoid", "softmax", "tanh"), "Tessera's own, without arguments"
)
TESSERA_OUTPUTS = Names(
    "Kinds of output",
    _DESCRIBED,
    itself("semantic", "foreground", "boundary", "affinities", "contour-distance"),
    "a word that suggests a decoder, with whole numbers as offsets",
)
TESSERA_DECODERS = Names(
    "Decoders",
    _DESCRIBED,
    itself("argmax", "contour-distance", "regions", "threshold", "watershed"),
    "Tessera's own; parameters are checked against their limits",
)
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
    {
        "sigmoid": "sigmoid",
        "softmax": "softmax",
        "tanh": "tanh",
        "none": "none",
        "scale_sigmoid": "sigmoid",
    },
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

_PICKLES = (PICKLED, PICKLED_PATTERNS, PICKLED_BESIDE, CONNECTOMICS_PICKLED_PACKAGES)
_ROWS = [row for row in list(globals().values()) if isinstance(row, Names) and row not in _PICKLES]
TABLE = (*_ROWS, *_PICKLES)
