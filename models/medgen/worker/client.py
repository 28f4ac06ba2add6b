"""The near end of the worker: a queue and a pump, without Qt, threads or blocking calls. Python 3.9, standard library, numpy.

Who owns the transport (QProcess in Slicer, `medgen.worker.local` elsewhere) calls `feed`, `feed_log`, `exited` when the
process says something or ends, `tick` about every 100 ms, and then reads `take_events()`:

    client = WorkerClient(transport, python="/path/to/python")
    job_id = client.submit(JobRequest("identity", {"image": image}))
    # on stdout: client.feed(data);  on stderr: client.feed_log(data);  on exit: client.exited(code)
    # timer: client.tick(); for event in client.take_events(): ...
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Optional, Protocol

from medgen.worker.jobs import (
    CANCELLED,
    FAILED,
    FINISHED,
    RUNNING,
    WAITING,
    Event,
    Job,
    JobCancelled,
    JobFailed,
    JobFinished,
    JobLog,
    JobNotice,
    JobProgress,
    JobRequest,
    JobStarted,
    WorkerLost,
    WorkerReady,
)

__all__ = [
    "CANCELLED", "FAILED", "FINISHED", "RUNNING", "WAITING", "Event", "Job", "JobCancelled", "JobFailed", "JobFinished",
    "JobLog", "JobNotice", "JobProgress", "JobRequest", "JobStarted", "Transport", "WorkerClient", "WorkerLost", "WorkerReady",
]  # fmt: skip


class Transport(Protocol):
    """How the client reaches its process. None of these may block or raise for a process that has ended."""

    def start(self, arguments: list[str], environment: dict[str, str]) -> None:
        """Starts arguments[0] with exactly this environment. May raise OSError. `exited` is called once it has ended."""

    def write(self, data: bytes) -> None: ...

    def kill(self) -> None:
        """Kills the process and its children, at once (`medgen.worker.processes.kill_tree(pid)`); `exited` follows."""

    def running(self) -> bool: ...


class WorkerClient:
    """One worker process and its queue. The queue survives the process.

    python: the worker's interpreter; environment: the base that `worker_environment` filters (default os.environ; in
    Slicer `slicer.util.startupEnvironment()`); extra_paths: folders with further method packages;
    grace_seconds: from a cancel to the kill; pause_seconds: longest a call may copy voxels.
    """

    def __init__(
        self,
        transport: Transport,
        python: str,
        environment: Optional[dict[str, str]] = None,
        extra_paths: Sequence[str] = (),
        grace_seconds: float = 3.0,
        idle_seconds: float = 600.0,
        pause_seconds: float = 0.02,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.jobs: dict[str, Job] = {}
        raise NotImplementedError

    def submit(self, request: JobRequest) -> str:
        """Queues the request, starts the process if there is none, returns the job's id. Images are kept by reference
        (copy on write) and copied to shared memory when the job starts."""
        raise NotImplementedError

    def cancel(self, job_id: str) -> None:
        """A waiting job ends at once, a running one is asked to stop and killed with its process after the grace."""
        raise NotImplementedError

    def cancel_all(self) -> None:
        raise NotImplementedError

    def retry(self, job_id: str) -> str:
        """Submits a failed or cancelled job again, under a new id. Raises BadInput if its inputs are no longer held."""
        raise NotImplementedError

    def take_events(self) -> list[Event]:
        """What happened since the last call, in order."""
        raise NotImplementedError

    def set_idle_seconds(self, seconds: float) -> None:
        """How long a process without work stays; 0 or less: for ever."""
        raise NotImplementedError

    def close(self) -> None:
        """Kills the process and frees every shared block. Unfinished jobs are cancelled."""
        raise NotImplementedError

    # ------------------------------------------------------------------------------------ called by the transport's owner

    def feed(self, data: bytes) -> None:
        """Bytes from the process's stdout, cut anywhere."""
        raise NotImplementedError

    def feed_log(self, data: bytes) -> None:
        """Bytes from its stderr, cut anywhere."""
        raise NotImplementedError

    def exited(self, code: int) -> None:
        """The process has ended (also when it could not be started: any code)."""
        raise NotImplementedError

    def tick(self) -> None:
        """About every 100 ms: deadlines, and copying that was left over."""
        raise NotImplementedError
