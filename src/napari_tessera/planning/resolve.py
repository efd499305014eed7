"""Settings, model, volumes and device in; plan out. Pure: it touches no device and reads no voxel."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_tessera.engine.grid import WindowGrid
from napari_tessera.engine.stitch import FLOAT_BYTES, estimate_slab_bytes
from napari_tessera.engine.tta import views
from napari_tessera.errors import InputError, SettingsError
from napari_tessera.planning.advice import advise
from napari_tessera.planning.memory import PassShape, estimate_host_bytes, estimate_memory
from napari_tessera.planning.plan import DeviceState, MemoryEstimate, Plan, VolumePlan

if TYPE_CHECKING:
    from napari_tessera.decode import Decoder
    from napari_tessera.engine.settings import Settings
    from napari_tessera.models.spec import ModelSpec

__all__ = ["Traced", "complete_settings", "resolve"]

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Traced:
    """What is known of a network's memory.

    Parameters
    ----------
    weights_bytes
        Parameters and buffers.
    activations_bytes
        Peak of one forward pass as a function of window and ``sw_batch_size``.
    """

    weights_bytes: int
    activations_bytes: Callable[[Shape, int], int]


def resolve(
    shapes: Sequence[Shape],
    spec: ModelSpec,
    settings: Settings,
    *,
    traced: Traced,
    device: DeviceState,
    decoder: Decoder | None,
    itemsize: int = 4,
    voxel_size_um: tuple[float, ...] | None = None,
) -> Plan:
    """Return what a run with these settings will do.

    Parameters
    ----------
    shapes
        Spatial shape of every volume, in order.
    spec
        The model.
    settings
        What the user wants.
    traced
        The network's memory.
    device
        Where it will run.
    decoder
        What makes labels of probabilities; None keeps the probabilities.
    itemsize
        Bytes per value of the images.
    voxel_size_um
        Of the images, if known.

    Raises
    ------
    SettingsError
        If the settings do not suit the model.
    InputError
        If a shape has no voxels or the wrong number of axes.
    """
    settings = complete_settings(settings, spec, decoder)
    _check_shapes(shapes, spec)
    seen = views(settings.tta_num, spec.spatial_dims)
    _check_transposes(settings, any(view.transpose for view in seen))
    window = settings.window_size or spec.window.default
    grids = tuple(WindowGrid.regular(shape, window, settings.overlap) for shape in shapes)
    memory_at = _memory_law(grids, spec, settings, traced, device.kind)
    memory = memory_at(settings.sw_batch_size)
    host_bytes = _host_bytes(grids, spec, settings, decoder, itemsize, memory.total_bytes * (device.kind == "cpu"))
    return Plan(
        settings=settings,
        device=device,
        volumes=tuple(VolumePlan.of(grid, sw_batch_size=settings.sw_batch_size, n_views=len(seen)) for grid in grids),
        views=seen,
        offsets=_directed_offsets(spec),
        out_channels=spec.out_channels,
        memory=memory,
        host_bytes=host_bytes,
        output_bytes=sum(prod(shape) for shape in shapes) * _written_bytes_per_voxel(decoder, spec),
        advice=advise(
            settings,
            grids,
            device,
            total_bytes=lambda batch: memory_at(batch).total_bytes,
            host_bytes=host_bytes,
            volume_sizes_um=voxel_size_um,
            model_sizes_um=settings.resolution or spec.voxel_size_um,
        ),
    )


def _memory_law(
    grids: Sequence[WindowGrid], spec: ModelSpec, settings: Settings, traced: Traced, device_kind: str
) -> Callable[[int], MemoryEstimate]:
    """Return the device memory as a function of ``sw_batch_size``; the volume with the largest slab decides."""
    largest = max(grids, key=lambda grid: estimate_slab_bytes(grid, spec.out_channels))
    one = PassShape(
        window=largest.window,
        sw_batch_size=1,
        in_channels=spec.in_channels,
        out_channels=spec.out_channels,
        n_views=settings.tta_num,
        directed=bool(_directed_offsets(spec)),
        precision=settings.precision,
    )

    def memory_at(sw_batch_size: int) -> MemoryEstimate:
        held = _windows_held(sw_batch_size, grids)
        return estimate_memory(
            largest,
            replace(one, sw_batch_size=held),
            weights_bytes=traced.weights_bytes,
            activations_bytes=traced.activations_bytes(largest.window, held),
            device_kind=device_kind,
        )

    return memory_at


def _host_bytes(
    grids: Sequence[WindowGrid],
    spec: ModelSpec,
    settings: Settings,
    decoder: Decoder | None,
    itemsize: int,
    device_bytes_on_host: int,
) -> int:
    voxels = max(prod(grid.shape) for grid in grids)
    channels, dtype = (spec.out_channels, "float32") if decoder is None else decoder.reduced(spec.out_channels)
    return estimate_host_bytes(
        volume_bytes=voxels * spec.in_channels * itemsize,
        batch_size=min(settings.batch_size, len(grids)),
        reduced_bytes=voxels * channels * np.dtype(dtype).itemsize,
        staging_bytes=FLOAT_BYTES
        * spec.in_channels
        * prod(grids[0].window)
        * _windows_held(settings.sw_batch_size, grids),
        decoding_bytes=0 if decoder is None else decoder.working_bytes(voxels),
        device_bytes_on_host=device_bytes_on_host,
    )


def _windows_held(sw_batch_size: int, grids: Sequence[WindowGrid]) -> int:
    """Return the windows of the largest pass: never more than a volume has."""
    return min(sw_batch_size, max(grid.n_windows for grid in grids))


def _written_bytes_per_voxel(decoder: Decoder | None, spec: ModelSpec) -> int:
    return FLOAT_BYTES * spec.out_channels if decoder is None else decoder.label_bytes(spec.out_channels)


def _directed_offsets(spec: ModelSpec) -> tuple[Shape, ...]:
    return spec.output.offsets if spec.output.kind == "affinities" else ()


def complete_settings(settings: Settings, spec: ModelSpec, decoder: Decoder | None) -> Settings:
    """Return *settings* with what they leave to the model filled in.

    Raises
    ------
    SettingsError
        If window, resolution or decoder do not suit the model.
    """
    window = settings.window_size or spec.window.default
    spec.window.check(window)
    if decoder is not None:
        decoder.check(spec.output, spec.out_channels)
    if settings.resolution is not None and len(settings.resolution) != spec.spatial_dims:
        raise SettingsError(
            f"resolution is {settings.resolution}, but a {spec.spatial_dims}D model needs {spec.spatial_dims} lengths"
        )
    return replace(settings, window_size=window, **_decoding(decoder))


def _decoding(decoder: Decoder | None) -> dict[str, Any]:
    """Return the settings that name *decoder* and all its parameters, so that a result says what made it."""
    if decoder is None:
        return {"decoder": None, "decoder_parameters": ()}
    parameters = {f.name: getattr(decoder, f.name) for f in fields(decoder)}
    return {"decoder": decoder.name, "decoder_parameters": tuple(parameters.items())}


def _check_shapes(shapes: Sequence[Shape], spec: ModelSpec) -> None:
    if not shapes:
        raise InputError("there is no volume to run on: name at least one")
    for shape in shapes:
        if len(shape) != spec.spatial_dims:
            raise InputError(
                f"a volume of shape {tuple(shape)} has {len(shape)} spatial axes, "
                f"but the model '{spec.name}' is {spec.spatial_dims}D"
            )
        if min(shape) < 1:
            raise InputError(f"a volume of shape {tuple(shape)} is empty: every axis needs at least one voxel")


def _check_transposes(settings: Settings, transposed: bool) -> None:
    *_, height, width = settings.window_size or (0, 0)
    if transposed and height != width:
        raise SettingsError(
            f"tta_num {settings.tta_num} turns windows by a transpose of y and x, which needs equal sides, but "
            f"window_size is {height} in y and {width} in x: make them equal, or lower tta_num"
        )
