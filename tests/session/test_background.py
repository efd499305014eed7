"""Threads that answer, fail and are closed; and plans, of which only the latest counts."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

from napari_tessera.session.background import Background, Planner


def deliver(background: Background, wanted: list[Any], n: int) -> None:
    for _ in range(5000):
        background.deliver()
        if len(wanted) >= n:
            return
        threading.Event().wait(0.001)
    raise AssertionError(f"{len(wanted)} of {n} answers")


def test_answers_and_errors_come_on_the_thread_that_asks() -> None:
    background, heard = Background(), []

    def fail() -> None:
        raise RuntimeError("no")

    background.submit(lambda: threading.current_thread().name, heard.append, heard.append, name="a")
    background.submit(fail, heard.append, lambda error: heard.append((error, threading.current_thread())), name="b")
    deliver(background, heard, 2)
    assert "tessera-a" in heard
    ((error, thread),) = [item for item in heard if isinstance(item, tuple)]
    assert str(error) == "no"
    assert thread is threading.main_thread()
    background.deliver()
    assert not background.busy


def test_closing_waits_and_silences() -> None:
    background, go, heard = Background(), threading.Event(), []
    background.submit(lambda: go.wait(10), heard.append, heard.append, name="slow")
    assert not background.close(0.01)
    background.submit(lambda: None, heard.append, heard.append, name="late")
    go.set()
    background.close(10)
    background.deliver()
    assert heard == []


class FakeTask:
    """A task whose plan is its own name, given when the test says so."""

    def __init__(self, name: str, key: object = "network") -> None:
        self.name, self.trace_key, self.go, self.traced = name, key, threading.Event(), threading.Event()

    def resolve(self) -> Any:
        self.traced.set()
        assert self.go.wait(10)
        return SimpleNamespace(name=self.name)


def test_only_the_latest_request_is_answered() -> None:
    background, answers = Background(), []
    planner = Planner(background, answers.append)
    first, second, third = FakeTask("first"), FakeTask("second"), FakeTask("third")
    planner.request(first)
    assert first.traced.wait(10)
    planner.request(second)
    planner.request(third)
    assert planner.pending
    for task in (first, second, third):
        task.go.set()
    deliver(background, answers, 1)
    assert [answer.name for answer in answers] == ["third"]
    assert not second.traced.is_set()  # by the time it could have begun, it was of no interest
    assert not planner.pending


def test_what_has_been_traced_is_planned_at_once_until_the_model_changes() -> None:
    background, answers = Background(), []
    planner = Planner(background, answers.append)
    tasks = [FakeTask("a"), FakeTask("b"), FakeTask("c")]
    for task in tasks:
        task.go.set()
    planner.request(tasks[0])
    deliver(background, answers, 1)
    planner.request(tasks[1])
    assert [answer.name for answer in answers] == ["a", "b"]
    planner.forget()
    planner.request(tasks[2])
    assert len(answers) == 2
    deliver(background, answers, 3)


def test_withdrawn_requests_are_not_answered() -> None:
    background, answers = Background(), []
    planner = Planner(background, answers.append)
    task = FakeTask("a")
    planner.request(task)
    planner.withdraw()
    assert not planner.pending
    task.go.set()
    background.close(10)
    assert answers == []
