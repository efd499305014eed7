"""The sliding-window engine. Needs torch and numpy; knows neither Qt nor napari."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from napari_tessera.engine.monai import SlabInferer

__all__ = ["SlabInferer"]


def __getattr__(name: str) -> Any:
    # Loaded when first used: settings and grids are wanted before torch is.
    if name == "SlabInferer":
        from napari_tessera.engine.monai import SlabInferer

        return SlabInferer
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
