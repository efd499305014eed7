"""Tessera's engine behind the interface of MONAI's ``SlidingWindowInferer``, for those who want the engine alone."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it

from napari_tessera.core.errors import ModelError, OutOfMemoryError
from napari_tessera.core.settings.choices import Blend
from napari_tessera.core.units import format_sides
from napari_tessera.engine.devices.choice import open_device
from napari_tessera.engine.geometry.grid import WindowGrid
from napari_tessera.engine.intensity import Identity
from napari_tessera.engine.loop.block import LackOfMemory
from napari_tessera.engine.loop.events import EventHandler, PassFinished
from napari_tessera.engine.loop.forward import Forward, margins_of, scores, with_margins
from napari_tessera.engine.loop.parallel import Worker
from napari_tessera.engine.loop.sweep import Sweep
from napari_tessera.engine.loop.sweep_run import run_sweep
from napari_tessera.engine.loop.window_reader import WindowPrefetcher, WindowReader
from napari_tessera.engine.sink import ArraySink, Reduction
from napari_tessera.engine.source import ArraySource

if TYPE_CHECKING:
    from napari_tessera.engine.devices.protocol import Device
    from napari_tessera.engine.loop.forward import Window

Predictor = Callable[..., Any]


class SlabInferer:
    """Drop-in for ``monai.inferers.SlidingWindowInferer``: the same arguments, the same result, less memory and time.

    Sums are kept for the planes under way only, not for the volume; finished planes go to the host at once; a lack of
    memory costs one pass. Runs without gradients, and in float32: inputs of float64 are rounded on the way to the
    network. Needs torch and numpy alone.

    Parameters
    ----------
    roi_size
        Window, voxels, one number or one per axis; None or 0 and below take the image's side.
    sw_batch_size
        Windows per forward pass.
    overlap
        Fraction in [0, 1) that neighbouring windows share, one number or one per axis.
    mode
        ``"constant"`` or ``"gaussian"``.
    sigma_scale
        Width of the Gaussian as a share of the window's sides, one number or one per axis.
    padding_mode, cval
        How an image smaller than the window is padded, as for ``torch.nn.functional.pad``.
    sw_device
        Where the network is; that of the inputs by default.
    device
        Where the result is wanted; that of the inputs by default.
    progress
        Show a tqdm bar of passes, where tqdm is installed.
    cpu_thresh
        Above this many voxels the result stays on the CPU, unless *device* says otherwise.
    with_coord
        Call the network with the windows' slices as its second argument, as MONAI does.
    halo
        Voxels along each side of a window that do not count, one number or one per axis, which the network may leave
        out of its output, as convolutions without padding do. The inputs are mirrored as far beyond their ends, and the
        result is as large as they are. (MONAI knows no such thing: it would stretch the smaller output.)
    cache_roi_weight_map, buffer_steps, buffer_dim
        Accepted; without effect, as the weights take milliseconds and stitching is always streamed.
    """

    def __init__(
        self,
        roi_size: Sequence[int] | int,
        sw_batch_size: int = 1,
        overlap: Sequence[float] | float = 0.25,
        mode: str = "constant",
        sigma_scale: Sequence[float] | float = 0.125,
        padding_mode: str = "constant",
        cval: float = 0.0,
        sw_device: torch.device | str | None = None,
        device: torch.device | str | None = None,
        progress: bool = False,
        cache_roi_weight_map: bool = False,
        cpu_thresh: int | None = None,
        buffer_steps: int | None = None,
        buffer_dim: int = -1,
        with_coord: bool = False,
        *,
        halo: Sequence[int] | int = 0,
    ) -> None:
        self.roi_size, self.sw_batch_size, self.overlap = roi_size, sw_batch_size, overlap
        self.mode, self.sigma_scale = Blend(mode), sigma_scale
        self.padding_mode, self.cval = padding_mode, cval
        self.sw_device, self.device, self.cpu_thresh = sw_device, device, cpu_thresh
        self.progress, self.with_coord, self.halo = progress, with_coord, halo

    def __call__(self, inputs: torch.Tensor, network: Predictor, *args: Any, **kwargs: Any) -> Any:
        """Return the stitched output of *network* over *inputs*.

        Parameters
        ----------
        inputs
            (B, C, *spatial), 2D or 3D.
        network
            Called with (b, C, *window) of the inputs' type, then *args* and *kwargs*; gives a tensor, or a sequence or
            dictionary of them, all as large as the window, or as what the halo leaves of it.
        kwargs
            ``condition``, of the inputs' shape, is cut into the same windows. ``device`` overrides that of the inferer.

        Returns
        -------
        torch.Tensor, tuple or dict
            (B, C', *spatial) for each tensor that the network gives, of the inputs' type.

        Raises
        ------
        ValueError
            If inputs and arguments do not fit together.
        TesseraError
            ModelError or OutOfMemoryError.
        """
        shape, dims = tuple(inputs.shape[2:]), inputs.dim() - 2
        wanted = kwargs.pop("device", self.device)
        if wanted is None and self.cpu_thresh is not None and shape and np.prod(shape) > self.cpu_thresh:
            wanted = "cpu"
        for name in ("buffer_steps", "buffer_dim"):
            kwargs.pop(name, None)
        condition = kwargs.pop("condition", None)
        if condition is not None and condition.shape != inputs.shape:
            shapes = f"{tuple(inputs.shape)}, but it is {tuple(condition.shape)}"
            raise ValueError(f"`condition` must match the shape of the inputs, {shapes}")
        window = self._window(shape)
        overlaps = _per_axis(self.overlap, dims)
        if not all(0 <= overlap < 1 for overlap in overlaps):
            raise ValueError(f"overlap must be >= 0 and < 1, but it is {self.overlap}")
        halo = _per_axis(self.halo, dims)
        if any(halo) and (condition is not None or self.with_coord):
            raise ValueError("a halo goes without `condition` and with_coord, whose windows would leave the inputs")
        plain, crop = self._padded(inputs, window)
        extra = None if condition is None else self._padded(condition, window)[0]
        grid = WindowGrid.regular(tuple(plain.shape[2:]), window, overlaps, halo=halo)
        device = open_device(str(inputs.device if self.sw_device is None else self.sw_device))
        results = []
        for number, volume in enumerate(plain):
            packer = OutputPacker(
                network,
                args,
                kwargs,
                dtype=inputs.dtype,
                slices_of=partial(_slices, grid, number) if self.with_coord else None,
                condition=None if extra is None else extra[number],
                grid=grid,
            )
            stitched = self._run(volume, grid, packer, device)
            cropped = stitched[(slice(None), *crop)].to(inputs.dtype).to(inputs.device if wanted is None else wanted)
            results.append(packer.unpack(cropped[None]))
        return _joined(results, inputs)

    def _window(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        sizes = _per_axis(self.roi_size, len(shape))
        if len(sizes) != len(shape):
            raise ValueError(f"inputs of {len(shape)} spatial axes {shape} need as many in roi_size: {self.roi_size}")
        return tuple(side if not size or size < 0 else int(size) for size, side in zip(sizes, shape, strict=True))

    def _padded(self, tensor: torch.Tensor, window: Sequence[int]) -> tuple[torch.Tensor, tuple[slice, ...]]:
        """Return *tensor* on the CPU, at least as large as the window, and where in it the image lies."""
        grid = WindowGrid.regular(tuple(tensor.shape[2:]), window, 0)
        sides = [side for pair in reversed(grid.pad_vox) for side in pair]
        value = {"value": self.cval} if self.padding_mode == "constant" else {}
        plain = tensor.detach().as_subclass(torch.Tensor).to("cpu", torch.float32)
        if any(_per_axis(self.halo, len(grid.axes))):  # windows are mirrored wherever they leave the inputs
            return plain, tuple(slice(None) for _ in grid.axes)
        if any(sides):
            plain = F.pad(plain, sides, mode=str(self.padding_mode), **value)
        crop = tuple(slice(before, before + side) for side, (before, _) in zip(grid.shape, grid.pad_vox, strict=True))
        return plain, crop

    def _run(self, volume: torch.Tensor, grid: WindowGrid, packer: OutputPacker, device: Device) -> torch.Tensor:
        source = ArraySource(volume.numpy(), channel_axis=0)
        sweep = Sweep(
            grid,
            out_channels=1,
            intensity=Identity(),
            sw_batch_size=self.sw_batch_size,
            blend=self.mode,
            sigma_scale=_per_axis(self.sigma_scale, len(grid.axes)),
        )
        forward = Forward(packer, None, grid.window, device)
        sweep = _probed(sweep, forward, source, device)
        sink = ArraySink.empty((sweep.out_channels, *grid.shape), np.float32)
        with self._shown(sweep.forward_passes) as on_event:
            run_sweep(
                [Worker(device, forward)],
                source,
                sweep,
                reduction=Reduction(lambda planes: planes),
                sink=sink,
                on_event=on_event,
            )
        return torch.from_numpy(sink.array)

    @contextmanager
    def _shown(self, passes: int) -> Iterator[EventHandler | None]:
        """Yield a handler that moves a bar, if one is wanted."""
        if not self.progress:
            yield None
            return
        try:
            from tqdm import tqdm  # type: ignore[import-untyped]
        except ImportError:
            warnings.warn("progress=True shows nothing, as tqdm is not installed", stacklevel=4)
            yield None
            return
        with tqdm(total=passes) as bar:
            yield lambda event: bar.update() if isinstance(event, PassFinished) else None


def _per_axis(value: Any, dims: int) -> tuple[Any, ...]:
    """Return one value per axis; a sequence or an array has them already."""
    return tuple(value) if np.ndim(value) else (value,) * dims


def _probed(sweep: Sweep, forward: Forward, source: ArraySource, device: Device) -> Sweep:
    """Return *sweep* with the channels that the network gives, found by its first pass, which is not made again.

    Where that pass does not fit, it is tried with fewer windows, and so is the run.
    """
    reader = WindowReader(source, sweep.grid, sweep.intensity, sweep.grid.whole)
    windows = sweep.windows_of(sweep.grid.whole)[: sweep.sw_batch_size]
    stream = device.open_stream(main=True)
    while True:
        with (
            LackOfMemory(device) as lack,
            device.running(sweep.precision),
            WindowPrefetcher(reader, windows, len(windows), device=device, stream=stream, read_ahead=0) as batches,
        ):
            for batch in batches:
                channels = forward.probe(batches.values, batch)
        if lack.error is None:
            return replace(sweep, out_channels=channels, sw_batch_size=len(windows))
        if len(windows) == 1:
            raise OutOfMemoryError(
                f"one window of {format_sides(sweep.grid.window)} voxels does not fit into the memory of "
                f"{device.name}: choose a smaller roi_size"
            ) from lack.error
        device.release_cached()
        windows = windows[: len(windows) // 2]


class OutputPacker:
    """Calls a network as MONAI's inferers do and gives its tensors as the channels of one.

    Windows are cast to *dtype*; *slices_of* gives a window's slices where the network wants them as its second
    argument; *condition*, (C, *spatial) on the CPU, padded, is cut into the same windows.
    """

    needs_windows = True

    def __init__(
        self,
        network: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        *,
        dtype: torch.dtype,
        slices_of: Callable[[Window], list[slice]] | None,
        condition: torch.Tensor | None,
        grid: WindowGrid,
    ) -> None:
        self._network, self._args, self._kwargs = network, args, dict(kwargs)
        self._dtype, self._slices_of, self._condition, self._grid = dtype, slices_of, condition, grid
        self._names: tuple[Any, ...] | None = None
        self._is_sequence = False
        self._channels: tuple[int, ...] = ()

    def __call__(self, tensor: torch.Tensor, windows: Sequence[Window]) -> torch.Tensor:
        """Return all outputs for *tensor*, (B, C, *window), side by side as channels."""
        return self._pack(self._predict(tensor, windows))

    def _predict(self, tensor: torch.Tensor, windows: Sequence[Window]) -> Any:
        kwargs = dict(self._kwargs)
        if self._condition is not None:
            parts = [self._condition[(slice(None), *_spatial(self._grid, window))] for window in windows]
            kwargs["condition"] = torch.stack(parts).to(tensor.device, self._dtype)
        coordinates = () if self._slices_of is None else ([self._slices_of(window) for window in windows],)
        return self._network(tensor.to(self._dtype), *coordinates, *self._args, **kwargs)

    def _pack(self, output: Any) -> torch.Tensor:
        if isinstance(output, torch.Tensor):
            tensors = [output]
        elif isinstance(output, Mapping):
            self._names, tensors = tuple(output), list(output.values())
        else:
            self._is_sequence, tensors = True, list(output)
        tensors = [self._placed(tensor) for tensor in tensors]
        self._channels = tuple(tensor.shape[1] for tensor in tensors)
        return tensors[0] if len(tensors) == 1 else torch.cat([scores(tensor).float() for tensor in tensors], 1)

    def _placed(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return an output as large as its window: with zeros where the window's halo is not in it."""
        margins = margins_of(tensor.shape[2:], self._grid.window)
        if margins is not None and all(margin <= halo for margin, halo in zip(margins, self._grid.halo, strict=True)):
            return with_margins(tensor, margins)
        remedy = f"; if it leaves out what convolutions without padding do, say halo={margins}" if margins else ""
        raise ModelError(
            f"the network gave an output of {tuple(tensor.shape[2:])} voxels for a window of {self._grid.window}: "
            f"SlabInferer stitches outputs that are as large as their window{remedy}"
        )

    def unpack(self, stitched: torch.Tensor) -> Any:
        """Return *stitched*, (B, all channels, *spatial), in the structure that the network gave."""
        tensors = torch.split(stitched, list(self._channels), 1)
        if self._names is not None:
            return dict(zip(self._names, tensors, strict=True))
        # As MONAI: a sequence of one comes back as the tensor itself.
        return tuple(tensors) if self._is_sequence and len(tensors) > 1 else tensors[0]


def _slices(grid: WindowGrid, number: int, window: Window) -> list[slice]:
    """Return a window as MONAI names it: slices over batch, channels and space of the padded inputs."""
    return [slice(number, number + 1), slice(None), *_spatial(grid, window)]


def _spatial(grid: WindowGrid, window: Window) -> tuple[slice, ...]:
    return tuple(slice(start, start + side) for start, side in zip(window.start, grid.window, strict=True))


def _joined(results: Sequence[Any], inputs: torch.Tensor) -> Any:
    """Return the results of all volumes as one batch, in the structure that the network gave."""
    first = results[0]
    if isinstance(first, Mapping):
        return {name: _joined([result[name] for result in results], inputs) for name in first}
    if isinstance(first, tuple):
        return tuple(_joined(each, inputs) for each in zip(*results, strict=True))
    joined = torch.cat(list(results))
    # MONAI's MetaTensor: the result carries the image's affine and history.
    is_meta = hasattr(inputs, "copy_meta_from")
    return type(inputs)(joined).copy_meta_from(inputs) if is_meta else joined  # type: ignore[attr-defined]
