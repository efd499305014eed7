import os

import pytest
from tests.refusals import Kind, raises

from napari_tessera.core.errors import OutputError
from napari_tessera.images.writers.output import check_writable, output_file


def test_a_free_name_is_fine(tmp_path):
    check_writable(tmp_path / "labels.tif")
    check_writable(str(tmp_path / "labels.OME.TIFF"))
    assert list(tmp_path.iterdir()) == []


def test_an_existing_file_needs_overwrite(tmp_path):
    path = tmp_path / "labels.tif"
    path.touch()
    with raises(OutputError, "--overwrite"):
        check_writable(path)
    check_writable(path, overwrite=True)


@pytest.mark.parametrize(
    ("name", "said"),
    [("labels.png", ".tif or .tiff"), ("labels", ".tif or .tiff"), ("none/labels.tif", Kind.NO_SUCH_FOLDER)],
)
def test_names_that_cannot_be_written(tmp_path, name, said):
    with raises(OutputError, said) as caught:
        check_writable(tmp_path / name)
    assert name in str(caught.value)


def test_a_folder_is_no_file(tmp_path):
    (tmp_path / "labels.tif").mkdir()
    with raises(OutputError, Kind.A_FOLDER, "labels.tif"):
        check_writable(tmp_path / "labels.tif", overwrite=True)


def test_a_folder_that_is_not_writable(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with raises(OutputError, Kind.NOT_WRITABLE, tmp_path):
        check_writable(tmp_path / "labels.tif")


def test_the_file_appears_when_complete(tmp_path):
    path = tmp_path / "labels.tif"
    with output_file(path) as temporary:
        temporary.write_bytes(b"half")
        assert temporary.parent == tmp_path
        assert not path.exists()
    assert path.read_bytes() == b"half"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, MemoryError])
def test_nothing_half_written_is_left(tmp_path, error):
    path = tmp_path / "labels.tif"
    path.write_bytes(b"old")

    def write_half():
        with output_file(path) as temporary:
            temporary.write_bytes(b"half")
            raise error

    with pytest.raises(error):
        write_half()
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_bytes() == b"old"


def test_a_full_disk_is_told_in_a_sentence(tmp_path):
    with raises(OutputError, "No space left on device") as caught, output_file(tmp_path / "labels.tif"):
        raise OSError(28, "No space left on device")
    assert isinstance(caught.value.__cause__, OSError)
    assert list(tmp_path.iterdir()) == []
