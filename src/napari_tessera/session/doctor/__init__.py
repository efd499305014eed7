"""What works on this machine, what does not, and how to mend it: the findings behind ``tessera doctor``."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from napari_tessera.session.doctor import gpu, installation
from napari_tessera.session.doctor.finding import Finding, Status

__all__ = ["Finding", "Status", "examine"]

Check = Callable[[], Iterator[Finding]]

CHECKS: tuple[Check, ...] = (
    installation.check_python,
    gpu.check_torch,
    gpu.check_gpu,
    installation.check_host_memory,
    installation.check_monai,
    installation.check_bundled_model,
    installation.check_napari,
    installation.check_plugin,
    installation.check_qt,
    installation.check_settings_folder,
)


def examine() -> list[Finding]:
    """Look at everything that Tessera needs; changes nothing and raises nothing.

    Takes some seconds: torch is imported, and Qt is started in a process of its own.
    """
    return [finding for check in CHECKS for finding in _findings(check)]


def _findings(check: Check) -> list[Finding]:
    """Return what a check finds. One that fails in a way nobody thought of must not hide the others."""
    try:
        return list(check())
    except Exception as error:
        name = check.__name__.removeprefix("check_").replace("_", " ")
        return [Finding(name, Status.FAIL, f"could not be examined: {error!r}", "please report this")]
