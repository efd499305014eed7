"""YAML and JSON of a stranger: what is no number in use is refused as such, and everything else is what it was."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.models.sample import make_or_skip
from tests.refusals import Kind, raises

from napari_tessera.core import plain_data
from napari_tessera.core.errors import ModelError
from napari_tessera.core.plain_data import load_json, load_yaml
from napari_tessera.models.formats.monai_bundle.config import parse
from napari_tessera.models.load import load_model

LONG = "9" * 301
NUMBERS = (
    *("0", "-0", "+5", "12", "1_000", "0b101", "-0b1", "0x1F", "017", "-017", "08", "0_", "1_", "00", "0o7", "_1"),
    *("1.5", "1.", ".5", "-.5", "+.5", "1e5", "1.0e+5", "-1.5e-3", ".inf", "-.inf", "1.0e+400", "1e400"),
    *("2026-01-02", "2026-01-02 10:11:12", "yes", "null", "~", "'12'", ".", "_", "+", "1.2.3", "12 34"),
)


@pytest.mark.parametrize("text", NUMBERS)
def test_yaml_is_what_it_was(text: str) -> None:
    found = load_yaml(f"a: {text}")["a"]
    assert found == yaml.safe_load(f"a: {text}")["a"]
    assert type(found) is type(yaml.safe_load(f"a: {text}")["a"])


@pytest.mark.parametrize("text", ["1:10", "1:10.5", "-1:10", "190:20:30", "1" + ":10" * 320_000])
def test_numbers_of_base_60_are_text(text: str) -> None:
    assert load_yaml(f"a: {text}") == {"a": text}
    assert load_yaml(f"{text[:300]}: 1") == {text[:300]: 1}


@pytest.mark.parametrize("text", ["!!int 1:10", "!!float 1:10", "!!float 1:10.5", "!!int ''", "!!float ''", "!!int x"])
def test_a_tag_makes_no_number_of_what_is_none(text: str) -> None:
    with raises(ValueError, Kind.NO_INTEGER if "!!int" in text else Kind.NOT_A_NUMBER):
        load_yaml(f"a: {text}")


@pytest.mark.parametrize("text", ["!!bool x", "!!timestamp x"])
def test_a_tag_that_does_not_fit_is_an_error_of_the_file(text: str) -> None:
    with raises(ValueError, Kind.TAG):
        load_yaml(f"a: {text}")


@pytest.mark.parametrize(
    "text", [LONG, f"-{LONG}", "0x" + "f" * 260, "0b" + "1" * 999, "0" + "7" * 400, "9" * 5000, f"!!int {LONG}"]
)
def test_endless_integers_in_yaml(text: str) -> None:
    for content in (f"a: {text}", f"a: [{{b: {text}}}]", f"? {text}\n: 1"):
        with pytest.raises(ValueError, match=r"an integer of more than 300 digits|more than 15 characters"):
            load_yaml(content)


def test_integers_as_long_as_can_be_used() -> None:
    for load in (load_yaml, load_json):
        assert load(f'{{"a": {"9" * 300}}}') == {"a": 10**300 - 1}
        assert math.isfinite(float(load(f'{{"a": {"9" * 300}}}')["a"]))


def test_names_whose_hashes_are_alike() -> None:
    with raises(ValueError, 15):
        load_yaml("\n".join(f"{(n + 1) * (2**61 - 1)}: 1" for n in range(10)))
    assert load_yaml("1: a\n2.5: b\n-3: c") == {1: "a", 2.5: "b", -3: "c"}


def test_a_list_that_holds_itself_after_many_others(memory: Callable[[], float]) -> None:
    with raises(ValueError, 100000):
        load_yaml(f"&a [{'1, ' * 40_000}*a]")
    assert memory() < 200e6


def test_pairs_do_not_multiply(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plain_data, "MAX_VALUES", 1000)
    lines = ["a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    lines += [f"a{n}: &a{n} !!pairs [{', '.join([f'x: *a{n - 1}'] * 10)}]" for n in range(1, 4)]
    with raises(ValueError, 1000):
        load_yaml("\n".join(lines))


@pytest.mark.parametrize("text", [LONG, f"-{LONG}", f'{{"a": [{LONG}]}}', "9" * 5000])
def test_endless_integers_in_json(text: str) -> None:
    with raises(ValueError, 300):
        load_json(text)


def test_json_is_what_it_was() -> None:
    found = load_json(b'{"a": [1, -2, 1.5, 1e400, "x", null, true], "b": NaN, "c": -Infinity}')
    assert found["a"] == [1, -2, 1.5, math.inf, "x", None, True]
    assert math.isnan(found["b"])
    assert found["c"] == -math.inf


@pytest.mark.parametrize("is_yaml", [True, False])
def test_a_bundle_with_an_endless_integer(is_yaml: bool) -> None:
    with raises(ModelError, "a", 300):
        parse(f'{{"a": {LONG}}}'.encode(), "a", is_yaml=is_yaml)


@pytest.mark.parametrize("file", ["plans.json", "dataset.json"])
def test_plans_with_an_endless_integer(tmp_path: Path, file: str) -> None:
    path = make_or_skip("sample_nnunet", tmp_path).path
    for target in tmp_path.rglob(file):
        target.write_text(f'{{"a": {LONG}}}')
    with raises(ModelError, file, 300):
        load_model(path)


@pytest.mark.parametrize(("name", "file"), [("sample_tessera", "small.yaml"), ("sample_connectomics", "last.yaml")])
@pytest.mark.parametrize("value", [LONG, "0x" + "f" * 260])
def test_descriptions_with_an_endless_integer(tmp_path: Path, name: str, file: str, value: Any) -> None:
    path = make_or_skip(name, tmp_path).path
    (target,) = tmp_path.rglob(file)
    target.write_text(f"{target.read_text()}\nodd: {value}\n")
    with raises(ModelError, file, 300):
        load_model(path)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (f"odd: {LONG}", 300),
        (f"odd: 0x{'f' * 260}", 300),
        (f"odd: !!int 1{':10' * 10_000}", Kind.NO_INTEGER),
        ("odd: !!float 1:10.5", Kind.NOT_A_NUMBER),
        ("odd: !!bool x", ()),
        ("odd: !!int ''", ()),
    ],
)
def test_packages_of_bioimageio_with_numbers_that_are_none(tmp_path: Path, line: str, reason: Any) -> None:
    path = make_or_skip("sample_bioimageio", tmp_path).path
    (target,) = tmp_path.rglob("rdf.yaml")
    target.write_text(f"{target.read_text()}\n{line}\n")
    with raises(ModelError, Kind.CANNOT_READ, "rdf.yaml", reason):
        load_model(path)


def test_a_package_of_bioimageio_that_asks_for_an_older_yaml(tmp_path: Path) -> None:
    path = make_or_skip("sample_bioimageio", tmp_path).path
    (target,) = tmp_path.rglob("rdf.yaml")
    target.write_text(f"%YAML 1.1\n---\n{target.read_text()}\nodd: 1{':10' * 10_000}\n")
    with raises(ModelError, Kind.NO_BIOIMAGEIO_MODEL):
        load_model(path)


@pytest.mark.parametrize("text", ["{a: 1, a: 2}", "x: [{1: a, 0x1: b}]", "a: 1\n'a': 1\n", "{yes: 1, true: 2}"])
def test_a_key_that_is_there_twice_is_refused(text: str) -> None:
    with raises(ValueError, Kind.TWICE):
        load_yaml(text)


def test_what_is_merged_is_no_second_key() -> None:
    text = "{a: &a {x: 1, y: 2}, b: &b {<<: *a, x: 3}, c: {<<: [*b, *a], y: 4}, d: *b, e: {<<: *b}}"
    found = load_yaml(text)
    assert found == yaml.safe_load(text)
    assert found["e"] == {"x": 3, "y": 2}


def test_words_and_numbers_of_a_newer_yaml_are_those_of_its_standard() -> None:
    text = "{a: 1e-3, b: no, c: true, d: -1, e: .inf, f: 1:30, g: 0x1f, h: 1., i: on, j: 0.4.10, k: '1', l: 010}"
    wanted = {"a": 1e-3, "b": "no", "c": True, "d": -1, "e": float("inf"), "f": "1:30"}
    wanted |= {"g": 31, "h": 1.0, "i": "on", "j": "0.4.10", "k": "1", "l": 10}
    assert load_yaml(text, newer=True) == wanted
