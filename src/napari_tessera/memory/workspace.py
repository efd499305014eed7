"""What convolution kernels take for themselves while they run, beside the tensors that a trace sees."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from napari_tessera.memory.recorder import Convolution

__all__ = ["CPU_SINGLE_ERROR", "PRIOR_ERRORS", "PRIOR_SCALES", "workspace_bytes"]

# How much of the rule below is assumed before anything has been measured: all of it for cuDNN, nothing elsewhere, where
# no rule is known that holds over kernels.
PRIOR_SCALES = {"cuda": 1.0}
# How far the estimate may be off for it. On CUDA a goal, not a figure: no card has been measured yet. On the CPU what
# benchmarks/calibration.py finds that kernels take beside tensors (up to 23 % of all), and twice the tensors where a
# pass holds a single window, for which torch takes kernels that write whole matrices of columns.
PRIOR_ERRORS = {"cuda": 0.1, "cpu": 0.3}
CPU_SINGLE_ERROR = 2.0


def workspace_bytes(convolution: Convolution) -> int:
    """Return the workspace that cuDNN takes for one convolution, bytes.

    Half precision: input, output and weights in another layout; single precision: input and weights. A depthwise
    convolution has a kernel of its own, which takes nothing. The rule gives the published figures of pytorch/pytorch
    issues 95024 (float16, 12.87 GB) and 128947 (float32 on an A100, 17 GiB) to the digits they state.

    Parameters
    ----------
    convolution
        As recorded; the size of its elements says what it is computed in.
    """
    channels = convolution.input_shape[1]
    if convolution.groups == channels > 1:
        return 0
    values = prod(convolution.input_shape) + prod(convolution.weight_shape)
    if convolution.item_bytes < 4:
        values += prod(convolution.output_shape)
    return values * convolution.item_bytes
