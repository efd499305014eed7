"""Run trained segmentation networks over microscopy volumes, window by window, at a cost known beforehand.

Importing this package loads neither torch nor Qt; each name below is loaded when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from napari_tessera.errors import (
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
    from napari_tessera.api import find_crop, find_occupied, plan, predict, segment
    from napari_tessera.engine.events import CancelToken
    from napari_tessera.engine.grid import WindowGrid
    from napari_tessera.engine.settings import Settings
    from napari_tessera.models.load import load_model
    from napari_tessera.models.model import Model
    from napari_tessera.models.spec import ModelSpec
    from napari_tessera.planning.plan import Plan
    from napari_tessera.tuning import autotune, calibrate
    from napari_tessera.volumes.formats import open_volume
    from napari_tessera.volumes.volume import Volume

try:
    __version__ = version("napari-tessera")
except PackageNotFoundError:  # run from a source tree that was never installed
    __version__ = "0+unknown"

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
    "find_occupied",
    "load_model",
    "open_volume",
    "plan",
    "predict",
    "segment",
]

_HOME = {
    "CancelToken": "engine.events",
    "Model": "models.model",
    "ModelSpec": "models.spec",
    "Plan": "planning.plan",
    "Settings": "engine.settings",
    "Volume": "volumes.volume",
    "WindowGrid": "engine.grid",
    "autotune": "tuning",
    "calibrate": "tuning",
    "find_crop": "api",
    "find_occupied": "api",
    "load_model": "models.load",
    "open_volume": "volumes.formats",
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
