"""The worker under abuse: 200 jobs, a third of them killed with SIGKILL, cancelled or fed bad input at random moments.

Every job sends its own random image on its own random grid. What must hold: every job ends as its fate allows, every
result is exactly what its job asked for, and neither a process nor a block of shared memory is left. 30 jobs if quick.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import psutil
import SimpleITK as sitk

from medgen.errors import MedGenError
from medgen.worker.client import CANCELLED, FAILED, FINISHED, RUNNING, Job, JobFailed, JobFinished, JobRequest
from medgen.worker.local import LocalWorker
from medgen.worker.transfer import block_name, unlink

SEED = 20
QUEUE_LENGTH = 8  # jobs waiting at most
JOB_SECONDS = 0.15
LIMIT_SECONDS = 600.0
NONE, KILL, CANCEL = "none", "kill", "cancel"
BAD_PARAMETER, BAD_VOXELS, BAD_METHOD = "bad_parameter", "bad_voxels", "bad_method"
BAD = (BAD_PARAMETER, BAD_VOXELS, BAD_METHOD)
ALLOWED = {NONE: {FINISHED}, KILL: {FAILED, FINISHED}, CANCEL: {CANCELLED, FINISHED}} | {bad: {FAILED} for bad in BAD}


@dataclass
class _Case:
    """A job, what shall happen to it, how long after it began to run, and what became of it."""

    image: sitk.Image
    fate: str
    delay_seconds: float
    running_since: float | None = None
    struck: bool = False
    result: sitk.Image | None = None
    failure: JobFailed | None = None


def run(quick: bool) -> dict[str, Any]:
    """Fates and moments are drawn from a fixed seed; which instruction a kill hits is up to the computer."""
    if sys.platform == "win32":
        raise MedGenError("This bench kills with SIGKILL, which Windows does not have.")
    dice, count = random.Random(SEED), 30 if quick else 200
    third = count // 3
    harmed = [(KILL, CANCEL, dice.choice(BAD))[n % 3] for n in range(third)]
    fates = harmed + [NONE] * (count - third)
    dice.shuffle(fates)
    cases: dict[str, _Case] = {}
    start = time.monotonic()
    with LocalWorker(grace_seconds=1.0) as worker:
        waiting = [_make_case(fate, dice) for fate in fates]
        while waiting or worker.client.busy:
            if time.monotonic() - start > LIMIT_SECONDS:
                break
            if waiting and len(cases) - sum(job.ended for job in worker.client.jobs.values()) < QUEUE_LENGTH:
                case = waiting.pop()
                cases[worker.client.submit(_request(case, dice))] = case
            _pump(worker, cases, dice)
        jobs = dict(worker.client.jobs)
        session = worker.client._session
    return _report(cases, jobs, len(waiting), session, time.monotonic() - start)


def _make_case(fate: str, dice: random.Random) -> _Case:
    size = [dice.randint(1, 90) for _ in range(2)] + [dice.randint(2, 60)]
    voxels = np.random.default_rng(dice.getrandbits(32)).normal(size=size).astype(np.float32)
    if fate == BAD_VOXELS:
        voxels.flat[dice.randrange(voxels.size)] = np.nan
    image = sitk.GetImageFromArray(voxels)
    image.SetSpacing([dice.uniform(0.1, 5) for _ in range(3)])
    image.SetOrigin([dice.uniform(-500, 500) for _ in range(3)])
    image.SetDirection(sitk.Euler3DTransform((0, 0, 0), *(dice.uniform(-3, 3) for _ in range(3))).GetMatrix())
    return _Case(image, fate, dice.uniform(0, JOB_SECONDS))


def _request(case: _Case, dice: random.Random) -> JobRequest:
    seconds = dice.uniform(0, JOB_SECONDS)
    if case.fate == BAD_PARAMETER:
        seconds = -1.0
    elif case.fate in (KILL, CANCEL):  # most are struck while they run, some just before or after their end
        seconds = max(0.0, case.delay_seconds + dice.uniform(-0.02, JOB_SECONDS))
    method = "no_such" if case.fate == BAD_METHOD else "identity"
    return JobRequest(method, {"image": case.image}, {"seconds": seconds})


def _pump(worker: LocalWorker, cases: dict[str, _Case], dice: random.Random) -> None:
    for event in worker.pump(0.005):
        if isinstance(event, JobFinished):
            cases[event.job_id].result = event.outputs["image"]
        elif isinstance(event, JobFailed):
            cases[event.job_id].failure = event
    now = time.monotonic()
    for job_id, case in cases.items():
        job = worker.client.jobs[job_id]
        if case.struck or job.ended or case.fate not in (KILL, CANCEL):
            continue
        if case.running_since is None and job.state == RUNNING:
            case.running_since = now
        if case.running_since is not None and now - case.running_since >= case.delay_seconds:
            case.struck = True
            _strike(worker, job, case.fate, dice)


def _strike(worker: LocalWorker, job: Job, fate: str, dice: random.Random) -> None:
    """A kill in four is followed by another, of the fresh process while it starts."""
    if fate == CANCEL:
        worker.client.cancel(job.id)
        return
    first = worker.transport.pid
    assert first is not None
    os.kill(first, signal.SIGKILL)
    if dice.random() < 0.25:
        moment = time.monotonic() + dice.uniform(0, 0.3)
        while worker.transport.pid in (first, None) or time.monotonic() < moment:
            worker.transport.pump(0.01)
        if worker.client.state == "starting" and worker.transport.pid is not None:
            os.kill(worker.transport.pid, signal.SIGKILL)


def _report(cases: dict[str, _Case], jobs: dict[str, Job], unsent: int, session: str, seconds: float) -> dict[str, Any]:
    ends = {job_id: jobs[job_id].state for job_id in cases}
    lost = [job_id for job_id, case in cases.items() if ends[job_id] not in ALLOWED[case.fate]]
    wrong = [job_id for job_id, case in cases.items() if not _is_right(case, ends[job_id])]
    processes = [p for p in psutil.process_iter(["cmdline"]) if session in (p.info["cmdline"] or [])]
    details = {
        "jobs": len(cases) + unsent,
        "jobs_lost": len(lost) + unsent,
        "leaked_processes": len(processes),
        "leaked_blocks": len(_blocks(session, len(cases))),
        "wrong_results": len(wrong),
        "killed": sum(case.struck for case in cases.values() if case.fate == KILL),
        "cancelled": sum(case.struck for case in cases.values() if case.fate == CANCEL),
        "bad_input": sum(case.fate in BAD for case in cases.values()),
        "ended": {state: sum(end == state for end in ends.values()) for state in (FINISHED, FAILED, CANCELLED)},
        "seconds": seconds,
    }
    zeros = ("jobs_lost", "leaked_processes", "leaked_blocks", "wrong_results")
    return {"name": "worker_chaos", "passed": not any(details[name] for name in zeros), "details": details}


def _is_right(case: _Case, state: str) -> bool:
    """A finished job has its own image, voxel by voxel and on its own grid; a failed one failed for its own reason."""
    if state == FAILED:
        return case.failure is not None and case.failure.kind == ("worker" if case.fate == KILL else "input")
    if state != FINISHED:
        return True
    sent, got = case.image, case.result
    if got is None or sent.GetPixelID() != got.GetPixelID() or sent.GetSize() != got.GetSize():
        return False
    grids = [(image.GetSpacing(), image.GetOrigin(), image.GetDirection()) for image in (sent, got)]
    return grids[0] == grids[1] and bool((sitk.GetArrayViewFromImage(sent) == sitk.GetArrayViewFromImage(got)).all())


def _blocks(session: str, jobs: int) -> list[str]:
    if sys.platform == "linux":
        return [name for name in os.listdir("/dev/shm") if session in name]
    names = [block_name(session, n, direction, k) for n in range(2 * jobs) for direction in "io" for k in range(2)]
    return [name for name in names if unlink(name)]
