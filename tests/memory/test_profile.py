"""Workspaces of convolutions: the rule against published figures, and where they decide on the peak."""

from __future__ import annotations

import pytest
import torch
from monai.networks import nets
from tests.memory.conftest import trace_forward

from napari_tessera.memory.activations import ActivationCache
from napari_tessera.memory.estimate import PassProfile
from napari_tessera.memory.recorder import workspace_bytes

MIB = 2**20


SHAPES = ((1, 8, 4, 4, 4), (16, 8, 3, 3, 3), (1, 16, 4, 4, 4))


def test_single_precision_lays_out_input_and_weights_anew() -> None:
    assert workspace_bytes(*SHAPES) == 4 * (8 * 64 + 16 * 8 * 27)


def test_half_precision_lays_out_the_output_too() -> None:
    assert workspace_bytes(*SHAPES, item_bytes=2) == 2 * (8 * 64 + 16 * 8 * 27 + 16 * 64)


def test_a_depthwise_convolution_has_no_workspace_but_one_of_a_single_channel_has() -> None:
    assert workspace_bytes(*SHAPES, groups=8) == 0
    assert workspace_bytes((1, 1, 4, 4, 4), *SHAPES[1:]) > 0


def test_a_workspace_counts_at_its_moment_only() -> None:
    changes = [100, 200, -100]
    assert PassProfile.of(changes, [(3, 80)]).workspace_bytes(1.0) == 0  # 280 is below the peak of 300
    assert PassProfile.of(changes, [(3, 80)]).workspace_bytes(2.0) == 60
    assert PassProfile.of(changes, [(2, 50), (3, 80)]).workspace_bytes(1.0) == 50
    assert PassProfile.of([], []).workspace_bytes(1.0) == 0


@pytest.mark.parametrize("scale", [0.0, 0.3, 1.0, 5.0])
def test_what_is_left_out_never_decides(scale: float) -> None:
    live, workspaces = [10, 90, 50, 70, 20], [(1, 100), (2, 5), (3, 60), (4, 30), (5, 60)]
    peak = round(max(max(live), *(live[at - 1] + scale * size for at, size in workspaces)))
    profile = PassProfile.of([10, 80, -40, 20, -50], workspaces)
    assert profile.activations_bytes + profile.workspace_bytes(scale) == peak
    assert len(profile.at_convolutions) < len(workspaces)


@pytest.mark.parametrize("device_type", ["cpu", "cuda"])
def test_workspaces_follow_the_law_of_the_batch(device_type: str) -> None:
    network = nets.UNet(3, 1, 2, channels=(4, 8, 16), strides=(2, 2), num_res_units=1).eval()
    cache = ActivationCache()
    for batch in (1, 2, 4, 7):
        traced = trace_forward(network, (batch, 1, 32, 32, 32), device_type=device_type)
        profile = cache.profile(network, in_channels=1, window=(32,) * 3, batch=batch, device_type=device_type)
        assert profile == traced.profile
        assert profile.workspace_bytes(1.0) > 0


def test_a_network_without_convolutions_has_none() -> None:
    profile = trace_forward(torch.nn.ReLU(), (1, 1, 8, 8)).profile
    assert profile == PassProfile(2 * 4 * 64)
