"""Images in and results out: one file format per module, and views of what is read."""
