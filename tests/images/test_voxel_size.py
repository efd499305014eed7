"""Voxel sizes as other programs write them; the expected ones are arithmetic."""

import numpy as np
import pytest
import tifffile

from napari_tessera.core.units import micrometres_per
from napari_tessera.images.open import open_volume
from napari_tessera.images.readers.tiff import open_tiff

CUBE = np.zeros((3, 6, 7), np.uint8)


@pytest.mark.parametrize(
    ("unit", "factor"),
    [
        *[(unit, 1) for unit in ("um", "\u00b5m", "\u03bcm", "\\u00B5m", "micron", "Microns", "micrometre")],
        *[(unit, 1e-3) for unit in ("nm", "nanometer", "Nanometres")],
        *[(unit, 1e3) for unit in ("mm", "millimeters")],
        *[(unit, 1e4) for unit in ("cm", "centimetre")],
        *[(unit, 25_400) for unit in ("inch", "inches", "in")],
        *[(unit, 1e-4) for unit in ("\u00c5", "\u212b", "angstrom", "\u00c5ngstr\u00f6ms")],
        ("m", 1e6),
        ("meters", 1e6),
        *[("foot", 304_800), ("yard", 914_400), ("kilometer", 1e9), ("femtometer", 1e-9), ("attometer", 1e-12)],
        *[(unit, None) for unit in ("Mm", "Pm", "pixel", "pixels", "reference frame", "s", "sec", "", "furlong")],
    ],
)
def test_units_of_length(unit, factor):
    assert micrometres_per(unit) == factor


@pytest.mark.parametrize(
    ("unit", "factor"),
    [("µm", 1), ("nm", 1e-3), ("mm", 1e3), ("Å", 1e-4), ("pixel", None), ("reference frame", None), ("Mm", None)],
)
def test_units_of_ome(tmp_path, unit, factor):
    sizes = {f"PhysicalSize{axis}": 4.0 for axis in "ZYX"} | {f"PhysicalSize{axis}Unit": unit for axis in "ZYX"}
    tifffile.imwrite(tmp_path / "a.ome.tif", CUBE, metadata={"axes": "ZYX", **sizes})
    volume = open_tiff(tmp_path / "a.ome.tif")
    assert volume.voxel_size_um == (None if factor is None else pytest.approx((4 * factor,) * 3))
    assert sum(unit in note for note in volume.notes) == (factor is None)


def test_every_axis_of_ome_has_a_unit_of_its_own(tmp_path):
    sizes = {"PhysicalSizeX": 250, "PhysicalSizeXUnit": "nm", "PhysicalSizeY": 0.25, "PhysicalSizeZ": 0.002}
    tifffile.imwrite(tmp_path / "a.ome.tif", CUBE, metadata={"axes": "ZYX", **sizes, "PhysicalSizeZUnit": "mm"})
    assert open_tiff(tmp_path / "a.ome.tif").voxel_size_um == pytest.approx((2, 0.25, 0.25))


def imagej_file(path, **metadata):
    """Write a file of 2 pixels per unit along x and 4 along y."""
    tifffile.imwrite(path, CUBE, imagej=True, resolution=(2, 4), metadata={"axes": "ZYX", **metadata})
    return path


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        ({"unit": "micron", "spacing": 2.0}, (2.0, 0.25, 0.5)),
        ({"unit": "\\u00B5m", "spacing": 2.0}, (2.0, 0.25, 0.5)),
        ({"unit": "nm", "spacing": 2.0}, (0.002, 0.00025, 0.0005)),
        ({"unit": "inch", "spacing": 2.0}, (50_800, 6350, 12_700)),
        ({"unit": "cm", "spacing": 2.0}, (20_000, 2500, 5000)),
        ({"unit": "um"}, (1.0, 0.25, 0.5)),
        ({"unit": "um", "spacing": -2.0}, (2.0, 0.25, 0.5)),
        ({"unit": "um", "yunit": "mm", "zunit": "nm", "spacing": 300}, (0.3, 250, 0.5)),
        ({"unit": "nm", "zunit": "um", "spacing": 0.3}, (0.3, 0.00025, 0.0005)),
        ({"unit": "um", "zunit": "pixel"}, None),
        ({"unit": "pixel", "yunit": "um", "zunit": "um"}, None),
        ({"unit": "pixel", "spacing": 2.0}, None),
        ({"unit": "um", "spacing": 0}, None),
        ({"unit": "um", "spacing": "wide"}, None),
        ({"spacing": 2.0}, None),
    ],
)
def test_units_of_imagej(tmp_path, metadata, expected):
    volume = open_tiff(imagej_file(tmp_path / "a.tif", **metadata))
    assert volume.voxel_size_um == (None if expected is None else pytest.approx(expected))
    assert sum("unknown" in note for note in volume.notes) == (expected is None)


def test_of_one_plane_the_unit_of_z_does_not_matter(tmp_path):
    tifffile.imwrite(
        tmp_path / "a.tif", CUBE[0], imagej=True, resolution=(2, 4), metadata={"unit": "um", "zunit": "pixel"}
    )
    assert open_tiff(tmp_path / "a.tif").voxel_size_um == pytest.approx((0.25, 0.5))


def test_pixels_per_centimetre_of_a_file_in_micrometres(tmp_path):
    """As ImageJ itself reads it: of such a file it takes the unit of the tag for x and y."""
    tifffile.imwrite(
        tmp_path / "a.tif",
        CUBE,
        imagej=True,
        resolution=(20_000, 40_000),
        resolutionunit="CENTIMETER",
        metadata={"axes": "ZYX", "unit": "um", "spacing": 2.0},
    )
    assert open_tiff(tmp_path / "a.tif").voxel_size_um == pytest.approx((2.0, 0.25, 0.5))


def test_dots_per_inch_are_no_voxel_size(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", CUBE[0], resolution=(300, 300), resolutionunit="INCH")
    volume = open_tiff(tmp_path / "a.tif")
    assert volume.voxel_size_um is None
    assert "unknown" in volume.notes[0]


def test_a_voxel_size_without_z_is_unknown_for_a_volume_and_says_which_axis(tmp_path):
    sizes = {"PhysicalSizeX": 0.1, "PhysicalSizeY": 0.1}
    tifffile.imwrite(tmp_path / "a.ome.tif", CUBE, metadata={"axes": "ZYX", **sizes})
    volume = open_tiff(tmp_path / "a.ome.tif")
    assert volume.voxel_size_um is None
    assert "along z" in volume.notes[0]


def test_what_the_user_says_counts_more(tmp_path):
    volume = open_volume(imagej_file(tmp_path / "a.tif", unit="pixel"), voxel_size_um=(3, 2, 1))
    assert (volume.voxel_size_um, volume.notes) == ((3, 2, 1), ())
