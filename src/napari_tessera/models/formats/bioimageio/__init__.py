"""bioimage.io packages of format 0.5."""
