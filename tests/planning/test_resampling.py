"""Resampling in the plan: shapes, memory, advice, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from math import prod
from typing import Any

import pytest
from tests.refusals import raises

from napari_tessera.core.errors import InputError, SettingsError
from napari_tessera.core.settings.settings import Settings
from napari_tessera.decode import get_decoder
from napari_tessera.memory.device_state import DeviceState
from napari_tessera.memory.estimate import PassProfile
from napari_tessera.models.spec.spec import ModelSpec, WindowRule
from napari_tessera.planning.needs import Traced
from napari_tessera.planning.plan import Level, Plan
from napari_tessera.planning.resampling import resampling_of
from napari_tessera.planning.resolve import resolve

GIB = 2**30
SPEC = ModelSpec("net", 3, 1, 3, WindowRule((64, 64, 64), (16, 16, 16), (16, 16, 16)), voxel_size_um=(0.01,) * 3)
CUDA = DeviceState("cuda", "GPU", 24 * GIB, 22 * GIB, 64 * GIB, 60 * GIB)


def planned(*shapes: tuple[int, ...], voxel_size_um: Any = None, spec: ModelSpec = SPEC, **settings: Any) -> Plan:
    return resolve(
        shapes,
        spec,
        Settings(**settings),
        traced=Traced(2**20, lambda window, batch: PassProfile(400 * prod(window) * batch)),
        device=CUDA,
        decoder=get_decoder("argmax"),
        itemsize=1,
        voxel_size_um=voxel_size_um,
    )


def test_windows_lie_in_the_resampled_shape() -> None:
    plan = planned((100, 400, 400), voxel_size_um=(0.04, 0.005, 0.005), resample=True)
    (volume,) = plan.volumes
    assert volume.image_shape == (100, 400, 400)
    assert volume.shape == (400, 200, 200)
    assert plan.windows == planned((400, 200, 200)).windows
    assert plan.output_bytes == 100 * 400 * 400  # one byte each, in the image's own voxels
    (found,) = plan.to_dict()["volumes"]
    assert found["shape"] == [100, 400, 400]
    assert found["resampled"]["shape"] == [400, 200, 200]
    assert found["resampled"]["image_voxel_size_um"] == [0.04, 0.005, 0.005]
    assert found["resampled"]["voxel_size_um"] == pytest.approx([0.01] * 3)
    assert plan.advice[-1].text == (
        "Resampled from 100 x 400 x 400 voxels of 0.04 x 0.005 x 0.005 µm to 400 x 200 x 200 of 0.01 x 0.01 x 0.01 µm; "
        "results come back to the image's own voxels"
    )


def test_the_size_that_is_reached_is_of_whole_voxels() -> None:
    found = resampling_of((10, 10, 10), (0.0104,) * 3, SPEC, Settings(resample=True))
    assert found is None  # 10.4 voxels are 10
    found = resampling_of((10, 10, 10), (0.0136, 0.01, 0.001), SPEC, Settings(resample=True))
    assert found is not None
    assert found.shape == (14, 10, 1)
    assert found.voxel_size_um == pytest.approx((0.136 / 14, 0.01, 0.01))


def test_resolution_counts_more_than_the_model() -> None:
    plan = planned((100, 100, 100), voxel_size_um=(0.01,) * 3, resample=True, resolution=(0.02, 0.01, 0.01))
    assert plan.volumes[0].shape == (50, 100, 100)


def test_every_volume_has_its_own_voxel_size() -> None:
    plan = planned((80,) * 3, (80,) * 3, voxel_size_um=[(0.02,) * 3, (0.01,) * 3], resample=True)
    assert [volume.shape for volume in plan.volumes] == [(160,) * 3, (80,) * 3]
    assert plan.volumes[1].resampling is None
    alone = planned((160,) * 3), planned((80,) * 3)
    assert plan.forward_passes == sum(each.forward_passes for each in alone)


def test_the_hosts_memory_counts_it() -> None:
    plain, shrunk = (
        planned((200,) * 3, voxel_size_um=(0.005,) * 3),
        planned((200,) * 3, voxel_size_um=(0.005,) * 3, resample=True),
    )
    assert plain.host.resampling_bytes == 0
    assert shrunk.host.volumes_bytes == plain.host.volumes_bytes == 200**3
    assert shrunk.host.result_bytes == 100**3
    # The labels in the image's voxels, planes of two rows of windows in float32, and what one read of them takes.
    assert shrunk.host.resampling_bytes >= 200**3 + 4 * 100**3 + 135 * 200**2
    assert shrunk.host.run_bytes >= shrunk.host.result_bytes + shrunk.host.resampling_bytes
    ahead = planned(*[(200,) * 3] * 4, voxel_size_um=(0.005,) * 3, resample=True, batch_size=2)
    assert ahead.host.resampling_bytes >= 200**3 + 2 * 4 * 100**3
    assert shrunk.host.to_dict()["resampling_bytes"] == shrunk.host.resampling_bytes


def test_advice_offers_it_where_sizes_differ() -> None:
    def offered(size: Any, **settings: Any) -> list[Any]:
        advice = planned((300,) * 3, voxel_size_um=size, **settings).advice
        return [each for each in advice if each.change == ("resample", True)]

    (advice,) = offered((0.03, 0.01, 0.01))
    assert advice.level is Level.WARNING
    assert advice.text == (
        "Voxels are 0.03 x 0.01 x 0.01 µm, the model was trained at 0.01 x 0.01 x 0.01 µm: resample the image to that, "
        "or expect poor labels"
    )
    assert offered((0.012,) * 3) == offered(None) == offered((0.03, 0.01, 0.01), resample=True) == []
    assert offered((0.03, 0.01, 0.01), resolution=(0.03, 0.01, 0.01)) == []


@pytest.mark.parametrize(
    ("size", "spec", "error", "sentence"),
    [
        (None, SPEC, InputError, "resample"),
        ((0.01,) * 3, replace(SPEC, voxel_size_um=None), SettingsError, "resolution"),
        ((0.01,) * 2, SPEC, InputError, ("resample", "(0.01, 0.01)", "(0.01, 0.01, 0.01)")),
        ((10.0,) * 3, SPEC, InputError, ("100", "10 x 10 x 10")),
        ((0.0, 1.0, 1.0), SPEC, InputError, ("0", "(0.0, 1.0, 1.0)")),
        ([(0.01,) * 3] * 3, SPEC, InputError, ("3", "1")),
    ],
)
def test_what_cannot_be_resampled_is_refused(
    size: Any, spec: ModelSpec, error: type[Exception], sentence: str | tuple[str, ...]
) -> None:
    with raises(error, sentence):
        planned((100, 100, 100), voxel_size_um=size, spec=spec, resample=True)
