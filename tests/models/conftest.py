"""Fixtures of the tests of models."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from tests.models import sample_bioimageio

if TYPE_CHECKING:
    from tests.models.sample import Sample


@pytest.fixture
def canary(tmp_path: Path) -> Iterator[Path]:
    """A file that anything which runs would make."""
    path = tmp_path / "canary"
    yield path
    assert not path.exists(), "something of a stranger's file ran"


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Asking for any host fails the test, even where the error is caught."""
    asked: list[Any] = []

    def refuse(*arguments: Any, **_: Any) -> None:
        asked.append(arguments)
        raise OSError(f"a test asked the network for {arguments}")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    yield
    assert not asked


@pytest.fixture
def sample(tmp_path: Path) -> Sample:
    """A bioimage.io package that the test may change."""
    return sample_bioimageio.make(tmp_path)


@pytest.fixture
def package(sample: Sample) -> Path:
    """The folder of that package."""
    return sample.path
