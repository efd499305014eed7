"""Rows of the reviewed table for what pickles refer to, in files that torch.save wrote; see `allowed`.

All such files are read with ``weights_only=True``.
"""

from __future__ import annotations

from napari_tessera.models.safety.names import BIOIMAGEIO, BUNDLE, CONNECTOMICS, NNUNET, TESSERA, UNET3D, Names, itself

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
