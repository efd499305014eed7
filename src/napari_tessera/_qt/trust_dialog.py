"""The question whether a model's file may run code, and the list of answers with the way to take one back."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qtpy.QtCore import Qt
from qtpy.QtGui import QGuiApplication
from qtpy.QtWidgets import (
    QDialog,
    QDialogButtonBox,
    QGridLayout,
    QLabel,
    QListWidget,
    QListWidgetItem,
    QStyle,
    QVBoxLayout,
    QWidget,
)

from napari_tessera._qt.parts import plain_tooltip, small_button
from napari_tessera.core.errors import TesseraError, lines_without_control, without_control
from napari_tessera.models.safety.trusted_files import TrustStore
from napari_tessera.session.trust_question import short_sha
from napari_tessera.session.wording import Tone, sentence

if TYPE_CHECKING:
    from napari_tessera._qt.theme import Theme
    from napari_tessera.session.trust_question import TrustQuestion

# Sentences of some sixty letters read well.
TEXT_WIDTH = 420
ICON_SIDE = 32
LISTED = "These files may run code when they are opened. Revoking does not close a model that is open."
NONE = "No file may run code."


class TrustDialog(QDialog):
    """Asks whether a model's file may run code; *accepted* is yes, whatever else closes it no. Nothing waits for it."""

    def __init__(self, question: TrustQuestion, theme: Theme, parent: QWidget) -> None:
        super().__init__(parent)
        self.question = question
        self.setWindowTitle("Trust this model?")
        self.setWindowModality(Qt.WindowModality.WindowModal)
        self.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        self.does = _text(question.sentence)
        self.copies = [small_button("Copy", "Put the whole SHA-256 on the clipboard") for _ in question.files]
        self.buttons = QDialogButtonBox()
        self.trust = self.buttons.addButton("Trust and open", QDialogButtonBox.ButtonRole.AcceptRole)
        self.cancel = self.buttons.addButton("Cancel", QDialogButtonBox.ButtonRole.RejectRole)
        self._arrange()
        for button, (sha, _) in zip(self.copies, question.files, strict=True):
            button.setAutoDefault(False)
            button.clicked.connect(lambda _=False, sha=sha: _copy(sha))
        self.buttons.accepted.connect(self.accept)
        self.buttons.rejected.connect(self.reject)
        assert self.trust is not None
        assert self.cancel is not None
        self.trust.setAutoDefault(False)
        # Return and Escape leave the file alone: nobody says yes by accident.
        self.cancel.setDefault(True)
        self.cancel.setFocus()
        colours = f"background-color: {theme.colour('current')}; color: {theme.colour('text')};"
        self.cancel.setStyleSheet(f"QPushButton {{ {colours} font-weight: bold; }}")

    def _arrange(self) -> None:
        icon = QLabel()
        style = self.style()
        assert style is not None
        warning = style.standardIcon(QStyle.StandardPixmap.SP_MessageBoxWarning)
        icon.setPixmap(warning.pixmap(ICON_SIDE, ICON_SIDE))
        heading = _text(f"Trust “{self.question.label}”?")
        font = heading.font()
        font.setBold(True)
        heading.setFont(font)
        layout = QGridLayout(self)
        layout.setContentsMargins(16, 16, 16, 12)
        layout.setHorizontalSpacing(14)
        layout.setVerticalSpacing(10)
        layout.setColumnStretch(1, 1)
        remembered = _text(self.question.remembered)
        remembered.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)  # the command in it
        texts = (heading, self.does, _text(self.question.advice), self._facts(), remembered)
        layout.addWidget(icon, 0, 0, len(texts), 1, Qt.AlignmentFlag.AlignTop)
        for row, widget in enumerate(texts):
            layout.addWidget(widget, row, 1)
        layout.addWidget(self.buttons, len(texts), 0, 1, 2)

    def _facts(self) -> QWidget:
        facts = QWidget()
        rows = QGridLayout(facts)
        rows.setContentsMargins(0, 0, 0, 0)
        rows.setVerticalSpacing(4)
        rows.setColumnStretch(1, 1)
        rows.addWidget(QLabel("Format"), 0, 0)
        rows.addWidget(_selectable(self.question.format_name), 0, 1)
        for (sha, path), copy in zip(self.question.files, self.copies, strict=True):
            file, digits = _selectable(path.name), _selectable(short_sha(sha))
            file.setToolTip(plain_tooltip(str(path)))
            digits.setToolTip(sha)
            row = rows.rowCount()
            rows.addWidget(QLabel("File"), row, 0)
            rows.addWidget(file, row, 1)
            rows.addWidget(QLabel("SHA-256"), row + 1, 0)
            rows.addWidget(digits, row + 1, 1)
            rows.addWidget(copy, row + 1, 2)
        return facts


class TrustedDialog(QDialog):
    """Lists the files that may run code, and takes answers back."""

    def __init__(self, theme: Theme, parent: QWidget) -> None:
        super().__init__(parent)
        self._theme = theme
        self.setWindowTitle("Trusted models")
        self.setWindowModality(Qt.WindowModality.WindowModal)
        self.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        self.explanation = _text("")
        self.list = QListWidget()
        self.list.setAccessibleName("files that may run code")
        self.revoke = small_button("Revoke", "Tessera asks again before this file is opened the next time")
        self.buttons = QDialogButtonBox()
        self.buttons.addButton("Close", QDialogButtonBox.ButtonRole.RejectRole)
        self.buttons.addButton(self.revoke, QDialogButtonBox.ButtonRole.ActionRole)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(16, 16, 16, 12)
        layout.setSpacing(10)
        for widget in (self.explanation, self.list, self.buttons):
            layout.addWidget(widget)
        self.buttons.rejected.connect(self.reject)
        self.revoke.clicked.connect(self._revoke)
        self.list.itemSelectionChanged.connect(lambda: self.revoke.setEnabled(bool(self.list.selectedItems())))
        self.refresh()

    def refresh(self) -> None:
        """Show what is trusted now."""
        self.list.clear()
        try:
            names = TrustStore().names()
        except TesseraError as error:
            self._say(sentence(error), is_problem=True)
            names = {}
        else:
            self._say(LISTED if names else NONE)
        for sha, name in names.items():
            item = QListWidgetItem(f"{without_control(name)}   {short_sha(sha)}")
            item.setData(Qt.ItemDataRole.UserRole, sha)
            item.setToolTip(sha)
            self.list.addItem(item)
        self.revoke.setEnabled(False)

    def _revoke(self) -> None:
        try:
            for item in self.list.selectedItems():
                TrustStore().revoke(item.data(Qt.ItemDataRole.UserRole))
        except (TesseraError, OSError) as error:
            self._say(sentence(error), is_problem=True)
        else:
            self.refresh()

    def _say(self, text: str, *, is_problem: bool = False) -> None:
        self.explanation.setText(text)
        colour = self._theme.of(Tone.PROBLEM if is_problem else Tone.PLAIN)
        self.explanation.setStyleSheet(f"QLabel {{ color: {colour}; }}")


def _text(text: str) -> QLabel:
    """Return words that wrap."""
    label = QLabel(lines_without_control(text))
    label.setTextFormat(Qt.TextFormat.PlainText)  # a file's name is no markup
    label.setWordWrap(True)
    label.setMinimumWidth(TEXT_WIDTH)
    return label


def _selectable(text: str) -> QLabel:
    """Return a fact that can be marked and copied."""
    label = QLabel(without_control(text))
    label.setTextFormat(Qt.TextFormat.PlainText)
    label.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
    return label


def _copy(text: str) -> None:
    clipboard = QGuiApplication.clipboard()
    if clipboard is not None:
        clipboard.setText(text)
