"""Files are whole or not there, under names that nobody foresees and with the mode of the umask."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from napari_tessera.core.settings.connectomics_export import write_connectomics
from napari_tessera.core.settings.settings import Settings
from napari_tessera.core.writing import STALE_AFTER_S, replacing, write_text
from napari_tessera.images.writers.tiff import write_tiff
from napari_tessera.memory.calibration.store import CalibrationStore
from napari_tessera.models.load import BUNDLED, load_model
from napari_tessera.models.packing import pack
from napari_tessera.models.safety.trusted_files import TrustStore


def _stop(folder: Path) -> Path:
    """Leave what a process leaves that is killed while it writes."""
    code = (
        "import os, sys, pathlib; from napari_tessera.core.writing import replacing\n"
        "with replacing(pathlib.Path(sys.argv[1])) as path: path.write_text('half'); os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", code, folder / "a.txt"], check=False, timeout=60)
    (left,) = folder.iterdir()
    return left


def _age(path: Path) -> None:
    then = time.time() - 2 * STALE_AFTER_S
    os.utime(path, (then, then))


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL")
def test_what_a_dead_process_left_is_removed_once_it_is_old(tmp_path: Path) -> None:
    left = _stop(tmp_path)
    write_text(tmp_path / "b.txt", "b")
    assert left.exists()
    _age(left)
    write_text(tmp_path / "b.txt", "b")
    assert [path.name for path in tmp_path.iterdir()] == ["b.txt"]


@pytest.mark.parametrize("whose", ["a living process", "another machine", "another program"])
def test_what_is_not_surely_ours_stays(tmp_path: Path, whose: str) -> None:
    machine = zlib.crc32(platform.node().encode())
    number = os.getpid() if whose == "a living process" else 2**22 + 1  # more than Linux gives
    machine ^= whose == "another machine"
    name = f".tessera-{machine:08x}-{number}-0123456789abcdef.part"
    left = tmp_path / (".a.tif.part" if whose == "another program" else name)
    left.touch()
    _age(left)
    write_text(tmp_path / "b.txt", "b")
    assert left.exists()


WRITERS: dict[str, Callable[[Path], object]] = {
    "settings.yaml": lambda path: Settings().to_yaml(path),
    "pytc.yaml": lambda path: write_connectomics(path, Settings()),
    "labels.tif": lambda path: write_tiff(path, np.ones((4, 5), np.uint8), axes="YX", overwrite=True),
    "trusted.json": lambda path: TrustStore(path).remember({"0" * 64: "a.pt"}),
    "calibrations.json": lambda path: CalibrationStore(path).add_decoding("watershed", [(10**6, 1.0)]),
}


@pytest.mark.skipif(os.name == "nt", reason="Windows makes links only for developers, and has no umask")
@pytest.mark.parametrize("name", WRITERS)
def test_every_writer_leaves_links_alone_and_takes_the_mode_of_the_umask(tmp_path: Path, name: str) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    # The names that could be foreseen.
    for planted in (f"{name}.part", f".{name}.part", f".{name}.partial", f"{name}.partial", f"{name}.tmp"):
        (tmp_path / planted).symlink_to(victim)
    before = os.umask(0o027)
    try:
        WRITERS[name](tmp_path / name)
    finally:
        os.umask(before)
    assert victim.read_text() == "precious"
    assert (tmp_path / name).stat().st_mode & 0o777 == 0o640
    assert len(list(tmp_path.iterdir())) == 7  # and nothing temporary


@pytest.mark.skipif(os.name == "nt", reason="Windows has no umask")
def test_a_writer_that_makes_its_own_file_gets_the_mode_too(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        with replacing(tmp_path / "a.safetensors") as path:
            save_file({"a": np.ones(3)}, path)
            path.chmod(0o600)
    finally:
        os.umask(before)
    assert (tmp_path / "a.safetensors").stat().st_mode & 0o777 == 0o644


@pytest.mark.skipif(os.name == "nt", reason="Windows has no umask")
def test_a_packed_model_has_the_mode_too(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        written = pack(load_model(BUNDLED), tmp_path / "a.yaml")
    finally:
        os.umask(before)
    assert len(written) == 2
    assert [path.stat().st_mode & 0o777 for path in written] == [0o644, 0o644]
    assert set(tmp_path.iterdir()) == set(written)


def test_a_name_as_long_as_names_may_be(tmp_path: Path) -> None:
    name = "x" * 251 + ".txt"
    write_text(tmp_path / name, "whole")
    assert (tmp_path / name).read_text() == "whole"


def test_the_folder_is_asked_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"), replacing(tmp_path / "none" / "a.txt"):
        pytest.fail("there is nothing to write into")
