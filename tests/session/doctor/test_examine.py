from napari_tessera.session import doctor
from napari_tessera.session.doctor import Finding, Status, examine


def test_every_finding_is_a_sentence_and_every_fault_has_a_remedy():
    findings = examine()
    assert {"Python", "torch", "host memory", "MONAI", "bundled model", "napari", "plugin", "Qt"} <= {
        finding.name for finding in findings
    }
    for finding in findings:
        assert finding.detail
        assert finding.status is not Status.FAIL or finding.remedy


def test_this_environment_is_sound():
    installed = {"Python", "torch", "MONAI", "bundled model", "napari", "plugin"}
    assert [f for f in examine() if f.name in installed and f.status is not Status.OK] == []


def test_one_broken_check_does_not_hide_the_others(monkeypatch):
    def check_weather():
        raise ZeroDivisionError("no sun")
        yield

    def check_tea():
        yield Finding("tea", Status.OK, "hot")

    monkeypatch.setattr(doctor, "CHECKS", (check_weather, check_tea))
    broken, tea = examine()
    assert (broken.name, broken.status) == ("weather", Status.FAIL)
    assert "no sun" in broken.detail
    assert tea == Finding("tea", Status.OK, "hot")
