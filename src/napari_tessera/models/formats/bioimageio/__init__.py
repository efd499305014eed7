"""bioimage.io packages of formats 0.4 and 0.5."""
