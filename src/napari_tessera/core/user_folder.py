"""Small JSON files in the user's configuration folder: where they are, and how they are replaced."""

from __future__ import annotations

import json
from itertools import count
from pathlib import Path
from typing import Any

from napari_tessera.core.writing import write_text


def configuration_folder() -> Path:
    """Return the folder of what Tessera remembers of its user; it need not be there yet."""
    from platformdirs import user_config_path

    return user_config_path("napari-tessera", appauthor=False)


def replace_json(path: Path, content: Any) -> None:
    """Write *content* to *path*, folders included: whoever reads meanwhile finds the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(content, indent=1))


def set_aside(path: Path) -> Path | None:
    """Give the damaged file *path* another name beside it, and return that; None where it cannot be renamed."""
    taken = (path.with_name(f"{path.stem}.damaged{number or ''}{path.suffix}") for number in count())
    free = next(name for name in taken if not name.exists())
    try:
        return path.rename(free)
    except OSError:
        return None
