"""How long the widget keeps napari waiting while its sliders move, and how soon a new window has its plan.

    xvfb-run -a -s "-screen 0 1400x900x24" python benchmarks/panel_time.py [--repeats 50]

Without xvfb-run where there is a display. Moves sw_batch_size and overlap by the widget's own sliders, and reports what
each move takes on the GUI thread until plan, bars and lines are new; then sets windows that no pass was traced for yet,
and reports how long it is until the plan is there, and the longest that the GUI thread was kept meanwhile. The limits
that the project sets itself: 16 ms and 300 ms.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

LIMITS_MS = {"slider": 16.0, "new window": 300.0}
WAIT_SECONDS = 120


def moves_ms(widget: Any, repeats: int) -> Iterator[float]:
    """Yield the milliseconds of moves of two sliders."""
    windows, session = widget.windows, widget.session
    for number in range(repeats):
        for slider, value in ((windows.sw_batch_size, 2 + number % 30), (windows.overlap, 0.1 + (number % 15) * 0.05)):
            began = time.perf_counter()
            slider.setValue(value)
            taken = 1e3 * (time.perf_counter() - began)
            assert not session.planning, "the plan was not made at once"
            yield taken
            _settle(lambda: not session.background.busy)


def windows_ms(widget: Any) -> Iterator[tuple[float, float]]:
    """Yield, for each new window, the milliseconds until its plan, and the longest that the GUI thread was kept."""
    session = widget.session
    for side in (32, 40, 48, 56, 72, 80):
        began = last = time.perf_counter()
        session.change(window_size=(side, side, side))
        longest = time.perf_counter() - last
        while session.planning:
            last = time.perf_counter()
            _process()
            longest = max(longest, time.perf_counter() - last)
            time.sleep(0.002)
        assert session.plan is not None, session.problem
        assert session.plan.settings.window_size == (side,) * 3
        yield 1e3 * (time.perf_counter() - began), 1e3 * longest


def _process() -> None:
    from qtpy.QtWidgets import QApplication

    QApplication.processEvents()


def _settle(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + WAIT_SECONDS
    while not condition():
        _process()
        time.sleep(0.005)
        if time.monotonic() > until:
            sys.exit("it did not come to an end")


def main() -> None:
    """Open napari with the widget and move its sliders."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=50)
    repeats = parser.parse_args().repeats
    import napari
    from napari.layers import Layer
    from qtpy.QtCore import QSettings

    from napari_tessera._qt import make_widget
    from napari_tessera.samples.napari import neurites_sample

    with tempfile.TemporaryDirectory() as private:
        QSettings.setPath(QSettings.Format.IniFormat, QSettings.Scope.UserScope, private)
        viewer = napari.Viewer(show=True)
        widget = make_widget(viewer)
        viewer.window.add_dock_widget(widget)
        for data in neurites_sample():
            viewer.add_layer(Layer.create(*data))
        _settle(lambda: widget.session.model is not None and not widget.session.background.busy)
        moves = list(moves_ms(widget, repeats))
        new = list(windows_ms(widget))
        viewer.close()
    plans, kept = [plan for plan, _ in new], [longest for _, longest in new]
    print(
        f"slider: median {statistics.median(moves):.1f} ms, longest {max(moves):.1f} ms (limit {LIMITS_MS['slider']})"
    )
    print(
        f"new window: plan after median {statistics.median(plans):.0f} ms, longest {max(plans):.0f} ms "
        f"(limit {LIMITS_MS['new window']}); GUI thread kept {max(kept):.0f} ms at most"
    )


if __name__ == "__main__":
    main()
