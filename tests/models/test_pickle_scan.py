"""Small pickles that stand for endless work, and the pickles that people have."""

from __future__ import annotations

import io
import pickle
import pickletools
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.models.sample import make_or_skip
from tests.refusals import Kind, raises

from napari_tessera.core.errors import ModelError
from napari_tessera.models.load import load_model
from napari_tessera.models.safety import pickle_scan
from napari_tessera.models.safety.pickle_scan import iter_steps
from napari_tessera.models.safety.tensors_only import read_tensors_only, refuse_more_than_tensors

# In the bytes of protocol 2: K is a small integer, h and q read and write the memo, \x85 to \x87 are tuples of one to
# three, ( marks, t and u end a marked tuple and the filling of a dictionary, s fills in one item, R calls.
START = b"\x80\x02"
DOUBLED = b")q\x01" + b"h\x01h\x01\x86q\x01" * 60
ORDERED = b"ccollections\nOrderedDict\nq\x02"
COUNTER = b"ccollections\nCounter\nq\x02"
THOUSAND = b"(" + b"K\x01" * 1000


def zipped(path: Path, content: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", content)
        archive.writestr("archive/version", "3\n")
        archive.writestr("archive/byteorder", "little")
    return path


def bare(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


BOMBS = {
    "a key": START + DOUBLED + b"}h\x01K\x01s.",
    "keys at once": START + DOUBLED + b"}(h\x01K\x01h\x01K\x01u.",
    "in threes": START + b")q\x01" + b"h\x01h\x01h\x01\x87q\x01" * 60 + b"}h\x01K\x01s.",
    "marked": START + b")q\x01" + b"(h\x01h\x01tq\x01" * 60 + b"}h\x01K\x01s.",
    "far in the memo": START
    + b")r\xff\xff\xff\x00"
    + b"j\xff\xff\xff\x00j\xff\xff\xff\x00\x86r\xff\xff\xff\x00" * 60
    + b".",
    "numbered in text": START + b")p1\n" + b"g1\ng1\n\x86p1\n" * 60 + b".",
    "doubled on the stack": START + b")" + b"2\x86" * 60 + b".",
    "counted in order": b"\x80\x04)\x94" + b"".join(b"h%ch%c\x86\x94" % (n, n) for n in range(60)) + b".",
    "beside a list": START + b"]q\x03K\x01h\x03\x86q\x01" + b"h\x01h\x01\x86q\x01" * 60 + b".",
}
REPEATED = {
    "a key again and again": START + THOUSAND + b"tq\x01}" + b"h\x01K\x01s" * 11_000 + b".",
    "a list counted again and again": (
        START + COUNTER + b"]q\x01h\x01" + THOUSAND + b"e" + b"h\x02h\x01\x85R" * 11_000 + b"."
    ),
    "a list that grows after the tuple around it": (
        START + COUNTER + b"]q\x01\x85q\x03h\x01" + THOUSAND + b"e" + b"h\x02h\x03R" * 11_000 + b"."
    ),
    "a call around a call": (
        START + COUNTER + b"h\x02" * 11_000 + b"]" + THOUSAND + b"e" + b"\x85R" * 11_000 + b"."
    ),
    "a dictionary built in again and again": (
        START + ORDERED + b"}q\x01(" + bytes(value for n in range(200) for value in b"K%cK\x01" % n) + b"u"
        + b"h\x02)Rh\x01b" * 55_000 + b"."
    ),
}  # fmt: skip


@pytest.mark.parametrize("write", [zipped, bare])
@pytest.mark.parametrize("content", BOMBS.values(), ids=BOMBS)
def test_tuples_that_stand_for_endless_values(
    tmp_path: Path, content: bytes, write: Callable[[Path, bytes], Path]
) -> None:
    assert len(content) < 1100
    with raises(ModelError, 100000):
        read_tensors_only(write(tmp_path / "a.pt", content), "a")


@pytest.mark.parametrize("content", REPEATED.values(), ids=REPEATED)
def test_parts_used_again_and_again(tmp_path: Path, content: bytes) -> None:
    with raises(ModelError, 10000000):
        read_tensors_only(zipped(tmp_path / "a.pt", content), "a")


def test_integers_whose_hashes_are_alike(tmp_path: Path) -> None:
    numbers = ((n + 10) * (2**61 - 1) for n in range(1001))
    content = pickle.dumps(dict.fromkeys(numbers, 1), 2)
    with raises(ModelError, 1000, 64):
        read_tensors_only(zipped(tmp_path / "a.pt", content), "a")


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("sample_connectomics", "last.ckpt"),
        ("sample_connectomics_1", "checkpoint_100000.pth.tar"),
        ("sample_nnunet", "checkpoint_final.pth"),
        ("sample_monai_bundle", "model.pt"),
    ],
)
def test_every_format_refuses_them(tmp_path: Path, name: str, file: str) -> None:
    path = make_or_skip(name, tmp_path).path
    for target in tmp_path.rglob(file):
        zipped(target, BOMBS["a key"])
    with raises(ModelError, file, 100000):
        load_model(path)


def test_a_pickle_of_endless_parts_is_left_before_it_fills_the_memory(
    tmp_path: Path, memory: Callable[[], float]
) -> None:
    path = make_or_skip("sample_connectomics", tmp_path).path
    (target,) = tmp_path.rglob("last.ckpt")
    zipped(target, START + b"}" * 60_000_000 + b".")
    with raises(ModelError, 2000000, "last.ckpt"):
        load_model(path)
    assert memory() < 1e9


@pytest.mark.parametrize(
    "content",
    [
        *(START + step + b"." for step in (b"0", b"1", b"2", b"t", b"\x85", b"K\x01\x86", b"R", b"K\x01s", b"q\x00")),
        *(START + step + b"." for step in (b"h\x00", b"j\xff\xff\xff\x7f", b"g-1\n", b"(K\x01\x86", b"e", b"a", b"b")),
        START,
        START + b"(",
        START + b"\xff.",
        START + b"X" + struct.pack("<I", 2**31) + b"a.",
        b".",
        b"",
    ],
)
def test_what_is_cut_short_or_no_pickle_is_not_valid(tmp_path: Path, content: bytes) -> None:
    with raises(ModelError, "a", Kind.CANNOT_READ, Kind.CUT_SHORT):
        refuse_more_than_tensors(zipped(tmp_path / "a.pt", content), "a")


@pytest.mark.parametrize("protocol", range(6))
def test_every_protocol_ends_with_nothing_left_over(protocol: int) -> None:
    shared = (1, (2.5, "x"))
    content = [
        OrderedDict(a=shared, b=shared),
        {shared: [shared, (), (1, 2, 3, 4)]},
        {1, 2},
        frozenset({3}),
        1 << 70,
        -(1 << 1000),
        b"x",
        bytearray(b"y"),
        complex(1, 2),
        torch.Size([1, 2]),
    ]
    scan = pickle_scan.Machine("a")
    for opcode, argument, _ in pickletools.genops(pickle.dumps(content, protocol)):
        scan.take(opcode, argument)
    assert scan.stack == scan.below == []


def optimised() -> dict[str, Any]:
    """Return what a training program saves: weights twice over, the optimiser, its schedule and a log."""
    network = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.Conv2d(4, 2, 1))
    optimizer = torch.optim.AdamW(network.parameters())
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 10)
    network(torch.ones(1, 1, 8, 8)).sum().backward()
    optimizer.step()
    weights = network.state_dict()
    assert hasattr(weights, "_metadata")
    return {
        "state_dict": weights,
        "ema": weights,
        "optimizer": optimizer.state_dict(),
        "schedule": schedule.state_dict(),
        "log": [[float(n) for n in range(1000)] for _ in range(8)],
        "by place": {(n, n + 1): "x" for n in range(100)},
        "seed": [torch.get_rng_state(), 1 << 127],
    }


@pytest.mark.parametrize("new", [True, False])
def test_what_training_programs_save_is_read(tmp_path: Path, new: bool) -> None:
    content = optimised()
    torch.save(content, tmp_path / "a.pt", _use_new_zipfile_serialization=new)
    found = read_tensors_only(tmp_path / "a.pt", "a")
    assert found.keys() == content.keys()
    assert found["by place"] == content["by place"]
    assert found["state_dict"]._metadata == content["state_dict"]._metadata
    for name, value in content["state_dict"].items():
        assert torch.equal(found["ema"][name], value)


def test_the_limits_lie_far_above_what_a_large_network_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three thousand tensors and the state of their optimiser pass a third of the steps and a tenth of the values."""
    tensor = torch.zeros(1, 1, 1, 1, 1)
    state = {n: {"step": tensor, "exp_avg": tensor.clone(), "exp_avg_sq": tensor.clone()} for n in range(3000)}
    buffer = io.BytesIO()
    torch.save({"weights": OrderedDict((f"block.{n}", tensor.clone()) for n in range(3000)), "state": state}, buffer)
    for name, share in (("MAX_STEPS", 3), ("MAX_IN_TUPLE", 1000), ("MAX_TAKEN", 10)):
        monkeypatch.setattr(pickle_scan, name, getattr(pickle_scan, name) // share)
    with zipfile.ZipFile(buffer) as archive, archive.open("archive/data.pkl") as file:
        assert sum(1 for _ in iter_steps(file, "a")) > 100_000
