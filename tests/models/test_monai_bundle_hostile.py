"""MONAI bundles of a stranger: nothing of them runs, leaves its folder or fills the memory."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.models.change_monai_bundle import SMALL, changed, save_script, small_network
from tests.models.sample import reference_network
from tests.models.sample_monai_bundle import INFERENCE, make, make_zip, write_bundle
from tests.refusals import Kind, raises

import napari_tessera as nt
from napari_tessera.core.errors import ModelError
from napari_tessera.models.formats.monai_bundle.monai_bundle_format import FORMAT
from napari_tessera.models.load import load_model


def attacks(canary: Path) -> dict[str, tuple[dict[str, Any], str]]:
    """Keys of a configuration that would run something in MONAI, and what is said of them."""
    run = f"$__import__('os').system('touch {canary}')"
    shell = {"_target_": "os.system", "command": f"touch {canary}"}
    network = {"_target_": "UNet", **SMALL}
    return {
        "network": ({"network_def": shell}, "'os.system', which is not one of the networks"),
        "network expression": ({"network_def": run}, "'network_def' is '$__import__"),
        "target": ({"network_def": network | {"_target_": run}}, "'network_def::_target_' is '$__import__"),
        "monai": ({"network_def": network | {"_target_": "monai.bundle.run"}}, "'monai.bundle.run', which is not"),
        "lookalike": ({"network_def": network | {"_target_": "evil.UNet"}}, "'evil.UNet', which is not one"),
        "argument": ({"network_def": network | {"channels": run}}, "'network_def::channels' is '$__import__"),
        "deep argument": ({"network_def": network | {"act": ["relu", {"x": run}]}}, "'network_def::act::1::x' is"),
        "reference": ({"network_def": network | {"channels": "@a"}, "a": run}, "'network_def::channels' is '$__imp"),
        "macro": ({"network_def": network | {"channels": "%/etc/passwd"}}, "is '%/etc/passwd', which only"),
        "argument object": ({"network_def": network | {"act": shell}}, "makes an object of 'os.system'"),
        "mode": ({"network_def": network | {"_mode_": "callable"}}, "the _mode_ 'callable', which runs code"),
        "transform": ({"preprocessing": [shell]}, "'os.system', which is no transform of MONAI"),
        "keys": ({"preprocessing": [{"_target_": "ScaleIntensityd", "keys": run}]}, "'preprocessing::0::keys' is"),
        "disabled": ({"preprocessing": [{"_target_": "Foo", "_disabled_": run}]}, "preprocessing::0::_disabled_' is"),
        "roi": ({"inferer": {"_target_": "SlidingWindowInferer", "roi_size": run}}, "'inferer::roi_size' is"),
    }


@pytest.mark.parametrize("name", attacks(Path("x")))
def test_nothing_of_a_configuration_runs(tmp_path: Path, canary: Path, name: str) -> None:
    keys, text = attacks(canary)[name]
    content = changed(INFERENCE, network_def={"_target_": "UNet", **SMALL}) | keys
    folder = write_bundle(tmp_path / "bundle", small_network(), inference=content)
    for action in (
        (FORMAT.risk, FORMAT.describe, FORMAT.load) if "network_def" in keys else (FORMAT.describe, FORMAT.load)
    ):
        with pytest.raises(ModelError) as error:
            action(folder)
        assert text in str(error.value)
        assert str(folder / "configs" / "inference.json") in str(error.value)


def test_expressions_that_are_not_needed_do_not_run_and_do_not_matter(tmp_path: Path, canary: Path) -> None:
    run = f"$__import__('os').system('touch {canary}')"
    content = changed(
        INFERENCE,
        imports=["$import os", run, f"$import os; os.system('touch {canary}')"],
        initialize=[run],
        run=[run],
        handlers={"_target_": "os.system", "command": f"touch {canary}"},
        dataset_dir=run,
    )
    content["network_def"]["_requires_"] = run
    model = load_model(write_bundle(tmp_path / "bundle", reference_network(), inference=content))
    nt.predict(np.zeros((16, 32, 32), np.float32), model)


def test_a_step_after_the_network_that_is_not_monais_is_refused(tmp_path: Path, canary: Path) -> None:
    content = changed(INFERENCE)
    content["postprocessing"]["transforms"].append({"_target_": "os.system", "command": f"touch {canary}"})
    path = write_bundle(tmp_path / "bundle", reference_network(), inference=content)
    with raises(ModelError, "os.system", "inference.json", "postprocessing::transforms::2"):
        load_model(path)


class Payload:
    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.canary}",)


@pytest.mark.parametrize("protocol", ["zip", "legacy", "2", "4"])
@pytest.mark.parametrize("zipped", [False, True])
def test_a_pickle_that_would_run_something(tmp_path: Path, canary: Path, protocol: str, zipped: bool) -> None:
    path = write_bundle(tmp_path / "bundle", reference_network())
    weights = path / "models" / "model.pt"
    if protocol in "24":
        weights.write_bytes(pickle.dumps({"model": Payload(canary)}, protocol=int(protocol)))
    else:
        torch.save({"model": Payload(canary)}, weights, _use_new_zipfile_serialization=protocol == "zip")
    if zipped:
        path = Path(shutil.make_archive(str(tmp_path / "zipped"), "zip", path))
    with raises(ModelError, "model.pt", Kind.RUNS_CODE) as error:
        load_model(path)
    assert str(path) in str(error.value)
    # Newer pickles name things by an instruction that torch never writes.
    assert (f"'{os.system.__module__}.system'" in str(error.value)) == (protocol != "4")


def test_weights_that_are_a_program_are_not_run(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path / "bundle")
    save_script(small_network(), folder / "models" / "model.pt")
    with raises(ModelError, folder / "models" / "model.pt"):
        load_model(folder)


@pytest.mark.parametrize("name", ["../escape.txt", "/tmp/escape.txt", "bundle/../../escape.txt", "C:\\escape.txt"])
def test_a_zip_whose_files_would_leave_it(tmp_path: Path, name: str) -> None:
    path = make_zip(tmp_path).path
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(name, "x")
    before = set(tmp_path.parent.glob("*")) | set(tmp_path.glob("*"))
    with raises(ModelError, Kind.LEAVES_ITS_FOLDER) as error:
        load_model(path)
    assert str(path) in str(error.value)
    assert before == set(tmp_path.parent.glob("*")) | set(tmp_path.glob("*"))


def test_links_out_of_the_folder_are_not_followed(tmp_path: Path) -> None:
    folder = make(tmp_path).path
    outside = tmp_path / "outside.json"
    (folder / "configs" / "inference.json").rename(outside)
    (folder / "configs" / "inference.json").symlink_to(outside)
    with raises(ModelError, Kind.LEADS_OUTSIDE, "inference.json"):
        load_model(folder)


@pytest.mark.parametrize("name", ["configs/metadata.json", "configs/inference.json", "models/model.pt"])
def test_a_zip_bomb_is_not_unpacked(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """300 MB of spaces in 300 kB: refused by what its directory says, or after the first megabyte."""
    path = tmp_path / "bomb.zip"
    folder = make(tmp_path).path
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for other in ("configs/metadata.json", "configs/inference.json", "models/model.pt"):
            if other != name:
                archive.write(folder / other, other)
        with archive.open(name, "w", force_zip64=True) as entry:
            for _ in range(300):
                entry.write(b" " * 1_000_000)
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    tracemalloc.start()
    try:
        with raises(ModelError, name, "bomb.zip", Kind.WOULD_GROW if name.endswith(".pt") else Kind.HAS_MORE):
            load_model(path)
        assert tracemalloc.get_traced_memory()[1] < 20_000_000
    finally:
        tracemalloc.stop()
    assert not any(temporary.iterdir())


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("UNet", SMALL | {"out_channels": 2, "channels": [20_000, 20_000]}),
        ("SwinUNETR", {"in_channels": 1, "out_channels": 2, "feature_size": 12_000}),
    ],
)
def test_a_network_far_larger_than_its_weights_is_not_built(
    tmp_path: Path, name: str, arguments: dict[str, Any]
) -> None:
    """Tens of gigabytes by a few characters: refused before they are allocated."""
    pytest.importorskip("einops", reason="einops is not installed, which transformers need")
    content = changed(INFERENCE, network_def={"_target_": name, **arguments})
    content["inferer"]["roi_size"] = 32
    folder = write_bundle(tmp_path / "bundle", small_network(), inference=content)
    with raises(ModelError, 441, "model.pt") as error:
        load_model(folder)
    assert str(folder) in str(error.value)


def test_compressed_weights_are_not_inflated(tmp_path: Path) -> None:
    """A torch file whose pickle is a bomb of its own."""
    folder = make(tmp_path).path
    weights = folder / "models" / "model.pt"
    with zipfile.ZipFile(weights, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("model/data.pkl", b" " * 50_000_000)
        archive.writestr("model/version", b"3\n")
    with raises(ModelError, "model/data.pkl", 50000000, "model.pt"):
        load_model(folder)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("[" * 100_000, "is not valid"),
        ("a: !!python/object/apply:os.system ['touch {canary}']", "is not valid"),
        (
            "a: &a [1, 1, 1, 1, 1, 1, 1, 1]\n"
            + "".join(
                f"{b}: &{b} [{', '.join([f'*{a}'] * 8)}]\n" for a, b in zip("abcdefghij", "bcdefghijk", strict=True)
            )
            + "network_def: {_target_: UNet, channels: *k}\n",
            "more than 100000 values",
        ),
        (
            "a: &a [{_target_: Foo}, {_target_: Foo}, {_target_: Foo}]\n"
            + "".join(f"{b}: &{b} [{', '.join([f'*{a}'] * 8)}]\n" for a, b in zip("abc", "bcd", strict=True))
            + "network_def: {_target_: BasicUNet}\npreprocessing: *d\n",
            "more than 1000 transforms",
        ),
    ],
    ids=["brackets", "tag", "values", "transforms"],
)
def test_yaml_that_would_never_end_or_run(tmp_path: Path, canary: Path, content: str, text: str) -> None:
    folder = make(tmp_path).path
    (folder / "configs" / "inference.json").unlink()
    (folder / "configs" / "inference.yaml").write_text(content.replace("{canary}", str(canary)))
    with pytest.raises(ModelError, match=text) as error:
        load_model(folder)
    assert str(folder / "configs" / "inference.yaml") in str(error.value)


def test_deep_json_is_refused(tmp_path: Path) -> None:
    folder = make(tmp_path).path
    (folder / "configs" / "metadata.json").write_text('{"a": ' + "[" * 400_000)
    with raises(ModelError, "metadata.json", Kind.NOT_VALID):
        load_model(folder)
    (folder / "configs" / "metadata.json").write_text(json.dumps([]))
    with raises(ModelError, "metadata.json", "list"):
        load_model(folder)
