"""Missing, damaged and truncated TIFF files, each told in one sentence."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import get_ident

import tifffile

from napari_tessera.core.errors import MORE_MEMORY, InputError, OutOfMemoryError, TesseraError, lacks_memory
from napari_tessera.images.readers.ome import check_description
from napari_tessera.images.readers.tiff_images import is_beside

__all__ = ["is_named_ome", "opening", "reading"]


@contextmanager
def reading(path: Path, kind: str = "TIFF") -> Iterator[None]:
    """Turn what a parser raises on a missing or damaged file into one sentence about the file."""
    try:
        yield
    except TesseraError:
        raise
    except MemoryError as error:
        raise OutOfMemoryError(
            f"'{path}' does not fit into memory; save it uncompressed, then it is read piece by piece"
        ) from error
    except FileNotFoundError as error:
        raise InputError(f"there is no file '{path}'") from error
    except IsADirectoryError as error:
        raise InputError(f"'{path}' is a folder; name a file in it") from error
    except PermissionError as error:
        raise InputError(f"'{path}' may not be read; check its permissions") from error
    # A parser fed with damaged bytes raises nearly anything: struct, index, key, zlib and codec errors.
    except Exception as error:
        if lacks_memory(error):
            raise OutOfMemoryError(f"the host's memory did not suffice for reading '{path}': {MORE_MEMORY}") from error
        reason = str(error).partition("\n")[0][:200] or type(error).__name__
        raise InputError(f"'{path}' cannot be read as {kind} ({reason}); it may be damaged, export it again") from error


@contextmanager
def opening(path: Path) -> Iterator[tifffile.TiffFile]:
    """Open a TIFF file, close it after the block, and refuse it if it has lost planes.

    Where planes are missing tifffile opens fewer, fills in zeros, or fails when they are read; at most it tells its
    log. Half a volume that is segmented as if it were the whole is worse than none.
    """
    with reading(path), _Errors() as errors, tifffile.TiffFile(path) as file:
        if file.is_ome:
            check_description(path, file.ome_metadata or "")
        if not file.series:
            raise InputError(f"'{path}' holds no image")
        if is_named_ome(path) and not file.is_ome:
            raise InputError(
                f"'{path}' has no OME description: it is truncated or damaged, or its name should end in .tif alone"
            )
        if errors.about_planes or _is_given_up(file) or any(map(_lacks_planes, file.series)):
            raise InputError(f"'{path}' is truncated or damaged: planes are missing; copy or export it again")
        _check_described(path, file)
        yield file


class _Errors(logging.Handler):
    """Listens while tifffile, in this thread, logs that it cannot follow the chain of planes."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.about_planes = False
        self._thread = get_ident()

    def __enter__(self) -> _Errors:
        logging.getLogger("tifffile").addHandler(self)
        return self

    def __exit__(self, *exception: object) -> None:
        logging.getLogger("tifffile").removeHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        if record.thread == self._thread and record.getMessage().startswith("<tifffile.TiffPages"):
            self.about_planes = True


def is_named_ome(path: Path) -> bool:
    """Tell whether the name ends in ``.ome.tif`` or ``.ome.tiff``."""
    return path.with_suffix("").suffix.lower() == ".ome"


def _is_given_up(file: tifffile.TiffFile) -> bool:
    """Tell whether tifffile gave up a description because it found fewer planes than described."""
    is_described = file.is_ome or file.is_imagej or file.is_shaped
    return is_described and file.series[0].kind in ("generic", "uniform")


def _check_described(path: Path, file: tifffile.TiffFile) -> None:
    """Refuse a file whose description counts fewer planes than it holds: the rest would go without a word."""
    if file.series[0].kind not in ("ome", "imagej"):
        return
    described = sum(series.size // series.keyframe.size for series in file.series)
    if described >= len(file.pages):
        return
    with tifffile.TiffFile(path) as again:  # frames, as a series has them, do not know what a page says it is
        held = sum(isinstance(page, tifffile.TiffPage) and not is_beside(page) for page in again.pages)
    if described < held:
        raise InputError(
            f"'{path}' holds {held} planes, but its description counts {described}: export it again, so that they agree"
        )


def _lacks_planes(series: tifffile.TiffPageSeries) -> bool:
    if series.dataoffset is not None:
        return bool(series.dataoffset + series.nbytes > series.keyframe.parent.filehandle.size)
    if len(series) * series.keyframe.size < series.size:
        return True
    return any(page is None or _end(page) > page.parent.filehandle.size for page in series)


def _end(page: tifffile.TiffPage | tifffile.TiffFrame) -> int:
    """Return the offset after the last byte of the plane's values."""
    return max((start + n for start, n in zip(page.dataoffsets, page.databytecounts, strict=True)), default=0)
