"""The log of the newest job, folded away until it is wanted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import qt
import slicer
from slicer.i18n import tr as _

from MedGenSlicerLib import widgets
from MedGenSlicerLib.jobs import Ticket

LINES_SHOWN = 2000


def log_folder() -> Path:
    return Path(slicer.app.temporaryPath) / "MedGenLogs"


def log_text(ticket: Ticket) -> str:
    head = [ticket.title, f"{_('State')}: {ticket.stage}"]
    if ticket.error:
        head.append(ticket.error)
    return "\n".join([*head, *ticket.notices, *ticket.log[-LINES_SHOWN:]])


def save_log(ticket: Ticket) -> Path:
    """Writes the log to a file of the session and returns it."""
    folder = log_folder()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"job-{ticket.number}-{ticket.method.id}.txt"
    path.write_text(log_text(ticket) + "\n", encoding="utf-8")
    return path


class LogView:
    """A text with 'Copy' and 'Open folder'."""

    def __init__(self, layout: Any) -> None:
        self.text = qt.QPlainTextEdit()
        self.text.setReadOnly(True)
        self.text.setFixedHeight(130)
        self.text.setToolTip(_("What the background process wrote."))
        layout.addWidget(self.text)
        copy = widgets.button(_("Copy"), _("Copies the log, to paste it into a message."), self._copy)
        folder = widgets.button(_("Open folder"), _("Opens the folder with the logs of this session."), self._open)
        layout.addLayout(widgets.row(copy, folder))
        self._ticket: Any = None
        self._shown = ""

    def show(self, ticket: Any) -> None:
        self._ticket = ticket
        text = log_text(ticket) if ticket is not None else ""
        if text != self._shown:
            self._shown = text
            self.text.setPlainText(text)
            bar = self.text.verticalScrollBar()
            bar.setValue(bar.property("maximum"))

    def _copy(self) -> None:
        qt.QApplication.clipboard().setText(self._shown)

    def _open(self) -> None:
        log_folder().mkdir(parents=True, exist_ok=True)
        if self._ticket is not None:
            save_log(self._ticket)
        qt.QDesktopServices.openUrl(qt.QUrl.fromLocalFile(str(log_folder())))
