"""From an image's intensities to those that a network was trained on."""
