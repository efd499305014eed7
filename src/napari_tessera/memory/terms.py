"""The memory formulas, one function per term. Activations are traced elsewhere and come in as a number."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

from napari_tessera.core.settings.choices import AccumulatorType, Precision
from napari_tessera.engine.devices.cuda import CudaDevice
from napari_tessera.engine.stitching.stitch import FLOAT_BYTES, Weighting, estimate_piece_bytes, estimate_slab_bytes
from napari_tessera.memory.estimate import DeviceNeed

if TYPE_CHECKING:
    from napari_tessera.engine.geometry.grid import Block, WindowGrid
    from napari_tessera.memory.profile import PassProfile

__all__ = ["PassShape", "SlabShape", "estimate_memory"]

MIB = 2**20
# A CUDA context with torch's kernels loaded; outside torch's counters, hundreds of MiB on every recent card.
CONTEXT_BYTES = {"cuda": 500 * MIB}
# cuBLAS keeps a workspace per handle and stream: 8 MiB, and 32 MiB on Hopper; the larger is assumed.
LIBRARY_BYTES = {"cuda": 32 * MIB}
# Batches that wait on the device while one is computed.
READ_AHEAD = {"cuda": CudaDevice.read_ahead}


@dataclass(frozen=True, slots=True)
class PassShape:
    """One forward pass: windows, channels, views and what they are computed in.

    *waiting*: passes that come after it. *n_views* are those that one batch of windows sees one after the other;
    *interleaved*: each window sees one of several instead. *directed_tables* say how much a voxel of a directed channel
    counts: one for all views together, or one for each where they are interleaved.
    """

    window: tuple[int, ...]
    sw_batch_size: int
    waiting: int
    in_channels: int
    out_channels: int
    n_views: int
    interleaved: bool
    directed_tables: int
    precision: Precision

    @property
    def input_bytes(self) -> int:
        """The windows on the device, float32."""
        return FLOAT_BYTES * self.sw_batch_size * self.in_channels * prod(self.window)

    @property
    def output_bytes(self) -> int:
        """The network's output, float32."""
        return FLOAT_BYTES * self.sw_batch_size * self.out_channels * prod(self.window)


@dataclass(frozen=True, slots=True)
class SlabShape:
    """The accumulator: the part of a volume that it is for, and what is kept for every voxel of it."""

    grid: WindowGrid
    block: Block
    channels: int
    weighting: Weighting
    accumulator: AccumulatorType

    @property
    def slab_bytes(self) -> int:
        """The sums and their weights."""
        return estimate_slab_bytes(
            self.grid, self.channels, block=self.block, weighting=self.weighting, accumulator=self.accumulator
        )

    @property
    def piece_bytes(self) -> int:
        """Finished planes that are reduced together, as float32."""
        return estimate_piece_bytes(self.grid, self.channels, block=self.block)


def estimate_memory(
    slab: SlabShape,
    shape: PassShape,
    *,
    weights_bytes: int,
    profile: PassProfile,
    of_copies: PassProfile | None = None,
    device_kind: str,
    has_context: bool = False,
) -> DeviceNeed:
    """Return what a run needs of the device at its peak.

    Beside the network's own memory, an engine step needs during the pass: the sum over views and the flipped input,
    when there is more than one view. After it: input and output (again as float32, where the pass ran in less; again in
    the windows' own axes, where each has its own view) and the finished planes under activation and reduction; or the
    input, the sum over views, and the output twice, as it came and turned back.

    Parameters
    ----------
    slab
        The largest accumulator.
    shape
        One forward pass.
    weights_bytes, profile
        Of the network.
    of_copies
        A pass of the check of the first passes (`pass_check.COPIES` windows), for which a window is kept, and the
        windows of the pass beside it; None: nothing is checked.
    device_kind
        ``cpu``, ``cuda`` or ``mps``.
    has_context
        Whether the driver's context is there already, and so is missing from what is free.
    """
    window_bytes = FLOAT_BYTES * prod(shape.window)
    adding_bytes = shape.input_bytes + 3 * shape.output_bytes if shape.n_views > 1 else 0
    copies = 2 if shape.precision in (Precision.BFLOAT16, Precision.FLOAT16) or shape.interleaved else 1
    checking_bytes = 0
    if of_copies is not None:
        more = of_copies.activations_bytes + shape.input_bytes - profile.activations_bytes
        checking_bytes = shape.input_bytes // shape.sw_batch_size + max(more, 0)
    return DeviceNeed(
        weights_bytes=weights_bytes,
        windows=shape.sw_batch_size,
        profile=profile,
        accumulator_bytes=slab.slab_bytes,
        importance_bytes=window_bytes + window_bytes * shape.out_channels * shape.directed_tables,
        staging_bytes=min(READ_AHEAD.get(device_kind, 0), shape.waiting) * shape.input_bytes,
        during_bytes=checking_bytes + (shape.input_bytes + shape.output_bytes if shape.n_views > 1 else 0),
        after_bytes=max(adding_bytes, shape.input_bytes + copies * shape.output_bytes + 2 * slab.piece_bytes),
        library_bytes=LIBRARY_BYTES.get(device_kind, 0),
        context_bytes=0 if has_context else CONTEXT_BYTES.get(device_kind, 0),
    )
