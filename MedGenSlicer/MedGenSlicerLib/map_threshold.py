"""A map cut at a threshold: what is seen follows the slider at once, a button makes the segment. Slicer's own work."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Optional

import numpy as np
import qt
import SimpleITK as sitk
import slicer
from slicer.i18n import tr as _

from medgen import spec
from MedGenSlicerLib import (
    correction,
    frames,
    method_catalogue,
    node_bridge,
    provenance,
    result_presenter,
    steps,
    widgets,
)
from MedGenSlicerLib.provenance import RunRecord

STEPS = 500  # of the slider
COLOUR = (240, 160, 30)
CHANCES = ("mean", "votes", "staple", "chance")  # outputs that are probabilities


class MapThreshold:
    """`maps`: the volumes that may be cut, the likeliest first; `made` is called with a new segmentation."""

    def __init__(self, layout: Any, maps: Callable[[], list[Any]], made: Callable[[Any], None]) -> None:
        self._maps, self._made = maps, made
        self._range: tuple[str, float, str] = ("", 0.0, "")  # node id, highest value, which frame
        self._stop: Any = None
        self.combo = qt.QComboBox()
        self.combo.setToolTip(_("The map that is cut."))
        self.combo.setSizePolicy(qt.QSizePolicy.Ignored, qt.QSizePolicy.Fixed)
        self.combo.currentIndexChanged.connect(lambda *_a: self.update())
        self.otsu = widgets.button(_("Otsu"), _("The threshold that parts the map's values best."), self.take_otsu)
        layout.addLayout(widgets.row(self.combo, self.otsu, stretch=0))
        self.slider = qt.QSlider(qt.Qt.Horizontal)
        self.slider.setRange(0, STEPS)
        self.slider.setToolTip(_("Only what exceeds this value is shown, and becomes the segment."))
        self.value = qt.QDoubleSpinBox()
        self.value.setDecimals(3)
        self.value.setSingleStep(0.01)
        self.value.setToolTip(_("The threshold, in units of the map."))
        self.slider.valueChanged.connect(lambda *_a: self._slid())
        self.value.valueChanged.connect(lambda *_a: self._typed())
        layout.addLayout(widgets.row(self.slider, self.value, stretch=0))
        self.volume = qt.QLabel()
        self.smallest = qt.QDoubleSpinBox()
        self.smallest.setRange(0, 100000)
        self.smallest.setDecimals(0)
        self.smallest.setSingleStep(10)
        self.smallest.setValue(50)
        self.smallest.setSuffix(" mm³")
        self.smallest.setToolTip(_("Smaller pieces are left out of the segment."))
        self.make = widgets.button(
            _("To segment"), _("Makes a segment of what exceeds the threshold, to be corrected by hand."), self.start
        )
        layout.addLayout(widgets.row(self.volume, qt.QLabel(_("Smallest")), self.smallest, self.make, stretch=0))

    # ---------------------------------------------------------------------------------------------------------- the map

    def node(self) -> Optional[Any]:
        return slicer.mrmlScene.GetNodeByID(widgets.combo_data(self.combo) or "none")

    def threshold(self) -> float:
        return float(self.value.property("value"))

    def update(self) -> None:
        """Cheap: called after every change."""
        items = [(node.GetName(), node.GetID()) for node in self._maps()]
        known = [(self.combo.itemText(i), self.combo.itemData(i)) for i in range(self.combo.property("count"))]
        if items != known:
            kept = widgets.combo_data(self.combo)
            widgets.set_combo(self.combo, items, kept if kept in [each[1] for each in items] else None)
        node = self.node()
        for each in (self.combo, self.otsu, self.slider, self.value, self.smallest, self.make):
            each.setEnabled(node is not None)
        if node is None:
            self.volume.setText("")
            self._range = ("", 0.0, "")
        elif node.GetImageData() is not None:
            chance = node.GetAttribute("MedGen.output") in CHANCES
            highest = 1.0 if chance else max(1e-3, node.GetImageData().GetScalarRange()[1])
            shown = (node.GetID(), highest, frames.place_words(node))
            if shown != self._range:
                fresh = node.GetID() != self._range[0]
                self._range = shown
                self.value.blockSignals(True)
                self.value.setRange(0.0, highest)
                self.value.blockSignals(False)
                if fresh:
                    self.value.setValue(0.5 if chance else _otsu(node))
                self._typed()

    def _slid(self) -> None:
        self.value.setValue(self.slider.property("value") / STEPS * self._range[1])

    def _typed(self) -> None:
        self.slider.blockSignals(True)
        self.slider.setValue(round(self.threshold() / max(1e-9, self._range[1]) * STEPS))
        self.slider.blockSignals(False)
        self.show()

    def show(self) -> None:
        """The map where it exceeds the threshold, in every view that shows it; how much that is."""
        node = self.node()
        if node is None or node.GetDisplayNode() is None or node.GetImageData() is None:
            return
        cut_display(node, self.threshold())
        spacing = node.GetSpacing()
        voxels = int((slicer.util.arrayFromVolume(node) > self.threshold()).sum())
        self.volume.setText(f"{voxels * spacing[0] * spacing[1] * spacing[2] / 1000:.1f} ml")

    def take_otsu(self) -> None:
        node = self.node()
        if node is not None:
            self.value.setValue(_otsu(node))

    # ------------------------------------------------------------------------------------------------------ the segment

    def start(self) -> None:
        node = self.node()
        if node is not None:
            made: list[Any] = []
            work = _segment_steps(node, self.threshold(), float(self.smallest.property("value")), made)
            self._stop = steps.run(work, lambda: made and self._made(made[0]))

    def cleanup(self) -> None:
        if self._stop is not None:
            self._stop()


def cut_display(node: Any, threshold: float) -> None:
    """In warm colours above the threshold, clear beneath it."""
    display = node.GetDisplayNode()
    highest = max(1e-3, node.GetImageData().GetScalarRange()[1])
    if not node.GetAttribute("MedGen.map_colours"):
        display.SetAndObserveColorNodeID("vtkMRMLColorTableNodeFileColdToHotRainbow.txt")
        if display.GetColorNode() is None:
            display.SetAndObserveColorNodeID("vtkMRMLColorTableNodeRainbow")
        node.SetAttribute("MedGen.map_colours", "1")
    display.SetAutoWindowLevel(False)
    display.SetWindowLevelMinMax(0.0, highest)
    display.SetThreshold(threshold, max(highest, threshold))
    display.SetApplyThreshold(True)


def _otsu(node: Any) -> float:
    """Of the values above 0 (Otsu, IEEE TSMC 9:62, 1979)."""
    values = slicer.util.arrayFromVolume(node)
    values = values[values > 0]
    if not values.size:
        return 0.0
    counts, edges = np.histogram(values, 256)
    middles = (edges[1:] + edges[:-1]) / 2
    below = np.cumsum(counts)[:-1]
    above = counts.sum() - below
    sums = np.cumsum(counts * middles)
    with np.errstate(divide="ignore", invalid="ignore"):
        between = below * above * (sums[:-1] / below - (sums[-1] - sums[:-1]) / above) ** 2
    return float(edges[1:-1][np.nan_to_num(between).argmax()])


def _segment_steps(node: Any, threshold: float, smallest_mm3: float, made: list[Any]) -> Iterator[None]:
    """A new segmentation beside the map, with its provenance; appended to `made`, unless the scene was closed."""
    image = yield from node_bridge.volume_steps(node)
    yield
    mask = sitk.Cast(image, sitk.sitkFloat32) > threshold
    yield
    voxels = max(1, round(smallest_mm3 / float(np.prod(image.GetSpacing()))))
    pieces = sitk.RelabelComponent(sitk.ConnectedComponent(mask), minimumObjectSize=voxels)
    yield
    if node.GetScene() is None:
        return
    record = RunRecord(node.GetAttribute("MedGen.method") or "", _("threshold by hand"))
    reference = provenance.reference_of(node)
    if reference is not None:
        record.reference_id = reference.GetID()
        record.names[record.reference_id] = reference.GetName()
    title = _("{map} above {value:.3g}").format(map=_title(node), value=threshold)
    port = spec.LabelMap(
        "threshold", title, labels=(spec.Label(1, _("Above the threshold"), COLOUR, _meaning(record)),)
    )
    result = yield from result_presenter.make_node_steps(port, sitk.Cast(pieces > 0, sitk.sitkUInt8), record)
    provenance.copy(node, result)
    result.SetAttribute(provenance.PREFIX + "output", "threshold")
    result.SetAttribute(provenance.PREFIX + "threshold", f"{threshold:.6g}")
    result.SetAttribute(provenance.PREFIX + "synthetic", "0")
    result.SetAndObserveTransformNodeID(node.GetTransformNodeID())
    yield from correction.remember(result)
    made.append(result)


def _meaning(record: RunRecord) -> Optional[spec.Terminology]:
    """What the method's own first segment means."""
    for port in method_catalogue.find(record.method_id).outputs:
        if isinstance(port, spec.LabelMap) and port.labels:
            return port.labels[0].terminology
    return None


def _title(node: Any) -> str:
    reference = provenance.reference_of(node)
    name = node.GetName()
    return name[len(reference.GetName()) :].strip() if reference and name.startswith(reference.GetName()) else name
