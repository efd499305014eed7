"""Files that appear under their names only when they are whole, and the small ones in the user's folder."""

from __future__ import annotations

import json
import os
import platform
import re
import secrets
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any

# Named for the machine and the process that writes it, so that what a dead one has left can be told.
_TEMPORARY = re.compile(r"\.tessera-(?P<machine>[0-9a-f]{8})-(?P<process>\d+)-[0-9a-f]{16}\.part")
# A process of another container may have the same machine's name and go unseen: it has written since.
STALE_AFTER_S = 3600.0


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield the name of a new, empty file beside *path*, which takes its place when the block ends well.

    Nobody can have foreseen the name and put a link there. The file has the mode that the umask gives, whatever writes
    into it. Nothing is left under the temporary name, whatever goes wrong; what an earlier process could not take away
    is taken away first.
    """
    _remove_stale(path.parent)
    temporary = path.with_name(f".tessera-{_machine()}-{os.getpid()}-{secrets.token_hex(8)}.part")
    descriptor = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
    try:
        mode = os.fstat(descriptor).st_mode & 0o777
        os.close(descriptor)
        yield temporary
        _finish(temporary, mode)
        temporary.replace(path)
    finally:
        with suppress(FileNotFoundError):  # the usual case: it has its name
            temporary.unlink()


def write_text(path: Path, text: str) -> None:
    """Write *text* in UTF-8 as the file *path*, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def configuration_folder() -> Path:
    """Return the folder of what Tessera remembers of its user; it need not be there yet."""
    from platformdirs import user_config_path

    return user_config_path("napari-tessera", appauthor=False)


def replace_json(path: Path, content: Any) -> None:
    """Write *content* to *path*, folders included: whoever reads meanwhile finds the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(content, indent=1))


def set_aside(path: Path) -> Path | None:
    """Give the damaged file *path* another name beside it, and return that; None where it cannot be renamed."""
    taken = (path.with_name(f"{path.stem}.damaged{number or ''}{path.suffix}") for number in count())
    free = next(name for name in taken if not name.exists())
    try:
        return path.rename(free)
    except OSError:
        return None


def _finish(path: Path, mode: int) -> None:
    """Give the file its mode, whoever made it anew, and wait until the disk has it: a full one says so now."""
    if path.stat().st_mode & 0o777 != mode:
        path.chmod(mode)
    descriptor = os.open(path, os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _machine() -> str:
    return f"{zlib.crc32(platform.node().encode()):08x}"


def _remove_stale(folder: Path) -> None:
    """Remove what a process of this machine that is no more has left in *folder*."""
    for found in folder.glob(".tessera-*.part"):
        named = _TEMPORARY.fullmatch(found.name)
        if named is None or named["machine"] != _machine() or _is_running(int(named["process"])):
            continue
        with suppress(OSError):  # another process has been faster, or it is somebody else's
            if time.time() - found.stat(follow_symlinks=False).st_mtime > STALE_AFTER_S:
                found.unlink()


def _is_running(process: int) -> bool:
    import psutil

    return psutil.pid_exists(process)
