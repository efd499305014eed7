"""Which file of a MONAI bundle its weights are taken from: the one that its configuration loads."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.models.change_monai_bundle import changed, save_script, small_network
from tests.models.sample import reference_network
from tests.models.sample_monai_bundle import INFERENCE, write_bundle
from tests.refusals import Kind, raises

from napari_tessera.core.errors import ModelError
from napari_tessera.models.load import describe_model, find_risk, load_model

USUAL, BEST = "models/model.pt", "models/model_best.pt"
TAKEN = f"names {BEST} as its weights and not {USUAL}, so {BEST} is taken."


def bundle(folder: Path, *others: str, **keys: Any) -> Path:
    """Return a bundle with the usual weights, and with *others* that are nothing but zeros."""
    path = write_bundle(folder / "bundle", reference_network(), inference=changed(INFERENCE, **keys))
    for other in others:
        zeros = {key: torch.zeros_like(value) for key, value in reference_network().state_dict().items()}
        (path / other).parent.mkdir(exist_ok=True)
        torch.save({"model": zeros}, path / other)
    return path


def is_zero(path: Path) -> bool:
    """Whether the weights that are taken are *others*."""
    return all(not values.any() for values in load_model(path).network.parameters())


def loader(load_path: str, **more: Any) -> dict[str, Any]:
    return {"_target_": "CheckpointLoader", "load_path": load_path, "load_dict": {"model": "@network"}, **more}


@pytest.mark.parametrize(
    "keys",
    [
        {"ckpt_path": BEST},
        {"ckpt_path": f"./{BEST}"},
        {"ckpt_path": "model_best.pt"},
        {"ckpt_path": f"/home/somebody/bundle/{BEST}"},
        {"ckpt_path": f"$@bundle_root + '/{BEST}'"},
        {"ckpt_path": f'$@bundle_root + "/{BEST}"'},
        {"ckpt_path": f"$@bundle_root + '/{BEST}'", "bundle_root": "/workspace/bundle"},
        {"ckpt_path": f"$@bundle_root + '/{BEST}'", "bundle_root": "$os.getcwd()"},
        {"ckpt_path": f"$@no_such + '/{BEST}'"},
        {"ckpt_path": "$@models + '/model_best.pt'", "models": "$@bundle_root + '/models'"},
        {"ckpt_path": "$@models + '/model_best.pt'", "models": "$os.environ['MODELS']"},
        {"ckpt_path": "$os.path.join(@bundle_root, 'models', 'model_best.pt')"},
        {"ckpt_path": "$str(Path(@bundle_root) / 'models' / 'model_best.pt')"},
        {"ckpt_path": "$@bundle_root + '/models/model_' + @kind + '.pt'", "kind": "best"},
        {"ckpt_path": "@best", "best": BEST},
        {"checkpoint": BEST, "ckpt_path": "$pick()"},
        {"weights": f"$@bundle_root + '/{BEST}'", "ckpt_path": None},
        {"checkpointloader": loader(f"$@bundle_root + '/{BEST}'")},
        {"handlers": [{"_target_": "StatsHandler"}, loader("@best")], "best": BEST},
        {"evaluator": {"val_handlers": [loader(BEST)]}},
        {"handlers": [loader("models/other.pt", _disabled_=True)], "ckpt_path": BEST},
    ],
    ids=lambda keys: str(keys)[:60],
)
def test_the_configuration_says_which(tmp_path: Path, keys: dict[str, Any]) -> None:
    path = bundle(tmp_path, BEST, **keys)
    _, description = describe_model(path)
    assert any(TAKEN in note for note in description.notes)
    assert is_zero(path)


def test_a_zip_is_read_alike(tmp_path: Path) -> None:
    bundle(tmp_path, BEST, ckpt_path=BEST)
    path = Path(shutil.make_archive(str(tmp_path / "zipped"), "zip", tmp_path, "bundle"))
    assert any(TAKEN in note for note in load_model(path).notes)
    assert is_zero(path)


def test_other_folders_of_the_bundle(tmp_path: Path) -> None:
    path = bundle(tmp_path, "folds/best.pth", ckpt_path="$@bundle_root + '/folds/best.pth'")
    assert is_zero(path)
    (path / USUAL).unlink()
    assert "Its 'ckpt_path' names folds/best.pth as its weights, so folds/best.pth is taken." in load_model(path).notes


@pytest.mark.parametrize("keys", [{}, {"ckpt_path": USUAL}, {"ckpt_path": None}, {"weights": "$torch.tensor([1, 2])"}])
def test_the_usual_weights_need_no_note(tmp_path: Path, keys: dict[str, Any]) -> None:
    path = bundle(tmp_path, BEST, **keys)
    assert not any("as its weights" in note for note in load_model(path).notes)
    assert not is_zero(path)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("models/gone.pt", "names models/gone.pt as its weights, which the bundle does not hold"),
        ("../outside.pt", "names ../outside.pt as its weights, which the bundle does not hold"),
        ("models/../../outside.pt", "which the bundle does not hold"),
        ("..\\outside.pt", "which the bundle does not hold"),
        ("/tmp/outside.pt", "which the bundle does not hold"),
        ("C:/models/model_best.pt", "which the bundle does not hold"),
        ("$@bundle_root + '/../outside.pt'", "which the bundle does not hold"),
        ("models/weights.bin", "names models/weights.bin as its weights, which end in none of .pt, .pth, .ts"),
        ("$max(glob('models/*'))", "an expression that is not run"),
        (f"${BEST!r} if @better else {USUAL!r}", "an expression that is not run"),
        ("$@bundle_root + '/models/model_' + str(@fold) + '_best.pt'", "an expression that is not run"),
        (f"$open({BEST!r})", "an expression that is not run"),
        (f"%{BEST}", "an expression that is not run"),
        (f"models/{'z' * 5000}.pt", "as its weights, which"),
        ("models/\0model_best.pt", "as its weights, which"),
    ],
    ids=range(15),
)
def test_others_are_not_looked_for_and_a_note_says_so(tmp_path: Path, value: str, said: str) -> None:
    path = bundle(tmp_path, BEST, "../outside.pt", ckpt_path=value)
    assert any(said in note and f"so {USUAL} is taken." in note for note in load_model(path).notes)
    assert not is_zero(path)


@pytest.mark.skipif(os.name == "nt", reason="there, names are counted by letters and not by bytes")
def test_a_name_that_no_disk_takes(tmp_path: Path) -> None:
    path = bundle(tmp_path, ckpt_path="models/" + "\u00f6" * 190 + ".pt")
    with raises(ModelError, Kind.NO_SUCH_NAME):
        load_model(path)


def test_a_link_out_of_the_bundle_is_refused(tmp_path: Path) -> None:
    path = bundle(tmp_path, "../outside.pt", ckpt_path=BEST)
    (path / BEST).symlink_to(tmp_path / "outside.pt")
    with raises(ModelError, Kind.LEADS_OUTSIDE, BEST):
        load_model(path)


def test_texts_that_stand_for_each_other_end(tmp_path: Path) -> None:
    doubled = {f"a{n}": f"$@a{n + 1} + @a{n + 1}" for n in range(30)}
    path = bundle(tmp_path, ckpt_path="$@a0 + '/models/x.pt'", **doubled, a30="@a0")
    assert any(f"so {USUAL} is taken" in note for note in load_model(path).notes)


def test_a_script_that_is_named_asks_for_trust(tmp_path: Path) -> None:
    path = bundle(tmp_path, ckpt_path="$@bundle_root + '/models/best.ts'")
    save_script(small_network(), path / "models" / "best.ts")
    risk = find_risk(path)
    assert risk is not None
    assert risk.files == (path / "models" / "best.ts",)
    _, description = describe_model(path)
    assert f"names models/best.ts as its weights and not {USUAL}, so models/best.ts is taken." in description.notes[0]
    assert load_model(path, trust=True).network is not None


def test_weights_that_are_missing_are_asked_for_by_their_name(tmp_path: Path) -> None:
    path = bundle(tmp_path, ckpt_path=BEST)
    (path / USUAL).unlink()
    with raises(ModelError, "model.pt", "model.ts", "ckpt_path") as caught:
        load_model(path)
    assert str(path) in str(caught.value)
    assert BEST in str(caught.value)
