"""The manifest has one source, and napari finds it however Tessera was installed."""

import json
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from importlib import import_module
from pathlib import Path

import pytest
from npe2 import PluginManifest

ROOT = Path(__file__).resolve().parents[2]
LINK = ROOT / "src" / "napari_tessera" / "napari.yaml"
MANIFEST = PluginManifest.from_file(ROOT / "napari.yaml")

DISCOVER = """
import json
from importlib.util import find_spec
from npe2 import PluginManifest

found = [r for r in PluginManifest.discover() if r.distribution and r.distribution.name == "napari-tessera"]
by_name = PluginManifest.from_distribution("napari-tessera")
print(json.dumps({
    "errors": [repr(result.error) for result in found if result.error],
    "names": sorted({result.manifest.display_name for result in found}),
    "commands": [command.id for command in by_name.contributions.commands],
    "version": by_name.package_version,
    "package": find_spec("napari_tessera").origin,
}))
"""


def run(*command, **options):
    done = subprocess.run(command, capture_output=True, text=True, check=False, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def build(source, folder, kind):
    run(sys.executable, "-m", "build", "--no-isolation", f"--{kind}", "--outdir", str(folder), str(source))
    (result,) = folder.iterdir()
    return result


@pytest.fixture(scope="module")
def sdist(tmp_path_factory):
    return build(ROOT, tmp_path_factory.mktemp("sdist"), "sdist")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    return build(ROOT, tmp_path_factory.mktemp("wheel"), "wheel")


@pytest.fixture(scope="module")
def wheel_from_sdist(sdist, tmp_path_factory):
    folder = tmp_path_factory.mktemp("unpacked")
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    (source,) = folder.iterdir()
    return build(source, tmp_path_factory.mktemp("wheel-from-sdist"), "wheel")


@pytest.fixture
def install(tmp_path):
    """Install into an environment of its own that borrows the packages of this one, but not this Tessera."""

    def install(*what):
        venv.create(tmp_path / "env")
        python = tmp_path / "env" / ("Scripts" if sys.platform == "win32" else "bin") / "python"
        own = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
        borrowed = sorted({sysconfig.get_path("purelib"), sysconfig.get_path("platlib")})
        # A folder that a .pth file names comes after the own packages, and its .pth files are not followed.
        (own / "borrowed.pth").write_text("\n".join(borrowed), encoding="utf-8")
        offline = ("--no-deps", "--no-index", "--no-build-isolation", "--ignore-installed", "--quiet")
        run(sys.executable, "-m", "pip", "--python", python, "install", *offline, *what)
        return own, json.loads(run(python, "-c", DISCOVER, cwd=tmp_path))

    return install


def check_discovery(found):
    assert found["errors"] == []
    assert found["names"] == ["Tessera"]
    assert found["commands"] == [command.id for command in MANIFEST.contributions.commands]
    assert found["version"]


def test_manifest_from_a_wheel(install, wheel):
    folder, found = install(wheel)
    check_discovery(found)
    assert Path(found["package"]).is_relative_to(folder)


def test_manifest_from_a_wheel_built_from_the_sdist(install, wheel_from_sdist):
    folder, found = install(wheel_from_sdist)
    check_discovery(found)
    assert Path(found["package"]).is_relative_to(folder)


def test_manifest_from_an_editable_installation(install):
    _, found = install("--editable", str(ROOT))
    check_discovery(found)
    assert Path(found["package"]) == ROOT / "src" / "napari_tessera" / "__init__.py"


def test_wheel_and_sdist_hold_what_they_should(wheel, wheel_from_sdist, sdist):
    with zipfile.ZipFile(wheel) as archive:
        in_wheel = set(archive.namelist())
        manifest = archive.read("napari_tessera/napari.yaml")
    with zipfile.ZipFile(wheel_from_sdist) as archive:
        # Versions may differ in what a tree without a tag is called, contents may not.
        assert {n for n in archive.namelist() if ".dist-info" not in n} == {
            n for n in in_wheel if ".dist-info" not in n
        }
    with tarfile.open(sdist) as archive:
        in_sdist = {name.partition("/")[2] for name in archive.getnames()}

    package = {path.relative_to(ROOT / "src").as_posix() for path in package_files()}
    assert package <= in_wheel
    assert {f"src/{name}" for name in package} <= in_sdist
    assert manifest == (ROOT / "napari.yaml").read_bytes()
    assert any(name.endswith("licenses/LICENSE") for name in in_wheel)
    assert all(name.startswith("napari_tessera") for name in in_wheel)
    assert {"napari.yaml", "LICENSE", "README.md", "constraints.txt", "tests/conftest.py"} <= in_sdist
    assert not any(name.startswith((".venv", "demo", "dist", ".git/")) for name in in_sdist)


def package_files():
    """What git knows of, or would, of the package: code, types marker, manifest, bundled models, lists."""
    files = (path for path in (ROOT / "src").rglob("*") if path.is_file())
    return [path for path in files if path.suffix in (".py", ".yaml", ".safetensors", ".typed", ".txt")]


def test_the_bundled_model_is_in_the_package():
    names = {path.name for path in package_files() if path.parent.name == "bundled"}
    assert {Path(name).suffix for name in names} >= {".yaml", ".safetensors"}


def test_the_manifest_has_one_source():
    assert LINK.is_symlink()
    assert LINK.read_bytes() == (ROOT / "napari.yaml").read_bytes()
    assert not Path(LINK.readlink()).is_absolute()


def test_npe2_validates_it():
    run(sys.executable, "-m", "npe2", "validate", str(ROOT / "napari.yaml"))


@pytest.mark.parametrize("command", MANIFEST.contributions.commands, ids=lambda command: command.id)
def test_every_command_exists(command):
    module, _, name = command.python_name.partition(":")
    assert callable(getattr(import_module(module), name))


def test_the_widget_is_in_the_layers_menu():
    items = MANIFEST.contributions.menus["napari/layers/segment"]
    assert [item.command for item in items] == ["napari-tessera.make_widget"]
