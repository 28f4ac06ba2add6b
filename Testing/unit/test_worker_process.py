"""The real worker, abused: killed, orphaned, crashed, cancelled against its will, talked over. Nothing may stay
behind."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
import SimpleITK as sitk

from medgen.errors import BadInput, Cancelled, MedGenError
from medgen.worker.client import (
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
from medgen.worker.local import LocalWorker
from medgen.worker.transfer import block_name, unlink

PLUGINS = str(Path(__file__).parents[1] / "plugins")
posix_only = pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")


@pytest.fixture
def make_worker() -> Iterator[Callable[..., LocalWorker]]:
    """Makes workers, and checks at the end that neither a process nor a block of theirs is left."""
    workers: list[LocalWorker] = []

    def make(**options: object) -> LocalWorker:
        workers.append(LocalWorker(extra_paths=[PLUGINS], **options))  # type: ignore[arg-type]
        return workers[-1]

    yield make
    for worker in workers:
        worker.close()
    for worker in workers:
        assert not left_over_blocks(worker.client._session)
        assert not [p for p in psutil.process_iter(["cmdline"]) if worker.client._session in (p.info["cmdline"] or [])]


@pytest.fixture(scope="module")
def warm() -> Iterator[LocalWorker]:
    """One process for all tests that do not harm it."""
    with LocalWorker(extra_paths=[PLUGINS]) as worker:
        yield worker
    assert not left_over_blocks(worker.client._session)


def left_over_blocks(session: str) -> list[str]:
    if sys.platform == "linux":
        return [name for name in os.listdir("/dev/shm") if session in name]
    names = [block_name(session, shipment, side, n) for shipment in range(99) for side in "io" for n in range(4)]
    return [name for name in names if unlink(name)]


def volume(size: int = 64) -> sitk.Image:
    image = sitk.GetImageFromArray(np.random.default_rng(0).integers(-99, 999, (size,) * 3).astype(np.int16))
    image.SetSpacing((0.7, 1 / 3, 2.1))
    return image


def pump_until(worker: LocalWorker, condition: Callable[[list], bool], seconds: float = 30) -> list:
    events: list = []
    end = time.monotonic() + seconds
    while not condition(events):
        assert time.monotonic() < end, events
        events += worker.pump(0.05)
    return events


def has(kind: type, job_id: str | None = None) -> Callable[[list], bool]:
    return lambda events: any(isinstance(e, kind) and job_id in (None, getattr(e, "job_id", None)) for e in events)


def faulty(fault: str, seconds: float = 600.0) -> JobRequest:
    return JobRequest("faulty", {"image": volume()}, {"fault": fault, "seconds": seconds})


def pid_of(worker: LocalWorker) -> int:
    return int(worker.client.info["pid"])


# ------------------------------------------------------------------------------------------------- what should work


def test_an_image_comes_back_as_it_was_with_its_provenance(warm: LocalWorker) -> None:
    image = volume()
    outputs, provenance = warm.run(JobRequest("identity", {"image": image}, {"seconds": "0"}, seed=3, device="cpu"))
    assert (sitk.GetArrayFromImage(outputs["image"]) == sitk.GetArrayFromImage(image)).all()
    assert outputs["image"].GetSpacing() == image.GetSpacing()
    assert provenance["method"] == "identity" and provenance["seed"] == 3 and provenance["device"] == "cpu"
    assert provenance["parameters"] == {"seconds": 0.0} and provenance["weights_sha256"] is None
    assert {"seconds", "medgen_version", "torch_version", "method_version", "started_utc"} <= set(provenance)


def test_every_kind_of_value_comes_back(warm: LocalWorker) -> None:
    values = {
        "points": [[1.0, 0.1, 1 / 3]],
        "planes": [{"origin": [0.0, 0.0, 0.0], "normal": [0.0, 0.0, 1.0]}],
        "roi": {"center": [0, 0, 0], "axes": np.eye(3).tolist(), "size_mm": [1, 2, 3]},
        "table": {"name": ["a"], "ml": [2.5]},
        "transform": np.eye(4).tolist(),
        "blob": b"\x00\xffabc",
    }
    images = {"mask": sitk.Image(4, 4, 4, sitk.sitkUInt8), "rgb": sitk.Image([5, 6], sitk.sitkVectorUInt8, 3)}
    frames = [sitk.Image(4, 3, sitk.sitkFloat32) + n for n in range(3)]
    outputs, _ = warm.run(JobRequest("mirror", {**values, **images, "sequence": frames}))
    assert [frame[0, 0] for frame in outputs.pop("sequence")] == [0.0, 1.0, 2.0]
    assert outputs.pop("rgb").GetNumberOfComponentsPerPixel() == 3
    assert outputs.pop("mask").GetSize() == (4, 4, 4)
    assert outputs == values


def test_the_worker_says_what_it_is(make_worker: Callable[..., LocalWorker]) -> None:
    worker = make_worker()
    worker.client.submit(JobRequest("identity", {"image": volume(8)}))
    events = pump_until(worker, lambda events: sum(isinstance(e, WorkerReady) for e in events) == 2)
    first, second = (e.info for e in events if isinstance(e, WorkerReady))
    assert not first["certain"] and second["certain"]
    assert second["devices"][-1]["id"] == "cpu"
    assert {"python", "medgen", "torch", "SimpleITK", "numpy"} <= set(second["versions"])
    job = next(i for i, e in enumerate(events) if isinstance(e, JobFinished))
    last_ready = max(i for i, e in enumerate(events) if isinstance(e, WorkerReady))
    assert job < last_ready  # a job that does not need PyTorch did not wait for it


def test_progress_is_limited_and_never_falls(warm: LocalWorker) -> None:
    reports: list[tuple[float, JobProgress]] = []
    request = JobRequest("faulty", {}, {"fault": "many_reports", "seconds": 2})
    warm.run(request, lambda e: reports.append((time.monotonic(), e)) if isinstance(e, JobProgress) else None)
    fractions = [report.fraction for _, report in reports]
    assert fractions == sorted(fractions) and 20 <= len(reports) <= 40
    assert reports[-1][1].remaining_seconds is not None


def test_what_a_running_job_shows_arrives_the_newest_of_each_name_and_delays_nothing(warm: LocalWorker) -> None:
    shown: list[JobPartial] = []
    outputs, _ = warm.run(
        JobRequest("faulty", {}, {"fault": "partials", "seconds": 1}),
        lambda e: shown.append(e) if isinstance(e, JobPartial) else None,
    )
    numbers = [e.value[0, 0, 0] for e in shown if e.name == "volume"]
    assert numbers == sorted(set(numbers)) and len(numbers) > 3
    assert len(numbers) < outputs["table"]["made"][0]  # what nobody could follow was skipped
    assert {e.name for e in shown} == {"1,1", "1,2", "2,1", "volume"}
    assert shown[0].value.GetSize() == (4, 4, 1)
    assert outputs["table"]["slowest"][0] < 0.5
    assert not left_over_blocks(warm.client._session)


def test_a_client_that_does_not_look_does_not_stop_a_job_that_shows(make_worker: Callable[..., LocalWorker]) -> None:
    worker = make_worker()
    job = worker.client.submit(JobRequest("faulty", {}, {"fault": "partials", "seconds": 600}))
    pump_until(worker, has(JobPartial, job))
    time.sleep(0.3)
    worker.client.cancel(job)
    events = pump_until(worker, has(JobCancelled, job))
    assert not [e for e in events if isinstance(e, WorkerLost)]
    assert not left_over_blocks(worker.client._session)


def test_a_worker_killed_while_it_shows_leaves_nothing(make_worker: Callable[..., LocalWorker]) -> None:
    worker = make_worker()
    job = worker.client.submit(JobRequest("faulty", {}, {"fault": "partials", "seconds": 600}))
    pump_until(worker, has(JobPartial, job))
    os.kill(pid_of(worker), signal.SIGKILL)
    pump_until(worker, has(JobFailed, job))
    assert not left_over_blocks(worker.client._session)


def test_what_a_method_prints_becomes_log_and_disturbs_nothing(warm: LocalWorker) -> None:
    lines: list[str] = []
    warm.run(faulty("print"), lambda e: lines.extend(e.lines) if isinstance(e, JobLog) else None)
    text = "\n".join(lines)
    for part in ('"type":"finished"', "Gewebe ist weiß", "from a child", "said properly"):
        assert part in text


def test_a_notice_reaches_the_user(warm: LocalWorker) -> None:
    events: list = []
    warm.run(faulty("notice"), events.append)
    assert any(isinstance(e, JobNotice) and e.sentence == "The image was turned." for e in events)


def test_the_cache_lives_from_job_to_job(warm: LocalWorker) -> None:
    first, second = (warm.run(faulty("cache"))[0]["table"]["first"] for _ in range(2))
    assert first == second


@posix_only
def test_memory_of_a_finished_job_is_given_back(make_worker: Callable[..., LocalWorker]) -> None:
    worker = make_worker()
    worker.run(JobRequest("identity", {"image": volume(8)}))
    pump_until(worker, has(WorkerReady))  # PyTorch is loaded now
    before = psutil.Process(pid_of(worker)).memory_info().rss
    outputs, _ = worker.run(faulty("allocate"))
    assert outputs["table"]["megabytes"] == [305]
    worker.run(JobRequest("identity", {"image": volume(256)}))
    end = time.monotonic() + 10
    while (grown := psutil.Process(pid_of(worker)).memory_info().rss - before) > 30 * 2**20:
        assert time.monotonic() < end, f"{grown / 2**20:.0f} MB kept"
        worker.pump(0.1)


# -------------------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("request_", "sentence"),
    [
        (JobRequest("no_such"), "There is no method 'no_such'"),
        (JobRequest("identity", {}), "Input 'image' .* is missing"),
        (JobRequest("identity", {"image": volume(4), "x": [1]}), "has no input 'x'"),
        (JobRequest("identity", {"image": volume(4)}, {"speed": 1}), "has no parameter 'speed'"),
        (JobRequest("identity", {"image": volume(4)}, {"seconds": -1}), "must be a number from 0 to 3600 s"),
        (JobRequest("identity", {"image": volume(4)}, device="cuda:9"), "no device 'cuda:9'"),
        (JobRequest("identity", {"image": sitk.Image([2, 2, 2, 2], sitk.sitkInt16)}), "is 4D; 3D is needed"),
        (JobRequest("identity", {"image": volume(1)}), "has only one voxel"),
    ],
)
def test_bad_input_is_one_sentence(warm: LocalWorker, request_: JobRequest, sentence: str) -> None:
    with pytest.raises(BadInput, match=sentence):
        warm.run(request_)


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        ("raise", r"The method failed: ValueError: shapes \(3, 4\) and \(5,\) do not match$"),
        ("exit", "The method failed: SystemExit: 5"),
        ("missing_package", "lacks the package 'a_package_that_nobody_has': run 'medgen setup'"),
        ("memory", "The computer ran out of memory"),
        ("no_output", "did not make its output 'table'"),
    ],
)
def test_a_failure_is_one_sentence_and_the_worker_stays(warm: LocalWorker, fault: str, sentence: str) -> None:
    warm.run(faulty("none"))
    pid = pid_of(warm)
    lines: list[str] = []
    with pytest.raises(MedGenError, match=sentence):
        warm.run(faulty(fault), lambda e: lines.extend(e.lines) if isinstance(e, JobLog) else None)
    assert fault == "no_output" or any("Traceback" in line for line in lines)
    warm.run(faulty("none"))
    assert pid_of(warm) == pid


def test_weights_missing_and_wrong(tmp_path: Path, make_worker: Callable[..., LocalWorker]) -> None:
    folder = tmp_path / "Weights" / "needs_weights"
    folder.mkdir(parents=True)
    worker = make_worker(environment={**os.environ, "MEDGEN_DATA": str(tmp_path)})
    with pytest.raises(BadInput, match=r"'small\.safetensors' of method 'needs_weights' are missing"):
        worker.run(JobRequest("needs_weights"))
    (folder / "small.safetensors").write_bytes(b"12345")
    digest = "5994471abb01112afcc18159f6cc74b4f511b99806da59b3caf5a9c173cacfc5"
    (folder / "card.json").write_text(json.dumps({"files": {"small.safetensors": {"sha256": digest}}}))
    outputs, provenance = worker.run(JobRequest("needs_weights"))
    assert outputs["table"] == {"name": ["small.safetensors"], "size": [5]}
    assert provenance["weights_sha256"] == digest
    (folder / "small.safetensors").write_bytes(b"12346")
    with pytest.raises(BadInput, match="wrong SHA-256"):
        worker.run(JobRequest("needs_weights"))


# ---------------------------------------------------------------------------------------------------- cancel, death


def test_a_cooperative_cancel_keeps_the_process(make_worker: Callable[..., LocalWorker]) -> None:
    worker = make_worker()
    job = worker.client.submit(JobRequest("identity", {"image": volume()}, {"seconds": 600}))
    pump_until(worker, has(JobProgress, job))
    worker.client.cancel(job)
    pump_until(worker, has(JobCancelled, job), seconds=2)
    pid = pid_of(worker)
    worker.run(JobRequest("identity", {"image": volume()}))
    assert pid_of(worker) == pid


@posix_only
@pytest.mark.parametrize("fault", ["ignore_cancel", "sleep_in_c", "hold_gil"])
def test_a_job_that_ignores_cancel_is_killed_and_the_queue_goes_on(
    make_worker: Callable[..., LocalWorker], fault: str
) -> None:
    worker = make_worker(grace_seconds=0.3)
    stuck, other = (worker.client.submit(request) for request in (faulty(fault), faulty("none")))
    pump_until(worker, has(JobProgress, stuck))
    worker.client.cancel(stuck)
    events = pump_until(worker, has(JobFinished, other))
    assert has(JobCancelled, stuck)(events) and not has(WorkerLost)(events)


@posix_only
def test_sigkill_fails_the_job_with_a_sentence_and_the_queue_goes_on(make_worker: Callable[..., LocalWorker]) -> None:
    worker = make_worker()
    first, other = worker.client.submit(faulty("ignore_cancel")), worker.client.submit(faulty("none"))
    pump_until(worker, has(JobStarted, first))
    os.kill(pid_of(worker), signal.SIGKILL)
    events = pump_until(worker, has(JobFinished, other))
    (failed,) = (e for e in events if isinstance(e, JobFailed))
    assert failed.job_id == first and "perhaps because the computer ran out of memory" in failed.sentence
    assert has(WorkerLost)(events)


@posix_only
def test_a_crash_in_c_fails_one_job(make_worker: Callable[..., LocalWorker]) -> None:
    worker = make_worker()
    with pytest.raises(MedGenError, match="crashed with signal SIGSEGV"):
        worker.run(faulty("segfault"))
    worker.run(faulty("none"))


@posix_only
def test_children_of_a_killed_worker_die_too(make_worker: Callable[..., LocalWorker]) -> None:
    worker = make_worker()
    job = worker.client.submit(faulty("child"))
    pump_until(worker, has(JobLog, job))
    child = psutil.Process(int(worker.client.jobs[job].log[-1].split()[1]))
    os.kill(pid_of(worker), signal.SIGKILL)
    pump_until(worker, has(JobFailed, job))
    child.wait(5)


PARENT = """
import sys, time
import SimpleITK as sitk
from medgen.worker.local import LocalWorker
from medgen.worker.client import JobRequest
worker = LocalWorker(extra_paths=[sys.argv[1]])
fault = sys.argv[2]
request = JobRequest("faulty", {"image": sitk.Image(64, 64, 64, sitk.sitkInt16)}, {"fault": fault, "seconds": 600})
job = worker.client.submit(request)
while worker.client.jobs[job].stage not in ("Misbehaving", "Counting"):
    worker.pump()
if sys.argv[3] == "shipping":  # dies with the next job's blocks made and its request not sent
    from medgen.worker.transfer import Blocks, drain, pack
    drain(pack({"image": sitk.Image(64, 64, 64, sitk.sitkInt16)}, Blocks(worker.client._session, 1, "i")))
print(worker.client.info["pid"], worker.client._session, flush=True)
time.sleep(600)
"""


@posix_only
@pytest.mark.parametrize(
    ("fault", "moment"), [("ignore_cancel", "shipping"), ("sleep_in_c", "running"), ("many_reports", "running")]
)
def test_a_worker_whose_parent_is_killed_dies_and_leaves_nothing(fault: str, moment: str) -> None:
    parent = subprocess.Popen([sys.executable, "-c", PARENT, PLUGINS, fault, moment], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    pid, session = parent.stdout.readline().split()
    process = psutil.Process(int(pid))
    assert moment == "running" or left_over_blocks(session)
    parent.kill()
    parent.wait()
    parent.stdout.close()
    end = time.monotonic() + 5
    while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < end
        time.sleep(0.02)
    assert not left_over_blocks(session)


def test_an_idle_worker_ends_and_comes_back(make_worker: Callable[..., LocalWorker]) -> None:
    worker = make_worker(idle_seconds=0.3)
    worker.run(faulty("none"))
    process = psutil.Process(pid_of(worker))
    end = time.monotonic() + 10
    while worker.transport.running():
        assert time.monotonic() < end
        assert not has(WorkerLost)(worker.pump(0.05))
    assert not process.is_running()
    worker.run(faulty("none"))
    assert pid_of(worker) != process.pid


@posix_only
def test_ctrl_c_cancels_and_is_raised_again(make_worker: Callable[..., LocalWorker]) -> None:
    worker = make_worker()

    def interrupt(event: object) -> None:
        if isinstance(event, JobProgress):
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        worker.run(JobRequest("identity", {"image": volume()}, {"seconds": 600}), interrupt)
    assert [job.state for job in worker.client.jobs.values()] == ["cancelled"]


def test_cancel_from_an_event_raises_cancelled(make_worker: Callable[..., LocalWorker]) -> None:
    worker = make_worker()
    request = JobRequest("identity", {"image": volume()}, {"seconds": 600})
    with pytest.raises(Cancelled):
        worker.run(request, lambda e: worker.client.cancel_all() if isinstance(e, JobProgress) else None)


# ----------------------------------------------------------------------------------------------- bad interpreters


def test_a_dirty_environment_does_not_reach_the_worker(make_worker: Callable[..., LocalWorker], tmp_path: Path) -> None:
    (tmp_path / "SimpleITK.py").write_text("raise SystemExit('the wrong SimpleITK')")
    rubbish = dict.fromkeys(("ITK_AUTOLOAD_PATH", "LD_LIBRARY_PATH", "PYTHONPATH", "PYTHONHOME"), str(tmp_path))
    worker = make_worker(environment={**os.environ, **rubbish})
    worker.run(JobRequest("identity", {"image": volume()}))


def test_a_missing_interpreter_is_one_sentence(make_worker: Callable[..., LocalWorker]) -> None:
    worker = make_worker(python="/nowhere/python")
    with pytest.raises(MedGenError, match=r"could not be started \(/nowhere/python: No such file or directory\)"):
        worker.run(JobRequest("identity", {"image": volume()}))


@posix_only
def test_an_interpreter_without_packages_is_one_sentence(
    make_worker: Callable[..., LocalWorker], tmp_path: Path
) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "bare")], check=True)
    worker = make_worker(python=str(tmp_path / "bare" / "bin" / "python"))
    with pytest.raises(MedGenError, match=r"cannot run MedGen \(No module named '.*'\): run 'medgen setup'"):
        worker.run(JobRequest("identity", {"image": volume()}))


@posix_only
def test_a_method_that_needs_torch_says_that_it_is_missing(
    make_worker: Callable[..., LocalWorker], tmp_path: Path
) -> None:
    """An environment like this one, but with a torch that cannot be found."""
    site = tmp_path / "bare" / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "bare")], check=True)
    for package in ("SimpleITK", "numpy"):
        place = Path(sys.modules[package].__file__ or "").parent
        for source in place.parent.glob(f"{package}*"):
            (site / source.name).symlink_to(source)
    worker = make_worker(python=str(tmp_path / "bare" / "bin" / "python"))
    worker.run(JobRequest("identity", {"image": volume()}))
    with pytest.raises(MedGenError, match="lacks the package 'torch': run 'medgen setup'"):
        worker.run(faulty("torch"))


@posix_only
def test_something_that_is_no_worker_is_one_sentence(make_worker: Callable[..., LocalWorker]) -> None:
    with pytest.raises(MedGenError, match="could not start: it ended with code 1"):
        make_worker(python="/bin/false").run(JobRequest("identity", {"image": volume()}))


def test_one_job_in_a_worker_of_its_own() -> None:
    with LocalWorker() as worker:
        outputs, _ = worker.run(JobRequest("identity", {"image": volume(8)}))
    assert outputs["image"].GetSize() == (8, 8, 8)
