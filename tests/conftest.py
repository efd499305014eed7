"""Fixtures and marks that all tests share."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real images, which are not part of the repository; the test is skipped without it."""
    folder = Path(os.environ.get("TESSERA_TEST_DATA", "../shared/data"))
    folder = folder if folder.is_absolute() else ROOT / folder
    if not folder.is_dir():
        pytest.skip(f"real images are missing: no folder '{folder}' (set TESSERA_TEST_DATA)")
    return folder


@pytest.fixture(autouse=True)
def own_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep what the user has measured and trusted out of the tests, and the tests out of it."""
    for variable in ("XDG_CONFIG_HOME", "XDG_DATA_HOME", "APPDATA", "LOCALAPPDATA"):
        monkeypatch.setenv(variable, str(tmp_path / "configuration"))


@pytest.fixture
def memory() -> Callable[[], float]:
    """Return a function that gives the bytes by which this process has been larger since the test began."""
    peak, start_anew = Path("/proc/self/status"), Path("/proc/self/clear_refs")
    if not os.access(start_anew, os.W_OK):
        pytest.skip("the peak of a process's memory can be measured anew on Linux only")

    def read() -> float:
        return 1024.0 * int(re.search(r"VmHWM:\s+(\d+)", peak.read_text())[1])  # type: ignore[index]

    start_anew.write_text("5")
    before = read()
    return lambda: read() - before


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let optional packages be hidden, to see that nothing else depends on them."""
    parser.addoption(
        "--without", default="", metavar="MODULE,...", help="run as if these modules were not installed, such as onnx"
    )


def pytest_configure(config: pytest.Config) -> None:
    """Hide what is to be hidden: importing it fails as if it were missing."""
    for name in filter(None, config.getoption("--without").split(",")):
        for loaded in [module for module in sys.modules if module.startswith(f"{name}.")]:
            del sys.modules[loaded]
        sys.modules[name] = None  # type: ignore[assignment]


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip, visibly, tests of the GPU where there is none, and comparisons with what is not installed."""
    for marker in item.iter_markers("origin"):
        for module in marker.args:
            try:
                import_module(module)
            except ImportError as error:
                pytest.skip(f"there is nothing to compare with ({error}): `make test-origins` installs it")
    if item.get_closest_marker("gpu") is None:
        return
    import torch

    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")


@pytest.fixture(autouse=True)
def _plans_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep plans of traced networks on the owner's thread, however busy this machine is."""
    monkeypatch.setattr("napari_tessera.session.background.AT_ONCE_SECONDS", 60)


@pytest.fixture(scope="session")
def describe() -> Callable[..., Any]:
    """Describe a network, as `tests.made.describe` does."""
    from tests.made import describe

    return describe
