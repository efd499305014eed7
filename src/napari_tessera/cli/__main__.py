"""``python -m napari_tessera.cli``: the same as ``tessera``."""

from __future__ import annotations

from napari_tessera.cli import main

if __name__ == "__main__":
    main()
