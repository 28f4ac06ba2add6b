"""The near end of the worker: a queue and a pump, without Qt, threads or blocking calls. Python 3.9, standard library,
numpy.

Who owns the transport (QProcess in Slicer, `medgen.worker.local` elsewhere) calls `feed`, `feed_log`, `exited` when the
process says something or ends, `tick` about every 100 ms, and then reads `take_events()`:

    client = WorkerClient(transport, python="/path/to/python")
    job_id = client.submit(JobRequest("identity", {"image": image}))
    # on stdout: client.feed(data);  on stderr: client.feed_log(data);  on exit: client.exited(code)
    # timer: client.tick(); for event in client.take_events(): ...

Images are kept by reference while a job waits and copied to shared memory when it starts, so waiting jobs that share an
image share its memory. They must not be changed in the meantime: whoever makes them from a node copies its voxels, and
then the node may change or go. (A SimpleITK copy on write would not do: looking at its voxels copies them all at once.)

The client ends an idle process itself, so that no job can meet a worker that has just decided to go.
"""

from __future__ import annotations

import codecs
import os
import secrets
import time
from collections import deque
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Optional, Protocol

from medgen.errors import BadInput, MedGenError
from medgen.worker.jobs import (
    CANCELLED,
    FAILED,
    FINISHED,
    LOG_LINES_KEPT,
    RUNNING,
    WAITING,
    Event,
    Job,
    JobCancelled,
    JobFailed,
    JobFinished,
    JobLog,
    JobNotice,
    JobPartial,
    JobProgress,
    JobRequest,
    JobStarted,
    WorkerLost,
    WorkerReady,
)
from medgen.worker.processes import exit_sentence, worker_arguments, worker_environment
from medgen.worker.protocol import Decoder, encode
from medgen.worker.transfer import Blocks, pack, sweep, unpack

__all__ = [
    "CANCELLED", "FAILED", "FINISHED", "RUNNING", "WAITING", "Event", "Job", "JobCancelled", "JobFailed", "JobFinished",
    "JobLog", "JobNotice", "JobPartial", "JobProgress", "JobRequest", "JobStarted", "Transport", "WorkerClient",
    "WorkerLost", "WorkerReady",
]  # fmt: skip

OFF, STARTING, READY, KILLED = "off", "starting", "ready", "killed"
ENDED_INPUTS_KEPT = 5  # failed or cancelled jobs whose inputs stay, so that they can be retried
START_SECONDS = 120.0


class Transport(Protocol):
    """How the client reaches its process. None of these may block or raise for a process that has ended."""

    def start(self, arguments: list[str], environment: dict[str, str]) -> None:
        """Starts arguments[0] with exactly this environment. May raise OSError. Once the process has ended, and all
        that it wrote was fed, the owner calls `exited`, also if it could not be started."""

    def write(self, data: bytes) -> None: ...

    def kill(self) -> None:
        """Kills the process and its children, at once (`medgen.worker.processes.kill_tree(pid)`); `exited` follows."""

    def running(self) -> bool: ...


@dataclass
class _Active:
    """The job that the worker has, or that is on its way there or back (then `steps` is what is left to do)."""

    job: Job
    shipment: int
    blocks: Blocks
    steps: Optional[Generator[None, None, None]] = None
    sent: bool = False
    replied: bool = False
    kill_time: Optional[float] = None


class WorkerClient:
    """One worker process and its queue. The queue survives the process.

    python: the worker's interpreter; environment: the base that `worker_environment` filters (default os.environ; in
    Slicer `slicer.util.startupEnvironment()`); extra_paths: folders with further method packages;
    grace_seconds: from a cancel to the kill; idle_seconds: see `set_idle_seconds`; pause_seconds: about the longest a
    call may copy voxels; clock: monotonic seconds.
    """

    def __init__(
        self,
        transport: Transport,
        python: str,
        environment: Optional[Mapping[str, str]] = None,
        extra_paths: Sequence[str] = (),
        grace_seconds: float = 3.0,
        idle_seconds: float = 600.0,
        pause_seconds: float = 0.02,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.jobs: dict[str, Job] = {}
        self.log: deque[str] = deque(maxlen=LOG_LINES_KEPT)
        self.info: dict[str, Any] = {}
        self._transport = transport
        self._python = python
        self._environment = environment
        self._extra_paths = list(extra_paths)
        self._grace_seconds = grace_seconds
        self._idle_seconds = idle_seconds
        self._pause_seconds = pause_seconds
        self._clock = clock
        self._session = secrets.token_hex(4)
        self._shipment = self._count = 0
        self._state = OFF
        self._start_time = self._idle_since = clock()
        self._refusal = ""
        self._unasked = True
        self._closed = self._advancing = self._start_died = False
        self._queue: deque[Job] = deque()
        self._active: Optional[_Active] = None
        self._ended_with_inputs: deque[Job] = deque()
        self._events: list[Event] = []
        self._decoder = Decoder()
        self._log_decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._log_rest = ""

    @property
    def state(self) -> str:
        """Of the process: off | starting | ready | killed (its end is awaited)."""
        return self._state

    @property
    def busy(self) -> bool:
        return self._active is not None or bool(self._queue)

    # ----------------------------------------------------------------------------------------------------- for the user

    def submit(self, request: JobRequest) -> str:
        """Queues the request, starts the process if there is none, returns the job's id. Its images are not copied yet
        and must stay as they are."""
        if self._closed:
            raise MedGenError("The worker has been closed.")
        self._count += 1
        number = self._count
        inputs = {name: value for name, value in request.inputs.items() if value is not None}
        job = Job(f"job-{number}", number, replace(request, inputs=inputs), time.time())
        self.jobs[job.id] = job
        self._queue.append(job)
        self._advance()
        return job.id

    def cancel(self, job_id: str) -> None:
        """A waiting job ends at once, a running one is asked to stop and killed with its process after the grace."""
        job = self.jobs[job_id]
        if job in self._queue:
            self._queue.remove(job)
            self._end(job, CANCELLED, JobCancelled(job.id))
        active = self._active
        if active is None or active.job is not job or job.cancelling:
            return
        job.cancelling = True
        if active.sent and not active.replied:
            active.kill_time = self._clock() + self._grace_seconds
            self._transport.write(encode("cancel", job=job.id))
        else:
            self._drop_active(CANCELLED, JobCancelled(job.id))
            self._advance()

    def cancel_all(self) -> None:
        for job in list(self._queue):
            self.cancel(job.id)
        if self._active is not None:
            self.cancel(self._active.job.id)

    def retry(self, job_id: str) -> str:
        """Submits a failed or cancelled job again, under a new id. Raises BadInput if its inputs are no longer held."""
        job = self.jobs[job_id]
        if job not in self._ended_with_inputs:
            raise BadInput("The inputs of this job are no longer held: start it again from its panel.")
        return self.submit(job.request)

    def forget(self, job_id: str) -> None:
        """Takes an ended job off the books: for whoever submits many small ones and looks at each once."""
        if self.jobs[job_id].ended:
            job = self.jobs.pop(job_id)
            if job in self._ended_with_inputs:
                self._ended_with_inputs.remove(job)

    def take_events(self) -> list[Event]:
        """What happened since the last call, in order."""
        events, self._events = self._events, []
        return events

    def set_idle_seconds(self, seconds: float) -> None:
        """How long a process without work stays; 0 or less: for ever."""
        self._idle_seconds = seconds

    def close(self) -> None:
        """Kills the process and frees every shared block. Unfinished jobs are cancelled."""
        self._closed = True
        for job in list(self._queue):
            self.cancel(job.id)
        if self._state in (STARTING, READY):
            self._kill()
        if self._active is not None:
            self._drop_active(CANCELLED, JobCancelled(self._active.job.id))

    # ---------------------------------------------------------------------------------- called by the transport's owner

    def feed(self, data: bytes) -> None:
        """Bytes from the process's stdout, cut anywhere."""
        for message in self._decoder.feed(data):
            if self._state in (STARTING, READY):
                self._handle(message)
        self._advance()

    def feed_log(self, data: bytes) -> None:
        """Bytes from its stderr, cut anywhere."""
        *lines, self._log_rest = (self._log_rest + self._log_decoder.decode(data)).split("\n")
        for line in lines:
            self._add_log(line.rstrip("\r"))

    def exited(self, code: int) -> None:
        """The process has ended. code: its exit code, or minus the number of the signal that ended it."""
        if self._state == OFF:
            return
        was_starting, self._state = self._state == STARTING, OFF
        if self._log_rest:
            self._add_log(self._log_rest)
        sentence = self._refusal or (self._start_failure(code) if was_starting else "")
        if self._active is not None and not self._active.replied:
            self._active_died(f"The worker stopped while it ran this job: {exit_sentence(code)}.")
        if self._unasked and not sentence:
            self._events.append(WorkerLost(f"The worker stopped: {exit_sentence(code)}."))
        if sentence:
            self._fail_all(sentence)
        if self._active is None:  # what it was writing when it was killed
            sweep(self._session, self._shipment - 1)
        self._advance()

    def _start_failure(self, code: int) -> str:
        """Empty when somebody killed it, for the first time: then it is started once more."""
        killed, again = code < 0, self._start_died
        self._start_died = killed and not again
        if self._start_died:
            return ""
        return f"The worker could not start: {exit_sentence(code)}{'; ' + self.log[-1] if self.log[-1] else ''}."

    def tick(self) -> None:
        """About every 100 ms: deadlines, and copying that was left over."""
        now = self._clock()
        if self._state == STARTING and now - self._start_time > START_SECONDS:
            self._refuse(f"The worker did not answer within {START_SECONDS:.0f} seconds.")
        active = self._active
        if active is not None and active.kill_time is not None and now >= active.kill_time and self._state == READY:
            self._kill()
        if active is not None or self._state != READY:
            self._idle_since = now
        elif not self._queue and 0 < self._idle_seconds <= now - self._idle_since:
            self._kill()
        self._advance()

    # ---------------------------------------------------------------------------------------------------------- process

    def _start(self) -> None:
        self._state, self._start_time = STARTING, self._clock()
        self._refusal, self._unasked = "", True
        self._decoder = Decoder()
        self._log_decoder.reset()
        self.log.append("")
        self._log_rest = ""
        base = os.environ if self._environment is None else self._environment
        arguments = worker_arguments(self._python, self._session, self._shipment, self._extra_paths)
        try:
            self._transport.start(arguments, worker_environment(base))
        except OSError as error:
            self._state = OFF
            self._fail_all(f"The worker's Python could not be started ({self._python}: {error.strerror}).")

    def _kill(self) -> None:
        self._state, self._unasked = KILLED, False
        self._transport.kill()

    def _refuse(self, sentence: str) -> None:
        """This worker cannot be used, nor would a fresh one: every job that waits fails."""
        self._refusal = sentence
        self._kill()

    def _fail_all(self, sentence: str) -> None:
        while self._queue:
            job = self._queue.popleft()
            self._end(job, FAILED, JobFailed(job.id, "setup" if self._refusal else "worker", sentence))

    # ------------------------------------------------------------------------------------------------------------- jobs

    def _advance(self) -> None:
        """Does what can be done now, for about `pause_seconds`."""
        if self._advancing or self._closed:
            return
        self._advancing = True
        end = time.perf_counter() + self._pause_seconds
        try:
            while self._next_step() and time.perf_counter() < end:
                pass
        finally:
            self._advancing = False

    def _next_step(self) -> bool:
        """False when there is nothing to do but wait."""
        if self._active is None:
            if self._queue and self._state == OFF:
                self._start()
                return False
            if not self._queue or self._state != READY:
                return False
            job = self._queue.popleft()
            job.state = RUNNING
            self._active = _Active(job, self._shipment, Blocks(self._session, self._shipment, "i"))
            self._active.steps = self._ship(self._active)
        active = self._active
        if active.steps is None:
            return False
        try:
            next(active.steps)
        except StopIteration:
            pass
        except MedGenError as error:
            kind = "input" if isinstance(error, BadInput) else "failure"
            self._fail_active(kind, str(error))
        except (MemoryError, RuntimeError) as error:  # SimpleITK reports a failed allocation as RuntimeError
            self._fail_active("failure", f"An image could not be copied ({error}).")
        return True

    def _ship(self, active: _Active) -> Generator[None, None, None]:
        request = active.job.request
        described = yield from pack(request.inputs, active.blocks)
        message = encode(
            "run",
            job=active.job.id,
            shipment=active.shipment,
            method=request.method_id,
            inputs=described,
            parameters=request.parameters,
            seed=request.seed,
            device=request.device,
            weights=request.weights,
        )
        active.steps, active.sent = None, True
        self._shipment += 1
        self._transport.write(message)

    def _receive_partial(self, active: _Active, message: dict[str, Any]) -> Generator[None, None, None]:
        blocks = Blocks(self._session, active.shipment, "p")
        try:
            value = (yield from unpack({"value": message["value"]}, blocks))["value"]
            self._events.append(JobPartial(active.job.id, message["name"], value))
        except (MedGenError, MemoryError, RuntimeError) as error:  # it is only looked at: the job goes on
            self._add_log(f"An intermediate image could not be copied ({error}).")
        finally:
            blocks.release()
        active.steps = None
        self._transport.write(encode("seen", job=active.job.id))

    def _receive(self, active: _Active, message: dict[str, Any]) -> Generator[None, None, None]:
        outputs = yield from unpack(message["outputs"], active.blocks)
        self._drop_active(FINISHED, JobFinished(active.job.id, outputs, message["provenance"]))

    def _fail_active(self, kind: str, sentence: str) -> None:
        assert self._active is not None
        self._drop_active(FAILED, JobFailed(self._active.job.id, kind, sentence))

    def _active_died(self, sentence: str) -> None:
        assert self._active is not None
        job = self._active.job
        if job.cancelling:
            self._drop_active(CANCELLED, JobCancelled(job.id))
        elif job.started_time is None and not job.sent_again:
            job.sent_again, job.state = True, WAITING
            self._free_active()
            self._queue.appendleft(job)
        else:
            self._drop_active(FAILED, JobFailed(job.id, "worker", sentence))

    def _drop_active(self, state: str, event: Event) -> None:
        active = self._free_active()
        if active.replied and self._state == READY:
            self._transport.write(encode("taken", shipment=active.shipment))
        self._end(active.job, state, event)

    def _free_active(self) -> _Active:
        """There is no active job any more, and nothing of it in shared memory."""
        active, self._active = self._active, None
        assert active is not None
        active.blocks.release()
        sweep(self._session, active.shipment)
        return active

    def _end(self, job: Job, state: str, event: Event) -> None:
        job.state, job.cancelling, job.ended_time = state, False, time.time()
        self._idle_since = self._clock()
        if isinstance(event, JobFailed):
            job.error = event.sentence
        if state == FINISHED:
            job.request.inputs = {}
        else:
            self._ended_with_inputs.append(job)
            if len(self._ended_with_inputs) > ENDED_INPUTS_KEPT:
                self._ended_with_inputs.popleft().request.inputs = {}
        self._events.append(event)

    # --------------------------------------------------------------------------------------------------------- messages

    def _handle(self, message: dict[str, Any]) -> None:
        kind = message["type"]
        if kind == "ready":
            self._state, self.info = READY, message["info"]
            self._start_died = False
            self._idle_since = self._clock()
            self._events.append(WorkerReady(self.info))
        elif kind in ("refused", "mismatch"):
            self._refuse(message["sentence"])
        elif kind == "noise":
            self._add_log(message["line"])
        elif self._active is not None and self._active.job.id == message.get("job"):
            self._handle_job(kind, message, self._active)

    def _handle_job(self, kind: str, message: dict[str, Any], active: _Active) -> None:
        job = active.job
        if kind == "started":
            active.blocks.release()  # the worker has its own copy now
            job.started_time = time.time()
            self._events.append(JobStarted(job.id))
        elif kind == "progress":
            job.stage, job.fraction, job.message = message["stage"], message["fraction"], message["message"]
            job.remaining_seconds = message["remaining_seconds"]
            self._events.append(JobProgress(job.id, job.stage, job.fraction, job.message, job.remaining_seconds))
        elif kind == "log":
            self._add_log(message["line"])
        elif kind == "notice":
            job.notices.append(message["sentence"])
            self._events.append(JobNotice(job.id, message["sentence"]))
        elif kind == "partial":
            active.steps = self._receive_partial(active, message)
        elif kind in ("finished", "failed", "cancelled"):
            active.replied, active.kill_time = True, None
            if job.cancelling or kind == "cancelled":
                self._drop_active(CANCELLED, JobCancelled(job.id))
            elif kind == "failed":
                self._fail_active(message["kind"], message["sentence"])
            else:
                active.blocks = Blocks(self._session, active.shipment, "o")
                active.steps = self._receive(active, message)

    def _add_log(self, line: str) -> None:
        self.log.append(line)
        if self._active is None or not self._active.sent:
            return
        job = self._active.job
        job.log.append(line)
        last = self._events[-1] if self._events else None
        if not isinstance(last, JobLog) or last.job_id != job.id:
            last = JobLog(job.id, deque(maxlen=LOG_LINES_KEPT))
            self._events.append(last)
        last.lines.append(line)
