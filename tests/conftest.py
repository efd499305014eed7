"""Fixtures and marks that all tests share."""

from __future__ import annotations

import os
from pathlib import Path

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


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip tests of the GPU, visibly, where there is none."""
    if item.get_closest_marker("gpu") is None:
        return
    import torch

    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
