"""The sliding-window engine. Needs torch and numpy; knows neither Qt nor napari."""

import os
import sys

# A forward pass on the CPU allocates and frees buffers of tens of megabytes. The C library gives each of them back to
# the system and takes fresh pages for the next, and on Linux the page faults cost several times the arithmetic of a
# light network. Huge pages make them rare. torch reads this switch at its first allocation, so it is set before the
# engine makes one; whoever has set it already keeps their choice. Measured in benchmarks/README.md.
if sys.platform == "linux":
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
