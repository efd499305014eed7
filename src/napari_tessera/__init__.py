"""Run trained segmentation networks over microscopy volumes, window by window, at a cost known beforehand.

Importing this package loads neither torch nor Qt; each name below is loaded when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from napari_tessera.core.errors import (
    CalibrationError,
    CancelledError,
    InputError,
    ModelError,
    OutOfMemoryError,
    OutputError,
    SettingsError,
    TesseraError,
    UntrustedModelError,
)

if TYPE_CHECKING:
    from napari_tessera.api import find_crop, find_window_mask, plan, predict, segment
    from napari_tessera.core.settings.settings import Settings
    from napari_tessera.core.version import __version__
    from napari_tessera.engine.geometry.grid import WindowGrid
    from napari_tessera.engine.loop.events import CancelToken
    from napari_tessera.images.open import open_volume
    from napari_tessera.images.volume import Volume
    from napari_tessera.jobs.tuning import autotune, calibrate
    from napari_tessera.models.load import load_model
    from napari_tessera.models.model import Model
    from napari_tessera.models.spec.spec import ModelSpec
    from napari_tessera.planning.plan import Plan


__all__ = [
    "CalibrationError",
    "CancelToken",
    "CancelledError",
    "InputError",
    "Model",
    "ModelError",
    "ModelSpec",
    "OutOfMemoryError",
    "OutputError",
    "Plan",
    "Settings",
    "SettingsError",
    "TesseraError",
    "UntrustedModelError",
    "Volume",
    "WindowGrid",
    "__version__",
    "autotune",
    "calibrate",
    "find_crop",
    "find_window_mask",
    "load_model",
    "open_volume",
    "plan",
    "predict",
    "segment",
]

_HOME = {
    "CancelToken": "engine.loop.events",
    "Model": "models.model",
    "ModelSpec": "models.spec.spec",
    "Plan": "planning.plan",
    "Settings": "core.settings.settings",
    "Volume": "images.volume",
    "WindowGrid": "engine.geometry.grid",
    "__version__": "core.version",
    "autotune": "jobs.tuning",
    "calibrate": "jobs.tuning",
    "find_crop": "api",
    "find_window_mask": "api",
    "load_model": "models.load",
    "open_volume": "images.open",
    "plan": "api",
    "predict": "api",
    "segment": "api",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    # No subpackage may have the name of a function here: importing it would put its module in the function's place.
    value = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
