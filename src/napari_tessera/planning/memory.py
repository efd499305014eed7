"""The memory formulas, one function per term. Activations are traced elsewhere and come in as a number."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

from napari_tessera.engine.settings import Precision
from napari_tessera.engine.stitch import FLOAT_BYTES, estimate_piece_bytes, estimate_slab_bytes
from napari_tessera.planning.plan import MemoryEstimate

if TYPE_CHECKING:
    from napari_tessera.engine.grid import WindowGrid

__all__ = ["PassShape", "estimate_host_bytes", "estimate_memory"]

MIB = 2**20
# A CUDA context with torch's kernels loaded; outside torch's counters, hundreds of MiB on every recent card.
CONTEXT_BYTES = {"cuda": 500 * MIB}
# cuBLAS keeps a workspace per handle and stream: 8 MiB, and 32 MiB on Hopper; the larger is assumed.
LIBRARY_BYTES = {"cuda": 32 * MIB}


@dataclass(frozen=True, slots=True)
class PassShape:
    """One forward pass: windows, channels, views and what they are computed in."""

    window: tuple[int, ...]
    sw_batch_size: int
    in_channels: int
    out_channels: int
    n_views: int
    directed: bool
    precision: Precision

    @property
    def input_bytes(self) -> int:
        """The windows on the device, float32."""
        return FLOAT_BYTES * self.sw_batch_size * self.in_channels * prod(self.window)

    @property
    def output_bytes(self) -> int:
        """The network's output, float32."""
        return FLOAT_BYTES * self.sw_batch_size * self.out_channels * prod(self.window)


def estimate_memory(
    grid: WindowGrid, shape: PassShape, *, weights_bytes: int, activations_bytes: int, device_kind: str
) -> MemoryEstimate:
    """Return the device memory of a run over *grid* at its peak.

    Parameters
    ----------
    grid
        The volume with the largest slab.
    shape
        One forward pass.
    weights_bytes, activations_bytes
        Of the network; see `MemoryEstimate`.
    device_kind
        ``cpu``, ``cuda`` or ``mps``.
    """
    window_bytes = FLOAT_BYTES * prod(shape.window)
    counts_bytes = window_bytes * shape.out_channels if shape.directed and shape.n_views > 1 else 0
    return MemoryEstimate(
        weights_bytes=weights_bytes,
        activations_bytes=activations_bytes,
        accumulator_bytes=estimate_slab_bytes(grid, shape.out_channels),
        importance_bytes=window_bytes + counts_bytes,
        workspace_bytes=_workspace_bytes(grid, shape, activations_bytes) + LIBRARY_BYTES.get(device_kind, 0),
        context_bytes=CONTEXT_BYTES.get(device_kind, 0),
    )


def _workspace_bytes(grid: WindowGrid, shape: PassShape, activations_bytes: int) -> int:
    """Return what a step of the engine needs beyond the forward pass itself.

    During the pass: the sum over views and the flipped input, when there is more than one view. After it: the output
    (again as float32, where the pass ran in less) and the finished planes under activation and reduction.
    """
    during = shape.input_bytes + shape.output_bytes if shape.n_views > 1 else 0
    copies = 2 if shape.precision in (Precision.BFLOAT16, Precision.FLOAT16) else 1
    pieces = 2 * estimate_piece_bytes(grid, shape.out_channels)
    after = shape.input_bytes + copies * shape.output_bytes + pieces - activations_bytes
    return max(during, after, 0)


def estimate_host_bytes(
    *,
    volume_bytes: int,
    batch_size: int,
    reduced_bytes: int,
    staging_bytes: int,
    decoding_bytes: int,
    device_bytes_on_host: int,
) -> int:
    """Return the host memory of a run at its peak.

    The resident volumes and the reduced result are there throughout; a volume is first swept (staging, and the device's
    own memory when that is the host's), then decoded, never both at once.
    """
    return batch_size * volume_bytes + reduced_bytes + max(staging_bytes + device_bytes_on_host, decoding_bytes)
