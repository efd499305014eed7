"""One line on how things stand: what is missing, what goes on, how it ended."""

from __future__ import annotations

from typing import TYPE_CHECKING

from napari_tessera.core.units import format_bytes, format_duration
from napari_tessera.decode.classes import makes_classes
from napari_tessera.session.runner import Runner, RunState
from napari_tessera.session.wording import WORTH_SAYING_S, Line, Tone, count, counted, problem

if TYPE_CHECKING:
    from napari_tessera.engine.loop.events import MemoryRecovered
    from napari_tessera.session.session import Session

# Images whose objects the line names one by one; the tooltip has more of them.
NAMED, LISTED = 3, 20
NO_IMAGE = "Open an image, or File > Open Sample > Tessera"


def status_line(session: Session) -> Line:
    """Return the most important thing to say now."""
    models, runner = session.models, session.runner
    if runner.active:
        return _running_line(runner)
    if session.fitting.active:
        return Line("Measuring a few passes, to find what is fastest within the memory that is free …")
    if models.loading:
        return Line(f"Loading {models.loading} …")
    if models.question is not None:
        return Line(f"{models.question.label} waits for your word: {models.question.does}", Tone.WARNING)
    if models.problem:
        return problem(models.problem)
    if session.refused or session.problem:
        return problem(session.refused or session.problem)
    if session.fitting.said.text:
        return session.fitting.said
    if runner.state is not RunState.IDLE and not session.changed_since_run:
        return _ended_line(runner)
    if session.model is None:
        return Line("Open a model")
    if not session.images:
        return Line(NO_IMAGE)
    if session.planning:
        return Line("Measuring the network …")
    notes = [reading.note for reading in session.readings if reading.note]
    notes += [f"assumed: {sentence}" for sentence in session.model.spec.assumed]
    return Line(f"Ready: {notes[0]}" if notes else "Ready", tooltip="\n".join(notes) if len(notes) > 1 else "")


def progress_text(runner: Runner) -> str:
    """Return passes done of all and the time left, such as ``61 / 117 · 1 min 20 s left``."""
    now = runner.progress
    if not now.total:
        return ""
    text = f"{count(now.done)} / {count(now.total)}"
    if not runner.active or not now.seconds_left:
        return text
    return f"{text} · {format_duration(now.seconds_left)} left"


def _running_line(runner: Runner) -> Line:
    now = runner.progress
    if runner.state is RunState.CANCELLING:
        return Line("Stopping after this pass …")
    if now.recovered is not None:
        return Line(_recovered(runner, now.recovered), Tone.WARNING)
    if now.noticed:
        return Line(" · ".join(now.noticed), Tone.WARNING)
    if now.decoding is not None:
        return Line(f"Making labels: {now.decoding} …")
    if now.done == 0:
        return Line("Reading the image …")
    return Line("Running; the knobs wait for the end")


def _recovered(runner: Runner, event: MemoryRecovered) -> str:
    device = "CPU memory" if runner.plan is not None and runner.plan.device.kind == "cpu" else "GPU"
    return f"{device} was full at pass {event.failed_pass}: going on with {event.remedy}"


def _ended_line(runner: Runner) -> Line:
    now = runner.progress
    if runner.state is RunState.FAILED:
        return problem(runner.problem)
    if runner.state is RunState.CANCELLED:
        kept = "Labels hold the finished part" if runner.results else "No plane was finished, so nothing was added"
        return Line(f"Stopped at {count(now.done)} of {counted(now.total, 'pass')}. {kept}", Tone.WARNING)
    parts = [_found(runner)]
    each = _each_image(runner)
    if now.finished is not None:
        parts.append(format_duration(now.finished.seconds))
        if now.decoding_s >= WORTH_SAYING_S:
            parts[-1] += f" (passes {format_duration(now.passes_s)}, labels {format_duration(now.decoding_s)})"
        if now.finished.peak_bytes is not None and runner.plan is not None:
            estimated = format_bytes(runner.plan.memory.counted_bytes)
            what = "first passes took" if runner.plan.device.kind == "cpu" else "GPU peak"
            parts.append(f"{what} {format_bytes(now.finished.peak_bytes)} (estimated {estimated})")
    if now.recovered is not None:
        parts.append(_recovered(runner, now.recovered))
    parts += now.noticed
    tone = Tone.GOOD if now.recovered is None and not now.noticed else Tone.WARNING
    text = " · ".join(parts)
    return Line(text, tone, "\n".join([text, *each]) if len(each) > 1 else "")


def _found(runner: Runner) -> str:
    """Return what is found, image by image where they are few. Classes are the same ones in all of them: no sum."""
    if not runner.outputs.labels:
        return "Probabilities"
    word, numbers = _word(runner), [number for _, number in runner.found]
    if len(numbers) < 2:
        return counted(sum(numbers), word)
    if len(numbers) <= NAMED:
        return ", ".join(_each_image(runner))
    if word == "object":
        return f"{counted(sum(numbers), word)} in {counted(len(numbers), 'image')}"
    least, most = min(numbers), max(numbers)
    classes = counted(most, word) if least == most else f"{count(least)} to {counted(most, word)}"
    return f"{classes} in each of {counted(len(numbers), 'image')}"


def _each_image(runner: Runner) -> list[str]:
    if not runner.outputs.labels:
        return []
    rows = [f"{name}: {counted(number, _word(runner))}" for name, number in runner.found[:LISTED]]
    more = len(runner.found) - LISTED
    return rows + ([f"and {counted(more, 'image')} more"] if more > 0 else [])


def _word(runner: Runner) -> str:
    of_classes = runner.plan is not None and makes_classes(runner.plan.settings.decoder)
    return "class" if of_classes else "object"
