"""The sliding-window engine. Needs torch and numpy; knows neither Qt nor napari."""
