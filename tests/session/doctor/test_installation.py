import os
import sys

import npe2
import pytest

from napari_tessera.engine.devices.protocol import DeviceMemory
from napari_tessera.session.doctor import Status, installation


def only(findings):
    (finding,) = findings
    return finding


@pytest.mark.parametrize(
    ("version", "status"),
    [((3, 10), Status.FAIL), ((3, 11), Status.OK), ((3, 13), Status.OK), ((3, 14), Status.WARN)],
)
def test_python(monkeypatch, version, status):
    monkeypatch.setattr(sys, "version_info", (*version, 0))
    finding = only(installation.check_python())
    assert finding.status is status
    assert bool(finding.remedy) is (status is not Status.OK)


@pytest.mark.parametrize(("free", "status"), [(2 * 2**30, Status.WARN), (16 * 2**30, Status.OK)])
def test_host_memory(monkeypatch, free, status):
    monkeypatch.setattr(installation, "host_memory", lambda: DeviceMemory(32 * 2**30, free))
    finding = only(installation.check_host_memory())
    assert finding.status is status
    assert "of 32.0 GiB" in finding.detail


@pytest.mark.parametrize("check", [installation.check_monai, installation.check_napari])
def test_package_missing(monkeypatch, check):
    assert only(check()).status is Status.OK
    monkeypatch.setattr(installation, "installed_version", lambda package: None)
    finding = only(check())
    assert finding.status is Status.FAIL
    assert "pip install" in finding.remedy


def test_plugin_not_found(monkeypatch):
    def fail(name):
        raise ValueError("invalid manifest\nline two")

    monkeypatch.setattr(npe2.PluginManifest, "from_distribution", fail)
    finding = only(installation.check_plugin())
    assert finding.status is Status.FAIL
    assert finding.detail.endswith("invalid manifest")


@pytest.mark.parametrize(
    ("files", "status"),
    [
        (["cells.yaml", "cells.safetensors", "__init__.py"], Status.OK),
        (["cells.yaml"], Status.FAIL),
        ([], Status.FAIL),
        (None, Status.FAIL),
    ],
)
def test_bundled_model(monkeypatch, tmp_path, files, status):
    if files is not None:
        folder = tmp_path / "models" / "bundled"
        folder.mkdir(parents=True)
        for name in files:
            (folder / name).touch()
    monkeypatch.setattr(installation.resources, "files", lambda package: tmp_path)
    assert only(installation.check_bundled_model()).status is status


def test_settings_folder(monkeypatch, tmp_path):
    monkeypatch.setattr("platformdirs.user_config_path", lambda *args, **kwargs: tmp_path / "a" / "b")
    assert only(installation.check_settings_folder()).status is Status.OK
    assert list(tmp_path.iterdir()) == []

    def refuse(dir):
        raise PermissionError(13, os.strerror(13))

    monkeypatch.setattr(installation, "TemporaryFile", refuse)
    finding = only(installation.check_settings_folder())
    assert finding.status is Status.WARN
    assert str(tmp_path) in finding.remedy
