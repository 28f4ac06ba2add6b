"""The queue across modules: what runs, waits, has finished or failed; log, cancel, try again, show the result."""

from __future__ import annotations

from typing import Any, Optional

import qt
import slicer
from slicer.i18n import tr as _

from medgen.errors import MedGenError
from medgen.worker import client as worker
from MedGenSlicerLib import jobs, result_presenter, widgets
from MedGenSlicerLib.jobs import Ticket
from MedGenSlicerLib.log_view import LogView


class JobsPanel:
    """A table of the jobs of this session, the newest first, and buttons for the chosen one."""

    def __init__(self, layout: Any) -> None:
        self.controller = jobs.controller()
        self.table = qt.QTableWidget(0, 2)
        self.table.setHorizontalHeaderLabels([_("Job"), _("State")])
        self.table.setToolTip(_("Every job of this session, the newest first. Choose one to see its log."))
        self.table.setSelectionBehavior(qt.QAbstractItemView.SelectRows)
        self.table.setSelectionMode(qt.QAbstractItemView.SingleSelection)
        self.table.setEditTriggers(qt.QAbstractItemView.NoEditTriggers)
        self.table.verticalHeader().setVisible(False)
        self.table.verticalHeader().setDefaultSectionSize(24)
        header = self.table.horizontalHeader()
        header.setSectionResizeMode(0, qt.QHeaderView.Stretch)
        header.setSectionResizeMode(1, qt.QHeaderView.ResizeToContents)
        self.table.setFixedHeight(150)
        self.table.itemSelectionChanged.connect(lambda *_a: self._chosen_changed())
        layout.addWidget(self.table)
        self.empty = widgets.text_label(_("No job yet: press Apply in a MedGen module."))
        layout.addWidget(self.empty)
        self.cancel = widgets.button(_("Cancel"), _("Stops the chosen job."), self._cancel)
        self.retry = widgets.button(_("Try again"), _("Runs the chosen job again on the same inputs."), self._retry)
        self.show_result = widgets.button(_("Show result"), _("Shows what the job made in the views."), self._show)
        self.clear = widgets.button(_("Clear ended"), _("Takes jobs that have ended off the list."), self._clear)
        layout.addLayout(widgets.row(self.cancel, self.retry, self.show_result, self.clear))
        self.message = widgets.Notice()
        layout.addWidget(self.message.widget)
        _button, inside = widgets.section(layout, _("Log of the chosen job"), _("What the background process wrote."))
        self.log = LogView(inside)
        self._numbers: list[int] = []
        self._filling = False
        self.controller.listeners.append(self._job_changed)
        self.update()

    def chosen(self) -> Optional[Ticket]:
        row = self.table.currentRow()
        if not 0 <= row < len(self._numbers):
            return None
        return next((t for t in self.controller.tickets if t.number == self._numbers[row]), None)

    def update(self) -> None:
        """Fills the table; keeps the choice."""
        tickets = list(reversed(self.controller.tickets))
        numbers = [ticket.number for ticket in tickets]
        if numbers != self._numbers:
            chosen = self.chosen()
            self._filling = True
            self._numbers = numbers
            self.table.setRowCount(len(tickets))
            for row, ticket in enumerate(tickets):
                self.table.setItem(row, 0, qt.QTableWidgetItem(ticket.title))
                self.table.setItem(row, 1, qt.QTableWidgetItem(""))
                self.table.item(row, 0).setToolTip(ticket.title)
            self._filling = False
            wanted = numbers.index(chosen.number) if chosen is not None and chosen.number in numbers else 0
            if tickets:
                self.table.selectRow(wanted)
        for row, ticket in enumerate(tickets):
            self._show_state(row, ticket)
        self.empty.setVisible(not tickets)
        self._update_buttons()

    def _show_state(self, row: int, ticket: Ticket) -> None:
        text = ticket.stage
        if ticket.state == worker.RUNNING:
            text = f"{text} {ticket.fraction:.0%}"
        elif ticket.state == worker.FINISHED:
            text = f"{text}, {widgets.minutes_text(ticket.ended_seconds)}"
        item = self.table.item(row, 1)
        if item is not None and item.text() != text:
            item.setText(text)
            item.setToolTip(ticket.error or " ".join(ticket.notices) or text)

    def _update_buttons(self) -> None:
        ticket = self.chosen()
        self.cancel.setEnabled(ticket is not None and not ticket.ended)
        again = ticket is not None and ticket.state in (worker.FAILED, worker.CANCELLED) and ticket.in_scene
        self.retry.setEnabled(again)
        self.show_result.setEnabled(ticket is not None and bool(ticket.results()))
        self.clear.setEnabled(any(t.ended for t in self.controller.tickets))
        self.message.say(ticket.error if ticket is not None else "")

    def _chosen_changed(self) -> None:
        if not self._filling:
            self.log.show(self.chosen())
            self._update_buttons()

    def _job_changed(self, ticket: Optional[Ticket]) -> None:
        self.update()
        if ticket is not None and ticket is self.chosen():
            self.log.show(ticket)

    def _cancel(self) -> None:
        ticket = self.chosen()
        if ticket is not None:
            self.controller.cancel(ticket)

    def _retry(self) -> None:
        ticket = self.chosen()
        if ticket is None:
            return
        try:
            again = self.controller.retry(ticket)
        except MedGenError as error:
            self.message.say(str(error))
            return
        self.update()
        self.table.selectRow(self._numbers.index(again.number))

    def _show(self) -> None:
        ticket = self.chosen()
        if ticket is not None:
            result_presenter.show(ticket.results(), ticket.record)
            for node in ticket.results():
                result_presenter.set_shown(node, True)
            if ticket.module_name and hasattr(slicer.modules, ticket.module_name.lower()):
                slicer.util.selectModule(ticket.module_name)

    def _clear(self) -> None:
        self.controller.forget_ended()

    def cleanup(self) -> None:
        if self._job_changed in self.controller.listeners:
            self.controller.listeners.remove(self._job_changed)
