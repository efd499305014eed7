"""Sample volumes that are computed, not downloaded."""

from napari_tessera.images.samples.neurites import NeuriteSample, make_neurites

__all__ = ["NeuriteSample", "make_neurites"]
