"""Many images in one command: a bad one stops no other, and what is no image of the user's is left out and said."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from napari_tessera.cli.progress import LineProgress, Status
from napari_tessera.images.readers.tiff import open_tiff

Tessera = Callable[..., Any]
Make = Callable[..., Path]


def npy(path: Path, header: str, n_bytes: int = 4000) -> None:
    text = header.encode()
    text += b" " * (-(len(text) + 11) % 64) + b"\n"
    with path.open("wb") as file:
        file.write(b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text)
        file.truncate(file.tell() + n_bytes)  # a sparse file


def described(shape: object, kind: str = "|u1") -> str:
    return f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}"


BAD: dict[str, Callable[[Path], object]] = {
    "negative.npy": lambda path: npy(path, described((-4, 5, 6))),
    "endless.npy": lambda path: npy(path, described((10**30, 5, 6))),
    "longer.npy": lambda path: npy(path, described((4000, 5, 6))),
    "open.npy": lambda path: npy(path, "{'descr': '|u1', 'fortran_order': False, 'shape': (4, 5"),
    "deep.npy": lambda path: npy(path, "(" * 3000),
    "words.npy": lambda path: npy(path, described((4, 5, 6), "<U3")),
    "dates.npy": lambda path: npy(path, described((4, 5, 6), "<M8[ns]")),
    "larger_than_memory.npy": lambda path: npy(path, described((4000, 10**4, 10**4)), 4 * 10**11),
    "folder.tif": Path.mkdir,
    "circle.tif": lambda path: path.symlink_to(path),
    "pipe_without_end.tif": lambda path: path.write_bytes(b"II*\0" + b"\xff" * 100),
    "missing.tif": lambda path: None,
    "x" * 240 + ".tif": lambda path: None,
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_stops_no_other(tessera: Tessera, model: Path, make_image: Make, tmp_path: Path, name: str) -> None:
    first, last = make_image(1, "first.tif"), make_image(2, "last.tif")
    bad = tmp_path / name
    try:
        BAD[name](bad)
    except OSError as error:
        pytest.skip(f"this disk does not take such a file: {error}")
    out, window = tmp_path / "out", ("--window", "64,512,512")
    ended = tessera("run", first, bad, last, "-o", out, "-m", model, "--json", *window)
    assert ended.code in (3, 4)
    outcomes = json.loads(ended.out)["images"]
    assert [outcome["result"] for outcome in outcomes] == [
        str(out / "first_labels.tif"),
        None,
        str(out / "last_labels.tif"),
    ]
    (error,) = outcomes[1]["errors"]
    assert "fault of Tessera" not in error
    assert np.asarray(open_tiff(out / "last_labels.tif").data).max() == 2


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_stops_no_other(
    tessera: Tessera, model: Path, make_image: Make, tmp_path: Path
) -> None:
    first, closed, last = (make_image(n, f"{n}.tif") for n in (1, 2, 3))
    closed.chmod(0)
    ended = tessera("run", first, closed, last, "-o", tmp_path / "out", "-m", model)
    assert ended.code == 3
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["1_labels.tif", "3_labels.tif"]


@pytest.mark.parametrize("name", ["b.npy", "b.tif"])
def test_a_file_that_is_cut_short_while_it_is_read_stops_no_other(
    tessera: Tessera, model: Path, make_image: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Where it was mapped, the system ended the whole program."""
    first, last, cut = make_image(1, "a.tif"), make_image(2, "c.tif"), tmp_path / name
    content = np.zeros((400, 64, 64), np.uint8)
    np.save(cut, content) if name == "b.npy" else tifffile.imwrite(cut, content, metadata={"axes": "ZYX"})

    def show(self: LineProgress, status: Status) -> None:
        if name in status.text:  # it has been opened and looked through
            os.truncate(cut, 4096)

    monkeypatch.setattr(LineProgress, "show", show)
    ended = tessera("run", first, cut, last, "-o", tmp_path / "out", "-m", model, "--json")
    assert ended.code == 3
    outcomes = json.loads(ended.out)["images"]
    assert [bool(outcome["result"]) for outcome in outcomes] == [True, False, True]
    assert name in outcomes[1]["errors"][0]


def test_results_are_not_taken_for_images(tessera: Tessera, model: Path, make_image: Make, tmp_path: Path) -> None:
    images = [make_image(n, f"{n}.tif") for n in (1, 2)]
    assert tessera("run", *images, "-o", tmp_path, "-m", model).code == 0
    assert tessera("run", images[0], "-o", tmp_path / "p.ome.tif", "-m", model, "--probabilities").code == 0
    everything = sorted(tmp_path.glob("*.tif"))
    assert len(everything) == 5
    ended = tessera("run", *everything, "-o", tmp_path / "out", "-m", model, "--json")
    assert ended.code == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["1_labels.tif", "2_labels.tif"]
    left_out = {Path(each["image"]).name for each in json.loads(ended.out)["images"] if each["skipped"]}
    assert left_out == {"1_labels.tif", "2_labels.tif", "p.ome.tif"}
    assert all(name in ended.err for name in left_out)


def test_a_plan_leaves_the_same_files_out(tessera: Tessera, model: Path, make_image: Make, tmp_path: Path) -> None:
    images = [make_image(n, f"{n}.tif") for n in (1, 2)]
    alone = json.loads(tessera("plan", *images, "-m", model, "--json").out)
    assert tessera("run", *images, "-o", tmp_path, "-m", model).code == 0
    everything = json.loads(tessera("plan", *sorted(tmp_path.glob("*.tif")), "-m", model, "--json").out)
    assert everything["windows"] == alone["windows"]


def test_one_image_beside_its_result_still_goes_into_a_folder(
    tessera: Tessera, model: Path, image: Path, tmp_path: Path
) -> None:
    assert tessera("run", image, "-o", tmp_path / "raw_labels.tif", "-m", model).code == 0
    ended = tessera("run", image, tmp_path / "raw_labels.tif", "-o", tmp_path / "out", "-m", model)
    assert ended.code == 0
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["raw_labels.tif"]


def test_results_alone_are_refused_and_one_by_name_is_said(
    tessera: Tessera, model: Path, make_image: Make, tmp_path: Path
) -> None:
    images = [make_image(n, f"{n}.tif") for n in (1, 2)]
    assert tessera("run", *images, "-o", tmp_path, "-m", model, "--probabilities").code == 0
    own = [tmp_path / f"{n}_probabilities.tif" for n in (1, 2)]
    refused = tessera("run", *own, "-o", tmp_path / "out", "-m", model)
    assert (refused.code, (tmp_path / "out").exists()) == (3, False)
    named = tessera("run", own[0], "-o", tmp_path / "again.tif", "-m", model)
    assert named.code == 0
    assert "'1_probabilities.tif' is itself a result of Tessera" in named.err


def test_the_mask_is_not_taken_for_an_image(tessera: Tessera, model: Path, image: Path, tmp_path: Path) -> None:
    mask = tmp_path / "tissue.tif"
    tifffile.imwrite(mask, np.ones((10, 24, 40), np.uint8), metadata={"axes": "ZYX"})
    ended = tessera("run", image, mask, "-o", tmp_path / "out", "-m", model, "--mask", mask)
    assert ended.code == 0
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["raw_labels.tif"]


def test_what_is_there_is_left_out_where_asked(tessera: Tessera, model: Path, make_image: Make, tmp_path: Path) -> None:
    images = [make_image(n, f"{n}.tif") for n in (1, 2, 3)]
    out = tmp_path / "out"
    assert tessera("run", *images[:2], "-o", out, "-m", model).code == 0
    before = {path: path.stat().st_mtime_ns for path in out.iterdir()}
    assert tessera("run", *images, "-o", out, "-m", model).code == 2  # unless asked, nothing is left out
    ended = tessera("run", *images, "-o", out, "-m", model, "--skip-existing", "--json")
    assert ended.code == 0
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert [bool(each["skipped"]) for each in json.loads(ended.out)["images"]] == [True, True, False]
    again = tessera("run", *images, "-o", out, "-m", model, "--skip-existing")
    assert (again.code, again.out) == (0, "")
    next(out.iterdir()).write_bytes(b"junk")
    again = tessera("run", *images, "-o", out, "-m", model, "--skip-existing", "--quiet")
    assert (again.code, again.out) == (0, "")
    assert all(image.name in again.err for image in images)
    assert "not looked at" in again.err
    assert tessera("run", *images, "-o", out, "-m", model, "--skip-existing", "--overwrite").code == 2


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_pipe_among_images_stops_no_other(tessera: Tessera, model: Path, make_image: Make, tmp_path: Path) -> None:
    """Nothing writes to it, so reading would wait for ever."""
    image, pipe, out = make_image(1, "a.tif"), tmp_path / "pipe.tif", tmp_path / "out"
    os.mkfifo(pipe)
    ended = tessera("run", image, pipe, "-o", out, "-m", model)
    assert ended.code == 3
    assert "pipe.tif" in ended.err
    assert [path.name for path in out.iterdir()] == ["a_labels.tif"]
    for command in ("plan", "inspect"):
        assert tessera(command, pipe).code == 3
    assert tessera("run", image, "-o", tmp_path / "b.tif", "-m", model, "--mask", pipe).code == 3


def test_one_image_that_is_left_has_its_mask_and_its_name(
    tessera: Tessera, model: Path, image: Path, tmp_path: Path
) -> None:
    mask = tmp_path / "mask.tif"
    tifffile.imwrite(mask, np.ones((10, 24, 40), np.uint8), metadata={"axes": "ZYX"})
    assert tessera("run", image, "-o", tmp_path / "raw_labels.tif", "-m", model).code == 0
    images = sorted(tmp_path.glob("*.tif"))
    assert len(images) == 3
    assert tessera("plan", *images, "-m", model, "--mask", mask).code == 0
    ended = tessera("run", *images, "-o", tmp_path / "res.tif", "-m", model, "--mask", mask)
    assert ended.code == 0
    assert tifffile.imread(tmp_path / "res.tif").max() == 3


@pytest.mark.parametrize("more", [(), ("--skip-below", "100")])
def test_a_plan_names_what_cannot_be_used_and_plans_the_others(
    tessera: Tessera, model: Path, make_image: Make, tmp_path: Path, more: tuple[str, ...]
) -> None:
    images = [make_image(n, f"{n}.tif") for n in (1, 2)]
    (tmp_path / "bad.tif").write_text("no image")
    good = json.loads(tessera("plan", *images, "-m", model, "--json", *more).out)
    everything = [images[0], tmp_path / "bad.tif", images[1], tmp_path / "flat.npy"]
    ended = tessera("plan", *everything, "-m", model, "--json", *more)
    assert json.loads(ended.out)["windows"] == good["windows"]
    assert ended.code == tessera("run", *everything, "-o", tmp_path / "out", "-m", model, *more).code == 3
    assert "2 of 4 images failed: bad.tif, flat.npy" in ended.err
    alone = tessera("plan", tmp_path / "bad.tif", tmp_path / "flat.npy", "-m", model)
    assert (alone.code, alone.out) == (3, "")


def test_a_plan_names_what_cannot_be_read_once_it_is_looked_at(
    tessera: Tessera, model: Path, make_image: Make, tmp_path: Path
) -> None:
    image, torn = make_image(1), tmp_path / "torn.tif"
    values = np.random.default_rng(0).integers(0, 255, (10, 24, 40), np.uint8)
    tifffile.imwrite(torn, values, compression="zlib", metadata={"axes": "ZYX"})
    with tifffile.TiffFile(torn) as file:
        offset = file.pages[4].dataoffsets[0]
    content = bytearray(torn.read_bytes())
    content[offset : offset + 200] = bytes(200)
    torn.write_bytes(content)
    options = ("-m", model, "--skip-below", "100")
    good = json.loads(tessera("plan", image, *options, "--json").out)
    ended = tessera("plan", image, torn, *options, "--json")
    assert json.loads(ended.out)["windows"] == good["windows"]
    assert ended.code == tessera("run", image, torn, "-o", tmp_path / "out", *options).code == 3
    errors = [line for line in ended.err.splitlines() if line.startswith("Error") and "torn.tif" in line]
    assert len(errors) == 2  # why, and in the list of those that failed
    assert tessera("plan", torn, *options).code == 3
