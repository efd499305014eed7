import sys
import warnings
from types import SimpleNamespace

import pytest
import torch

from napari_tessera.session.doctor import Status, gpu
from napari_tessera.session.doctor.gpu import check_gpu, check_torch


@pytest.fixture
def machine(monkeypatch):
    """A Linux machine to be furnished: a CUDA build of torch, a driver program, cards."""

    def furnish(*, cuda="12.8", smi=(0, "NVIDIA RTX A5000, 570.10\n"), visible=None, available=False):
        monkeypatch.setattr(sys, "platform", "linux")
        monkeypatch.setattr(torch.version, "cuda", cuda)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: available)
        monkeypatch.setattr(gpu, "run_program", lambda command: smi)
        if visible is None:
            monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        else:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)

    return furnish


@pytest.fixture
def cards(machine, monkeypatch):
    """Cards that torch can use: (name, compute capability)."""

    def furnish(*devices, architectures=("sm_80", "sm_90", "compute_90")):
        machine(available=True)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: len(devices))
        monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: list(architectures))
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda index: (6 * 2**30, 24 * 2**30))
        monkeypatch.setattr(
            torch.cuda,
            "get_device_properties",
            lambda i: SimpleNamespace(name=devices[i][0], major=devices[i][1][0], minor=devices[i][1][1]),
        )

    return furnish


def only(findings):
    (finding,) = findings
    return finding


def test_torch_of_this_environment():
    finding = only(check_torch())
    assert finding.status is Status.OK
    assert torch.__version__ in finding.detail


def test_old_torch_is_refused(monkeypatch):
    monkeypatch.setattr(torch, "__version__", "2.9.1+cu128")
    finding = only(check_torch())
    assert finding.status is Status.FAIL
    assert "2.10" in finding.detail
    assert "torch>=2.10" in finding.remedy


def test_torch_that_cannot_be_imported(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    finding = only(check_torch())
    assert finding.status is Status.FAIL
    assert finding.remedy


def test_no_driver_means_cpu(machine):
    machine(smi=(127, "nvidia-smi: No such file or directory"))
    finding = only(check_gpu())
    assert finding.status is Status.WARN
    assert "CPU" in finding.detail


def test_driver_without_cards_means_cpu(machine):
    machine(smi=(0, "\n"))
    assert only(check_gpu()).status is Status.WARN


def test_torch_without_cuda_beside_a_card(machine):
    machine(cuda=None)
    finding = only(check_gpu())
    assert finding.status is Status.FAIL
    assert "NVIDIA RTX A5000" in finding.detail
    assert "built without CUDA" in finding.detail
    assert "--torch-backend=auto" in finding.remedy
    assert "torch==" in finding.remedy


def test_driver_older_than_torch_needs(machine):
    machine(cuda="13.0", smi=(0, "NVIDIA L4, 535.104.05\nNVIDIA L4, 535.104.05\n"))
    finding = only(check_gpu())
    assert finding.status is Status.FAIL
    for part in ("NVIDIA L4, NVIDIA L4", "CUDA 13.0", "driver 580", "535.104.05"):
        assert part in finding.detail
    assert "update the NVIDIA driver" in finding.remedy


def test_driver_that_is_new_enough_but_silent(machine):
    machine(cuda="12.8")
    finding = only(check_gpu())
    assert finding.status is Status.FAIL
    assert "restart" in finding.remedy


def test_what_torch_complains_of_is_passed_on(machine, monkeypatch):
    machine(cuda="12.8")

    def is_available():
        warnings.warn("CUDA initialization: unknown error\nand more", stacklevel=1)
        return False

    monkeypatch.setattr(torch.cuda, "is_available", is_available)
    assert "CUDA initialization: unknown error" in only(check_gpu()).detail


@pytest.mark.parametrize("visible", ["", "-1"])
def test_hidden_card(machine, visible):
    machine(visible=visible)
    finding = only(check_gpu())
    assert "CUDA_VISIBLE_DEVICES" in finding.detail
    assert finding.remedy == "unset CUDA_VISIBLE_DEVICES"


def test_broken_driver(machine):
    machine(smi=(18, "Failed to initialize NVML: Driver/library version mismatch\nNVML library version: 570\n"))
    finding = only(check_gpu())
    assert finding.status is Status.FAIL
    assert "Driver/library version mismatch" in finding.detail
    assert "restart" in finding.remedy


def test_usable_cards_with_their_memory(cards):
    cards(("NVIDIA H200", (9, 0)), ("NVIDIA RTX 3090", (8, 6)))
    first, second = check_gpu()
    assert (first.name, second.name) == ("GPU 0", "GPU 1")
    assert first.status is second.status is Status.OK
    assert "6.00 GiB free of 24.0 GiB" in first.detail


def test_card_too_old_for_this_torch(cards):
    cards(("GeForce GTX 1080", (6, 1)))
    finding = only(check_gpu())
    assert finding.status is Status.FAIL
    assert "6.1" in finding.detail
    assert "device: cpu" in finding.remedy


def test_card_whose_memory_is_full(cards, monkeypatch):
    cards(("NVIDIA L4", (8, 9)))

    def fail(index):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(torch.cuda, "mem_get_info", fail)
    finding = only(check_gpu())
    assert finding.status is Status.FAIL
    assert "out of memory" in finding.detail


@pytest.mark.parametrize(
    ("capability", "architectures", "expected"),
    [
        ((8, 6), ["sm_80"], True),  # binary code runs on later minor versions
        ((9, 0), ["sm_80"], False),  # and on no other major one
        ((9, 0), ["sm_80", "compute_80"], True),  # but intermediate code does
        ((7, 5), ["sm_80", "compute_80"], False),
        ((9, 0), ["sm_90a"], True),
        ((12, 0), ["sm_120"], True),
        ((9, 0), ["gfx942"], True),  # an AMD card: nothing known
        ((9, 0), [], True),
    ],
)
def test_built_for(cards, capability, architectures, expected):
    cards(("a card", capability), architectures=architectures)
    finding = only(check_gpu())
    assert finding.status is (Status.OK if expected else Status.FAIL)
    assert expected or "{}.{}".format(*capability) in finding.detail


@pytest.mark.parametrize(
    ("available", "chip", "status"),
    [(True, "arm64", Status.OK), (False, "arm64", Status.WARN), (False, "x86_64", Status.WARN)],
)
def test_mac(machine, monkeypatch, available, chip, status):
    machine()
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr("platform.machine", lambda: chip)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: available)
    assert only(check_gpu()).status is status


@pytest.mark.gpu
def test_the_card_of_this_machine():
    findings = list(check_gpu())
    assert len(findings) == torch.cuda.device_count()
    assert all(finding.status is Status.OK for finding in findings)
