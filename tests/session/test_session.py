"""The life of a session: choose, plan, run, cancel, fail, run again. No Qt anywhere."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from napari_tessera.errors import SettingsError
from napari_tessera.session.cost import device_bar, host_bar, passes_line, time_line
from napari_tessera.session.runner import RunState
from napari_tessera.session.status import NO_IMAGE, status_line
from napari_tessera.session.task import Outputs
from napari_tessera.session.wording import Tone

if TYPE_CHECKING:
    from napari_tessera.session import Session


def run(session: Session, drain_until: Any) -> list[Any]:
    """Run and return the final results."""
    results: list[Any] = []
    session.runner.result_ready.connect(results.append)
    assert session.start_run()
    assert not session.start_run()
    drain_until(session, lambda: not session.runner.active)
    return [result for result in results if result.final]


def test_importing_it_loads_neither_torch_nor_qt() -> None:
    code = "import sys, napari_tessera.session; print(*(m for m in ('torch', 'qtpy', 'napari') if m in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_from_nothing_to_a_result(session: Session, image: Any, drain_until: Any) -> None:
    assert status_line(session).text == NO_IMAGE
    assert not session.can_run
    session.set_images((image(32, 24, 24),))
    drain_until(session, lambda: not session.planning)
    plan = session.plan
    assert plan is not None
    assert passes_line(plan).text == f"{plan.windows} windows → {plan.forward_passes} forward passes"
    assert device_bar(plan).parts[1] == ("activations", plan.memory.activations_bytes)
    assert sum(size for _, size in host_bar(plan).parts) == plan.host_bytes
    assert time_line(session.expected_seconds, None, running=False).text == "time: after the first passes"
    (result,) = run(session, drain_until)
    assert result.complete
    assert result.objects == 1
    assert result.labels[:, 4:12, 4:12].all()
    assert result.provenance["source"] == "image"
    assert session.runner.progress.done == plan.forward_passes
    assert status_line(session).text.startswith("1 class · ")
    assert status_line(session).tone is Tone.GOOD
    assert session.expected_seconds is not None


def test_labels_and_probabilities_of_one_run_are_those_of_two(session: Session, image: Any, drain_until: Any) -> None:
    session.set_images((image(32, 24, 24),))
    session.choose_decoder("threshold")
    (labels_only,) = run(session, drain_until)
    plan = session.plan
    session.set_outputs(Outputs(labels=True, probabilities=True))
    assert session.plan is not None
    assert plan is not None
    assert session.plan.host_bytes > plan.host_bytes
    (both,) = run(session, drain_until)
    np.testing.assert_array_equal(both.labels, labels_only.labels)
    assert [channel.shape for channel in both.probabilities] == [(32, 24, 24)] * 2
    assert both.channel_names == ("channel 0", "channel 1")
    np.testing.assert_allclose(sum(both.probabilities), 1, atol=1e-5)
    session.set_outputs(Outputs(labels=False, probabilities=True))
    (kept,) = run(session, drain_until)
    assert kept.labels is None
    assert status_line(session).text.startswith("Probabilities")
    session.set_outputs(Outputs(labels=False, probabilities=False))
    assert not session.can_run
    assert "choose labels, probabilities or both" in status_line(session).text.lower()


def test_cancel_keeps_what_was_finished(session: Session, network: Any, image: Any, drain_until: Any) -> None:
    session.set_images((image(96, 16, 16),))
    session.change(sw_batch_size=1)
    calls: list[int] = []

    def cancel_at_six() -> None:
        calls.append(1)
        if len(calls) == 6:
            assert session.runner._cancel is not None
            session.runner._cancel.cancel()

    network.on_call = cancel_at_six
    (result,) = run(session, drain_until)
    assert session.runner.state is RunState.CANCELLED
    assert len(calls) == 6
    assert not result.complete
    assert result.labels.any()
    assert not result.labels[-16:].any()
    assert status_line(session).text == "Stopped at 6 of 11 passes. Labels hold the finished part"


def test_cancel_before_anything_is_finished(session: Session, network: Any, image: Any, drain_until: Any) -> None:
    session.set_images((image(16, 16, 16),))
    network.on_call = lambda: session.runner._cancel.cancel()  # type: ignore[union-attr]
    session.change(tta_num=2)
    assert run(session, drain_until) == []
    assert "nothing was added" in status_line(session).text


def test_failure_is_one_sentence_and_a_report(session: Session, network: Any, image: Any, drain_until: Any) -> None:
    session.set_images((image(24, 24, 24),))

    def fail() -> None:
        raise RuntimeError("kaput")

    network.on_call = fail
    assert run(session, drain_until) == []
    assert session.runner.state is RunState.FAILED
    assert "kaput" in status_line(session).text
    assert "Traceback" in session.runner.report
    network.on_call = lambda: None
    assert len(run(session, drain_until)) == 1
    assert session.runner.report == ""


def test_windows_that_are_not_allowed(session: Session, image: Any, drain_until: Any) -> None:
    session.set_images((image(24, 24, 24),))
    session.change(window_size=(16, 18, 16))
    drain_until(session, lambda: not session.planning)
    assert "y is 18 but must be a multiple of 4 from 8 up: 16 or 20" in session.problem
    assert not session.can_run
    session.reset_window()
    drain_until(session, lambda: not session.planning)
    assert session.can_run


def test_another_model_brings_its_own_window(session: Session, network: Any, describe: Any, image: Any) -> None:
    session.change(tta_num=16, overlap=0.25)
    session.shelf.use(describe(network, spatial_dims=2))
    assert session.settings is not None
    assert (session.settings.window_size, session.settings.tta_num) == ((16, 16), 8)
    assert session.settings.overlap == 0.25
    with pytest.raises(SettingsError, match="has 3 axes"):
        session.change(window_size=(16, 16, 16))
    assert session.settings.window_size == (16, 16)
    session.set_images((image(16, 16, 16),))
    assert "is 3D" in session.problem


def test_a_view_that_fails_does_not_leave_a_run_for_ever(session: Session, image: Any) -> None:
    def fail(promises: Any) -> None:
        raise ValueError("cannot show it")

    session.set_images((image(24, 24, 24),))
    session.runner.promised.connect(fail)
    assert not session.start_run()
    assert session.runner.state is RunState.FAILED
    assert "cannot show it" in session.runner.report
