"""The row below: results to files, settings from and to files."""

from __future__ import annotations

import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import Qt
from qtpy.QtGui import QGuiApplication
from qtpy.QtWidgets import QFileDialog, QLabel, QMessageBox

from napari_tessera._qt.knob_widgets import ParametersForm
from napari_tessera._qt.lines import LineLabel
from napari_tessera._qt.parts import Fold, Panel, menu_button, plain_tooltip, small_button
from napari_tessera._qt.trust_dialog import TrustedDialog
from napari_tessera.core.errors import TesseraError, without_control
from napari_tessera.core.settings.knobs import knobs
from napari_tessera.images.writers import output
from napari_tessera.images.writers.napari_layer import write_layer
from napari_tessera.session.wording import Line, Tone, sentence, unknown_there

if TYPE_CHECKING:
    from collections.abc import Sequence

    from napari_tessera._qt.theme import Theme
    from napari_tessera.session import Session

SETTINGS_FILTER = "Settings (*.yaml *.yml)"
CONNECTOMICS_FILTER = "Settings of PyTorch Connectomics (*.yaml *.yml)"


class FilePanel(Panel):
    """Exports the layers of the last run, as they are in the viewer by then, and reads and writes settings files."""

    def __init__(self, session: Session, theme: Theme) -> None:
        super().__init__("files")
        self._session, self._theme = session, theme
        # Weakly: a layer that the user deletes must not keep its voxels.
        self._layers: list[weakref.ref[Any]] = []
        self.export = small_button("Export …", "")
        self.copy_report = small_button(
            "Copy report", "Put the traceback on the clipboard, for whoever is to mend what went wrong"
        )
        self.more, self._menu = menu_button("⋯", "Settings files, trusted models")
        self.message = LineLabel(theme)
        self.tiff = ParametersForm(name="tiff")
        self.tiff.show_knobs(knobs(output.TiffOptions), {})
        self._arrange()
        self.export.clicked.connect(self._ask_where)
        self.copy_report.clicked.connect(self._copy_report)
        session.runner.changed.connect(self._on_run)
        session.fitting.changed.connect(self.refresh)
        self.refresh()

    def _arrange(self) -> None:
        for text, slot in (
            ("Load settings …", self._ask_settings),
            ("Save settings …", self._ask_settings_path),
            ("Trusted models …", self.show_trusted),
        ):
            action = self._menu.addAction(text)
            assert action is not None
            action.triggered.connect(slot)
        for column, part in enumerate((self.export, self.copy_report, self.message, self.more)):
            self.grid.addWidget(part, 0, column)
        self.grid.addWidget(Fold("More: files", self.tiff.native, is_open=False), 1, 0, 1, 4)
        self.grid.setColumnStretch(2, 1)

    def add_layers(self, layers: Sequence[Any]) -> None:
        """Offer *layers* for export, with those of the same run before."""
        self._layers += [weakref.ref(layer) for layer in layers]
        self.refresh()

    def refresh(self) -> None:
        """Offer what there is."""
        self.export.setEnabled(bool(self.layers()))
        names = "\n".join(layer.name for layer in self.layers())
        written = f"Write as TIFF, with the voxel size:\n{names}"
        self.export.setToolTip(plain_tooltip(written) if names else "Nothing to export yet")
        self.copy_report.setVisible(bool(self._session.runner.report))
        idle = not (self._session.runner.active or self._session.fitting.active)
        self.more.setEnabled(self._session.settings is not None and idle)

    def layers(self) -> list[Any]:
        """Return the layers of the last run that are still there."""
        return [layer for layer in (ref() for ref in self._layers) if layer is not None]

    def write(self, paths: Sequence[Path]) -> None:
        """Write the layers to *paths*, one each, on a thread; existing files are replaced."""
        tuples = [layer.as_layer_data_tuple() for layer in self.layers()]
        options = output.TiffOptions(**self.tiff.value)

        def work() -> str:
            for path, (data, meta, _) in zip(paths, tuples, strict=True):
                write_layer(str(path), data, meta, options)
            return ", ".join(path.name for path in paths)

        self.message.show_line(Line("Writing …"))
        self._session.background.submit(
            work, lambda names: self._say(f"Wrote {names}"), lambda error: self._complain(error), name="export"
        )

    def _on_run(self) -> None:
        if self._session.runner.active and self._session.runner.results == 0:
            self._layers.clear()
            self._say("")
        self.refresh()

    def _ask_where(self) -> None:
        layers = self.layers()
        if len(layers) == 1:
            name, _ = QFileDialog.getSaveFileName(
                self.native, "Export", f"{_file_name(layers[0])}", "TIFF (*.tif *.tiff)"
            )
            if name:
                path = Path(name)
                self.write([path if path.suffix else path.with_suffix(".tif")])
        elif layers:
            folder = QFileDialog.getExistingDirectory(self.native, f"Export {len(layers)} layers into a folder")
            if folder:
                self.write([Path(folder) / _file_name(layer) for layer in layers])

    def _ask_settings(self) -> None:
        name, _ = QFileDialog.getOpenFileName(self.native, "Load settings", "", SETTINGS_FILTER)
        if name:
            self.load_settings(Path(name))

    def load_settings(self, path: Path) -> None:
        """Take all settings from the file at *path*, Tessera's own or one of PyTorch Connectomics."""
        try:
            notes = self._session.use_settings_file(path)
        except TesseraError as error:
            self._complain(error)
            return
        if not notes:
            self._say(f"Loaded {path.name}")
            return
        self.message.show_line(Line(f"Loaded {path.name}, not all of it", Tone.WARNING, "\n".join(notes)))
        self.show_notes(path, notes)

    def show_notes(self, path: Path, notes: Sequence[str]) -> None:
        """Say what a file of another program holds that has no match here; nothing waits for the dialog."""
        box = QMessageBox(self.native)
        box.setWindowTitle("Load settings")
        box.setIcon(QMessageBox.Icon.Information)
        box.setTextFormat(Qt.TextFormat.PlainText)  # a key of a file is no markup
        box.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        box.setText(f"“{without_control(path.name)}” is loaded, but not all of it has a match in Tessera:")
        box.setInformativeText("\n".join(f"• {without_control(note)}" for note in notes))
        for label in box.findChildren(QLabel):  # the format above is of the first text alone
            label.setTextFormat(Qt.TextFormat.PlainText)
        box.addButton("Close", QMessageBox.ButtonRole.AcceptRole)
        box.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        box.open()

    def _ask_settings_path(self) -> None:
        filters = f"{SETTINGS_FILTER};;{CONNECTOMICS_FILTER}"
        name, chosen = QFileDialog.getSaveFileName(self.native, "Save settings", "tessera.yaml", filters)
        if name:
            self.save_settings(Path(name), for_connectomics=chosen == CONNECTOMICS_FILTER)

    def save_settings(self, path: Path, *, for_connectomics: bool = False) -> None:
        """Write all settings to the file at *path*, one of Tessera or of PyTorch Connectomics."""
        try:
            names = self._session.save_settings(path, for_connectomics=for_connectomics)
        except (TesseraError, OSError) as error:
            self._complain(error)
            return
        saved = f"Saved {path.name}"
        self.message.show_line(Line(f"{saved}: {unknown_there(names)}" if names else saved))

    def show_trusted(self) -> TrustedDialog:
        """Show which files may run code, and return the dialog; it goes when it is closed."""
        dialog = TrustedDialog(self._theme, self.native)
        dialog.open()
        return dialog

    def _copy_report(self) -> None:
        clipboard = QGuiApplication.clipboard()
        if clipboard is not None:
            clipboard.setText(self._session.runner.report)
            self._say("Copied")

    def _say(self, text: str) -> None:
        self.message.show_line(Line(text))

    def _complain(self, error: Exception) -> None:
        self.message.show_line(Line(sentence(error), Tone.PROBLEM))


def _file_name(layer: Any) -> str:
    return "".join(c if c.isalnum() or c in " -_()" else "_" for c in layer.name).strip() + ".tif"
