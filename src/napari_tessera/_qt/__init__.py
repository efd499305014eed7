"""The dock. Nothing but these modules imports Qt or napari."""
