"""The state behind the widget, without Qt and without napari: any view can show it, any test can drive it."""

from __future__ import annotations

from napari_tessera.session.image_input import ImageInput
from napari_tessera.session.session import Session

__all__ = ["ImageInput", "Session"]
