"""What a person hears of an error: one sentence on screen, and a report to hand on."""

from __future__ import annotations

import platform
import traceback

from napari_tessera.core.errors import TesseraError


def sentence(error: BaseException) -> str:
    """Return what went wrong in one sentence."""
    if isinstance(error, TesseraError):
        return str(error)
    if isinstance(error, MemoryError):
        return f"the memory of this computer did not suffice ({error}): crop the image, or close other programs"
    return f"something unexpected went wrong ({type(error).__name__}: {error}): please copy the report into an issue"


def make_report(error: BaseException) -> str:
    """Return the traceback of *error*, its causes included, with the versions that matter."""
    from napari_tessera.core.version import __version__

    where = f"napari-tessera {__version__}, Python {platform.python_version()}, {platform.platform()}"
    return f"{where}\n\n{''.join(traceback.format_exception(error))}"
