"""Python, packages, the plugin, the bundled model and the folders they need."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Iterator
from importlib import resources
from tempfile import TemporaryFile

from napari_tessera.core.units import format_bytes
from napari_tessera.core.user_folder import configuration_folder
from napari_tessera.engine.devices.host_memory import host_memory
from napari_tessera.session.doctor.finding import Finding, Status
from napari_tessera.session.doctor.system import installed_version, pip_command

OLDEST_PYTHON, NEWEST_PYTHON = (3, 11), (3, 13)
LITTLE_MEMORY_BYTES = 4 * 2**30


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


def _find_package(name: str, package: str) -> Finding:
    version = installed_version(package)
    if version is None:
        return Finding(name, Status.FAIL, "not installed", pip_command(package))
    return Finding(name, Status.OK, version)


def _reinstall() -> str:
    return pip_command("--force-reinstall", "--no-deps", "napari-tessera")
