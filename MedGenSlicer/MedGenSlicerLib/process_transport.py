"""The worker's process inside Slicer: a QProcess, whose signals feed the client (threads would starve here)."""

from __future__ import annotations

from typing import Optional

import qt

from medgen.worker.client import WorkerClient
from medgen.worker.processes import kill_orphans, kill_tree


class QProcessTransport:
    """`medgen.worker.client.Transport`. Set `client` before the first start."""

    def __init__(self) -> None:
        self.client: Optional[WorkerClient] = None
        self.process: Optional[qt.QProcess] = None
        self._started_pid = 0

    @property
    def pid(self) -> int:
        return int(self.process.processId()) if self.process is not None else 0

    def start(self, arguments: list[str], environment: dict[str, str]) -> None:
        process = qt.QProcess()
        variables = qt.QProcessEnvironment()
        for name, value in environment.items():
            variables.insert(name, value)
        process.setProcessEnvironment(variables)
        process.readyReadStandardOutput.connect(self._read)
        process.readyReadStandardError.connect(self._read_log)
        process.finished.connect(self._finished)
        process.errorOccurred.connect(self._error)
        self.process = process
        process.start(arguments[0], arguments[1:])
        self._started_pid = self.pid

    def write(self, data: bytes) -> None:
        if self.running():
            self.process.write(data)

    def kill(self) -> None:
        if self.running() and self.pid:
            kill_tree(self.pid)

    def running(self) -> bool:
        return self.process is not None and self.process.state() != qt.QProcess.NotRunning

    def wait_until_ended(self, milliseconds: int = 3000) -> None:
        """For the end of the application only: leaves no zombie behind."""
        if self.running():
            self.process.waitForFinished(milliseconds)

    # ------------------------------------------------------------------------------------------------------- signals

    def _read(self, *_arguments: object) -> None:
        if self.process is not None and self.client is not None:
            self.client.feed(bytes(self.process.readAllStandardOutput().data()))

    def _read_log(self, *_arguments: object) -> None:
        if self.process is not None and self.client is not None:
            self.client.feed_log(bytes(self.process.readAllStandardError().data()))

    def _finished(self, *_arguments: object) -> None:
        kill_orphans(self._started_pid)
        self._read_log()
        self._read()
        code = int(self.process.exitCode())
        crashed = self.process.exitStatus() == qt.QProcess.CrashExit
        self._ended(-abs(code) if crashed else code)

    def _error(self, error: object = None) -> None:
        """`finished` never comes for a program that could not be started. (`process.error` is a signal to PythonQt.)"""
        if error == qt.QProcess.FailedToStart:
            # from the event loop, since this signal may come inside client.submit
            qt.QTimer.singleShot(0, lambda: self._ended(127))

    def _ended(self, code: int) -> None:
        if self.client is not None:
            self.client.exited(code)
