"""The queue and the pump against a worker that the test plays: order, deadlines, deaths, refusals. No process is
started."""

import ast
from pathlib import Path

import pytest
import SimpleITK as sitk

from medgen.errors import BadInput, MedGenError
from medgen.worker import client as client_module
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
    WorkerClient,
    WorkerLost,
    WorkerReady,
)
from medgen.worker.protocol import Decoder, encode


class PlayedWorker:
    """A transport whose far end is the test."""

    def __init__(self) -> None:
        self.starts: list[list[str]] = []
        self.environment: dict[str, str] = {}
        self.kills = 0
        self.received: list[dict] = []
        self.error: OSError | None = None
        self._decoder = Decoder()

    def start(self, arguments: list[str], environment: dict[str, str]) -> None:
        if self.error is not None:
            raise self.error
        self.starts.append(arguments)
        self.environment = environment

    def write(self, data: bytes) -> None:
        self.received += self._decoder.feed(data)

    def kill(self) -> None:
        self.kills += 1

    def running(self) -> bool:
        return bool(self.starts)

    def types(self) -> list[str]:
        return [message["type"] for message in self.received]


class Stage:
    """A client, its played worker and a clock that the test turns."""

    def __init__(self, **options: float) -> None:
        self.now = 0.0
        self.worker = PlayedWorker()
        self.client = WorkerClient(self.worker, "python", clock=lambda: self.now, **options)

    def say(self, message_type: str, **fields: object) -> None:
        self.client.feed(encode(message_type, **fields))

    def ready(self) -> None:
        self.say("ready", info={"pid": 1})

    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.client.tick()

    def events(self) -> list:
        return self.client.take_events()

    def finish(self, job: str) -> None:
        self.say("finished", job=job, outputs={"n": {"kind": "json", "value": 1}}, provenance={"method": "m"})


@pytest.fixture
def stage() -> Stage:
    return Stage()


def test_one_job_from_start_to_end(stage: Stage) -> None:
    job = stage.client.submit(JobRequest("m", {"points": [[1.0, 2.0, 3.0]]}, {"a": 1}, seed=7))
    assert stage.client.jobs[job].state == "waiting"
    stage.ready()
    (message,) = stage.worker.received
    assert (message["method"], message["parameters"], message["seed"]) == ("m", {"a": 1}, 7)
    stage.say("started", job=job)
    stage.say("progress", job=job, stage="Patches", fraction=0.5, message="3 of 6", remaining_seconds=2.0)
    stage.say("log", job=job, line="a")
    stage.client.feed_log(b"wei" + "ß\nrest".encode()[:1])
    stage.client.feed_log("ß\nrest".encode()[1:])
    stage.say("notice", job=job, sentence="Turned.")
    stage.finish(job)
    assert stage.events() == [
        WorkerReady({"pid": 1}),
        JobStarted(job),
        JobProgress(job, "Patches", 0.5, "3 of 6", 2.0),
        JobLog(job, stage.client.jobs[job].log),
        JobNotice(job, "Turned."),
        JobFinished(job, {"n": 1}, {"method": "m"}),
    ]
    assert list(stage.client.jobs[job].log) == ["a", "weiß"]
    assert stage.client.jobs[job].state == "finished"
    assert stage.worker.types() == ["run", "taken"]


def test_what_a_job_shows_is_copied_acknowledged_and_freed(stage: Stage) -> None:
    from medgen.worker.transfer import Blocks, drain, pack, unlink

    job = stage.client.submit(JobRequest("m"))
    stage.ready()
    stage.say("started", job=job)
    shipment = stage.worker.received[0]["shipment"]
    blocks = Blocks(stage.client._session, shipment, "p")
    image = sitk.Image(3, 2, 1, sitk.sitkFloat32) + 7
    described = drain(pack({"value": image}, blocks))["value"]
    blocks.close()
    stage.say("partial", job=job, name="1,1", value=described)
    shown = [e for e in stage.events() if isinstance(e, JobPartial)]
    assert [(e.job_id, e.name, e.value[0, 0, 0]) for e in shown] == [(job, "1,1", 7.0)]
    assert stage.worker.types() == ["run", "seen"] and not unlink(described["block"])
    stage.say("partial", job=job, name="1,2", value=described)  # it is gone: the job goes on all the same
    stage.finish(job)
    assert [type(e) for e in stage.events() if not isinstance(e, JobLog)] == [JobFinished]
    assert stage.worker.types() == ["run", "seen", "seen", "taken"]


def test_a_forgotten_job_leaves_no_trace_and_numbers_go_on(stage: Stage) -> None:
    first = stage.client.submit(JobRequest("m"))
    stage.client.forget(first)
    assert first in stage.client.jobs  # it has not ended
    stage.client.cancel(first)
    stage.client.forget(first)
    assert not stage.client.jobs
    assert stage.client.submit(JobRequest("m")) != first


def test_jobs_run_one_at_a_time_in_order(stage: Stage) -> None:
    jobs = [stage.client.submit(JobRequest("m")) for _ in range(3)]
    stage.ready()
    for n, job in enumerate(jobs):
        assert [m["job"] for m in stage.worker.received if m["type"] == "run"] == jobs[: n + 1]
        stage.finish(job)
    assert len(stage.worker.starts) == 1


def test_a_waiting_job_is_cancelled_at_once_and_never_sent(stage: Stage) -> None:
    first, second, third = (stage.client.submit(JobRequest("m")) for _ in range(3))
    stage.ready()
    stage.client.cancel(second)
    assert stage.client.jobs[second].state == "cancelled"
    stage.finish(first)
    stage.finish(third)
    assert [m["job"] for m in stage.worker.received if m["type"] == "run"] == [first, third]


def test_a_running_job_is_asked_first_and_killed_after_the_grace(stage: Stage) -> None:
    first, second = stage.client.submit(JobRequest("m")), stage.client.submit(JobRequest("m"))
    stage.ready()
    stage.client.cancel(first)
    stage.wait(2.9)
    assert stage.worker.types() == ["run", "cancel"] and stage.worker.kills == 0
    stage.wait(0.2)
    assert stage.worker.kills == 1
    stage.wait(10)
    assert stage.worker.kills == 1
    stage.client.exited(-9)
    assert JobCancelled(first) in stage.events()
    assert len(stage.worker.starts) == 2  # the queue goes on in a fresh process
    stage.ready()
    stage.finish(second)
    assert stage.client.jobs[second].state == "finished"
    assert not any(isinstance(event, WorkerLost) for event in stage.events())


def test_a_result_that_crosses_the_cancel_is_dropped(stage: Stage) -> None:
    job = stage.client.submit(JobRequest("m"))
    stage.ready()
    stage.client.cancel(job)
    stage.finish(job)
    assert stage.client.jobs[job].state == "cancelled"
    stage.wait(10)
    assert stage.worker.kills == 0


def test_a_crash_fails_one_job_with_a_sentence_and_the_rest_goes_on(stage: Stage) -> None:
    first, second = stage.client.submit(JobRequest("m")), stage.client.submit(JobRequest("m"))
    stage.ready()
    stage.say("started", job=first)
    stage.client.feed_log(b"last words")
    stage.client.exited(-11)
    events = stage.events()
    (failed,) = (event for event in events if isinstance(event, JobFailed))
    assert (failed.job_id, failed.kind) == (first, "worker")
    assert "SIGSEGV" in failed.sentence
    assert any(isinstance(event, WorkerLost) for event in events)
    assert list(stage.client.jobs[first].log) == ["last words"]
    stage.ready()
    stage.finish(second)
    assert stage.client.jobs[second].state == "finished"


def test_a_job_whose_worker_dies_before_it_begins_goes_to_the_next_worker_once(stage: Stage) -> None:
    first, second = stage.client.submit(JobRequest("m")), stage.client.submit(JobRequest("m"))
    stage.ready()
    stage.client.exited(-9)
    stage.ready()
    assert [message["job"] for message in stage.worker.received] == [first, first]
    stage.client.exited(-9)
    assert stage.client.jobs[first].state == "failed"
    stage.ready()
    assert stage.worker.received[-1]["job"] == second


def test_a_worker_killed_while_it_starts_is_started_once_more(stage: Stage) -> None:
    job = stage.client.submit(JobRequest("m"))
    stage.client.exited(-9)
    assert len(stage.worker.starts) == 2 and stage.client.jobs[job].state == "waiting"
    stage.client.exited(-9)
    assert len(stage.worker.starts) == 2
    assert "could not start: it was killed" in stage.client.jobs[job].error


def test_a_worker_that_cannot_start_fails_every_job_once(stage: Stage) -> None:
    jobs = [stage.client.submit(JobRequest("m")) for _ in range(3)]
    stage.client.feed_log(b"ModuleNotFoundError: No module named 'x'\n")
    stage.client.exited(1)
    failed = [event for event in stage.events() if isinstance(event, JobFailed)]
    assert [event.job_id for event in failed] == jobs
    assert "No module named 'x'" in failed[0].sentence
    assert len(stage.worker.starts) == 1  # no endless restarts
    stage.client.submit(JobRequest("m"))
    assert len(stage.worker.starts) == 2  # but another try when the user asks


def test_a_missing_interpreter_is_a_sentence(stage: Stage) -> None:
    stage.worker.error = FileNotFoundError(2, "No such file or directory")
    job = stage.client.submit(JobRequest("m"))
    assert stage.client.jobs[job].state == "failed"
    assert "could not be started (python: No such file" in stage.client.jobs[job].error


def test_a_refusal_is_passed_on_and_the_process_killed(stage: Stage) -> None:
    job = stage.client.submit(JobRequest("m"))
    stage.say("refused", sentence="Too old.")
    assert stage.worker.kills == 1
    stage.client.exited(3)
    assert stage.client.jobs[job].error == "Too old."
    assert len(stage.worker.starts) == 1


def test_another_protocol_version_is_a_sentence(stage: Stage) -> None:
    job = stage.client.submit(JobRequest("m"))
    stage.client.feed(b'{"v":999,"type":"ready","info":{}}\n')
    stage.client.exited(-9)
    assert "different versions" in stage.client.jobs[job].error
    assert "medgen setup" in stage.client.jobs[job].error


def test_a_worker_that_never_answers_is_given_up(stage: Stage) -> None:
    job = stage.client.submit(JobRequest("m"))
    stage.wait(client_module.START_SECONDS + 1)
    assert stage.worker.kills == 1
    stage.client.exited(-9)
    assert "did not answer" in stage.client.jobs[job].error


def test_an_idle_worker_is_ended_and_a_later_job_starts_another(stage: Stage) -> None:
    job = stage.client.submit(JobRequest("m"))
    stage.ready()
    stage.client.set_idle_seconds(60)
    stage.wait(100)
    assert stage.worker.kills == 0  # it works
    stage.finish(job)
    stage.wait(59)
    assert stage.worker.kills == 0
    stage.wait(2)
    assert stage.worker.kills == 1
    late = stage.client.submit(JobRequest("m"))  # between the kill and the end of the process
    stage.client.exited(-9)
    assert len(stage.worker.starts) == 2
    assert not any(isinstance(event, WorkerLost) for event in stage.events())
    stage.ready()
    stage.finish(late)
    assert stage.client.jobs[late].state == "finished"


def test_idle_seconds_of_zero_keep_the_worker(stage: Stage) -> None:
    job = stage.client.submit(JobRequest("m"))
    stage.ready()
    stage.finish(job)
    stage.client.set_idle_seconds(0)
    stage.wait(1e6)
    assert stage.worker.kills == 0


def test_retry_runs_the_same_request_again(stage: Stage) -> None:
    image = sitk.Image(3, 3, 3, sitk.sitkInt16)
    job = stage.client.submit(JobRequest("m", {"image": image}, {"a": 2}))
    stage.ready()
    stage.say("started", job=job)
    stage.client.exited(-9)
    again = stage.client.retry(job)
    stage.ready()
    assert stage.worker.received[-1]["inputs"]["image"]["size"] == [3, 3, 3]
    assert stage.worker.received[-1]["parameters"] == {"a": 2}
    stage.say("started", job=again)
    stage.finish(again)
    with pytest.raises(BadInput, match="no longer held"):
        stage.client.retry(again)
    stage.client.close()


def test_inputs_of_old_failures_are_let_go(stage: Stage) -> None:
    jobs = [stage.client.submit(JobRequest("m", {"points": [[0, 0, 0]]})) for _ in range(9)]
    stage.client.cancel_all()
    assert [bool(stage.client.jobs[job].request.inputs) for job in jobs] == [False] * 4 + [True] * 5


def test_copying_of_a_large_image_is_spread_over_ticks() -> None:
    stage = Stage(pause_seconds=0.0)
    stage.client.submit(JobRequest("m", {"image": sitk.Image(512, 512, 60, sitk.sitkInt16)}))
    stage.ready()
    ticks = 0
    while not stage.worker.received:
        stage.client.tick()
        ticks += 1
    assert ticks >= 6  # 31 MB in steps of 4 MB
    stage.client.close()


def test_a_job_cancelled_while_it_is_copied_is_never_sent() -> None:
    stage = Stage(pause_seconds=0.0)
    job = stage.client.submit(JobRequest("m", {"image": sitk.Image(512, 512, 60, sitk.sitkInt16)}))
    other = stage.client.submit(JobRequest("m"))
    stage.ready()
    stage.client.cancel(job)
    for _ in range(3):
        stage.client.tick()
    assert [message["job"] for message in stage.worker.received] == [other]


def test_a_value_that_cannot_be_sent_fails_its_job_only(stage: Stage) -> None:
    job = stage.client.submit(JobRequest("m", {"points": object()}))
    other = stage.client.submit(JobRequest("m"))
    stage.ready()
    assert stage.client.jobs[job].state == "failed"
    assert [message["job"] for message in stage.worker.received] == [other]


def test_noise_on_stdout_is_logged(stage: Stage) -> None:
    job = stage.client.submit(JobRequest("m"))
    stage.ready()
    stage.client.feed(b"hello from a library\n")
    assert list(stage.client.jobs[job].log) == ["hello from a library"]


def test_a_flood_of_log_lines_is_bounded(stage: Stage) -> None:
    job = stage.client.submit(JobRequest("m"))
    stage.ready()
    for _ in range(100):
        stage.client.feed_log(b"line\n" * 100)
    assert len(stage.client.jobs[job].log) == 500
    assert sum(len(event.lines) for event in stage.events() if isinstance(event, JobLog)) == 500


def test_close_cancels_everything(stage: Stage) -> None:
    first, second = stage.client.submit(JobRequest("m")), stage.client.submit(JobRequest("m"))
    stage.ready()
    stage.client.close()
    assert stage.worker.kills == 1
    stage.client.exited(-9)
    assert {stage.client.jobs[job].state for job in (first, second)} == {"cancelled"}
    assert len(stage.worker.starts) == 1
    with pytest.raises(MedGenError, match="closed"):
        stage.client.submit(JobRequest("m"))


def test_the_environment_is_an_allow_list(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ITK_AUTOLOAD_PATH", "LD_LIBRARY_PATH", "PYTHONPATH", "PYTHONHOME", "QT_PLUGIN_PATH", "SLICER_HOME"):
        monkeypatch.setenv(name, "/rubbish")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    stage = Stage()
    stage.client.submit(JobRequest("m"))
    assert "/rubbish" not in stage.worker.environment.values()
    assert stage.worker.environment["CUDA_VISIBLE_DEVICES"] == "1"
    assert "PATH" in stage.worker.environment
    assert "-I" in stage.worker.starts[0]


def test_the_client_needs_neither_threads_nor_qt_nor_third_parties() -> None:
    folder = Path(client_module.__file__).parent
    for name in ("client", "jobs", "protocol", "transfer", "processes"):
        tree = ast.parse((folder / f"{name}.py").read_text(), feature_version=(3, 9))
        top = {alias.name for node in tree.body if isinstance(node, ast.Import) for alias in node.names}
        top |= {node.module.split(".")[0] for node in tree.body if isinstance(node, ast.ImportFrom) and node.module}
        assert not top & {"threading", "queue", "multiprocessing", "qt", "slicer", "torch", "SimpleITK", "psutil"}, name
