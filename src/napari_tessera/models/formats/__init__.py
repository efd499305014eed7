"""One module for each way in which networks are stored; `registry` says which one opens a file."""
