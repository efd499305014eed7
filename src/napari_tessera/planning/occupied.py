"""Which windows of an image a run computes, found before the plan: those that are not empty, and lie in a mask."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from napari_tessera.engine.grid import WindowGrid
from napari_tessera.engine.occupancy import measure_occupied
from napari_tessera.engine.source import ArraySource, Source
from napari_tessera.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from napari_tessera.engine.settings import Settings
    from napari_tessera.models.spec import ModelSpec

__all__ = ["check_mask", "find_masked", "find_windows", "window_grid"]


def window_grid(shape: tuple[int, ...], spec: ModelSpec, settings: Settings) -> WindowGrid:
    """Return the windows of an image of spatial *shape*, as a plan lays them.

    Raises
    ------
    SettingsError
        If the window does not suit the model.
    """
    window = settings.window_size or spec.window.default
    spec.window.check(window)
    return WindowGrid.regular(shape, window, settings.overlap)


def check_mask(mask: Any, shape: tuple[int, ...], name: str = "the mask") -> None:
    """Raise `InputError` unless *mask*, called *name*, has the image's spatial *shape*."""
    found = tuple(int(side) for side in mask.shape)
    if found != shape:
        raise InputError(f"{name} has the shape {found}, but the image is {shape}: give one of the same shape")


def find_masked(mask: Any, grid: WindowGrid) -> npt.NDArray[np.bool_]:
    """Return which windows of *grid* hold a voxel of *mask* that is above 0; the mask is read once."""
    return measure_occupied(ArraySource(mask), grid, above=0)


def find_windows(source: Source, spec: ModelSpec, settings: Settings, mask: Any = None) -> npt.NDArray[np.bool_] | None:
    """Return which windows of one volume a run computes, None for all of them.

    Parameters
    ----------
    source
        The volume; read once, and only if ``settings.skip_below`` asks for it.
    spec, settings
        The model and what the user wants.
    mask
        An array of the volume's spatial shape: windows in which it is 0 everywhere are left out, too. None: no mask.

    Returns
    -------
    numpy.ndarray or None
        Boolean, one per window, shape of the plan's grid.

    Raises
    ------
    InputError
        If the mask has another shape than the image, or the image cannot be read.
    SettingsError
        If the window does not suit the model.
    """
    grid = window_grid(source.shape[1:], spec, settings)
    found: npt.NDArray[np.bool_] | None = None
    if mask is not None:
        check_mask(mask, grid.shape)
        found = find_masked(mask, grid)
    if settings.skip_below is not None:
        full = measure_occupied(source, grid, above=settings.skip_below)
        found = full if found is None else full & found
    return found
