import subprocess
import sys
from pathlib import Path

import pytest

from napari_tessera.session.doctor import Status, installation
from napari_tessera.session.doctor.installation import check_qt, qt_libraries

ROOT = Path(__file__).resolve().parents[3]

ABORTED = """qt.qpa.plugin: From 6.5.0, xcb-cursor0 or libxcb-cursor0 is needed to load the Qt xcb platform plugin.
qt.qpa.plugin: Could not load the Qt platform plugin "xcb" in "" even though it was found.
This application failed to start because no Qt platform plugin could be initialized.

Available platform plugins are: minimal, offscreen, xcb.
"""


@pytest.fixture
def machine(monkeypatch):
    """A Linux machine to be furnished: a binding, a display, how Qt starts, which libraries are missing."""
    calls = []

    def furnish(*, binding="PyQt6", display=True, start=(0, ""), missing=()):
        def run_program(command, **environment):
            calls.append(environment)
            return start if command[2] == installation.START_QT else (0, "\n".join(missing))

        monkeypatch.setattr(sys, "platform", "linux")
        monkeypatch.setattr(installation, "installed_version", lambda name: "6.11.0" if name == binding else None)
        monkeypatch.setattr(installation, "has_display", lambda: display)
        monkeypatch.setattr(installation, "run_program", run_program)
        return calls

    return furnish


def only(findings):
    (finding,) = findings
    return finding


def test_windows_open(machine):
    machine(binding="PySide6")
    finding = only(check_qt())
    assert finding.status is Status.OK
    assert finding.detail == "PySide6 6.11.0"


def test_no_binding(machine):
    machine(binding=None)
    finding = only(check_qt())
    assert finding.status is Status.WARN
    assert finding.remedy.endswith("pip install PyQt6")


def test_no_display_is_no_fault_of_qt(machine):
    calls = machine(display=False)
    finding = only(check_qt())
    assert finding.status is Status.WARN
    assert "no display" in finding.detail
    assert calls == [{"QT_QPA_PLATFORM": "offscreen"}]


def test_missing_library_is_named_with_its_package(machine):
    machine(start=(-6, ABORTED), missing=["libxcb-cursor.so.0", "libxkbcommon-x11.so.0"])
    finding = only(check_qt())
    assert finding.status is Status.FAIL
    assert "libxcb-cursor.so.0, libxkbcommon-x11.so.0" in finding.detail
    assert finding.remedy == "sudo apt-get install libxcb-cursor0 libxkbcommon-x11-0"


def test_other_failures_pass_on_the_telling_line(machine):
    machine(start=(-6, ABORTED))
    finding = only(check_qt())
    assert finding.status is Status.FAIL
    assert "Could not load the Qt platform plugin" in finding.detail


def test_qt_that_says_nothing(machine):
    machine(start=(124, "python gave no answer in 30 s"))
    assert "gave no answer" in only(check_qt()).detail
    machine(start=(-11, ""))
    assert "no reason" in only(check_qt()).detail


@pytest.mark.skipif(sys.platform != "linux", reason="library names of Linux")
def test_trying_libraries_finds_only_the_missing_ones(machine, monkeypatch):
    run_program = installation.run_program
    machine(start=(-6, ABORTED))
    pretended = installation.run_program

    def trying(command, **environment):
        return (pretended if command[2] == installation.START_QT else run_program)(command, **environment)

    monkeypatch.setattr(installation, "run_program", trying)
    monkeypatch.setattr(installation, "qt_libraries", lambda: {"libc.so.6": "libc6", "libnosuch.so.1": "libnosuch1"})
    finding = only(check_qt())
    assert finding.detail.endswith("lacks libnosuch.so.1")
    assert finding.remedy == "sudo apt-get install libnosuch1"


def test_the_list_of_libraries_is_the_one_that_the_set_up_script_reads():
    libraries = qt_libraries()
    assert libraries["libxcb-cursor.so.0"] == "libxcb-cursor0"
    assert all(".so." in name and package for name, package in libraries.items())
    script = ROOT / "scripts" / "qt_libraries.sh"
    text = script.read_text(encoding="utf-8")
    assert "src/napari_tessera/session/doctor/qt_libraries.txt" in text
    assert "libxcb" not in text
    subprocess.run(["bash", "-n", script], check=True)
