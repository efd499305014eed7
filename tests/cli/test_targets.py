"""Where results go, and what a result's file holds."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.refusals import Kind, raises

from napari_tessera.cli.targets import choose_targets
from napari_tessera.core.errors import OutputError


def choose(output: Path, *images: Path, overwrite: bool = False) -> list[str]:
    targets = choose_targets(output, images, kind="labels", overwrite=overwrite)
    return [str(target.relative_to(output.parent)) for target in targets]


def test_names(tmp_path: Path) -> None:
    a, b = tmp_path / "a.ome.tif", tmp_path / "b.c.tif"
    assert choose(tmp_path / "x.tif", a) == ["x.tif"]
    assert choose(tmp_path / "out", a, b) == ["out/a_labels.tif", "out/b.c_labels.tif"]
    assert choose(tmp_path / "out", a) == ["out/a_labels.tif"]


def test_images_of_one_name_do_not_overwrite_each_other(tmp_path: Path) -> None:
    with raises(OutputError, 2, "a_labels.tif"):
        choose(tmp_path / "out", tmp_path / "day1" / "a.tif", tmp_path / "day2" / "a.tif")
    assert not (tmp_path / "out").exists()


def test_an_image_is_never_overwritten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.tif").touch()
    monkeypatch.chdir(tmp_path)
    with raises(OutputError, "a.tif"):
        choose_targets(Path("./a.tif"), [tmp_path / "a.tif"], kind="labels", overwrite=True)


@pytest.mark.parametrize("output", ["file", "out.tif", "missing/out"])
def test_many_images_need_a_folder(tmp_path: Path, output: str) -> None:
    (tmp_path / "file").touch()
    with raises(OutputError, Kind.NOT_A_FOLDER):
        choose(tmp_path / output, tmp_path / "a.tif", tmp_path / "b.tif")


def test_existing_results_are_all_looked_for_first(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "b_labels.tif").touch()
    images = (tmp_path / "a.tif", tmp_path / "b.tif")
    with raises(OutputError, "b_labels"):
        choose(tmp_path / "out", *images)
    assert len(choose(tmp_path / "out", *images, overwrite=True)) == 2
