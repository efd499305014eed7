"""Programs of `torch.export`, .pt2 archives. Their shapes are JSON and read as data; opening them needs trust."""

from __future__ import annotations

import io
import logging
import re
import zipfile
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from napari_tessera.errors import ModelError
from napari_tessera.models.assumed import assume
from napari_tessera.models.formats.base import Description, Risk
from napari_tessera.models.formats.contents import Content, look, refuse_no_model
from napari_tessera.models.formats.embedded import EXTRA_FILE, check_told, find_description, read_extra
from napari_tessera.models.formats.passes import in_passes_of
from napari_tessera.models.formats.reasons import reason_of_torch
from napari_tessera.models.formats.stored_program import remember_program
from napari_tessera.models.model import Model
from napari_tessera.models.spec import ModelSpec, WindowRule
from napari_tessera.models.trust import NO_FILES, TrustedFiles
from napari_tessera.plain_json import load_json

if TYPE_CHECKING:
    from typing import IO

    from napari_tessera.models.network_file import Architecture

__all__ = ["FORMAT", "ExportedProgram", "open_exported"]

# The graph of a network of thousands of layers as JSON; more is no network.
MAX_JSON_BYTES = 50_000_000
# As torch writes sizes that may differ: a symbol, or a multiple of one.
SYMBOL = re.compile(r"Symbol\('(\w+)'")
MULTIPLE = re.compile(r"Mul\(Integer\((\d+)\), Symbol\('(\w+)'[^()]*\)\)")


@dataclass(frozen=True, slots=True)
class _Size:
    """One axis of the input: *step* 0 where only the *least* is taken."""

    least: int
    step: int


class ExportedProgram:
    """Archives that `torch.export.save` wrote."""

    name = "exported program"

    def risk(self, path: Path) -> Risk | None:
        """Return that parts of such archives are pickles."""
        return Risk("opening it may run code from the file, with your rights", (path,))

    def describe(self, path: Path) -> Description:
        """Return what the description beside *path* or inside it says, else what its graph says of shapes."""
        graph, text = _read(path, path)
        spec, _ = _spec(path, text, *_shapes(graph, path))
        return Description(spec)

    def load(self, path: Path, trusted: TrustedFiles = NO_FILES) -> Model:
        """Open *path*.

        Raises
        ------
        ModelError
            If the archive cannot be opened, or takes anything but one tensor of windows.
        """
        content = trusted.of(path)
        graph, text = _read(path, io.BytesIO(content))
        sizes, out_channels = _shapes(graph, path)
        spec, architecture = _spec(path, text, sizes, out_channels)
        return Model(_open(path, content, sizes[0], architecture), spec, str(path))


FORMAT = ExportedProgram()


def open_exported(path: Path, content: bytes) -> tuple[torch.nn.Module, int, int, int]:
    """Return the program *path*, and its spatial dimensions, input and output channels; the user trusts its *content*.

    Raises
    ------
    ModelError
        As `ExportedProgram.load` does.
    """
    graph, _ = _read(path, io.BytesIO(content))
    sizes, out_channels = _shapes(graph, path)
    return _open(path, content, sizes[0]), len(sizes) - 2, sizes[1].least, out_channels


def _open(path: Path, content: bytes, batch: _Size, architecture: Architecture | None = None) -> torch.nn.Module:
    log = _TorchLog()
    try:
        with log:
            program = torch.export.load(io.BytesIO(content))
    except Exception as error:  # whatever a damaged archive makes of torch's reader
        raise ModelError(
            f"cannot open {path} as an exported program, it may be damaged or of another torch than "
            f"{torch.__version__} ({reason_of_torch(log.reason or error)}): export it again"
        ) from error
    network = _Exported(program.module(), batch.least if batch.step == 0 else None)
    remember_program(network, "exported-program", lambda: nullcontext(path), path, architecture=architecture)
    return network


class _TorchLog(logging.Filter):
    """Keeps what torch writes to its log while it opens an archive, with tracebacks, from being shown."""

    def __init__(self) -> None:
        super().__init__()
        self.reason: BaseException | None = None
        self._loggers = [logging.getLogger(name) for name in ("torch.export", "torch.export.pt2_archive._package")]

    def filter(self, record: logging.LogRecord) -> bool:
        """Keep the error that is told of, which torch does not raise itself."""
        if record.exc_info and self.reason is None:
            self.reason = record.exc_info[1]
        return False

    def __enter__(self) -> None:
        for logger in self._loggers:
            logger.addFilter(self)

    def __exit__(self, *_: object) -> None:
        for logger in self._loggers:
            logger.removeFilter(self)


class _Exported(torch.nn.Module):
    """The graph of an exported program, which knows no training and refuses to be asked about it."""

    def __init__(self, graph: torch.nn.Module, batch: int | None) -> None:
        super().__init__()
        for module in graph.modules():
            module.training = False
        self.graph = graph
        self.batch = batch
        self.training = False

    def forward(self, windows: torch.Tensor) -> Any:
        """Return the program's output for *windows*, (B, C, *window)."""
        return in_passes_of(self.batch, self.graph, windows)


def _read(path: Path, source: Path | IO[bytes]) -> tuple[dict[str, Any], bytes]:
    """Return the graph of the archive *path*, read from *source*, and the description inside; b"" without one."""
    content = look(path)
    refuse_no_model(content, str(path))
    if content is not Content.EXPORTED:
        raise ModelError(f"{path} is no exported program, but {content.value}: save it with torch.export.save")
    try:
        with zipfile.ZipFile(source) as archive:
            names = archive.namelist()
            graph = next((name for name in names if name.endswith("/models/model.json")), None)
            if graph is None:
                raise ModelError(
                    f"{path} holds no models/model.json, as what torch wrote before 2.8: export it again with a newer "
                    f"torch"
                )
            if archive.getinfo(graph).compress_type != zipfile.ZIP_STORED:
                raise ModelError(f"the graph in {path} is compressed, which torch.export.save never does: export again")
            if archive.getinfo(graph).file_size > MAX_JSON_BYTES:
                raise ModelError(f"the graph in {path} has more than {MAX_JSON_BYTES} bytes: no network has")
            return load_json(archive.read(graph)), read_extra(archive, path)
    # NotImplementedError is an unknown compression, RuntimeError a password, RecursionError too many brackets.
    except (OSError, EOFError, zipfile.BadZipFile, ValueError, RuntimeError) as error:
        raise ModelError(
            f"cannot open {path} as an exported program, the file may be cut short ({error}): get it again"
        ) from error


def _shapes(content: dict[str, Any], path: Path) -> tuple[tuple[_Size, ...], int]:
    """Return the sizes that the program's only input may have, and the channels of its first output."""
    try:
        graph = content["graph_module"]["graph"]
        specs = content["graph_module"]["signature"]["input_specs"]
        inputs = [spec["user_input"]["arg"]["as_tensor"]["name"] for spec in specs if "user_input" in spec]
        if len(inputs) != 1:
            raise ModelError(f"{path} takes {len(inputs)} inputs, but Tessera gives one: windows of an image")
        ranges = content.get("range_constraints", {})
        sizes = tuple(_size(size, ranges) for size in graph["tensor_values"][inputs[0]]["sizes"])
        output = graph["tensor_values"][graph["outputs"][0]["as_tensor"]["name"]]["sizes"]
        out_channels = int(output[1]["as_int"])
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise ModelError(
            f"the graph in {path} does not say what shapes it takes and gives ({error!r}): export it again"
        ) from error
    if len(sizes) not in (4, 5):
        raise ModelError(
            f"{path} takes an input of {len(sizes)} axes, but Tessera gives (windows, channels, y, x) or "
            f"(windows, channels, z, y, x)"
        )
    return sizes, out_channels


def _size(size: dict[str, Any], ranges: dict[str, Any]) -> _Size:
    if "as_int" in size:
        return _Size(int(size["as_int"]), 0)
    text = size["as_expr"]["expr_str"]
    multiple, symbol = MULTIPLE.fullmatch(text), SYMBOL.match(text)
    if multiple:
        step, name = int(multiple[1]), f"{multiple[1]}*{multiple[2]}"
    elif symbol:
        step, name = 1, symbol[1]
    else:
        raise ValueError(f"a side of {text}")
    least = ranges.get(name, {}).get("min_val") or step
    return _Size(-(-max(int(least), step) // step) * step, step)


def _spec(
    path: Path, text: bytes, sizes: tuple[_Size, ...], out_channels: int
) -> tuple[ModelSpec, Architecture | None]:
    """Return the description, and the class that it names."""
    _, channels, *sides = sizes
    if described := find_description(path, text, f"{EXTRA_FILE} inside {path}"):
        told = {"spatial_dims": len(sides), "in_channels": channels.least, "out_channels": out_channels}
        return check_told(path, described.spec, **told), described.architecture
    free = WindowRule.free(len(sides)).default
    default = tuple(
        side.least if side.step == 0 else max(wanted // side.step * side.step, side.least)
        for side, wanted in zip(sides, free, strict=True)
    )
    rule = WindowRule(default, tuple(side.step for side in sides), tuple(side.least for side in sides))
    assumed = assume("normalisation", "activation", "output")
    return ModelSpec(path.stem, len(sides), channels.least, out_channels, rule, assumed=assumed), None
