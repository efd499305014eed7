"""What an installation of Tessera pulls in, and what it must not."""

from importlib import metadata

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name


def required(name, extras=()):
    """Return the names of all packages that *name* needs on this platform, itself included."""
    seen, waiting = set(), [(canonicalize_name(name), frozenset(extras))]
    while waiting:
        package, chosen = waiting.pop()
        if (package, chosen) in seen:
            continue
        seen.add((package, chosen))
        for text in metadata.requires(package) or ():
            requirement = Requirement(text)
            contexts = [{"extra": extra} for extra in chosen or {""}]
            if requirement.marker is None or any(requirement.marker.evaluate(c) for c in contexts):
                needed = (canonicalize_name(requirement.name), frozenset(requirement.extras))
                (waiting.append if is_what_pip_takes(requirement) else seen.add)(needed)
    return {package for package, _ in seen}


def is_what_pip_takes(requirement):
    """Return False where `make test-origins` has put another release here, without what that one would need."""
    return requirement.specifier.contains(metadata.version(requirement.name), prereleases=True)


@pytest.fixture(scope="module")
def closure():
    return required("napari-tessera")


def test_the_search_goes_deep(closure):
    assert {"torch", "monai", "napari", "jinja2", "dask", "pooch"} <= closure


def test_torchvision_is_never_pulled_in(closure):
    assert "torchvision" not in closure
    assert "torchvision" not in required("napari-tessera", ["all", "dev"])


@pytest.mark.parametrize("binding", ["pyqt5", "pyqt6", "pyside2", "pyside6"])
def test_no_qt_binding_is_forced_on_anyone(closure, binding):
    assert binding not in closure


def test_the_qt_extra_brings_one():
    assert "pyqt6" in required("napari-tessera", ["qt"])
    assert "pyqt6" in required("napari-tessera", ["all"])
