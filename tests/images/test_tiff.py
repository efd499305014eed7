import tracemalloc

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from tests.refusals import Kind, raises

from napari_tessera.core.errors import InputError, OutOfMemoryError, OutputError
from napari_tessera.images.readers.file_array import FileArray
from napari_tessera.images.readers.tiff import DeferredArray, open_tiff
from napari_tessera.images.writers.output import TiffOptions
from napari_tessera.images.writers.tiff import write_tiff

DTYPES = ["bool", "uint8", "int8", "uint16", "int16", "int32", "uint32", "float32", "float64"]
AXES = ["YX", "ZYX", "CYX", "CZYX", "TYX", "TZYX", "TCZYX"]
SIDES = {"T": 2, "C": 3, "Z": 4, "Y": 7, "X": 5}
SIZES_UM = {"Z": 0.2837, "Y": 0.1268, "X": 0.13}


def some_values(axes, dtype):
    values = np.random.default_rng(0).random([SIDES[axis] for axis in axes]) * 200
    return values > 100 if dtype == "bool" else values.astype(dtype)


def voxel_size(axes):
    return tuple(SIZES_UM[axis] for axis in axes if axis in "ZYX")


@pytest.mark.parametrize("ending", [".tif", ".ome.tif"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("axes", AXES)
def test_what_is_written_is_read_again(tmp_path, axes, dtype, ending):
    values = some_values(axes, dtype)
    path = tmp_path / f"cells é{ending}"
    metadata = {"settings": {"overlap": 0.5, "window_size": [64, 64]}, "model": "µ-net"}
    write_tiff(path, values, axes=axes, voxel_size_um=voxel_size(axes), metadata=metadata)
    volume = open_tiff(path)
    np.testing.assert_array_equal(np.asarray(volume.data), values)
    assert volume.dtype == np.asarray(volume.data).dtype == values.dtype
    assert volume.axes == axes
    assert volume.voxel_size_um == pytest.approx(voxel_size(axes), rel=1e-8)
    assert volume.metadata == metadata
    assert volume.name == "cells é"
    assert volume.notes == ()


@given(
    values=npst.arrays(
        st.sampled_from(["uint8", "uint16", "int32", "float32"]),
        npst.array_shapes(min_dims=3, max_dims=3, min_side=2, max_side=20),
    ),
    voxel_size_um=st.none() | st.tuples(*[st.floats(1e-4, 1e3)] * 3),
    ending=st.sampled_from([".tif", ".ome.tif"]),
)
def test_any_volume_and_voxel_size_come_back(tmp_path_factory, values, voxel_size_um, ending):
    path = tmp_path_factory.mktemp("tiff") / f"volume{ending}"
    write_tiff(path, values, axes="ZYX", voxel_size_um=voxel_size_um)
    volume = open_tiff(path)
    np.testing.assert_array_equal(np.asarray(volume.data), values)
    if voxel_size_um is None:
        assert volume.voxel_size_um is None
    else:
        assert volume.voxel_size_um == pytest.approx(voxel_size_um, rel=1e-6)


@pytest.mark.parametrize(
    ("given_dtype", "largest", "stored"),
    [
        ("int64", 2**31 - 1, "int32"),
        ("int64", 2**31, "uint32"),
        ("uint64", 2**40, "uint64"),
        ("float16", 100, "float32"),
    ],
)
def test_rare_number_types_keep_their_values(tmp_path, given_dtype, largest, stored):
    values = np.array([[0, 1], [2, largest]], given_dtype)
    write_tiff(tmp_path / "a.tif", values, axes="YX")
    volume = open_tiff(tmp_path / "a.tif")
    assert volume.dtype == stored
    np.testing.assert_array_equal(np.asarray(volume.data), values)


def test_ome_cannot_hold_64_bits(tmp_path):
    with raises(OutputError, 64, "OME"):
        write_tiff(tmp_path / "a.ome.tif", np.array([[0, 2**40]]), axes="YX")
    assert list(tmp_path.iterdir()) == []


def test_imagej_finds_scale_and_axes(tmp_path):
    path = tmp_path / "a.tif"
    write_tiff(path, some_values("CZYX", "float32"), axes="CZYX", voxel_size_um=(0.3, 0.1, 0.2))
    with tifffile.TiffFile(path) as file:
        assert file.series[0].kind == "imagej"
        assert file.series[0].axes == "ZCYX"  # ImageJ's order
        assert file.imagej_metadata["spacing"] == 0.3
        assert file.imagej_metadata["unit"] == "um"
        numerator, denominator = file.pages[0].tags["XResolution"].value
        assert numerator / denominator == pytest.approx(5)


def test_a_large_file_gets_64_bit_offsets(tmp_path, monkeypatch):
    monkeypatch.setattr("napari_tessera.images.writers.tiff.BIGTIFF_BYTES", 10)
    write_tiff(tmp_path / "a.tif", some_values("ZYX", "uint8"), axes="ZYX", voxel_size_um=(1, 2, 3))
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        assert file.is_bigtiff
    assert open_tiff(tmp_path / "a.tif").voxel_size_um == (1, 2, 3)


def test_labels_are_compressed(tmp_path):
    write_tiff(tmp_path / "a.tif", np.zeros((50, 100, 100), np.int32), axes="ZYX")
    assert (tmp_path / "a.tif").stat().st_size < 100_000


def test_an_existing_file_is_kept_unless_told(tmp_path):
    path = tmp_path / "a.tif"
    write_tiff(path, np.zeros((4, 5), np.uint8), axes="YX")
    with raises(OutputError, "--overwrite"):
        write_tiff(path, np.ones((4, 5), np.uint8), axes="YX")
    assert not np.asarray(open_tiff(path).data).any()
    write_tiff(path, np.ones((4, 5), np.uint8), axes="YX", overwrite=True)
    assert np.asarray(open_tiff(path).data).all()


def test_a_failure_while_writing_leaves_nothing(tmp_path, monkeypatch):
    def fail(path, **options):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tifffile, "imwrite", fail)
    with raises(OutputError, "No space left on device"):
        write_tiff(tmp_path / "a.tif", np.zeros((4, 5), np.uint8), axes="YX")
    assert list(tmp_path.iterdir()) == []


def test_axes_that_do_not_fit_are_refused(tmp_path):
    with raises(InputError, "'ZYX'", "(4, 5)"):
        write_tiff(tmp_path / "a.tif", np.zeros((4, 5)), axes="ZYX")


# Files of other programs


@pytest.mark.parametrize("byteorder", ["<", ">"])
def test_uncompressed_values_are_not_read_at_opening(tmp_path, byteorder):
    values = np.zeros((64, 256, 256), byteorder + "u2")
    values[63] = 7
    tifffile.imwrite(tmp_path / "a.tif", values, imagej=True, metadata={"axes": "ZYX"})
    tracemalloc.start()
    try:
        volume = open_tiff(tmp_path / "a.tif")
        plane = np.asarray(volume.data[63])
        assert tracemalloc.get_traced_memory()[1] < values.nbytes / 4
    finally:
        tracemalloc.stop()
    assert (plane == 7).all()
    assert plane.dtype.isnative


def test_compressed_values_are_read_when_used(tmp_path):
    tifffile.imwrite(tmp_path / "a.ome.tif", some_values("ZYX", "uint8"), compression="zlib", metadata={"axes": "ZYX"})
    assert isinstance(open_tiff(tmp_path / "a.ome.tif").data, DeferredArray)


@pytest.mark.parametrize("compression", ["lzw", "zstd", "jpeg2000", "packbits"])
def test_common_compressions(tmp_path, compression):
    values = some_values("ZYX", "uint8")
    tifffile.imwrite(tmp_path / "a.ome.tif", values, compression=compression, metadata={"axes": "ZYX"})
    np.testing.assert_array_equal(np.asarray(open_tiff(tmp_path / "a.ome.tif").data), values)


def test_colours_become_channels(tmp_path):
    values = np.random.default_rng(0).integers(0, 255, (6, 7, 3), np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", values, photometric="rgb")
    volume = open_tiff(tmp_path / "a.tif")
    assert volume.axes == "CYX"
    np.testing.assert_array_equal(np.asarray(volume.data), np.moveaxis(values, -1, 0))


def test_a_plain_stack_is_taken_for_z_and_said(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((9, 6, 7), np.uint8), metadata=None)
    volume = open_tiff(tmp_path / "a.tif")
    assert volume.axes == "ZYX"
    assert volume.voxel_size_um is None
    assert "9 planes" in volume.notes[0]


def test_axes_can_be_named_by_hand(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((2, 9, 6, 7), np.uint8), photometric="minisblack")
    with raises(InputError, "QQYX", "(2, 9, 6, 7)", "--axes"):
        open_tiff(tmp_path / "a.tif")
    assert open_tiff(tmp_path / "a.tif", axes="ZCYX").shape == (9, 2, 6, 7)
    with raises(InputError, "'ZYX'", "(2, 9, 6, 7)"):
        open_tiff(tmp_path / "a.tif", axes="ZYX")


def test_of_a_pyramid_the_full_resolution_is_opened(tmp_path):
    with tifffile.TiffWriter(tmp_path / "a.ome.tif") as writer:
        writer.write(np.ones((64, 64), np.uint8), subifds=1, tile=(16, 16), metadata={"axes": "YX"})
        writer.write(np.ones((32, 32), np.uint8), subfiletype=1, tile=(16, 16))
    volume = open_tiff(tmp_path / "a.ome.tif")
    assert np.asarray(volume.data).shape == (64, 64)
    assert "2 resolutions" in volume.notes[0]


# Files that cannot be read


@pytest.mark.parametrize("options", [{}, {"imagej": True}, {"ome": True}, {"compression": "lzw", "ome": True}])
@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.6, 0.9])
def test_a_truncated_file_is_refused_and_nothing_is_made_up(tmp_path, options, share):
    values = np.random.default_rng(0).integers(0, 255, (6, 40, 50), np.uint8)
    path = tmp_path / ("a.ome.tif" if "ome" in options else "a.tif")
    tifffile.imwrite(path, values, metadata={"axes": "ZYX"}, **options)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(InputError, match=r"export it again|OME description") as caught:
        open_tiff(path)
    assert str(path) in str(caught.value)


def test_a_truncated_chain_of_single_planes_is_refused(tmp_path):
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as writer:
        for _ in range(6):
            writer.write(np.zeros((40, 50), np.uint8), metadata=None, contiguous=False)
    path.write_bytes(path.read_bytes()[:-3000])
    with raises(InputError, Kind.PLANES_MISSING, "a.tif"):
        open_tiff(path)


def test_damage_inside_is_told_when_the_values_are_read(tmp_path):
    path = tmp_path / "a.tif"
    write_tiff(path, np.random.default_rng(0).integers(0, 255, (50, 60), np.uint8), axes="YX")
    content = bytearray(path.read_bytes())
    content[len(content) // 2 :] = bytes(len(content) - len(content) // 2)
    path.write_bytes(content)
    volume = open_tiff(path)
    with raises(InputError, Kind.DAMAGED, path) as caught:
        np.asarray(volume.data)
    assert caught.value.__cause__ is not None


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"", Kind.CANNOT_BE_READ), (b"not a TIFF", Kind.CANNOT_BE_READ), (None, Kind.NO_SUCH_FILE)],
)
def test_no_tiff_at_all(tmp_path, content, said):
    path = tmp_path / "a.tif"
    if content is not None:
        path.write_bytes(content)
    with raises(InputError, said) as caught:
        open_tiff(path)
    assert str(path) in str(caught.value)
    assert caught.value.__cause__ is not None


def test_a_folder_is_no_file(tmp_path):
    (tmp_path / "a.tif").mkdir()
    with raises(InputError, Kind.A_FOLDER, "a.tif"):
        open_tiff(tmp_path / "a.tif")


def test_memory_that_does_not_suffice(tmp_path, monkeypatch):
    path = tmp_path / "a.tif"
    write_tiff(path, np.zeros((5, 6), np.uint8), axes="YX")
    volume = open_tiff(path)

    def fail(*arguments, **options):
        raise MemoryError

    monkeypatch.setattr(tifffile.TiffPageSeries, "asarray", fail)
    with raises(OutOfMemoryError, Kind.SAVE_UNCOMPRESSED):
        np.asarray(volume.data)


def test_the_example_of_axes_has_as_many_as_the_file(tmp_path):
    examples = {(2, 5, 6, 7, 8): "--axes TCZYX,", (5, 6, 7, 8): "--axes CZYX,", (2,) * 6: "2 to 5 axes"}
    for shape, example in examples.items():
        tifffile.imwrite(tmp_path / "a.tif", np.zeros(shape, np.uint8), photometric="minisblack")
        with raises(InputError, example):
            open_tiff(tmp_path / "a.tif")


@pytest.mark.parametrize("ending", [".tif", ".ome.tif"])
@pytest.mark.parametrize("dtype", ["uint8", "int32"])
def test_what_is_written_without_compression_is_read_piece_by_piece(tmp_path, dtype, ending):
    values = some_values("CZYX", dtype)
    path = tmp_path / f"a{ending}"
    write_tiff(path, values, axes="CZYX", options=TiffOptions(compression="none"), metadata={"model": "m"})
    volume = open_tiff(path)
    assert isinstance(volume.data, FileArray)
    np.testing.assert_array_equal(np.asarray(volume.data), values)
    assert volume.metadata["model"] == "m"
