"""The worker without Slicer: a subprocess behind the same client, and a plain blocking loop. For CLI, batch runs,
tests.

with LocalWorker() as worker:
    outputs, provenance = worker.run(JobRequest("identity", {"image": image}))
"""

from __future__ import annotations

import contextlib
import os
import queue
import selectors
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Optional

from medgen.errors import BadInput, Cancelled, MedGenError
from medgen.worker.client import WorkerClient
from medgen.worker.jobs import Event, JobCancelled, JobFailed, JobFinished, JobRequest
from medgen.worker.processes import kill_orphans, kill_tree

TICK_SECONDS = 0.1


class SubprocessTransport:
    """A child process. `pump` moves what came from it (and what it did not take yet) between its pipes and the
    client."""

    def __init__(self) -> None:
        self.client: Optional[WorkerClient] = None
        self._process: Optional[subprocess.Popen[bytes]] = None
        self._pending = bytearray()
        self._pipes: Any = None

    @property
    def pid(self) -> Optional[int]:
        return None if self._process is None else self._process.pid

    def start(self, arguments: list[str], environment: dict[str, str]) -> None:
        self._pending.clear()
        options: dict[str, Any] = {"start_new_session": True}
        if sys.platform == "win32":
            options = {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP | subprocess.CREATE_NO_WINDOW}
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(
            arguments, stdin=pipe, stdout=pipe, stderr=pipe, env=environment, bufsize=0, **options
        )
        self._pipes = _ThreadedPipes(self._process) if sys.platform == "win32" else _SelectedPipes(self._process)

    def write(self, data: bytes) -> None:
        self._pending += data
        self._push()

    def kill(self) -> None:
        if self._process is not None:
            kill_tree(self._process.pid)

    def running(self) -> bool:
        return self._process is not None

    def pump(self, seconds: float) -> None:
        """Waits at most `seconds` for something to happen, and tells the client."""
        assert self.client is not None
        if self._process is None:
            time.sleep(seconds)
            return
        self._push()
        for log, data in self._pipes.wait(seconds, bool(self._pending)):
            (self.client.feed_log if log else self.client.feed)(data)
        if self._process is not None and self._has_ended():
            self._finish()

    def _push(self) -> None:
        if self._process is None or not self._pending:
            return
        try:
            del self._pending[: self._pipes.write(self._pending)]
        except BrokenPipeError:
            self._pending.clear()

    def _has_ended(self) -> bool:
        """Asks without reaping: as long as the pid is ours, its group can be killed safely."""
        assert self._process is not None
        if not hasattr(os, "waitid"):  # Windows, macOS before Python 3.13
            return self._process.poll() is not None
        return os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def _finish(self) -> None:
        assert self._process is not None and self.client is not None
        kill_orphans(self._process.pid)  # they also hold its pipes open
        for log, data in self._pipes.rest():
            (self.client.feed_log if log else self.client.feed)(data)
        process, self._process = self._process, None
        self._pipes.close()
        self.client.exited(process.wait())


class _SelectedPipes:
    """Non-blocking pipes, where select works on them."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdin and process.stdout and process.stderr
        self._stdin = process.stdin
        self._outputs = [process.stdout, process.stderr]
        self._selector = selectors.DefaultSelector()
        for stream in (process.stdin, process.stdout, process.stderr):
            os.set_blocking(stream.fileno(), False)
        self._selector.register(process.stdout, selectors.EVENT_READ, False)
        self._selector.register(process.stderr, selectors.EVENT_READ, True)
        self._waits_to_write = False

    def write(self, data: bytearray) -> int:
        return self._stdin.write(data) or 0

    def wait(self, seconds: float, wants_to_write: bool) -> list[tuple[bool, bytes]]:
        if wants_to_write != self._waits_to_write:
            self._waits_to_write = wants_to_write
            if wants_to_write:
                self._selector.register(self._stdin, selectors.EVENT_WRITE)
            else:
                self._selector.unregister(self._stdin)
        if not self._selector.get_map():
            time.sleep(seconds)
        read: list[tuple[bool, bytes]] = []
        for key, _ in self._selector.select(seconds):
            if key.fileobj is self._stdin:
                continue
            data = os.read(key.fd, 1 << 16)
            if data:
                read.append((key.data, data))
            else:
                self._selector.unregister(key.fileobj)
        return read

    def rest(self) -> list[tuple[bool, bytes]]:
        read = []
        for log, stream in enumerate(self._outputs):
            with contextlib.suppress(BlockingIOError):
                while data := os.read(stream.fileno(), 1 << 16):
                    read.append((bool(log), data))
        return read

    def close(self) -> None:
        self._selector.close()
        for stream in (self._stdin, *self._outputs):
            stream.close()


class _ThreadedPipes:
    """Windows, where select does not work on pipes: two reader threads (this is never used inside Slicer)."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdin and process.stdout and process.stderr
        self._stdin = process.stdin
        self._queue: queue.Queue[tuple[bool, bytes]] = queue.Queue()
        self._threads = [
            threading.Thread(target=self._read, args=(log, stream), daemon=True)
            for log, stream in ((False, process.stdout), (True, process.stderr))
        ]
        for thread in self._threads:
            thread.start()

    def _read(self, log: bool, stream: Any) -> None:
        while data := os.read(stream.fileno(), 1 << 16):
            self._queue.put((log, data))

    def write(self, data: bytearray) -> int:
        return self._stdin.write(data) or 0

    def wait(self, seconds: float, wants_to_write: bool) -> list[tuple[bool, bytes]]:
        with contextlib.suppress(queue.Empty):
            return [self._queue.get(timeout=seconds)]
        return []

    def rest(self) -> list[tuple[bool, bytes]]:
        for thread in self._threads:
            thread.join(timeout=1)
        return [self._queue.get() for _ in range(self._queue.qsize())]

    def close(self) -> None:
        self._stdin.close()


class LocalWorker:
    """A worker of this process. `client` is its `WorkerClient`; `pump` must be called for anything to happen.

    python: the worker's interpreter, by default the one that runs this. Other arguments: see `WorkerClient`.
    """

    def __init__(
        self,
        python: Optional[str] = None,
        environment: Optional[Mapping[str, str]] = None,
        extra_paths: Sequence[str] = (),
        grace_seconds: float = 3.0,
        idle_seconds: float = 0.0,
    ) -> None:
        self.transport = SubprocessTransport()
        self.client = WorkerClient(
            self.transport,
            python or sys.executable,
            environment=environment,
            extra_paths=extra_paths,
            grace_seconds=grace_seconds,
            idle_seconds=idle_seconds,
            pause_seconds=float("inf"),
        )
        self.transport.client = self.client

    def __enter__(self) -> LocalWorker:
        return self

    def __exit__(
        self, kind: Optional[type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        self.close()

    def close(self) -> None:
        """Kills the process and waits until it is gone."""
        self.client.close()
        while self.transport.running():
            self.transport.pump(TICK_SECONDS)

    def pump(self, seconds: float = TICK_SECONDS) -> list[Event]:
        """Waits at most `seconds` for something to happen; returns what happened."""
        self.transport.pump(seconds)
        self.client.tick()
        return self.client.take_events()

    def run(
        self, request: JobRequest, on_event: Callable[[Event], None] = lambda event: None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Runs one job to its end; returns outputs and provenance. Raises BadInput, MedGenError, Cancelled.

        Ctrl-C cancels the job and is raised once it has ended.
        """
        job_id = self.client.submit(request)
        with _held_interrupt() as interrupted:
            while True:
                for event in self.pump():
                    on_event(event)
                    if isinstance(event, (JobFinished, JobFailed, JobCancelled)) and event.job_id == job_id:
                        return _outcome(event, bool(interrupted))
                if interrupted:
                    self.client.cancel(job_id)


@contextlib.contextmanager
def _held_interrupt() -> Iterator[list[int]]:
    """Ctrl-C fills the list instead of breaking into the client's book-keeping (in the main thread; others get
    none)."""
    interrupted: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield interrupted
        return
    before = signal.signal(signal.SIGINT, lambda number, frame: interrupted.append(number))
    try:
        yield interrupted
    finally:
        signal.signal(signal.SIGINT, before)


def _outcome(event: Event, interrupted: bool) -> tuple[dict[str, Any], dict[str, Any]]:
    if interrupted:
        raise KeyboardInterrupt
    if isinstance(event, JobFinished):
        return event.outputs, event.provenance
    if isinstance(event, JobCancelled):
        raise Cancelled("The job was cancelled.")
    assert isinstance(event, JobFailed)
    raise (BadInput if event.kind in ("input", "setup") else MedGenError)(event.sentence)
