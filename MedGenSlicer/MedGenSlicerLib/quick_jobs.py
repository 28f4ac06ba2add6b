"""Small jobs beside the queue that the user sees: previews that follow a slider, thumbnails that come one by one. They
run in the same warm process, make no node, and are never listed."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Optional

import qt

from medgen.errors import MedGenError
from medgen.worker import client as worker

PAUSE_MS = 60  # what a hand that moves a slider leaves between two places


def _nothing(*_arguments: Any) -> None:
    pass


class QuickJob:
    """done(outputs), failed(sentence), shown(name, value): called in the event loop; exactly one of done and failed at
    the end, unless the job was withdrawn."""

    def __init__(
        self,
        request: worker.JobRequest,
        done: Callable[[dict[str, Any]], None],
        failed: Callable[[str], None] = _nothing,
        shown: Callable[[str, Any], None] = _nothing,
    ) -> None:
        self.request = request
        self._done, self._failed, self._shown = done, failed, shown
        self.client: Any = None
        self.id = ""
        self.dropped = False

    def sent(self, client: worker.WorkerClient, job_id: str) -> None:
        self.client, self.id = client, job_id

    def waiting(self) -> bool:
        job = self.client.jobs.get(self.id) if self.client is not None else None
        return job is not None and job.state == worker.WAITING

    def handle(self, event: Any) -> bool:
        """Whether this was its last event."""
        ended = isinstance(event, (worker.JobFinished, worker.JobFailed, worker.JobCancelled))
        if self.dropped:
            return ended
        try:
            if isinstance(event, worker.JobPartial):
                self._shown(event.name, event.value)
            elif isinstance(event, worker.JobFinished):
                self._done(event.outputs)
            elif isinstance(event, worker.JobFailed):
                self._failed(event.sentence)
            elif isinstance(event, worker.JobCancelled):
                self._failed("")
        except Exception:  # one picture's fault must not stop the queue
            logging.exception("MedGen: a preview could not be shown")
        return ended


class Latest:
    """Answers to what is set now. `make` gives the request, or None where there is nothing to ask; `show` gets the
    outputs, `say` a sentence instead. One request is under way at most; what was asked before the last change is not
    shown."""

    def __init__(
        self,
        controller: Any,
        make: Callable[[], Optional[worker.JobRequest]],
        show: Callable[[dict[str, Any]], None],
        say: Callable[[str], None],
    ) -> None:
        self._controller, self._make, self._show, self._say = controller, make, show, say
        self._job: Optional[QuickJob] = None
        self._stale = False
        self._timer = qt.QTimer()
        self._timer.setSingleShot(True)
        self._timer.setInterval(PAUSE_MS)
        self._timer.timeout.connect(self._send)

    def ask(self) -> None:
        """Something has changed."""
        self._stale = self._job is not None
        self._timer.start()

    def stop(self) -> None:
        self._timer.stop()
        if self._job is not None:
            self._controller.withdraw(self._job)
            self._job = None

    def _send(self) -> None:
        if self._job is not None and self._job.waiting():  # behind a long job, perhaps
            self._controller.withdraw(self._job)
        if self._job is not None and self._job.dropped:  # here, or because the scene was closed
            self._job = None
        if self._job is not None:
            return  # its end asks again
        request = self._make()
        if request is None:
            return
        job = QuickJob(request, self._arrived, self._failed)
        self._stale = False
        try:
            self._controller.ask(job, request.device)
        except (MedGenError, OSError) as error:
            self._say(str(error))
            return
        self._job = job

    def _arrived(self, outputs: dict[str, Any]) -> None:
        self._job = None
        if self._stale:
            self._send()
        else:
            self._show(outputs)

    def _failed(self, sentence: str) -> None:
        self._job = None
        if self._stale:
            self._send()
        elif sentence:
            self._say(sentence)
