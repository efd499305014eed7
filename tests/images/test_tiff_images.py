"""Stacks that were written page by page, and files of several images."""

import logging
import tracemalloc

import numpy as np
import pytest
import tifffile
from PIL import Image
from tests.refusals import Kind, raises

from napari_tessera.core.errors import InputError
from napari_tessera.images.readers.tiff import open_tiff

STACK = np.random.default_rng(0).integers(0, 255, (6, 40, 50), np.uint8)


@pytest.fixture(autouse=True)
def _quiet():
    """Keep what tifffile says of damaged files out of the tests' output."""
    logger = logging.getLogger("tifffile")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    yield
    logger.setLevel(level)


def each(**options):
    def write(path):
        with tifffile.TiffWriter(path) as writer:
            for plane in STACK:
                writer.write(plane, **options)

    return write


def alternating(**options):
    """Write every second plane with *options*."""

    def write(path):
        with tifffile.TiffWriter(path) as writer:
            for number, plane in enumerate(STACK):
                writer.write(plane, **(options if number % 2 else {}), metadata=None)

    return write


def appended(**options):
    def write(path):
        for plane in STACK:
            tifffile.imwrite(path, plane, append=True, **options)

    return write


def by_pillow(**options):
    def write(path):
        first, *others = map(Image.fromarray, STACK)
        first.save(path, save_all=True, append_images=others, **options)

    return write


@pytest.mark.parametrize(
    "write",
    [
        each(),
        each(contiguous=False),
        each(contiguous=True),
        each(compression="zlib"),
        each(metadata=None),
        alternating(compression="zlib"),
        alternating(rowsperstrip=8),
        alternating(tile=(16, 16)),
        alternating(predictor=True, compression="lzw"),
        appended(),
        appended(metadata=None),
        appended(bigtiff=True),
        by_pillow(),
        by_pillow(compression="tiff_lzw"),
    ],
)
def test_equal_planes_are_a_stack_however_they_were_written(tmp_path, write):
    path = tmp_path / "a.tif"
    write(path)
    volume = open_tiff(path)
    assert volume.axes == "ZYX"
    assert volume.dtype == np.uint8
    np.testing.assert_array_equal(np.asarray(volume.data), STACK)
    np.testing.assert_array_equal(np.asarray(volume.data[3]), STACK[3])
    assert "6 planes" in volume.notes[0]


def test_planes_that_became_images_of_an_ome_tiff(tmp_path):
    each()(tmp_path / "a.ome.tif")
    volume = open_tiff(tmp_path / "a.ome.tif")
    np.testing.assert_array_equal(np.asarray(volume.data), STACK)
    assert "6 planes" in volume.notes[0]


def test_colours_page_by_page(tmp_path):
    values = np.random.default_rng(0).integers(0, 255, (4, 20, 30, 3), np.uint8)
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        for plane in values:
            writer.write(plane, photometric="rgb")
    volume = open_tiff(tmp_path / "a.tif")
    assert volume.axes == "CZYX"
    np.testing.assert_array_equal(np.asarray(volume.data), np.einsum("zyxc->czyx", values))


def test_a_stack_page_by_page_is_not_read_at_opening(tmp_path):
    values = np.zeros((64, 256, 256), np.uint16)
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        for plane in values:
            writer.write(plane)
    tracemalloc.start()
    try:
        assert open_tiff(tmp_path / "a.tif").shape == values.shape
        assert tracemalloc.get_traced_memory()[1] < values.nbytes / 4
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("ending", [".tif", ".ome.tif"])
@pytest.mark.parametrize(
    ("images", "named"),
    [
        ([STACK[0], STACK[1, :30]], ["40 x 50", "30 x 50"]),
        ([STACK[0], STACK[1].astype(np.uint16)], ["uint8", "uint16"]),
        ([STACK, STACK[0]], ["6 x 40 x 50", "(40 x 50"]),
        ([STACK, STACK], ["6 x 40 x 50", "--axes"]),
    ],
)
def test_other_images_are_refused_and_each_is_named(tmp_path, images, named, ending):
    with tifffile.TiffWriter(tmp_path / f"a{ending}") as writer:
        for values in images:
            writer.write(values, photometric="minisblack", metadata={"axes": "ZYX"[-values.ndim :]})
    with raises(InputError, f"{len(images)} images") as caught:
        open_tiff(tmp_path / f"a{ending}")
    assert all(part in str(caught.value) for part in named)


def test_pages_of_two_types_without_any_description(tmp_path):
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        for number, plane in enumerate(STACK):
            writer.write(plane.astype(np.uint16) if number % 2 else plane, metadata=None)
    with raises(InputError, "uint16", "uint8"):
        open_tiff(tmp_path / "a.tif")


def test_equal_stacks_are_joined_where_the_user_says_along_what(tmp_path):
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        for frame in (STACK, STACK + 1):
            writer.write(frame, photometric="minisblack", metadata={"axes": "ZYX"})
    volume = open_tiff(tmp_path / "a.tif", axes="TZYX")
    np.testing.assert_array_equal(np.asarray(volume.data), np.stack([STACK, STACK + 1]))


@pytest.mark.parametrize("mark", [1, 4])
def test_thumbnails_and_masks_are_left_out_and_said(tmp_path, mark):
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        for plane in STACK:
            writer.write(plane, metadata=None)
            writer.write(plane[::7, ::9] > 9, metadata=None, subfiletype=mark)
    volume = open_tiff(tmp_path / "a.tif")
    np.testing.assert_array_equal(np.asarray(volume.data), STACK)
    assert "6 x 6 x 6, bool" in volume.notes[0]


def test_levels_of_a_pyramid_without_a_description(tmp_path):
    values = np.random.default_rng(0).integers(0, 255, (256, 256), np.uint8)
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        for step in (1, 2, 4):
            writer.write(values[::step, ::step], tile=(16, 16), metadata=None, subfiletype=int(step > 1))
    volume = open_tiff(tmp_path / "a.tif")
    np.testing.assert_array_equal(np.asarray(volume.data), values)
    assert "3 resolutions" in volume.notes[0]


# Descriptions that do not fit


def replaced(path, *changes):
    """Change the description of a file: the same number of letters, so that nothing moves."""
    content = path.read_bytes()
    for old, new in changes:
        assert len(old) == len(new)
        assert old.encode() in content
        content = content.replace(old.encode(), new.encode())
    path.write_bytes(content)


@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize(("said", "wrong"), [("3", (6, 3)), ("9", Kind.PLANES_MISSING)])
def test_a_description_by_imagej_of_another_number_of_planes(tmp_path, compression, said, wrong):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, STACK, imagej=True, metadata={"axes": "ZYX"}, compression=compression)
    replaced(path, ("images=6", f"images={said}"), ("slices=6", f"slices={said}"))
    with raises(InputError, wrong):
        open_tiff(path)


@pytest.mark.parametrize(("said", "wrong"), [("3", (6, 3)), ("9", Kind.PLANES_MISSING)])
def test_an_ome_description_of_another_number_of_planes(tmp_path, said, wrong):
    path = tmp_path / "a.ome.tif"
    tifffile.imwrite(path, STACK, metadata={"axes": "ZYX"}, photometric="minisblack")
    replaced(path, ('SizeZ="6"', f'SizeZ="{said}"'))
    with raises(InputError, wrong):
        open_tiff(path)


# Descriptions that lead elsewhere

OME = '<?xml version="1.0" encoding="UTF-8"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"'
HUGE = 10**8


def ome(body, uuid=None):
    attribute = "" if uuid is None else f'UUID="urn:uuid:{uuid}"'
    return f"{OME} {attribute}>{body}</OME>"


def pixels(size_z, data, annotations="", uuid=None):
    reference = '<AnnotationRef ID="A"/>' if annotations else ""
    return ome(
        '<Image ID="Image:0"><Pixels ID="Pixels:0" DimensionOrder="XYZCT" Type="uint8" SizeX="50" SizeY="40" '
        f'SizeZ="{size_z}" SizeC="1" SizeT="1"><Channel ID="Channel:0:0"/>{data}</Pixels>'
        f"{reference}</Image>{annotations}",
        uuid,
    )


def part_of(name, uuid, z=0):
    return f'<TiffData FirstZ="{z}" IFD="0" PlaneCount="1"><UUID FileName="{name}">urn:uuid:{uuid}</UUID></TiffData>'


def write_ome(path, xml, plane=0):
    tifffile.imwrite(path, STACK[plane], description=xml, metadata=None)
    return path


@pytest.mark.parametrize(
    "xml",
    [
        pixels(HUGE, "<TiffData/>"),
        pixels(1, f'<TiffData IFD="0" PlaneCount="{HUGE}"/>'),
        pixels(1, f'<TiffData IFD="0" NumPlanes="{HUGE}"/>'),
        pixels(
            1,
            "<TiffData/>",
            '<StructuredAnnotations><XMLAnnotation ID="A" Namespace="openmicroscopy.org/omero/dimension/modulo"><Value>'
            f'<Modulo><ModuloAlongZ Type="phase" Start="0" End="{HUGE}"/></Modulo></Value></XMLAnnotation>'
            "</StructuredAnnotations>",
        ),
    ],
)
def test_absurdly_many_planes_are_refused_before_memory_is_taken(tmp_path, xml):
    path = write_ome(tmp_path / "a.ome.tif", xml)
    tracemalloc.start()
    try:
        with raises(InputError, "1,000,000"):
            open_tiff(path)
        assert tracemalloc.get_traced_memory()[1] < 20e6
    finally:
        tracemalloc.stop()


def two_files(folder):
    """Write an image of 2 planes as two files, as microscopes do."""
    names = ("a_Z0.ome.tif", "a_Z1.ome.tif")
    data = "".join(part_of(name, z, z) for z, name in enumerate(names))
    return tuple(write_ome(folder / name, pixels(2, data, uuid=str(z)), z) for z, name in enumerate(names))


def test_an_image_of_several_files(tmp_path):
    for path in two_files(tmp_path):
        np.testing.assert_array_equal(np.asarray(open_tiff(path).data), STACK[:2])


def test_a_missing_file_of_an_image_is_named(tmp_path):
    first, second = two_files(tmp_path)
    second.unlink()
    with raises(InputError, second.name):
        open_tiff(first)


@pytest.mark.parametrize("name", ["/etc/hostname", "../b.ome.tif", "sub/b.ome.tif", "..\\b.ome.tif"])
def test_a_file_of_another_folder_is_not_opened(tmp_path, name):
    path = write_ome(tmp_path / "a.ome.tif", pixels(1, part_of(name, "7")))
    with raises(InputError, Kind.OWN_FOLDER):
        open_tiff(path)


def test_a_renamed_file_needs_no_other(tmp_path):
    xml = pixels(1, part_of("before.ome.tif", "0"), uuid="0")
    assert open_tiff(write_ome(tmp_path / "after.ome.tif", xml)).shape == (40, 50)


def test_a_description_in_another_file_is_named(tmp_path):
    xml = ome('<BinaryOnly MetadataFile="all.companion.ome" UUID="urn:uuid:1"/>')
    with raises(InputError, "all.companion.ome"):
        open_tiff(write_ome(tmp_path / "a.ome.tif", xml))


@pytest.mark.parametrize("options", [{}, {"metadata": None}])
@pytest.mark.parametrize("other", ["miniswhite", "palette"])
def test_pages_whose_values_mean_something_else_are_no_stack(tmp_path, options, other):
    colours = {"colormap": np.zeros((3, 256), np.uint16)} if other == "palette" else {}
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        writer.write(STACK[0], photometric="minisblack", **options)
        writer.write(STACK[1], photometric=other, **colours, **options)
    for axes in (None, "ZYX"):
        with raises(InputError, "MINISBLACK", other.upper()):
            open_tiff(tmp_path / "a.tif", axes=axes)


def test_values_that_lie_the_other_way_round_are_those_of_tifffile(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", STACK, photometric="miniswhite", metadata={"axes": "ZYX"})
    np.testing.assert_array_equal(np.asarray(open_tiff(tmp_path / "a.tif").data), tifffile.imread(tmp_path / "a.tif"))


def test_numbers_of_colours_are_said_to_be_the_values(tmp_path):
    colours = np.random.default_rng(1).integers(0, 2**16, (3, 256), np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", STACK, photometric="palette", colormap=colours)
    volume = open_tiff(tmp_path / "a.tif")
    np.testing.assert_array_equal(np.asarray(volume.data), STACK)
    assert "indexed colours" in volume.notes[0]
