"""Python, packages, the plugin, the bundled model, folders, and whether Qt can open a window."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Iterator
from importlib import resources
from tempfile import TemporaryFile

from napari_tessera.core.units import format_bytes
from napari_tessera.core.writing import configuration_folder
from napari_tessera.engine.devices.host_memory import host_memory
from napari_tessera.session.doctor.finding import Finding, Status
from napari_tessera.session.doctor.system import has_display, installed_version, pip_command, run_program

OLDEST_PYTHON, NEWEST_PYTHON = (3, 11), (3, 13)
LITTLE_MEMORY_BYTES = 4 * 2**30
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


def check_python() -> Iterator[Finding]:
    """Tell whether this is a Python that Tessera is tested on."""
    version = sys.version_info[:2]
    detail = f"{platform.python_version()} ({sys.executable})"
    if OLDEST_PYTHON <= version <= NEWEST_PYTHON:
        yield Finding("Python", Status.OK, detail)
    else:
        status = Status.FAIL if version < OLDEST_PYTHON else Status.WARN
        yield Finding("Python", status, detail, "use Python 3.11, 3.12 or 3.13")


def check_host_memory() -> Iterator[Finding]:
    """Tell how much memory there is for volumes and results, within what a container or a job allows."""
    memory = host_memory()
    detail = f"{format_bytes(memory.free_bytes)} free of {format_bytes(memory.total_bytes)}, {os.cpu_count()} CPU cores"
    if memory.free_bytes < LITTLE_MEMORY_BYTES:
        yield Finding("host memory", Status.WARN, detail, "close other programs, and keep batch_size at 1")
    else:
        yield Finding("host memory", Status.OK, detail)


def check_monai() -> Iterator[Finding]:
    """Tell whether MONAI is there, with the architectures that checkpoints are rebuilt from."""
    yield _find_package("MONAI", "monai")


def check_napari() -> Iterator[Finding]:
    """Tell whether napari is there."""
    yield _find_package("napari", "napari")


def check_plugin() -> Iterator[Finding]:
    """Tell whether napari finds Tessera's manifest, and a valid one."""
    from npe2 import PluginManifest

    try:
        manifest = PluginManifest.from_distribution("napari-tessera")
    except Exception as error:  # not installed; a dead link in its place; no YAML; not valid
        reason = str(error).partition("\n")[0]
        yield Finding("plugin", Status.FAIL, f"napari does not find Tessera: {reason}", _reinstall())
    else:
        yield Finding("plugin", Status.OK, f"{manifest.display_name} {manifest.package_version}")


def check_bundled_model() -> Iterator[Finding]:
    """Tell whether the description and the weights of the bundled network are there."""
    folder = resources.files("napari_tessera") / "models" / "bundled"
    names = {entry.name for entry in folder.iterdir()} if folder.is_dir() else set()
    models = sorted(name.removesuffix(".yaml") for name in names if name.endswith(".yaml"))
    lacking = [name for name in models if f"{name}.safetensors" not in names]
    if models and not lacking:
        yield Finding("bundled model", Status.OK, ", ".join(models))
    else:
        detail = f"weights of {', '.join(lacking)} are missing" if lacking else "its files are missing"
        yield Finding("bundled model", Status.FAIL, detail, _reinstall())


def check_settings_folder() -> Iterator[Finding]:
    """Tell whether Tessera can remember which models are trusted."""
    folder = configuration_folder()
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    try:
        with TemporaryFile(dir=existing):
            pass
    except OSError as error:
        remedy = f"make '{existing}' writable; until then trusted models are asked about every time"
        yield Finding("settings folder", Status.WARN, f"{folder}: {error.strerror}", remedy)
    else:
        yield Finding("settings folder", Status.OK, str(folder))


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


def _find_package(name: str, package: str) -> Finding:
    version = installed_version(package)
    if version is None:
        return Finding(name, Status.FAIL, "not installed", pip_command(package))
    return Finding(name, Status.OK, version)


def _reinstall() -> str:
    return pip_command("--force-reinstall", "--no-deps", "napari-tessera")
