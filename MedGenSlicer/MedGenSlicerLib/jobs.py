"""The jobs of all MedGen modules: one warm background process per device, driven by the event loop.

A `Ticket` is a job as the user sees it. It keeps node ids, never nodes: when results arrive the scene may be another
one, or
an input may be gone. The controller lives as long as the application: it survives closing a module and reloading one.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Optional

import qt
import slicer
from slicer.i18n import tr as _

from medgen import environment
from medgen.errors import BadInput, MedGenError
from medgen.spec import MethodSpec
from medgen.worker import client as worker
from MedGenSlicerLib import (
    command_process,
    method_catalogue,
    node_bridge,
    provenance,
    result_presenter,
    settings,
    steps,
)
from MedGenSlicerLib.frames import FrameRun
from MedGenSlicerLib.panel_state import PanelState
from MedGenSlicerLib.process_transport import QProcessTransport
from MedGenSlicerLib.provenance import RunRecord
from MedGenSlicerLib.quick_jobs import QuickJob

PREPARING, ARRIVING = "preparing", "arriving"
BUSY_TICK_MS, IDLE_TICK_MS = 20, 500
AUTO = "auto"


@dataclass
class Ticket:
    """state: preparing | waiting | running | arriving | finished | failed | cancelled."""

    number: int
    method: MethodSpec
    record: RunRecord
    module_name: str
    device: str
    state_node_id: str
    voxels: int = 0
    state: str = PREPARING
    error: str = ""
    notices: list[str] = field(default_factory=list)
    log: list[str] = field(default_factory=list)
    partials: dict[str, Any] = field(default_factory=dict)  # what the running job shows: name: image or list of images
    result_ids: list[str] = field(default_factory=list)
    created: float = field(default_factory=time.time)
    ended_seconds: float = 0.0
    job: Optional[worker.Job] = None
    client: Optional[worker.WorkerClient] = None
    stop: Callable[[], None] = lambda: None
    in_scene: bool = True  # False once the scene it belongs to was closed
    frames: Optional[FrameRun] = None  # of a run over a sequence
    frame: int = 0

    @property
    def ended(self) -> bool:
        return self.state in (worker.FINISHED, worker.FAILED, worker.CANCELLED)

    @property
    def title(self) -> str:
        frame = f" [{self.frame + 1}]" if self.frames is not None else ""
        return f"{self.method.title}: {self.record.reference_name}{frame}"

    @property
    def fraction(self) -> float:
        return 1.0 if self.state in (ARRIVING, worker.FINISHED) else (self.job.fraction if self.job else 0.0)

    @property
    def stage(self) -> str:
        """What is going on, in words."""
        if self.state == worker.RUNNING and self.job:
            if self.job.cancelling:
                return _("Cancelling")
            return self.job.stage or _("Running")
        return state_words()[self.state]

    @property
    def remaining_seconds(self) -> Optional[float]:
        return self.job.remaining_seconds if self.job and self.state == worker.RUNNING else None

    def results(self) -> list[Any]:
        found = [slicer.mrmlScene.GetNodeByID(node_id) for node_id in self.result_ids] if self.in_scene else []
        return [node for node in found if node is not None]


def state_words() -> dict[str, str]:
    return {
        PREPARING: _("Preparing"),
        worker.WAITING: _("Waiting"),
        worker.RUNNING: _("Running"),
        ARRIVING: _("Loading the result"),
        worker.FINISHED: _("Finished"),
        worker.FAILED: _("Failed"),
        worker.CANCELLED: _("Cancelled"),
    }


class JobController:
    """Use `controller()`. Listeners are called with a Ticket after each change of it, with None after a change of a
    process."""

    def __init__(self) -> None:
        self.tickets: list[Ticket] = []
        self.quick: list[QuickJob] = []
        self.listeners: list[Callable[[Optional[Ticket]], None]] = []
        self.clients: dict[str, worker.WorkerClient] = {}
        self.transports: dict[str, QProcessTransport] = {}
        self.process_log: list[str] = []
        self._count = 0
        self._timer = qt.QTimer()
        self._timer.timeout.connect(self.tick)
        slicer.mrmlScene.AddObserver(slicer.vtkMRMLScene.StartCloseEvent, self._scene_closes)
        slicer.app.aboutToQuit.connect(self.shut_down)

    # ------------------------------------------------------------------------------------------------------ processes

    def client_for(self, device: str) -> worker.WorkerClient:
        key = self._key(device)
        if key not in self.clients:
            transport = QProcessTransport()
            self.transports[key] = transport
            self.clients[key] = transport.client = worker.WorkerClient(
                transport,
                python=interpreter(),
                environment=dict(slicer.util.startupEnvironment()),
                extra_paths=method_catalogue.method_folders(),
                idle_seconds=60.0 * settings.get("idle_minutes", settings.IDLE_MINUTES),
            )
        return self.clients[key]

    @staticmethod
    def _key(device: str) -> str:
        """The best device and 'auto' share a process."""
        best = next((d["id"] for d in known_devices()), AUTO)
        return AUTO if device in (AUTO, best) else device

    def set_idle_minutes(self, minutes: int) -> None:
        settings.put("idle_minutes", minutes)
        for each in self.clients.values():
            each.set_idle_seconds(60.0 * minutes)

    def restart(self) -> None:
        """Ends every process; the next job starts one with the interpreter that is set now."""
        self.cancel_all()
        for each in self.clients.values():
            each.close()
        self._drain()
        self.clients.clear()
        self.transports.clear()
        self._tell(None)

    def shut_down(self) -> None:
        """At the end of the application: no process stays behind."""
        self._timer.stop()
        command_process.stop_all()
        self.quick.clear()
        for ticket in self.unfinished():
            ticket.stop()
        for key, each in self.clients.items():
            each.close()
            self.transports[key].wait_until_ended()
        self.clients.clear()
        self.transports.clear()

    # ----------------------------------------------------------------------------------------------------------- jobs

    def unfinished(self) -> list[Ticket]:
        return [ticket for ticket in self.tickets if not ticket.ended]

    def submit(
        self,
        method: MethodSpec,
        inputs: dict[str, list[Any]],
        parameters: dict[str, Any],
        state_node: Any,
        seed: int = 0,
        device: str = AUTO,
        weights: Optional[str] = None,
        segment_ids: Optional[dict[str, str]] = None,
        frames: Optional[FrameRun] = None,
        frame: int = 0,
    ) -> Ticket:
        """Queues a run on nodes. Copies the voxels in the next turns of the event loop; problems show on the ticket."""
        method.check_inputs({name: nodes[0] for name, nodes in inputs.items() if nodes})
        parameters = method.check_parameters(parameters)
        record = RunRecord(method.id, method.title)
        provenance.record_inputs(record, inputs)
        reference = reference_node(method, inputs)
        if reference is not None:
            record.reference_id = reference.GetID()
            record.parent_transform_id = getattr(reference, "GetTransformNodeID", lambda: "")() or ""
        module = state_node.GetAttribute("ModuleName") or ""
        ticket = Ticket(self._next_number(), method, record, module, device, state_node.GetID())
        ticket.frames, ticket.frame = frames, frame
        self.tickets.append(ticket)
        request = worker.JobRequest(method.id, {}, parameters, seed, device, weights)
        ticket.stop = steps.run(
            self._prepare(ticket, request, segment_ids or {}),
            lambda: self._send(ticket, request),
            lambda error: self._fail(ticket, _sentence(error)),
        )
        self._timer.start(BUSY_TICK_MS)
        self._tell(ticket)
        return ticket

    def _prepare(self, ticket: Ticket, request: worker.JobRequest, segment_ids: dict[str, str]) -> Iterator[None]:
        for port in ticket.method.inputs:
            ids = ticket.record.inputs.get(port.name)
            if not ids:
                continue
            nodes = [slicer.mrmlScene.GetNodeByID(node_id) for node_id in ids]
            if any(node is None for node in nodes):
                raise BadInput(_("The input '{port}' was removed from the scene.").format(port=port.title))
            reference = ticket.record.reference()
            if ticket.frames is not None and port.name == ticket.frames.port:
                nodes, reference = [ticket.frames.frame(ticket.frame)], None
                if nodes[0] is None:
                    raise BadInput(_("The input '{port}' was removed from the scene.").format(port=port.title))
            value = yield from node_bridge.value_steps(port, nodes, reference, segment_ids.get(port.name, ""))
            request.inputs[port.name] = value
            if not ticket.voxels and hasattr(value, "GetNumberOfPixels"):
                ticket.voxels = value.GetNumberOfPixels()
            yield

    def _send(self, ticket: Ticket, request: worker.JobRequest) -> None:
        try:
            ticket.client = self.client_for(ticket.device)
            ticket.job = ticket.client.jobs[ticket.client.submit(request)]
        except (MedGenError, OSError) as error:
            self._fail(ticket, _sentence(error))
            return
        ticket.state = worker.WAITING
        self._tell(ticket)

    def ask(self, job: QuickJob, device: str) -> None:
        """Sends a small job that the user does not see as one: no ticket, no node. Raises MedGenError, OSError."""
        client = self.client_for(device)
        job.sent(client, client.submit(job.request))
        self.quick.append(job)
        self._timer.start(BUSY_TICK_MS)

    def withdraw(self, job: QuickJob) -> None:
        """Cancels it; none of its functions is called any more."""
        if job in self.quick:
            job.dropped = True
            job.client.cancel(job.id)
            self._drain()

    def cancel(self, ticket: Ticket) -> None:
        if ticket.ended:
            return
        if ticket.job is not None and ticket.client is not None and not ticket.job.ended:
            ticket.client.cancel(ticket.job.id)
            self._drain()
            self._tell(ticket)
        else:
            ticket.stop()
            self._finish(ticket, worker.CANCELLED)

    def cancel_all(self) -> None:
        for job in list(self.quick):
            self.withdraw(job)
        for ticket in self.unfinished():
            self.cancel(ticket)

    def retry(self, ticket: Ticket) -> Ticket:
        """The same run again, with the inputs as they were; raises BadInput if they are no longer held."""
        if ticket.job is None or ticket.client is None:
            raise BadInput(_("This job never started: please start it again from its panel."))
        again = Ticket(
            self._next_number(),
            ticket.method,
            ticket.record,
            ticket.module_name,
            ticket.device,
            ticket.state_node_id,
            ticket.voxels,
            worker.WAITING,
            client=ticket.client,
            in_scene=ticket.in_scene,
        )
        if ticket.frames is not None:
            ticket.frames.waiting += 1
            again.frames, again.frame = ticket.frames, ticket.frame
        again.job = ticket.client.jobs[ticket.client.retry(ticket.job.id)]
        self.tickets.append(again)
        self._timer.start(BUSY_TICK_MS)
        self._tell(again)
        return again

    def forget_ended(self) -> None:
        self.tickets = [ticket for ticket in self.tickets if not ticket.ended]
        self._tell(None)

    # --------------------------------------------------------------------------------------------------------- events

    def tick(self) -> None:
        for each in list(self.clients.values()):
            each.tick()
        self._drain()
        busy = bool(self.unfinished()) or any(each.busy for each in self.clients.values())
        interval = BUSY_TICK_MS if busy else IDLE_TICK_MS
        if self._timer.property("interval") != interval:
            self._timer.setInterval(interval)

    def _drain(self) -> None:
        for client in list(self.clients.values()):
            for event in client.take_events():
                self._handle(client, event)

    def _handle(self, client: worker.WorkerClient, event: Any) -> None:
        if isinstance(event, worker.WorkerReady):
            if event.info.get("certain"):
                settings.put("devices", json.dumps(event.info["devices"]))
            self._tell(None)
            return
        if isinstance(event, worker.WorkerLost):
            self.process_log.append(event.sentence)
            self._tell(None)
            return
        for job in [each for each in self.quick if each.client is client and each.id == event.job_id]:
            if job.handle(event) and job in self.quick:
                self.quick.remove(job)
                client.forget(job.id)
            return
        ticket = next((t for t in self.tickets if t.job is not None and t.job is client.jobs.get(event.job_id)), None)
        if ticket is not None and not ticket.ended:
            self._handle_ticket(ticket, event)

    def _handle_ticket(self, ticket: Ticket, event: Any) -> None:
        if isinstance(event, worker.JobStarted):
            ticket.state = worker.RUNNING
        elif isinstance(event, worker.JobLog):
            ticket.log.extend(event.lines)
        elif isinstance(event, worker.JobPartial):
            ticket.partials[event.name] = event.value
        elif isinstance(event, worker.JobNotice):
            ticket.notices.append(event.sentence)
        elif isinstance(event, worker.JobFinished):
            self._arrive(ticket, event)
        elif isinstance(event, worker.JobFailed):
            self._fail(ticket, event.sentence)
            return
        elif isinstance(event, worker.JobCancelled):
            self._finish(ticket, worker.CANCELLED)
            return
        self._tell(ticket)

    def _arrive(self, ticket: Ticket, event: worker.JobFinished) -> None:
        if not ticket.in_scene:
            self._finish(ticket, worker.CANCELLED)
            return
        ticket.state = ARRIVING
        if ticket.record.reference_id and ticket.record.reference() is None:
            ticket.notices.append(
                _("The input '{name}' was removed while the job ran; the result was kept.").format(
                    name=ticket.record.reference_name
                )
            )
        seconds = float(event.provenance.get("seconds", 0.0))
        for device in {ticket.device, str(event.provenance.get("device"))}:
            settings.remember_speed(ticket.method.id, device, seconds, ticket.voxels)
        made: list[Any] = []
        work = result_presenter.present(ticket.method, ticket.record, event.outputs, event.provenance, made)

        def done() -> None:
            if ticket.frames is not None:
                ticket.frames.keep(ticket.frame, made)
            else:
                self._list_results(ticket, made)
                result_presenter.show(made, ticket.record)
            self._finish(ticket, worker.FINISHED)

        ticket.stop = steps.run(work, done, lambda error: self._fail(ticket, _sentence(error)))

    @staticmethod
    def _list_results(ticket: Ticket, made: list[Any]) -> None:
        ticket.result_ids = [node.GetID() for node in made]
        state_node = slicer.mrmlScene.GetNodeByID(ticket.state_node_id)
        if state_node is not None:
            for node in made:
                PanelState(state_node).add_result(node)
            state_node.Modified()

    def _fail(self, ticket: Ticket, sentence: str) -> None:
        ticket.error = sentence
        self._finish(ticket, worker.FAILED)

    def _finish(self, ticket: Ticket, state: str) -> None:
        ticket.state, ticket.ended_seconds = state, time.time() - ticket.created
        ticket.partials = {}
        ticket.stop = lambda: None
        if ticket.frames is not None:
            ticket.frames.waiting -= 1
            if ticket.frames.waiting == 0 and ticket.in_scene:
                self._list_results(ticket, ticket.frames.finish())
        self._tell(ticket)

    def _next_number(self) -> int:
        self._count += 1
        return self._count

    def _scene_closes(self, *_arguments: object) -> None:
        """A job's results belong into its scene only: its jobs are cancelled, whatever arrives later is dropped."""
        for job in list(self.quick):
            self.withdraw(job)
        for ticket in self.tickets:
            ticket.in_scene = False
            if not ticket.ended:
                ticket.error = _("The scene was closed.")
                self.cancel(ticket)

    def _tell(self, ticket: Optional[Ticket]) -> None:
        for listener in list(self.listeners):
            try:
                listener(ticket)
            except Exception:  # one panel's fault must not stop the queue
                logging.exception("MedGen: a panel could not follow its job")


def reference_node(method: MethodSpec, inputs: dict[str, list[Any]]) -> Optional[Any]:
    """The first image of the run: it gives frame, study and name to the results."""
    filled = [inputs[port.name][0] for port in method.inputs if inputs.get(port.name)]
    volumes = [node for node in filled if node.IsA("vtkMRMLVolumeNode")]
    return (volumes or filled or [None])[0]


def interpreter() -> str:
    """The Python that runs the worker: the user's choice, else the environment that 'Set up' made."""
    return settings.get("python", "") or str(environment.environment_python(environment.default_environment_folder()))


def set_up() -> bool:
    """Whether there is an interpreter to run jobs with (not: whether it has every package)."""
    return os.path.exists(interpreter())


def known_devices() -> list[dict[str, str]]:
    """[{'id', 'title'}], the best first, as the worker last reported them; empty before its first run."""
    try:
        return list(json.loads(settings.get("devices", "[]")))
    except ValueError:
        return []


def _sentence(error: Exception) -> str:
    if isinstance(error, MedGenError):
        return str(error)
    logging.error("MedGen: %s", error, exc_info=error)
    return _("Something went wrong inside MedGen: {error}.").format(
        error=str(error).rstrip(".") or type(error).__name__
    )


_controller: Optional[JobController] = None


def controller() -> JobController:
    """The one controller of the application. 'Reload' of a module does not reload this file, so jobs go on."""
    global _controller
    if _controller is None:
        _controller = JobController()
    return _controller
