"""Runs a MedGen command (export, set-up) in another Python, in the background."""

from __future__ import annotations

import codecs
from collections.abc import Callable, Sequence

import qt
import slicer

from medgen.worker.processes import kill_tree, worker_environment
from MedGenSlicerLib import engine_folder

CLI = "import sys; sys.path.insert(0, sys.argv.pop(1)); from medgen.cli import main; main()"


def medgen_command(python: str, *arguments: str) -> list[str]:
    """The command line of `medgen <arguments>`; nothing of Slicer's Python reaches it (-I)."""
    return [python, "-I", "-X", "utf8", "-c", CLI, str(engine_folder() / "models"), *arguments]


_running: set[CommandProcess] = set()  # keeps them alive until they have ended


def stop_all() -> None:
    for each in list(_running):
        each.stop()


class CommandProcess:
    """`line` is called with each line of its output, `ended` with the exit code (127: could not be started)."""

    def __init__(self, command: Sequence[str], line: Callable[[str], None], ended: Callable[[int], None]) -> None:
        self._line, self._ended = line, ended
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._rest = ""
        self._over = False
        process = qt.QProcess()
        variables = qt.QProcessEnvironment()
        for name, value in worker_environment(dict(slicer.util.startupEnvironment())).items():
            variables.insert(name, value)
        process.setProcessEnvironment(variables)
        process.setProcessChannelMode(qt.QProcess.MergedChannels)
        process.readyReadStandardOutput.connect(self._read)
        process.finished.connect(self._finished)
        process.errorOccurred.connect(self._error)
        self.process = process
        _running.add(self)
        process.start(command[0], list(command[1:]))

    def running(self) -> bool:
        return not self._over

    def stop(self) -> None:
        """Kills it; no callback comes any more."""
        if not self._over:
            self._over = True
            if self.process.processId():
                kill_tree(int(self.process.processId()))
            self.process.waitForFinished(1000)
            _running.discard(self)

    def _read(self, *_arguments: object) -> None:
        if self._over:
            return
        text = self._rest + self._decoder.decode(bytes(self.process.readAllStandardOutput().data()))
        *lines, self._rest = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
        for line in lines:
            if line.strip():
                self._line(line)

    def _finished(self, *_arguments: object) -> None:
        self._read()
        if self._rest.strip() and not self._over:
            self._line(self._rest)
        crashed = self.process.exitStatus() == qt.QProcess.CrashExit
        self._end(-abs(int(self.process.exitCode())) if crashed else int(self.process.exitCode()))

    def _error(self, error: object = None) -> None:
        if error == qt.QProcess.FailedToStart:
            qt.QTimer.singleShot(0, lambda: self._end(127))

    def _end(self, code: int) -> None:
        _running.discard(self)
        if not self._over:
            self._over = True
            self._ended(code)
