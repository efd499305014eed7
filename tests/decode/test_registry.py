"""Decoders are found by name, and whatever does not fit is refused with a sentence that helps."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from tests.refusals import raises

from napari_tessera.core.errors import SettingsError
from napari_tessera.decode import decoder_names, get_decoder
from napari_tessera.models.spec.spec import OutputSpec

OUTPUTS = {
    "argmax": OutputSpec("semantic"),
    "threshold": OutputSpec("foreground"),
    "watershed": OutputSpec("boundary"),
}


def test_the_names_are_those_of_the_decoders():
    assert decoder_names() == ("argmax", "regions", "threshold", "watershed", "contour-distance")
    assert all(get_decoder(name).name == name for name in decoder_names())


def test_an_unknown_name_lists_the_known_ones_and_the_nearest():
    with raises(SettingsError, "decoder", "watershd", "watershed", "argmax"):
        get_decoder("watershd")


def test_an_unknown_parameter_lists_the_known_ones_and_the_nearest():
    with raises(SettingsError, "treshold", "threshold", "connectivity"):
        get_decoder("threshold", treshold=0.4)


def test_a_parameter_that_is_called_as_an_argument_is_unknown_too():
    with raises(SettingsError, "threshold", "name", "connectivity"):
        get_decoder("threshold", **{"name": 3})
    with raises(SettingsError, "threshold", "self", "connectivity"):
        get_decoder("threshold", **{"self": 3})


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("argmax", {"threshold": 1.5}),
        ("threshold", {"threshold": "high"}),
        ("threshold", {"threshold": True}),
        ("regions", {"threshold": -1}),
        ("threshold", {"connectivity": 0}),
        ("threshold", {"channel": -1}),
        ("threshold", {"min_size_vox": 1.5}),
        ("watershed", {"merge_threshold": -0.1}),
        ("watershed", {"seed_sigma_vox": float("nan")}),
        ("watershed", {"anisotropy": 0}),
        ("watershed", {"anisotropy": 0.04}),
        ("watershed", {"anisotropy": 20.5}),
    ],
)
def test_a_parameter_out_of_range_is_named_with_its_value_and_the_limits(name, parameters):
    ((parameter, value),) = parameters.items()
    with pytest.raises(SettingsError) as caught:
        get_decoder(name, **parameters)
    assert f"parameter {parameter} is" in str(caught.value)
    assert repr(value) in str(caught.value)
    assert "it must be a" in str(caught.value)


@pytest.mark.parametrize("anisotropy", [0.05, 20])
def test_the_ends_of_a_range_are_taken(anisotropy):
    assert get_decoder("watershed", anisotropy=anisotropy).anisotropy == anisotropy


@pytest.mark.parametrize("name", ["argmax", "threshold", "watershed"])
@pytest.mark.parametrize("spatial", [(5, 6), (4, 5, 6), (0, 5, 6)])
@pytest.mark.parametrize("channels", [1, 3])
def test_reduce_gives_what_reduced_promises_and_decode_keeps_the_shape(name, spatial, channels):
    decoder = get_decoder(name)
    probabilities = torch.rand(channels, *spatial, generator=torch.Generator().manual_seed(0))
    before = probabilities.clone()
    reduced = decoder.reduce(probabilities, OUTPUTS[name]).numpy()
    assert (reduced.shape[0], reduced.dtype.name) == decoder.reduced(channels)
    assert torch.equal(probabilities, before)
    kept = reduced.copy()
    labels = decoder.decode(reduced)
    assert labels.shape == spatial
    assert np.issubdtype(labels.dtype, np.integer)
    assert labels.dtype.itemsize <= decoder.label_bytes(2)
    assert np.array_equal(reduced, kept)


@pytest.mark.parametrize("name", ["argmax", "threshold", "watershed"])
def test_reduce_is_voxelwise_so_planes_may_come_one_by_one(name):
    decoder = get_decoder(name)
    probabilities = torch.rand(2, 6, 5, 4, generator=torch.Generator().manual_seed(1))
    whole = decoder.reduce(probabilities, OUTPUTS[name])
    planes = [decoder.reduce(probabilities[:, z : z + 1], OUTPUTS[name]) for z in range(6)]
    assert torch.equal(torch.cat(planes, 1), whole)


def test_importing_the_decoders_loads_neither_torch_nor_scipy():
    code = "import sys, napari_tessera.decode; print({'torch', 'scipy', 'skimage'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
