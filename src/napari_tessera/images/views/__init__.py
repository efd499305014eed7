"""Views of a source, read as asked for: cut out, resampled, planes of a stack, normalised."""
