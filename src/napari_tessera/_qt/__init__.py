"""The dock widget. Nothing but these modules imports Qt or napari."""

from __future__ import annotations

from napari_tessera._qt.widget import TesseraWidget

__all__ = ["make_widget"]

# A class, not a function: napari passes its viewer to a plugin's widget only through ``__init__``.
make_widget = TesseraWidget
