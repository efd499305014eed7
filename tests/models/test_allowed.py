"""The reviewed table is all that a file can choose from: readers and table agree, and nothing else looks names up."""

from __future__ import annotations

import ast
import builtins
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, get_args

import pytest
from tests.models import allowed_page
from tests.refusals import raises

import napari_tessera
from napari_tessera.core.errors import ModelError
from napari_tessera.core.settings import connectomics as connectomics_settings
from napari_tessera.core.settings.connectomics_config import read_configuration
from napari_tessera.models.formats.bioimageio import described_package as bioimageio_weights
from napari_tessera.models.formats.bioimageio import processing as bioimageio_steps
from napari_tessera.models.formats.connectomics import blueprint as connectomics_blueprint
from napari_tessera.models.formats.connectomics import channel_use as connectomics_channels
from napari_tessera.models.formats.connectomics import connectomics_format as connectomics_pickles
from napari_tessera.models.formats.connectomics import version1
from napari_tessera.models.formats.monai_bundle import intensity_transforms as monai_intensities
from napari_tessera.models.formats.monai_bundle import post_transforms as monai_postprocessing
from napari_tessera.models.formats.monai_bundle import pre_transforms as monai_transforms
from napari_tessera.models.formats.nnunet import nnunet_format as nnunet_spec
from napari_tessera.models.formats.nnunet import nnunet_networks as nnunet_network
from napari_tessera.models.formats.nnunet import trained_folder as nnunet_plans
from napari_tessera.models.formats.registry import FORMATS
from napari_tessera.models.networks import architectures, residual_unet
from napari_tessera.models.safety import allowed, tensors_only
from napari_tessera.models.safety.allowed import TABLE, Names

SOURCE = Path(napari_tessera.__file__).parent
WHOLE = re.compile(r"[a-z_]+(\.\w+)+")

HANDLED: dict[str, tuple[Names, Any]] = {
    "MONAI's networks": (allowed.MONAI_NETWORKS, architectures.ARCHITECTURES[: len(allowed.MONAI_NETWORKS.names)]),
    "Tessera's networks": (allowed.OWN_NETWORKS, architectures.ARCHITECTURES[len(allowed.MONAI_NETWORKS.names) :]),
    "norms": (allowed.RESIDUAL_NORMS, residual_unet.NORMS),
    "activations": (allowed.RESIDUAL_ACTIVATIONS, residual_unet.ACTIVATIONS),
    "paddings": (allowed.RESIDUAL_PADDINGS, residual_unet.PADDINGS),
    "blocks": (allowed.RESIDUAL_BLOCKS, residual_unet.BLOCKS),
    "Connectomics 1's networks": (allowed.CONNECTOMICS_1_NETWORKS, version1.ARCHITECTURES),
    "Connectomics' networks": (allowed.CONNECTOMICS_NETWORKS, connectomics_blueprint.ARCHITECTURES),
    "Connectomics' activations": (allowed.CONNECTOMICS_ACTIVATIONS, connectomics_channels.ACTIVATIONS),
    "Connectomics' decoders": (allowed.CONNECTOMICS_DECODERS, connectomics_settings.DECODERS),
    "pickles": (allowed.PICKLED_BESIDE, tensors_only.STAND_INS),
    "nnU-Net's networks": (allowed.NNUNET_NETWORKS, nnunet_network.ARCHITECTURES),
    "nnU-Net's layers": (allowed.NNUNET_LAYERS, nnunet_network.LAYERS),
    "nnU-Net's schemes": (allowed.NNUNET_PREPROCESSING, nnunet_spec.SCHEMES),
    "nnU-Net's resampling": (allowed.NNUNET_RESAMPLING, nnunet_spec.RESAMPLINGS),
    "nnU-Net's old networks": (
        allowed.NNUNET_OLD_NETWORKS,
        get_args(nnunet_plans.OldConfiguration.model_fields["unet"].annotation),
    ),
    "MONAI's transforms before": (
        Names(
            "all",
            (),
            {**allowed.MONAI_AXES.names, **allowed.MONAI_PADDING.names, **allowed.MONAI_INTENSITIES.names},
            "they are the table's",
        ),
        monai_transforms.TRANSFORMS,
    ),
    "MONAI's intensities": (allowed.MONAI_INTENSITIES, monai_intensities.READERS),
    "MONAI's transforms after": (allowed.MONAI_POSTPROCESSING, monai_postprocessing.TRANSFORMS),
    "bioimage.io's steps before": (allowed.BIOIMAGEIO_PREPROCESSING, bioimageio_steps.BEFORE),
    "bioimage.io's steps after": (allowed.BIOIMAGEIO_POSTPROCESSING, bioimageio_steps.AFTER),
    "bioimage.io's weights": (allowed.BIOIMAGEIO_WEIGHTS, bioimageio_weights.KINDS),
}


@pytest.mark.parametrize("case", HANDLED)
def test_handlers_are_those_of_the_table(case: str) -> None:
    row, handlers = HANDLED[case]
    assert list(handlers) == list(row.names)


def test_a_handler_without_a_name_and_a_name_without_a_handler_are_refused() -> None:
    row = Names("letters", (), {"a": "a", "b": "b"}, "they are short")
    assert list(row.handled({"b": 2, "a": 1}).items()) == [("a", 1), ("b", 2)]
    for handlers in ({"a": 1}, {"a": 1, "b": 2, "c": 3}, {"a": 1, "c": 3}):
        with pytest.raises(LookupError, match="must be both in the reviewed table and handled"):
            row.handled(handlers)


def test_the_table_cannot_be_changed() -> None:
    assert isinstance(allowed.PICKLED.names, Mapping)
    with pytest.raises(TypeError):
        allowed.PICKLED.names["os.system"] = "os.system"  # type: ignore[index]
    with pytest.raises(AttributeError):
        allowed.PICKLED.names = {}  # type: ignore[misc]


def test_every_row_is_complete_and_says_which_formats_may_say_it() -> None:
    known = {entry.open().name for entry in FORMATS}
    for row in TABLE:
        assert row.names, row.kind
        assert row.reviewed, row.kind
        assert set(row.formats) <= known, row.kind
        assert row.formats, row.kind
    assert len({(row.kind, row.formats) for row in TABLE}) == len(TABLE)


def test_networks_become_classes_that_are_there() -> None:
    for name in allowed.MONAI_NETWORKS.names:
        cls = architectures.network_class(name)
        assert name == f"monai.networks.nets.{cls.__name__}"
    for name in allowed.OWN_NETWORKS.names:
        assert name == f"napari_tessera.{architectures.network_class(name).__name__}"
    with pytest.raises(LookupError):
        architectures.network_class("monai.networks.nets.HoVerNet")
    for row in (allowed.CONNECTOMICS_NETWORKS, allowed.CONNECTOMICS_1_NETWORKS, allowed.NNUNET_OLD_NETWORKS):
        for becomes in row.names.values():
            target = WHOLE.match(becomes)
            assert target is not None
            assert target[0] in {*architectures.ARCHITECTURES, *allowed.NNUNET_NETWORKS.names}
    for name, becomes in allowed.NNUNET_LAYERS.names.items():
        assert f"torch.nn.{nnunet_network.LAYERS[name].__name__}" == becomes


def test_nnunets_networks_and_blocks_become_classes_that_are_there() -> None:
    unet = pytest.importorskip("dynamic_network_architectures.architectures.unet", reason="nnU-Net's networks")
    residual = pytest.importorskip("dynamic_network_architectures.building_blocks.residual")
    for row, module in ((allowed.NNUNET_NETWORKS, unet), (allowed.NNUNET_BLOCKS, residual)):
        for becomes in row.names.values():
            place, _, name = becomes.rpartition(".")
            assert place == module.__name__
            assert isinstance(getattr(module, name), type)


def test_stand_ins_of_pickles_are_what_the_table_says() -> None:
    for name, becomes in allowed.PICKLED_BESIDE.names.items():
        made = tensors_only.STAND_INS[name]
        empty = {"an empty dictionary": {}, "an empty list": []}.get(becomes)
        found = made("anything")
        assert isinstance(found, tensors_only.Inert) if empty is None else found == empty
    for package in allowed.CONNECTOMICS_PICKLED_PACKAGES.names:
        assert connectomics_pickles.stand_in(f"{package}.anything") is tensors_only.Inert
    for stranger in ("os.system", "builtins.eval", "connectomics_of_another.f", "numpy.load", "pathlib.Path"):
        assert connectomics_pickles.stand_in(stranger) is None
        assert stranger not in tensors_only.STAND_INS


def test_types_of_numbers_are_all_that_bioimageio_knows() -> None:
    described = pytest.importorskip("bioimageio.spec.model.v0_5", reason="bioimageio.spec is not installed")
    known = get_args(described.EnsureDtypeKwargs.model_fields["dtype"].annotation)
    assert set(known) <= set(allowed.BIOIMAGEIO_NUMBERS.names)


# Which format a package of models/formats/ is of.
PACKAGES = {
    "bioimageio": allowed.BIOIMAGEIO,
    "connectomics": allowed.CONNECTOMICS,
    "monai_bundle": allowed.BUNDLE,
    "nnunet": allowed.NNUNET,
    "pytorch3dunet": allowed.UNET3D,
}
ROWS = {id(row): name for name, row in vars(allowed).items() if isinstance(row, Names)}


def rows_used(tree: ast.Module) -> set[str]:
    return {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "allowed"
    }


def test_every_row_is_used_by_its_own_formats_alone() -> None:
    used = set[str]()
    for path in (SOURCE / "models").rglob("*.py"):
        rows = rows_used(parsed(path))
        used |= rows
        form = PACKAGES.get(path.parent.name)
        for row in rows if form else ():
            assert form in getattr(allowed, row).formats, (path.name, row)
    assert used == set(ROWS.values())


# Ways to run, import or unpickle by a name or a file, and every place in src/ that has one: (module, function, what).
DANGEROUS = (
    *("eval", "exec", "compile", "__import__", "importlib.import_module", "importlib.machinery", "importlib.reload"),
    "importlib.metadata.entry_points",
    *("importlib.util.module_from_spec", "runpy", "pydoc", "pkgutil.resolve_name"),
    *("pickle", "_pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve", "code", "codeop"),
    *("yaml.load", "yaml.load_all", "yaml.full_load", "yaml.full_load_all", "yaml.unsafe_load", "yaml.unsafe_load_all"),
    *("yaml.Loader", "yaml.FullLoader", "yaml.UnsafeLoader", "numpy.load", "os.system", "os.popen"),
    *("subprocess.run", "subprocess.Popen", "subprocess.call", "subprocess.check_call", "subprocess.check_output"),
    *(
        "torch.load",
        "torch.jit.load",
        "torch.export.load",
        "torch.package",
        "torch.hub",
        "torch.ops.load_library",
        "torch.classes",
    ),
    *("torch.serialization.load", "torch.serialization.add_safe_globals", "torch.serialization.safe_globals"),
    *("monai.bundle", "operator.attrgetter", "operator.methodcaller"),
)
REVIEWED = {
    ("__init__.py", "__getattr__", "importlib.import_module"): "a module of Tessera, from its own table of names",
    ("session/doctor/system.py", "run_program", "subprocess.run"): "the doctor's own commands, none from a file",
    ("models/formats/registry.py", "open", "importlib.import_module"): "a format's module, from the table of formats",
    (
        "models/formats/onnx/graph.py",
        "library",
        "importlib.import_module",
    ): "onnx or onnxruntime, names in the source",
    ("models/formats/bioimageio/described_package.py", "_open_onnx", "importlib.import_module"): "a name in the source",
    ("core/plain_data.py", "load_yaml", "yaml.load"): "with a loader of plain data, derived from SafeLoader",
    (
        "models/safety/tensors_only.py",
        "read_tensors_only",
        "torch.load",
    ): "weights_only=True, every name looked up first",
    (
        "models/safety/tensors_only.py",
        "read_tensors_only",
        "torch.serialization.safe_globals",
    ): "stand-ins of the table",
    (
        "models/formats/programs/stored_program.py",
        "open_script",
        "torch.jit.load",
    ): "a program; the user trusts this very file",
    (
        "models/formats/tessera/own_network.py",
        "find_class",
        "importlib.import_module",
    ): "an installed package; the user trusts the very description that names it",
    ("models/formats/tessera/own_network.py", "_run", "exec"): "a program; the user trusts this very file",
    ("models/formats/tessera/own_network.py", "_run", "compile"): "a program; the user trusts this very file",
    (
        "models/formats/tessera/own_network.py",
        "_entry_point",
        "importlib.metadata.entry_points",
    ): "of Tessera's own group, in which a package is because it was installed for this",
    (
        "models/formats/programs/exported_program.py",
        "_open",
        "torch.export.load",
    ): "a program; the user trusts this very file",
}
# Attributes by a name that is no text in the source, under models/.
LOOKED_UP = {
    ("models/networks/architectures.py", "network_class"): "a class of MONAI_NETWORKS",
    ("models/networks/adapters.py", ""): "the types of BIOIMAGEIO_NUMBERS, when the module is imported",
    ("models/formats/bioimageio/bioimageio_format.py", "_read"): "a type of BIOIMAGEIO_NUMBERS",
    ("models/formats/bioimageio/described_package.py", "choose_weights"): "a key of BIOIMAGEIO_WEIGHTS, of parsed data",
    ("models/formats/nnunet/nnunet_networks.py", ""): "the layers of NNUNET_LAYERS, when the module is imported",
    (
        "models/formats/nnunet/nnunet_networks.py",
        "build_network",
    ): "a class or block of NNUNET_NETWORKS, NNUNET_BLOCKS",
}


def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def dangerous_in(tree: ast.Module) -> set[tuple[str, str]]:
    """Return (function, full name) wherever something dangerous is named: called, passed on or renamed alike."""
    imported = imports_of(tree)
    found = set()
    for function, node in iter_placed(tree):
        name = full_name(node, imported)
        if name and any(name == one or name.startswith(f"{one}.") for one in DANGEROUS):
            found.add((function, name))
    # Of pickle.loads, pickle alone is a part.
    return {(function, name) for function, name in found if not any(one.startswith(f"{name}.") for _, one in found)}


def imports_of(tree: ast.Module) -> dict[str, str]:
    imported = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for one in node.names:
                top = one.name.partition(".")[0]
                imported[one.asname or top] = one.name if one.asname else top
        elif isinstance(node, ast.ImportFrom):
            imported |= {one.asname or one.name: f"{node.module}.{one.name}" for one in node.names}
    return imported


def iter_placed(tree: ast.AST, function: str = "") -> Iterator[tuple[str, ast.AST]]:
    """Yield every node with the name of the function that it stands in; of nested ones, the innermost."""
    for node in ast.iter_child_nodes(tree):
        inside = node.name if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) else function
        yield inside, node
        yield from iter_placed(node, inside)


def full_name(node: ast.AST, imported: dict[str, str]) -> str:
    """Return the name of what *node* refers to, from its module down; nothing for variables."""
    if isinstance(node, ast.Attribute):
        before = full_name(node.value, imported)
        return f"{before}.{node.attr}" if before else ""
    if isinstance(node, ast.Name):
        return imported.get(node.id, node.id if hasattr(builtins, node.id) else "")
    return ""


def looked_up_in(tree: ast.Module) -> set[str]:
    """Return the functions that get an attribute by a name that is no text in the source, or pass `getattr` on."""
    return {function for function, node in iter_placed(tree) if is_look_up(node)} | {
        function
        for function, node in iter_placed(tree)
        for child in ast.iter_child_nodes(node)
        if isinstance(child, ast.Name) and child.id in ("getattr", "vars", "globals", "locals")
        if not (isinstance(node, ast.Call) and node.func is child)
    }


def is_look_up(node: ast.AST) -> bool:
    called = node.func.id if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) else ""
    return called == "getattr" and isinstance(node, ast.Call) and not isinstance(node.args[1], ast.Constant)


def test_nothing_runs_imports_or_unpickles_but_where_it_was_reviewed() -> None:
    found = {
        (path.relative_to(SOURCE).as_posix(), *place)
        for path in sorted(SOURCE.rglob("*.py"))
        for place in dangerous_in(parsed(path))
    }
    assert found == set(REVIEWED)


def test_no_attribute_is_looked_up_under_models_but_where_it_was_reviewed() -> None:
    found = {
        (path.relative_to(SOURCE).as_posix(), function)
        for path in sorted((SOURCE / "models").rglob("*.py"))
        for function in looked_up_in(parsed(path))
    }
    assert found == set(LOOKED_UP)


def test_no_library_of_operators_is_loaded() -> None:
    for path in SOURCE.rglob("*.py"):
        named = {node.attr for node in ast.walk(parsed(path)) if isinstance(node, ast.Attribute)}
        assert not named & {"register_custom_ops_library", "load_library"}, path


def test_a_list_in_the_place_of_a_name_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "odd.yaml"
    path.write_text("model: {arch: {type: [monai_unet]}}\n", encoding="utf-8")
    with raises(ModelError, "model.arch.type", "odd.yaml"):
        connectomics_blueprint.read_blueprint(read_configuration(path))


def test_tensors_are_never_read_without_the_restriction() -> None:
    tree = parsed(SOURCE / "models" / "safety" / "tensors_only.py")
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    (call,) = [call for call in calls if full_name(call.func, imports_of(tree)) == "torch.load"]
    (option,) = [keyword.value for keyword in call.keywords if keyword.arg == "weights_only"]
    assert isinstance(option, ast.Constant)
    assert option.value is True


@pytest.mark.parametrize(
    ("code", "name"),
    [
        ("import torch\ndef f(x): torch.load(x)", "torch.load"),
        ("import torch as t\ndef f(x): return t.jit.load(x)", "torch.jit.load"),
        ("from torch import load as read\ndef f(x): read(x)", "torch.load"),
        ("from torch.export import load\ndef f(x): load(x)", "torch.export.load"),
        ("def f(x):\n    from pickle import loads\n    loads(x)", "pickle.loads"),
        ("def f(x): eval(x)", "eval"),
        ("def f(x): return map(exec, x)", "exec"),
        ("import yaml\ndef f(x): yaml.load(x, yaml.SafeLoader)", "yaml.load"),
        ("import importlib as i\ndef f(x): i.import_module(x)", "importlib.import_module"),
        ("def f(x): __import__(x)", "__import__"),
    ],
)
def test_the_check_finds(code: str, name: str) -> None:
    assert ("f", name) in dangerous_in(ast.parse(code))


def test_the_check_finds_attributes() -> None:
    assert looked_up_in(ast.parse("def f(m, n): getattr(m, n)")) == {"f"}
    assert looked_up_in(ast.parse("def f(m, n): map(getattr, m, n)")) == {"f"}
    assert looked_up_in(ast.parse("def f(m): getattr(m, 'n', None)")) == set()


def test_the_page_shows_the_table() -> None:
    page = allowed_page.PAGE.read_text(encoding="utf-8")
    assert allowed_page.section_of(page) == allowed_page.render(), "run: python tests/models/allowed_page.py"
