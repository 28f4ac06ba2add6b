"""Apply (which becomes Cancel), the progress bar, why Apply is off, and where and how long the job will run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Optional

import qt
import slicer
from slicer.i18n import tr as _

from medgen.worker import client as worker
from MedGenSlicerLib import jobs, settings, widgets
from MedGenSlicerLib.jobs import Ticket


def device_words(device: str) -> str:
    """'GPU: NVIDIA H100', 'CPU (8 cores)', or 'the best device found' before anything is known."""
    known = jobs.known_devices()
    chosen = next((d for d in known if d["id"] == device), known[0] if known and device == jobs.AUTO else None)
    if chosen is None:
        return _("the best device found") if device == jobs.AUTO else device
    return chosen["title"] if chosen["id"] == "cpu" else _("GPU: {name}").format(name=chosen["title"])


def expected_seconds(method_id: str, device: str, voxels: int) -> Optional[float]:
    """From the last run of the method here; None before the first."""
    per_voxel = settings.seconds_per_voxel(method_id, device)
    return per_voxel * voxels if per_voxel and voxels else None


class RunBar:
    def __init__(self, layout: Any, apply: Callable[[], None], cancel: Callable[[], None]) -> None:
        self._apply, self._cancel = apply, cancel
        self.running = False
        self.button = qt.QPushButton(_("Apply"))
        self.button.setMinimumHeight(30)
        self.button.clicked.connect(lambda *_a: self._clicked())
        layout.addWidget(self.button)
        self.bar = qt.QProgressBar()
        self.bar.setRange(0, 1000)
        self.bar.setToolTip(_("How far the job is."))
        self.bar.setVisible(False)
        layout.addWidget(self.bar)
        self.line = widgets.text_label(tooltip=_("What the job is doing, or where it will run."))
        layout.addWidget(self.line)
        self.set_up = widgets.button(
            _("Set up..."),
            _("Opens MedGen Jobs, where one button makes the Python environment that the methods run in."),
            lambda: slicer.util.selectModule("MedGenJobs"),
        )
        self.set_up.setVisible(False)
        layout.addWidget(self.set_up)
        self.problem = widgets.Notice()
        layout.addWidget(self.problem.widget)

    def _clicked(self) -> None:
        (self._cancel if self.running else self._apply)()

    def show_ready(self, reason_off: str, warned: bool, device: str, seconds: Optional[float]) -> None:
        """No job runs. reason_off: why Apply cannot be pressed, empty if it can."""
        self.running = False
        self.bar.setVisible(False)
        self.set_up.setVisible(not jobs.set_up())
        self.button.setText(_("Run anyway") if warned and not reason_off else _("Apply"))
        self.button.setEnabled(not reason_off)
        if reason_off:
            tooltip = reason_off
        elif warned:
            tooltip = _("Starts the method in spite of the warnings above. Slicer stays usable meanwhile.")
        else:
            tooltip = _("Starts the method in the background. Slicer stays usable meanwhile.")
        self.button.setToolTip(tooltip)
        where = _("Runs on {device}").format(device=device_words(device))
        about = _(", about {time}").format(time=widgets.minutes_text(seconds)) if seconds else ""
        self.line.setText(reason_off or f"{where}{about}.")

    def show_running(self, ticket: Ticket) -> None:
        self.running = True
        self.button.setText(_("Cancelling...") if ticket.job and ticket.job.cancelling else _("Cancel"))
        self.button.setEnabled(not (ticket.job and ticket.job.cancelling))
        self.button.setToolTip(_("Stops the job. Nothing in the scene changes."))
        self.bar.setVisible(True)
        unknown = ticket.state in (jobs.PREPARING, worker.WAITING)
        self.bar.setRange(0, 0 if unknown else 1000)
        if not unknown:
            self.bar.setValue(round(1000 * ticket.fraction))
        left = widgets.minutes_text(ticket.remaining_seconds)
        words = [ticket.stage]
        if ticket.state == worker.RUNNING and ticket.job and ticket.job.message:
            words.append(ticket.job.message)
        if left:
            words.append(_("{time} left").format(time=left))
        self.line.setText(", ".join(words))
        self.problem.say("")

    def show_end(self, ticket: Ticket) -> None:
        """A sentence about a job that has just ended otherwise than well, or what the user must know of its result."""
        if ticket.state == worker.FAILED:
            self.problem.say(ticket.error)
        elif ticket.state == worker.CANCELLED:
            self.problem.say(_("Cancelled. Nothing was changed."))
        else:
            self.problem.say(" ".join(ticket.notices))
