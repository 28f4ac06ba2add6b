"""What a client of the worker asks for and what it is told: requests, jobs, events. Python 3.9, standard library
only."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any, Optional, Union

WAITING, RUNNING, FINISHED, FAILED, CANCELLED = "waiting", "running", "finished", "failed", "cancelled"
LOG_LINES_KEPT = 500


@dataclass
class JobRequest:
    """One run of a method.

    inputs: {port name: value} as `medgen.spec` says (SimpleITK.Image, list of them, plain JSON values, bytes);
    device: 'auto', 'cpu', 'cuda:0', ...; weights: a name that `medgen.weights` knows, None for the method's default.
    """

    method_id: str
    inputs: dict[str, Any] = field(default_factory=dict)
    parameters: dict[str, Any] = field(default_factory=dict)
    seed: int = 0
    device: str = "auto"
    weights: Optional[str] = None


@dataclass
class Job:
    """A request and what became of it. Times are seconds since 1970; `error` is the sentence of a failed job.

    state: waiting | running | finished | failed | cancelled. `cancelling`: cancel was asked, the worker has not
    stopped yet. `sent_again`: a worker died with it before the method began, so it went to the next one, once.
    """

    id: str
    number: int
    request: JobRequest
    submitted_time: float
    state: str = WAITING
    cancelling: bool = False
    stage: str = ""
    fraction: float = 0.0
    message: str = ""
    remaining_seconds: Optional[float] = None
    error: str = ""
    notices: list[str] = field(default_factory=list)
    log: deque[str] = field(default_factory=lambda: deque(maxlen=LOG_LINES_KEPT))
    started_time: Optional[float] = None
    ended_time: Optional[float] = None
    sent_again: bool = False

    @property
    def ended(self) -> bool:
        return self.state in (FINISHED, FAILED, CANCELLED)


@dataclass(frozen=True)
class WorkerReady:
    """The process answers. Comes a second time when PyTorch is loaded and the devices are known for certain.

    info: {'pid': int, 'versions': {package: version}, 'devices': [{'id': 'cuda:0', 'title': 'NVIDIA H100'}, ...],
    'certain': bool}; the best device comes first, 'cpu' last.
    """

    info: dict[str, Any]


@dataclass(frozen=True)
class JobStarted:
    job_id: str


@dataclass(frozen=True)
class JobProgress:
    """fraction: 0 to 1, never falls; remaining_seconds: None while it cannot be told."""

    job_id: str
    stage: str
    fraction: float
    message: str
    remaining_seconds: Optional[float]


@dataclass(frozen=True)
class JobLog:
    job_id: str
    lines: deque[str]


@dataclass(frozen=True)
class JobNotice:
    """A sentence the user must read beside the result."""

    job_id: str
    sentence: str


@dataclass(frozen=True)
class JobPartial:
    """What a running job shows: an image or a list of images. `name`: which of several; a later one replaces it."""

    job_id: str
    name: str
    value: Any


@dataclass(frozen=True)
class JobFinished:
    """outputs: {port name: value}. provenance: method, method_version, weights, weights_sha256 (of every file that took
    part, with ', ' between), parameters, seed, device, seconds, medgen_version, torch_version, started_utc (ISO 8601),
    notices."""

    job_id: str
    outputs: dict[str, Any]
    provenance: dict[str, Any]


@dataclass(frozen=True)
class JobFailed:
    """kind: 'input' (what was given cannot be used), 'setup' (the worker's Python lacks a package or is of another
    version), 'failure', or 'worker' (the process could not start or died)."""

    job_id: str
    kind: str
    sentence: str


@dataclass(frozen=True)
class JobCancelled:
    job_id: str


@dataclass(frozen=True)
class WorkerLost:
    """The process ended unasked; waiting jobs go on in a fresh one. `sentence` says what is known."""

    sentence: str


Event = Union[
    WorkerReady, JobStarted, JobProgress, JobLog, JobNotice, JobPartial,
    JobFinished, JobFailed, JobCancelled, WorkerLost,
]  # fmt: skip
