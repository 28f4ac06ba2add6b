"""One slice redrawn while the sliders move: debounced, the older job cancelled, the answer put into two volumes that
are neither listed nor saved."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from typing import Any, Optional

import qt
import slicer
from slicer.i18n import tr as _

from medgen.errors import MedGenError
from medgen.spec import MethodSpec
from medgen.worker import client as worker
from MedGenSlicerLib import correction, jobs, method_catalogue, node_bridge, steps, views
from MedGenSlicerLib.geometry import FrameChange
from MedGenSlicerLib.quick_jobs import QuickJob

PREVIEWS = {"diffusion_anomaly": "diffusion_anomaly_slice", "diffusion_anomaly_xray": "diffusion_anomaly_xray"}
POINT = ("r_mm", "a_mm", "s_mm")
SEQUENCES = ("FLAIR", "T2", "T1", "T1c")  # the one to show first
DEBOUNCE_MS = 350
MAP, HEALTHY = "map", "healthy"


class LiveSlice:
    """`arrived` is called when a slice came, `told` with a sentence after every change. `job`: what runs, or None."""

    def __init__(self, panel: Any, arrived: Callable[[], None], told: Callable[[str], None]) -> None:
        self.panel, self._arrived, self._told = panel, arrived, told
        self.job: Optional[QuickJob] = None
        self._images: tuple[Any, dict[str, Any]] = (None, {})  # what was copied from the nodes, and from which
        self._stop: Callable[[], None] = lambda: None
        self._asked: Any = None
        self._ids: dict[str, str] = {}
        self._timer = qt.QTimer()
        self._timer.setSingleShot(True)
        self._timer.setInterval(DEBOUNCE_MS)
        self._timer.timeout.connect(self._start)

    # ------------------------------------------------------------------------------------------------------------ nodes

    def node(self, kind: str) -> Optional[Any]:
        return slicer.mrmlScene.GetNodeByID(self._ids.get(kind, "none"))

    def _made(self, kind: str, name: str) -> Any:
        node = self.node(kind)
        if node is None:
            node = slicer.vtkMRMLScalarVolumeNode()
            node.SetName(name)
            node.SetSaveWithScene(False)
            node.SetHideFromEditors(True)
            node = slicer.mrmlScene.AddNode(node)
            node.CreateDefaultDisplayNodes()
            self._ids[kind] = node.GetID()
        return node

    def remove_nodes(self) -> None:
        for kind in (MAP, HEALTHY):
            node = self.node(kind)
            if node is not None:
                slicer.mrmlScene.RemoveNode(node)

    # ---------------------------------------------------------------------------------------------------------- request

    def possible(self) -> bool:
        method = self.panel.method
        known = method is not None and method.id in PREVIEWS
        return known and self.panel.inputs.reference() is not None and not self.panel.reason_off()

    def wanted(self) -> Any:
        """What a request depends on."""
        state, method = self.panel.state, self.panel.method
        names = [p.name for p in self._spec(method).parameters if p.name not in POINT]
        inputs = tuple((name, _content(node)) for name, nodes in self._inputs().items() for node in nodes)
        point = tuple(round(x, 1) for x in self._point()) if method.id != PREVIEWS[method.id] else ()
        return method.id, inputs, tuple(state.value(method, name) for name in names), point

    @staticmethod
    def _spec(method: MethodSpec) -> MethodSpec:
        return method_catalogue.find(PREVIEWS[method.id])

    def _inputs(self) -> dict[str, list[Any]]:
        known = {port.name for port in self._spec(self.panel.method).inputs}
        return {name: nodes for name, nodes in self.panel.inputs.inputs().items() if name in known}

    def _point(self) -> list[float]:
        """The middle of the slice that is read, in the frame of the run's first image."""
        point, _normal = views.slice_plane(views.read_view())
        reference = jobs.reference_node(self._spec(self.panel.method), self._inputs())
        return FrameChange(None, reference).point(point)

    def ask(self) -> None:
        """For the slice that is shown, unless it was asked for already."""
        if self.panel.state is None or not self.possible() or views.slice_node(views.read_view()) is None:
            return
        wanted = self.wanted()
        if wanted != self._asked:
            self._asked = wanted
            self._timer.start()

    def forget(self) -> None:
        """Nothing is asked for any more; what runs is cancelled."""
        self._timer.stop()
        self._asked = None
        self._cancel()
        self._told("")

    def _cancel(self) -> None:
        self._stop()
        if self.job is not None:
            jobs.controller().withdraw(self.job)
        self.job = None

    def _start(self) -> None:
        """Copies the inputs, unless they are as they were, and sends the job."""
        state, method = self.panel.state, self.panel.method
        if state is None or method is None or not self.possible():
            return
        self._cancel()
        preview, inputs = self._spec(method), self._inputs()
        values = {p.name: state.value(method, p.name) for p in preview.parameters if p.name not in POINT}
        if preview.id != method.id:
            values.update(zip(POINT, self._point()))
        device = state.option("device", jobs.AUTO) or jobs.AUTO
        segments = {port: state.segment_id(port) for port in inputs}
        asked, reference = self._asked, jobs.reference_node(preview, inputs)
        began = time.monotonic()

        def send() -> None:
            chosen = state.option("weights", "") or None
            request = worker.JobRequest(preview.id, self._images[1], values, 0, device, chosen)
            self.job = QuickJob(
                request, lambda outputs: self._take(asked, outputs, reference, time.monotonic() - began), self._failed
            )
            jobs.controller().ask(self.job, device)

        self._told(_("Redrawing this slice..."))
        self._stop = steps.run(
            self._copy_steps(preview, inputs, segments), send, lambda error: self._failed(_sentence(error))
        )

    def _copy_steps(
        self, preview: MethodSpec, inputs: dict[str, list[Any]], segments: dict[str, str]
    ) -> Iterator[None]:
        state = [(n, _content(node), segments[n]) for n, nodes in inputs.items() for node in nodes]
        if state == self._images[0]:
            return
        images = {}
        reference = jobs.reference_node(preview, inputs)
        for port in preview.inputs:
            if port.name in inputs:
                images[port.name] = yield from node_bridge.value_steps(
                    port, inputs[port.name], reference, segments[port.name]
                )
                yield
        self._images = state, images

    # ----------------------------------------------------------------------------------------------------------- answer

    def _take(self, asked: Any, outputs: dict[str, Any], reference: Any, seconds: float) -> None:
        self.job = None
        if asked != self._asked or self.panel.state is None or reference.GetScene() is None:
            return
        report = dict(zip(*outputs["report"].values()))
        order = (self.panel.state.option("sequence", ""), *SEQUENCES)
        redrawn = [f"healthy_{name}" for name in order] + ["healthy"]
        wanted = next(name for name in redrawn if name in outputs)
        for kind, name, output in (
            (MAP, _("Live map"), "anomaly_map"),
            (HEALTHY, _("Live pseudo-healthy (synthetic)"), wanted),
        ):
            node = self._made(kind, name)
            node_bridge.fill_volume(node, outputs[output])
            node.SetAttribute("MedGen.method", self.panel.method.id)
            node.SetAttribute("MedGen.output", output)
            node.SetAttribute("MedGen.synthetic", "1" if kind == HEALTHY else "0")
            node.SetNodeReferenceID("MedGen.reference", reference.GetID())
            node.SetAndObserveTransformNodeID(reference.GetTransformNodeID())
        self._told(_words(report, seconds))
        self._arrived()

    def _failed(self, sentence: str) -> None:
        self.job = None
        self._told(sentence)

    def cleanup(self) -> None:
        self.forget()
        self.remove_nodes()


def _content(node: Any) -> tuple[Any, ...]:
    """Changes whenever what a volume or a segmentation holds does: a stroke does not change the node itself."""
    if node.IsA("vtkMRMLVolumeNode"):
        held = [node.GetImageData()]
    else:
        layers = range(node.GetSegmentation().GetNumberOfLayers(correction.binary_name()))
        held = [node.GetSegmentation().GetLayerDataObject(i, correction.binary_name()) for i in layers]
    return (node.GetID(), node.GetMTime(), *(each.GetMTime() for each in held if each is not None))


def _words(report: dict[str, Any], seconds: float) -> str:
    known = report.get("encodings from the cache", 0)
    how = _("encoding from the cache, decoded only") if known else _("encoded and decoded")
    words = _("{seconds:.1f} s: {how}. P(diseased) {chance:.2f}. Round trip without guidance off by {error:.1f} %.")
    error = 100 * float(report.get("round-trip error without guidance", 0.0))
    return words.format(seconds=seconds, how=how, chance=float(report.get("P(diseased)", 0.0)), error=error)


def _sentence(error: Exception) -> str:
    if not isinstance(error, (MedGenError, OSError)):
        logging.exception("MedGen: a slice could not be redrawn", exc_info=error)
    return str(error)
