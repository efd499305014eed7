"""Where windows and blocks lie, and which views of a window there are. Integers only."""
