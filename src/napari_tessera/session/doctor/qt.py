"""Whether a window can be opened, and which system library is missing if not."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib import resources

from napari_tessera.session.doctor.finding import Finding, Status
from napari_tessera.session.doctor.system import has_display, installed_version, pip_command, run_program

BINDINGS = ("PyQt6", "PySide6", "PyQt5", "PySide2")

START_QT = "from qtpy.QtWidgets import QApplication; QApplication([])"

# Prints the libraries that the system cannot load, one a line.
TRY_LIBRARIES = """
import ctypes, sys
for name in sys.argv[1:]:
    try:
        ctypes.CDLL(name)
    except OSError:
        print(name)
"""


def check_qt() -> Iterator[Finding]:
    """Tell whether a window can be opened; tried in another process, since Qt ends the one it fails in."""
    binding = next((name for name in BINDINGS if installed_version(name)), None)
    if binding is None:
        detail = "no Qt binding: the command line works, the widget does not"
        yield Finding("Qt", Status.WARN, detail, pip_command("PyQt6"))
        return
    found = f"{binding} {installed_version(binding)}"
    has_windows = has_display()
    code, output = run_program(
        [sys.executable, "-c", START_QT], **({} if has_windows else {"QT_QPA_PLATFORM": "offscreen"})
    )
    if code != 0:
        yield _explain_failure(found, binding, output)
    elif has_windows:
        yield Finding("Qt", Status.OK, found)
    else:
        detail = f"{found}; no display here: the command line works, windows do not"
        yield Finding("Qt", Status.WARN, detail, "log in with a desktop, or with ssh -X")


def qt_libraries() -> dict[str, str]:
    """Return the system libraries that Qt loads under X11: name to Debian package."""
    text = resources.files("napari_tessera.session.doctor").joinpath("qt_libraries.txt").read_text(encoding="utf-8")
    lines = (line for line in text.splitlines() if line and not line.startswith("#"))
    return dict(line.split() for line in lines)


def _explain_failure(found: str, binding: str, output: str) -> Finding:
    missing = _missing_libraries() if sys.platform == "linux" else []
    if missing:
        packages = " ".join(qt_libraries()[name] for name in missing)
        detail = f"{found} does not start: the system lacks {', '.join(missing)}"
        return Finding("Qt", Status.FAIL, detail, f"sudo apt-get install {packages}")
    detail = f"{found} does not start: {_telling_line(output)}"
    return Finding("Qt", Status.FAIL, detail, pip_command("--force-reinstall", binding))


def _missing_libraries() -> list[str]:
    code, output = run_program([sys.executable, "-c", TRY_LIBRARIES, *qt_libraries()])
    return [line for line in output.split() if line in qt_libraries()] if code == 0 else []


def _telling_line(output: str) -> str:
    """Return the line of Qt's output that says what is wrong; it prints several."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    telling = [line for line in lines if "could not" in line.lower() or "error" in line.lower()]
    return (telling or lines or ["it gives no reason"])[0]
