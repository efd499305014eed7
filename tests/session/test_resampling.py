"""Resampling in the session: offered, applied, planned and run, results in the image's own voxels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from napari_tessera.images.views.interpolation import ResamplingScheme
from napari_tessera.session import ImageInput, Session
from napari_tessera.session.cost import host_bar, passes_line
from napari_tessera.session.mask import MaskInput
from napari_tessera.session.task import Outputs

OWN, MODEL = (0.02, 0.01, 0.005), (0.01, 0.01, 0.01)
SHAPE = (16, 24, 48)


@pytest.fixture
def at_model_size(session: Session, network: Any, describe: Callable[..., Any]) -> Session:
    """The session with a model of 10 nm voxels."""
    session.models.use(describe(network).with_spec(voxel_size_um=MODEL))
    return session


def image(*shape: int, sizes: tuple[float | None, ...] = OWN, **more: Any) -> ImageInput:
    """A bright box in the middle of every axis."""
    values = np.zeros(shape, np.float32)
    values[tuple(slice(side // 4, 3 * side // 4) for side in shape)] = 1
    return ImageInput("image", values, voxel_size_um=sizes, **more)


def run(session: Session, wait_until: Any) -> list[Any]:
    results: list[Any] = []
    session.runner.result_ready.connect(results.append)
    assert session.start_run(), session.problem
    wait_until(session, lambda: not session.runner.active)
    assert not session.runner.problem
    return [result for result in results if result.final]


def test_offered_applied_and_run(at_model_size: Session, wait_until: Any) -> None:
    session = at_model_size
    session.set_images((image(*SHAPE),))
    wait_until(session, lambda: not session.planning)
    assert session.plan is not None
    assert session.plan.advice[0].change == ("resample", True)
    session.apply_advice()
    wait_until(session, lambda: not session.planning)
    assert session.settings is not None
    assert session.settings.resample
    (volume,) = session.plan.volumes
    assert volume.shape == (32, 24, 24)
    assert "16 × 24 × 48 voxels of 0.02 × 0.01 × 0.005 µm → 32 × 24 × 24 of".replace("×", "x") in passes_line(
        session.plan
    ).tooltip.replace("×", "x")
    assert "resampling, and results in the image's voxels" in host_bar(session.plan).line.tooltip
    (result,) = run(session, wait_until)
    assert session.runner.progress.done == session.plan.forward_passes
    assert result.labels.shape == SHAPE
    np.testing.assert_array_equal(result.labels, session.images[0].data > 0.5)
    assert result.provenance["resampled"]["shape"] == [32, 24, 24]


def test_labels_beside_probabilities_are_those_without(at_model_size: Session, wait_until: Any) -> None:
    session = at_model_size
    session.set_images((image(*SHAPE),))
    session.change(resample=True)
    session.change(decoder="threshold")
    (alone,) = run(session, wait_until)
    assert session.plan is not None
    before = session.plan.host_bytes
    session.set_outputs(Outputs(labels=True, probabilities=True))
    wait_until(session, lambda: not session.planning)
    assert session.plan.host_bytes > before
    (both,) = run(session, wait_until)
    np.testing.assert_array_equal(both.labels, alone.labels)
    assert [channel.shape for channel in both.probabilities] == [SHAPE] * 2
    np.testing.assert_allclose(sum(both.probabilities), 1, atol=1e-5)


def test_a_time_series_is_put_together_in_its_own_voxels(at_model_size: Session, wait_until: Any) -> None:
    session = at_model_size
    frames = image(3, *SHAPE, sizes=(None, *OWN), axis_labels=("t", "z", "y", "x"))
    session.set_images((frames,))
    session.change(resample=True)
    (result,) = run(session, wait_until)
    assert result.labels.shape == (3, *SHAPE)
    np.testing.assert_array_equal(result.labels, frames.data > 0.5)


def test_planes_of_a_stack_through_a_2d_model(
    session: Session, network: Any, describe: Callable[..., Any], wait_until: Any
) -> None:
    session.models.use(describe(network, spatial_dims=2).with_spec(voxel_size_um=(0.01, 0.01)))
    session.set_images((image(24, 40, sizes=(0.02, 0.01)),))
    session.change(resample=True)
    (result,) = run(session, wait_until)
    assert session.plan is not None
    assert session.plan.volumes[0].shape == (48, 40)
    np.testing.assert_array_equal(result.labels, session.images[0].data > 0.5)


def test_a_mask_is_in_the_image_s_voxels(at_model_size: Session, wait_until: Any) -> None:
    session = at_model_size
    session.set_images((image(*SHAPE),))
    session.change(resample=True)
    mask = np.zeros(SHAPE, np.uint8)
    mask[0, 0, 0] = 1
    session.set_mask(MaskInput("cells", mask))
    wait_until(session, lambda: not session.planning)
    assert session.plan is not None
    assert session.plan.windows == 1
    (result,) = run(session, wait_until)
    assert result.labels[:8, :16, :32].any()
    assert not result.labels[8:].any()
    session.change(resample=False)  # other windows of the same mask
    wait_until(session, lambda: not session.planning)
    assert (session.problem, session.plan.windows) == ("", 1)
    session.set_mask(MaskInput("cells", np.ones((32, 24, 24), np.uint8)))
    wait_until(session, lambda: not session.planning)
    assert "give one of the same shape" in session.problem


def test_an_image_without_a_voxel_size(at_model_size: Session, wait_until: Any) -> None:
    session = at_model_size
    session.set_images((image(*SHAPE, sizes=()),))
    session.change(resample=True)
    wait_until(session, lambda: not session.planning)
    assert "the voxel size of the image is unknown" in session.problem
    assert not session.can_run


def test_another_model_without_a_voxel_size_switches_it_off(
    at_model_size: Session, network: Any, describe: Callable[..., Any]
) -> None:
    at_model_size.change(resample=True)
    at_model_size.models.use(describe(network))
    assert at_model_size.settings is not None
    assert not at_model_size.settings.resample


def test_a_model_that_resamples_by_itself(
    session: Session, network: Any, describe: Callable[..., Any], wait_until: Any
) -> None:
    scheme = ResamplingScheme(order=3, antialias=False, edge="repeat", normalise_first=True, output_order=1, usual=True)
    session.models.use(describe(network).with_spec(voxel_size_um=MODEL, resampling=scheme))
    session.set_images((image(*SHAPE),))
    wait_until(session, lambda: not session.planning)
    assert session.settings is not None
    assert session.settings.resample is None
    assert session.plan is not None
    assert session.plan.volumes[0].shape == (32, 24, 24)
    session.change(decoder="threshold")
    (alone,) = run(session, wait_until)
    np.testing.assert_array_equal(alone.labels > 0, session.images[0].data > 0.5)
    session.set_outputs(Outputs(labels=True, probabilities=True))
    wait_until(session, lambda: not session.planning)
    (both,) = run(session, wait_until)
    np.testing.assert_array_equal(both.labels, alone.labels)
    assert [channel.shape for channel in both.probabilities] == [SHAPE] * 2
    session.set_images((image(*SHAPE, sizes=()),))  # of unknown voxels: as they are, and it is said
    wait_until(session, lambda: not session.planning)
    assert session.plan.volumes[0].shape == SHAPE
    assert any("voxel size of the image is unknown" in hint for hint in session.plan.hints)
    session.change(resample=False)
    session.set_images((image(*SHAPE),))
    wait_until(session, lambda: not session.planning)
    assert session.plan.volumes[0].shape == SHAPE
