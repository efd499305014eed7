"""The networks of Tessera's own format: a class filled with weights, several folds averaged.

The class is a reviewed one, or a person's own, which a description names as ``package.Class``. In this order:

1. A name of the entry point group ``napari_tessera.networks``: its package was installed to be used here, no question.
2. ``my_net.Class`` with ``my_net.py`` beside the description: a program. The user is asked about both files, and what
   is run is the content that was asked about.
3. ``package.Class`` of any other installed package: importing it on a file's word is a program, too, so the user is
   asked about the description.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.metadata
import importlib.util
import sys
from collections.abc import Callable
from types import ModuleType
from typing import TYPE_CHECKING, Any

import torch

from napari_tessera.core.errors import ModelError, first_line, nearest
from napari_tessera.models.formats.base import Risk, naming
from napari_tessera.models.formats.saved_weights import SavedWeights, fill
from napari_tessera.models.networks import architectures
from napari_tessera.models.networks.empty import WithoutValues
from napari_tessera.models.safety import allowed
from napari_tessera.models.safety.archive import is_file
from napari_tessera.models.spec.spec import MAX_CHANNELS

if TYPE_CHECKING:
    from pathlib import Path

    from napari_tessera.models.networks.empty import StoredWeights
    from napari_tessera.models.safety.trusted_files import TrustedFiles
    from napari_tessera.models.spec.model_file import Architecture

CLASSES = (*architectures.ARCHITECTURES, *allowed.NNUNET_NETWORKS.names)
# nnU-Net's plans say these two elsewhere; a description says them among the arguments, as its classes do.
_SIZES = ("input_channels", "num_classes")
GROUP = "napari_tessera.networks"
# A name of these is a mistake, or an attempt: they hold no network of a person's own, and what opens is in the table.
_NOT_THEIRS = frozenset((*sys.stdlib_module_names, "dynamic_network_architectures", "monai", "napari_tessera", "torch"))


def risk_of_class(name: str, description: Path) -> Risk | None:
    """Return what making a network of the class *name*, which *description* names, may do; None if nothing is asked.

    Nothing is imported.
    """
    module, _, _ = name.rpartition(".")
    if not module or _entry_point(name) is not None:
        return None
    if (source := _source_beside(module, description)) is not None:
        return Risk(f"opening it runs the code of {source.name}, with your rights", (description, source))
    if _is_installed(module):
        package = module.partition(".")[0]
        return Risk(f"opening it runs code of the installed package {package}, with your rights", (description,))
    return None


def find_class(name: str, description: Path, trusted: TrustedFiles) -> Callable[..., torch.nn.Module] | None:
    """Return the class *name* that *description* names; None if it is none of a person's own."""
    if (point := _entry_point(name)) is not None:
        return _checked(name, description, point.load)
    module, _, attribute = name.rpartition(".")
    if (source := _source_beside(module, description)) is not None:
        trusted.of(description)
        code = trusted.of(source)
        return _checked(name, description, lambda: vars(_run(code, source))[attribute])
    if module and _is_installed(module):
        trusted.of(description)
        return _checked(name, description, lambda: vars(importlib.import_module(module))[attribute])
    return None


def _checked(name: str, description: Path, find: Callable[[], Any]) -> Callable[..., torch.nn.Module]:
    try:
        found = find()
    except Exception as error:  # whatever the code of a person raises
        if isinstance(error, ImportError) and _is_of_files_beside(error, description):
            raise ModelError(
                f"{description} names the network '{name[:200]}', whose file takes classes from another one beside it "
                f"({first_line(error)[:300]}): one Python file alone is trusted and run, so put those classes into it, "
                f"or install the files as a package"
            ) from error
        reason = f"it has no {name.rpartition('.')[2]}" if isinstance(error, KeyError) else first_line(error)
        raise ModelError(
            f"{description} names the network '{name[:200]}', whose module does not give it "
            f"({type(error).__name__}: {reason[:300]}): correct it"
        ) from error
    if not (isinstance(found, type) and issubclass(found, torch.nn.Module)):
        raise ModelError(f"{description} names '{name[:200]}', which is no class of networks (torch.nn.Module)")
    return found


def _is_of_files_beside(error: ImportError, description: Path) -> bool:
    """Whether an import failed because what it names is no package but a file beside the description."""
    module = (error.name or "").partition(".")[0]
    if not module:
        return "relative import" in error.msg  # which names no package
    return _source_beside(module, description) is not None or description.with_name(module).is_dir()


def _run(code: bytes, source: Path) -> ModuleType:
    module = ModuleType(f"{source.stem}_{hashlib.sha256(code).hexdigest()[:16]}")
    module.__file__ = str(source)
    module.__package__ = ""  # it is in none: relative imports say so
    sys.modules[module.__name__] = module  # where dataclasses, among others, look their own module up
    exec(compile(code, str(source), "exec"), vars(module))
    return module


def _source_beside(module: str, description: Path) -> Path | None:
    source = description.with_name(f"{module}.py")
    return source if module.isidentifier() and is_file(source) else None


def _is_installed(module: str) -> bool:
    """Whether the package that *module* is in can be imported; it is not."""
    package = module.partition(".")[0]
    if not all(part.isidentifier() for part in module.split(".")) or package in _NOT_THEIRS:
        return False
    try:
        return importlib.util.find_spec(package) is not None
    except (ImportError, ValueError):  # ValueError: it is there in part, as a program in the middle of its start
        return False


def _entry_point(name: str) -> importlib.metadata.EntryPoint | None:
    return next(iter(importlib.metadata.entry_points(group=GROUP, name=name)), None)


def build_network(
    architecture: Architecture,
    saved: SavedWeights,
    description: Path,
    own: Callable[..., torch.nn.Module] | None = None,
) -> tuple[torch.nn.Module, tuple[str, ...]]:
    """Return the network that *architecture* names, filled with its weights, and notes on which were taken.

    Several folds are averaged; the weights of fold ``i`` have names that begin with ``folds.i.`` Weights that the
    network holds under several names may be there once. *description* is where *architecture* was read, for errors;
    *own* the class, where it is a person's own.
    """
    label = saved.label
    weights = max(saved.places.values(), key=len)
    if architecture.folds == 1:
        # Any prefix may stand before names, so the weights of one fold of several would fit.
        if of_folds := [name for name in weights if name.startswith("folds.")]:
            raise ModelError(
                f"the weights {label} do not fit the architecture: names such as '{of_folds[0][:80]}' are of several "
                f"folds, but {description} says 1"
            )
        return _build(architecture, saved, description, own)
    from napari_tessera.models.formats.nnunet.nnunet_networks import FoldAverage

    folds, known = [], 0
    for number in range(architecture.folds):
        prefix = f"folds.{number}."
        part = {name.removeprefix(prefix): each for name, each in weights.items() if name.startswith(prefix)}
        known += len(part)
        network, _ = _build(architecture, SavedWeights(f"of fold {number} in {label}", {"": part}), description, own)
        folds.append(network)
    if known < len(weights):
        folded = tuple(f"folds.{number}." for number in range(architecture.folds))
        wrong = min(name for name in weights if not name.startswith(folded))
        raise ModelError(
            f"the weights {label} do not fit the architecture: {description} says {architecture.folds} folds, of none "
            f"of which '{wrong[:80]}' is"
        )
    return FoldAverage(folds).eval(), ()


def _build(
    architecture: Architecture,
    saved: SavedWeights,
    description: Path,
    own: Callable[..., torch.nn.Module] | None,
) -> tuple[torch.nn.Module, tuple[str, ...]]:
    with naming(description):
        if own is None:
            network = _build_empty(architecture, saved.size, description)
        else:
            network = _build_own(own, architecture, saved.size)
    return network, fill(network, saved, what="the architecture")


def _build_own(
    own: Callable[..., torch.nn.Module], architecture: Architecture, stored: StoredWeights
) -> torch.nn.Module:
    try:
        with WithoutValues(stored):
            return own(**architecture.arguments).eval()
    except ModelError:
        raise
    except Exception as error:  # whatever a person's own code raises
        raise ModelError(
            f"architecture '{architecture.name}' cannot be built from {str(architecture.arguments)[:300]}: "
            f"{type(error).__name__}: {first_line(error)[:300]}"
        ) from error


def _build_empty(architecture: Architecture, stored: StoredWeights, description: Path) -> torch.nn.Module:
    name, arguments = architecture.name, architecture.arguments
    if name in allowed.NNUNET_NETWORKS.names:
        return _build_nnunet(architecture, stored, description)
    if name not in CLASSES:
        raise ModelError(
            f"architecture '{name[:200]}' is not one that Tessera rebuilds{nearest(name, CLASSES)} "
            f"(it knows {', '.join(CLASSES)}), and none of your own (docs/models/tessera.md)"
        )
    return architectures.build(name, arguments, stored)


def _build_nnunet(architecture: Architecture, stored: StoredWeights, description: Path) -> torch.nn.Module:
    from napari_tessera.models.formats.nnunet import nnunet_networks, trained_folder

    arguments = dict(architecture.arguments)
    in_channels, out_channels = sizes = [arguments.pop(key, None) for key in _SIZES]
    for key, size in zip(_SIZES, sizes, strict=True):
        if type(size) is not int or not 1 <= size <= MAX_CHANNELS:
            raise ModelError(
                f"the architecture's {key} is {str(size)[:40]}, but it must be a whole number from 1 to {MAX_CHANNELS}"
            )
    described = trained_folder.Architecture(network_class_name=architecture.name, arch_kwargs=arguments)
    return nnunet_networks.build_network(described, in_channels, out_channels, description, stored)
