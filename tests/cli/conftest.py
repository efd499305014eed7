"""A network that costs nothing, images it segments exactly, and the command as a function."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from napari_tessera.cli import main
from napari_tessera.images.writers.tiff import write_tiff
from napari_tessera.models.safety.trusted_files import TrustStore

DESCRIPTION: dict[str, Any] = {
    "format": "tessera-model/1",
    "name": "bright",
    "spatial_dims": 3,
    "in_channels": 1,
    "out_channels": 1,
    "window": {"default": [8, 16, 16], "step": [4, 4, 4], "minimum": [4, 4, 4]},
    "normalisation": {"mode": "divide", "by": 255},
    "activation": "none",
    "output": {"kind": "foreground"},
    "voxel_size_um": [0.02, 0.01, 0.01],
}


class Bright(torch.nn.Module):
    """Bright voxels are foreground: the network is the identity."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = torch.nn.Parameter(torch.ones(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.gain


class Slow(Bright):
    """The same, but it takes its time."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = x
        for _ in range(400):
            y = torch.sin(y)
        return x * self.gain + 0 * y


class Failing(Bright):
    """Refuses images with a voxel of 253 (253 / 255 once normalised)."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if bool(((x * 255 - 253).abs() < 1e-4).any()):
            raise ValueError("I do not like 253")
        return x * self.gain


def archived(network: torch.nn.Module) -> bytes:
    """Return *network* as TorchScript."""
    content = BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.save(torch.jit.script(network), content)
    return content.getvalue()


@cache
def archive_of(kind: type[torch.nn.Module]) -> bytes:
    """Return a network of this class as TorchScript, made once."""
    return archived(kind())


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep the tests away from the user's list of trusted models, and from their terminal."""
    folder = tmp_path / "home"
    for variable in ("XDG_CONFIG_HOME", "HOME", "APPDATA", "LOCALAPPDATA"):
        monkeypatch.setenv(variable, str(folder))
    for variable in ("TESSERA_DEBUG", "FORCE_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("COLUMNS", "100")
    return folder


@pytest.fixture
def save_network(tmp_path: Path) -> Callable[..., Path]:
    """Writes a network, or one of a class, as TorchScript with its description beside it; nobody has trusted it yet."""

    def save(network: torch.nn.Module | type[torch.nn.Module], name: str = "bright", **changes: Any) -> Path:
        path = tmp_path / f"{name}.pt"
        path.write_bytes(archive_of(network) if isinstance(network, type) else archived(network))
        path.with_suffix(".yaml").write_text(yaml.safe_dump(DESCRIPTION | changes))
        return path

    return save


@pytest.fixture
def model(save_network: Callable[..., Path], home: Path) -> Path:
    """A trusted network that finds bright blobs."""
    path = save_network(Bright)
    TrustStore().add(path)
    return path


@pytest.fixture
def failing_model(save_network: Callable[..., Path], home: Path) -> Path:
    """A trusted network that raises where a voxel is 253."""
    path = save_network(Failing, "failing")
    TrustStore().add(path)
    return path


@pytest.fixture
def slow_model(save_network: Callable[..., Path], home: Path) -> Path:
    """A trusted network whose passes take long enough to be stopped."""
    path = save_network(Slow, "slow")
    TrustStore().add(path)
    return path


def blobs(n: int, value: int = 200) -> np.ndarray:
    """Return an image, (10, 24, 40), with *n* separate bright cubes."""
    image = np.zeros((10, 24, 40), np.uint8)
    for i in range(n):
        image[2:5, 3:7, 2 + 6 * i : 5 + 6 * i] = value
    return image


@pytest.fixture
def make_image(tmp_path: Path) -> Callable[..., Path]:
    """Writes an image of so many bright cubes, or of the values that it is given."""

    def make(
        content: int | np.ndarray, name: str = "raw.tif", axes: str = "ZYX", value: int = 200, **options: Any
    ) -> Path:
        path = tmp_path / name
        values = blobs(content, value) if isinstance(content, int) else content
        write_tiff(path, values, axes=axes, **{"voxel_size_um": (0.02, 0.01, 0.01)} | options)
        return path

    return make


@pytest.fixture
def image(make_image: Callable[..., Path]) -> Path:
    """An image of three objects."""
    return make_image(3)


@dataclass(frozen=True)
class Ended:
    """How a command ended, and what it printed."""

    code: int
    out: str
    err: str


@pytest.fixture
def tessera(capfd: pytest.CaptureFixture[str]) -> Callable[..., Ended]:
    """Run the command in this process, errors and exit code as in a shell."""

    def run(*arguments: object) -> Ended:
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        printed = capfd.readouterr()
        assert "Traceback" not in printed.err
        return Ended(int(ended.value.code or 0), printed.out, printed.err)

    return run
