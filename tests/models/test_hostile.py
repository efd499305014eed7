"""Files of a stranger, whatever their format: nothing runs, memory stays bounded, the error names file and reason.

What only one format knows, such as the expressions of a MONAI bundle, is tried beside that format.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from tests.models.sample import make_or_skip, reference_network
from tests.refusals import Kind, raises

from napari_tessera.core.errors import ModelError, UntrustedModelError
from napari_tessera.models.load import describe_model, find_risk, load_model

MOST_BYTES = 100e6


class Payload:
    """Pickles to a call that leaves a file behind."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.canary}",)


def refused(path: Path, *names: str, trust: bool = False) -> str:
    """Return how *path* is refused: by one sentence that has all of *names*; looking at it goes or is refused, too."""
    for look in (find_risk, describe_model):
        try:
            look(path)
        except ModelError as error:
            assert_sentence(str(error))
    with pytest.raises(ModelError) as caught:
        load_model(path, trust=trust)
    text = str(caught.value)
    assert_sentence(text)
    for name in names:
        assert name in text
    return text


def assert_sentence(text: str) -> None:
    assert "\n" not in text
    assert len(text) < 1000
    assert "did not expect" not in text


def pickled(kind: str, content: Any) -> bytes:
    """Return *content* as torch or pickle writes it."""
    if kind.isdecimal():
        return pickle.dumps(content, protocol=int(kind))
    buffer = io.BytesIO()
    torch.save(content, buffer, _use_new_zipfile_serialization=kind == "zip")
    return buffer.getvalue()


KINDS = ("zip", "legacy", "2", "4")
# Which file of which sample is replaced, and by what around the payload.
PLACES: dict[str, tuple[str, str, Callable[[Payload], Any]]] = {
    ".ckpt": ("sample_connectomics", "last.ckpt", lambda payload: {"state_dict": {"model.a": payload}}),
    ".pth.tar": (
        "sample_connectomics_1",
        "checkpoint_100000.pth.tar",
        lambda payload: {"state_dict": {"a": torch.ones(1)}, "lr_scheduler": payload},
    ),
    ".pt": ("sample_torchscript", "small.pt", lambda payload: {"a": payload}),
    ".pth": ("sample_nnunet", "checkpoint_final.pth", lambda payload: {"network_weights": {"a": payload}}),
    ".pt2": ("sample_exported", "small.pt2", lambda payload: {"a": payload}),
    ".pt of MONAI": ("sample_monai_bundle", "model.pt", lambda payload: {"model": {"a": payload}}),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("place", PLACES)
def test_pickles_run_nothing(tmp_path: Path, canary: Path, place: str, kind: str) -> None:
    name, file, around = PLACES[place]
    sample = make_or_skip(name, tmp_path)
    (target,) = tmp_path.rglob(file)
    target.write_bytes(pickled(kind, around(Payload(canary))))
    # Even trusted: a pickle that torch's readers of archives do not take is not given to Python's.
    refused(sample.path, file, trust=True)
    assert not canary.exists()


class Storage:
    """Pickles to a storage of a terabyte."""

    def __reduce__(self) -> tuple[Any, ...]:
        return torch.UntypedStorage, (10**12,)


@pytest.mark.parametrize("kind", ["zip", "legacy"])
def test_a_storage_of_a_size_is_not_reserved(tmp_path: Path, kind: str) -> None:
    path = make_or_skip("sample_monai_bundle", tmp_path).path
    (path / "models" / "model.pt").write_bytes(pickled(kind, {"a": Storage()}))
    refused(path, "model.pt", "UntypedStorage")


@pytest.mark.parametrize("suffix", [".pkl", ".bin", ""])
def test_pickles_by_other_names_are_not_even_opened(tmp_path: Path, canary: Path, suffix: str) -> None:
    path = tmp_path / f"evil{suffix}"
    path.write_bytes(pickled("zip", Payload(canary)))
    assert "has the ending" in refused(path, path.name, trust=True)


def replaced(path: Path, change: Callable[[str, bytes], bytes], compression: int = zipfile.ZIP_STORED) -> None:
    """Write the archive *path* anew, each of its members changed."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, change(name, content))


@pytest.mark.parametrize("member", ["data.pkl", "constants.pkl"])
def test_a_torchscript_whose_pickles_were_replaced_runs_nothing_in_python(
    tmp_path: Path, canary: Path, member: str
) -> None:
    path = make_or_skip("sample_torchscript", tmp_path).path
    evil = pickle.dumps({"a": Payload(canary)}, protocol=2)
    replaced(path, lambda name, content: evil if name.endswith(f"/{member}") else content)
    with raises(UntrustedModelError, "small.pt"):
        load_model(path)
    refused(path, "small.pt", "as TorchScript", trust=True)


@pytest.mark.parametrize("kind", KINDS)
def test_members_of_an_exported_program_that_are_pickles_run_nothing_without_trust(
    tmp_path: Path, canary: Path, kind: str
) -> None:
    path = make_or_skip("sample_exported", tmp_path).path
    evil = pickled(kind, {"a": Payload(canary)})
    replaced(path, lambda name, content: content if name.endswith((".json", "version", "byteorder")) else evil)
    assert describe_model(path)[1].spec is not None
    assert find_risk(path) is not None
    with raises(UntrustedModelError, "small.pt2", Kind.RUNS_CODE):
        load_model(path)


def test_an_exported_program_that_would_leave_its_archive_writes_nothing(tmp_path: Path) -> None:
    path = make_or_skip(
        "sample_exported", tmp_path / "inner" if (tmp_path / "inner").mkdir() is None else tmp_path
    ).path
    with zipfile.ZipFile(path, "a") as archive:
        for name in ("../escaped.txt", "/tmp/tessera-escaped.txt", "small/../../escaped.txt"):
            archive.writestr(name, "x")
    before = sorted(tmp_path.rglob("*"))
    for opened in (lambda: describe_model(path), lambda: load_model(path, trust=True)):
        with raises(ModelError, Kind.LEAVES_ITS_FOLDER) as caught:
            opened()
        assert_sentence(str(caught.value))
    assert sorted(tmp_path.rglob("*")) == before
    assert not Path("/tmp/tessera-escaped.txt").exists()


@pytest.mark.parametrize("member", ["models/model.json", "extra/tessera.yaml"])
def test_a_bomb_in_an_exported_program_is_not_unpacked(
    tmp_path: Path, memory: Callable[[], float], member: str
) -> None:
    path = make_or_skip("sample_exported", tmp_path).path
    with zipfile.ZipFile(path) as archive:
        kept = {name: archive.read(name) for name in archive.namelist() if not name.endswith(member)}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in kept.items():
            archive.writestr(zipfile.ZipInfo(name), content)  # stored, as torch does
        with archive.open(f"small/{member}", "w") as bomb:
            bomb.write(b"[")
            for _ in range(40):
                bomb.write(b"[]," * 333_333)
    start = memory()
    for act in (describe_model, lambda file: load_model(file, trust=True)):
        with raises(ModelError, "small.pt2"):
            act(path)
    assert memory() - start < MOST_BYTES


@pytest.mark.parametrize("member", ["extra/tessera.yaml"])
def test_a_bomb_in_a_torchscript_is_not_unpacked(tmp_path: Path, memory: Callable[[], float], member: str) -> None:
    path = make_or_skip("sample_torchscript", tmp_path).path
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive, archive.open(f"small/{member}", "w") as bomb:
        for _ in range(300):
            bomb.write(b" " * 1_000_000)
    with raises(ModelError, "tessera.yaml", "small.pt", Kind.HAS_MORE):
        describe_model(path)
    assert memory() < MOST_BYTES


# Safetensors. A file is the length of its header, the header, and the numbers.


def safetensors(header: Any, *, length: int | None = None, numbers: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + numbers


def tensor(shape: list[int], start: int, stop: int, dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, stop]}


@pytest.mark.parametrize(
    "content",
    [
        safetensors({}, length=2**60),
        safetensors({}, length=2**64 - 1),
        safetensors({}, length=99_999_999),
        safetensors({"a": tensor([4], 0, 16), "b": tensor([4], 8, 24)}, numbers=bytes(24)),
        safetensors({"a": tensor([2**32, 2**32, 2**32], 0, 16)}, numbers=bytes(16)),
        safetensors({"a": tensor([2**62], 0, 2**64)}, numbers=bytes(16)),
        safetensors({"a": tensor([4], 16, 0)}, numbers=bytes(16)),
        safetensors({"a": tensor([4], 10**12, 10**12 + 16)}, numbers=bytes(16)),
        safetensors({"a": tensor([-4], 0, 16)}, numbers=bytes(16)),
        safetensors({"a": tensor([4], 0, 16, "OBJECT")}, numbers=bytes(16)),
        safetensors(b"[" * 1_000_000),
        safetensors(b"\xff" * 100),
        safetensors({"a": tensor([4], 0, 16)}, numbers=bytes(8)),
        safetensors({"a": tensor([4], 0, 16)}, numbers=bytes(64)),
        b"",
        b"\x00" * 7,
    ],
    ids=[
        *("2^60", "2^64", "longer than the file", "overlapping", "product of the shape", "past 64 bits", "backwards"),
        *("far away", "negative", "objects", "deep", "no text", "cut short", "left over", "empty", "seven bytes"),
    ],
)
def test_absurd_safetensors(tmp_path: Path, memory: Callable[[], float], content: bytes) -> None:
    path = make_or_skip("sample_tessera", tmp_path).path
    path.with_suffix(".safetensors").write_bytes(content)
    assert "cannot read the weights" in (text := refused(path, "small.safetensors")) or "is empty" in text
    assert memory() < MOST_BYTES


@pytest.mark.parametrize("key", [b'"dtype"', b'"\\u0064type"'])
def test_endless_empty_safetensors(tmp_path: Path, memory: Callable[[], float], key: bytes) -> None:
    path = make_or_skip("sample_tessera", tmp_path).path
    one = b'"%d":{' + key + b':"F32","shape":[0],"data_offsets":[0,0]}'
    path.with_suffix(".safetensors").write_bytes(safetensors(b"{" + b",".join(one % n for n in range(200_000)) + b"}"))
    refused(path, "small.safetensors hold 200000 tensors, but Tessera reads at most 50000")
    assert memory() < MOST_BYTES


def test_a_long_header_of_safetensors(tmp_path: Path, memory: Callable[[], float]) -> None:
    path = make_or_skip("sample_tessera", tmp_path).path
    header = json.dumps({"__metadata__": {"a": "x" * 16_000_000}}).encode()
    path.with_suffix(".safetensors").write_bytes(safetensors(header))
    refused(path, "small.safetensors", "bytes beside their tensors, but Tessera reads at most 16000000")
    assert memory() < MOST_BYTES


# YAML that Tessera's own descriptions are written in: beside a file or inside it.


def laughs() -> str:
    lines = ["a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    return "\n".join([*lines, *(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12))])


def merged_laughs() -> str:
    """Return mappings that merge the one before ten times over, which multiplies before anything can be counted."""
    lines = ["a0: &a0 {x: 1}"]
    lines += [f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 10)}]}}" for n in range(1, 12)]
    return "\n".join(lines)


TEXTS = {
    "tag": "a: !!python/object/apply:os.system ['touch {canary}']",
    "name": "a: !!python/name:os.system ''",
    "module": "a: !!python/module:os",
    "laughs": f"{laughs()}\nname: *a11",
    "laughs as arguments": f"{laughs()}\narchitecture: {{class: monai.networks.nets.UNet, arguments: {{act: *a11}}}}",
    "merged laughs": merged_laughs(),
    "itself": "name: &a [*a]",
    "deep": "name: " + "[" * 100_000,
    "long": "# " + "x" * 2_000_000,
    "binary": "\x00\x01",
    "date": "name: 2026-99-99",
}


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
@pytest.mark.parametrize("name", ["sample_tessera", "sample_torchscript", "sample_exported", "sample_onnx"])
def test_descriptions_beside_a_file(
    tmp_path: Path, canary: Path, memory: Callable[[], float], name: str, text: str
) -> None:
    path = make_or_skip(name, tmp_path).path.with_suffix(".yaml")
    path.write_text(text.replace("{canary}", str(canary)))
    sample = path if name == "sample_tessera" else next(file for file in path.parent.glob("small.*") if file != path)
    refused(sample, "small.yaml", trust=True)
    assert memory() < MOST_BYTES


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
@pytest.mark.parametrize("name", ["sample_torchscript", "sample_exported", "sample_onnx"])
def test_descriptions_inside_a_file(
    tmp_path: Path, canary: Path, memory: Callable[[], float], name: str, text: str
) -> None:
    path, text = make_or_skip(name, tmp_path).path, text.replace("{canary}", str(canary))
    if name == "sample_onnx":
        import onnx

        graph = onnx.load(path)
        onnx.helper.set_model_props(graph, {"tessera.yaml": text})
        onnx.save(graph, path)
    else:
        with zipfile.ZipFile(path) as archive:
            top = archive.namelist()[0].split("/")[0]
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr(f"{top}/extra/tessera.yaml", text)
    refused(path, path.name, "tessera.yaml", trust=True)
    assert memory() < MOST_BYTES


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("sample_connectomics", "last.yaml"),
        ("sample_monai_bundle", "inference.yaml"),
        ("sample_bioimageio", "rdf.yaml"),
    ],
)
def test_configurations_of_other_programs_do_not_multiply(
    tmp_path: Path, memory: Callable[[], float], name: str, file: str
) -> None:
    path = make_or_skip(name, tmp_path).path
    for other in tmp_path.rglob("inference.json"):
        other.rename(other.with_name(file))
    (target,) = tmp_path.rglob(file)
    target.write_text(merged_laughs())
    refused(path, file, "stands for more than")
    assert memory() < MOST_BYTES


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("BasicUNet", {"spatial_dims": 3, "in_channels": 1, "out_channels": 2, "features": [8192] * 6}),
        ("UNet", {"spatial_dims": 3, "in_channels": 1, "out_channels": 2, "channels": [20_000] * 2, "strides": [2]}),
        ("UNETR", {"in_channels": 1, "out_channels": 2, "img_size": 96, "hidden_size": 48_000, "mlp_dim": 65_536}),
        (
            "UNet",
            {"spatial_dims": 3, "in_channels": 1, "out_channels": 2, "channels": [2] * 10**5, "strides": [2] * 10**5},
        ),
    ],
    ids=["features", "channels", "transformer", "levels"],
)
def test_a_network_far_larger_than_its_weights_is_not_built(
    tmp_path: Path, memory: Callable[[], float], name: str, arguments: dict[str, Any]
) -> None:
    path = make_or_skip("sample_tessera", tmp_path).path
    content = yaml.safe_load(path.read_text())
    content["architecture"] = {"class": f"monai.networks.nets.{name}", "arguments": arguments}
    path.write_text(yaml.safe_dump(content))
    refused(path, "small.yaml")
    assert memory() < MOST_BYTES


def test_the_reference_is_what_the_samples_hold(tmp_path: Path) -> None:
    """Or nothing of the above would be refused for its own reason."""
    for name in ("sample_tessera", "sample_torchscript", "sample_exported", "sample_monai_bundle"):
        (tmp_path / name).mkdir()
        model = load_model(make_or_skip(name, tmp_path / name).path, trust=True)
        windows = torch.rand(1, 1, 32, 32, 32)
        with torch.inference_mode():
            torch.testing.assert_close(model.network(windows), reference_network()(windows), rtol=0, atol=1e-4)
