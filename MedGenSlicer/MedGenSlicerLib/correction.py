"""Correcting a segmentation by hand: the Segment Editor opens on it, afterwards the change is known and measured,
the result is never overwritten, and the corrected case can go into a training folder.

Whether a result was edited is told from its content: a checksum of the label image, taken when the result arrived
and kept on the node, so that it holds across saving, loading and edits made while no MedGen panel was open.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional

import numpy as np
import qt
import SimpleITK as sitk
import slicer
from vtk.util import numpy_support

from medgen.errors import BadInput
from MedGenSlicerLib import node_bridge, provenance, views
from MedGenSlicerLib.geometry import set_grid

BEFORE_ROLE = "MedGen.before"
CHECKSUM, VOLUMES, EDITED = "MedGen.checksum", "MedGen.volumes_ml", "MedGen.edited"
VOXELS_A_STEP = 1_000_000  # some 10 ms
QUIET_MS = 1000  # pause after a stroke before a segmentation is looked at


@dataclass
class Layer:
    """The one label image that all segments share. labels: {segment id: value}; voxels: axes k, j, i."""

    voxels: np.ndarray
    grid: np.ndarray
    labels: dict[str, int]

    @property
    def voxel_ml(self) -> float:
        return abs(float(np.linalg.det(self.grid[:3, :3]))) / 1000

    def slabs(self) -> Iterator[tuple[int, np.ndarray]]:
        thickness = max(1, VOXELS_A_STEP // max(1, self.voxels[0].size))
        for first in range(0, self.voxels.shape[0], thickness):
            yield first, self.voxels[first : first + thickness]


def binary_name() -> str:
    return slicer.vtkSegmentationConverter.GetSegmentationBinaryLabelmapRepresentationName()


def layer_of(node: Any) -> Optional[Layer]:
    """None if the segments do not share one label image (they overlap: somebody edited them), or there are none."""
    segmentation = node.GetSegmentation()
    if segmentation.GetNumberOfLayers(binary_name()) != 1:
        return None
    image = segmentation.GetLayerDataObject(0, binary_name())
    if image is None or image.GetPointData().GetScalars() is None or 0 in image.GetDimensions():
        return None
    columns, rows, slices = image.GetDimensions()
    voxels = numpy_support.vtk_to_numpy(image.GetPointData().GetScalars()).reshape(slices, rows, columns)
    labels = {i: segmentation.GetSegment(i).GetLabelValue() for i in segmentation.GetSegmentIDs()}
    return Layer(voxels, node_bridge.oriented_grid(image), labels)


class Measure:
    """Checksum and voxel counts of a segmentation, in steps: `yield from measure.steps()`, then read the fields.

    The checksum does not depend on the extent that is stored, nor on the label values, which saving may change.
    """

    def __init__(self, node: Any) -> None:
        self.layer = layer_of(node)
        self.checksum = "none"
        self.millilitres: dict[str, float] = {}

    def steps(self) -> Iterator[None]:
        if self.layer is None:
            return
        highest = max(self.layer.labels.values(), default=0)
        counts = np.zeros(highest + 1, np.int64)
        shape = self.layer.voxels.shape
        in_k, in_ji = np.zeros(shape[0], bool), np.zeros(shape[1:], bool)
        for first, slab in self.layer.slabs():
            counts += np.bincount(np.minimum(slab, highest).ravel(), minlength=highest + 1)[: highest + 1]
            filled = slab > 0
            in_ji |= filled.any(axis=0)
            in_k[first : first + len(slab)] = filled.any(axis=(1, 2))
            yield
        self.millilitres = {i: float(counts[v]) * self.layer.voxel_ml for i, v in self.layer.labels.items()}
        if in_k.any():
            yield from self._checksum_steps([np.flatnonzero(m) for m in (in_k, in_ji.any(axis=1), in_ji.any(axis=0))])
        else:
            self.checksum = "empty"

    def _checksum_steps(self, filled: list[np.ndarray]) -> Iterator[None]:
        assert self.layer is not None
        ks, js, is_ = filled
        order = {segment_id: n + 1 for n, segment_id in enumerate(sorted(self.layer.labels))}
        table = np.zeros(max(self.layer.labels.values()) + 1, np.uint16)
        for segment_id, value in self.layer.labels.items():
            table[value] = order[segment_id]
        corner = self.layer.grid @ [is_[0], js[0], ks[0], 1.0]
        total = zlib.crc32(json.dumps([sorted(order), [round(float(c), 2) + 0.0 for c in corner[:3]]]).encode())
        for first, slab in self.layer.slabs():
            low, high = max(ks[0] - first, 0), max(ks[-1] + 1 - first, 0)
            crop = slab[low:high, js[0] : js[-1] + 1, is_[0] : is_[-1] + 1]
            total = zlib.crc32(table[np.minimum(crop, len(table) - 1)].tobytes(), total)
            yield
        self.checksum = f"{total:08x}"


def remember(node: Any) -> Iterator[None]:
    """Writes checksum and volumes of a fresh result onto it."""
    measure = Measure(node)
    yield from measure.steps()
    node.SetAttribute(CHECKSUM, measure.checksum)
    node.SetAttribute(VOLUMES, json.dumps({k: round(v, 3) for k, v in measure.millilitres.items()}))
    node.SetAttribute(EDITED, "0")


def check(node: Any) -> Iterator[None]:
    """Finds out whether the result was edited since it arrived; `edited(node)` tells it afterwards."""
    measure = Measure(node)
    yield from measure.steps()
    if node.GetAttribute(CHECKSUM) is None:
        return
    changed = measure.checksum != node.GetAttribute(CHECKSUM)
    if changed != edited(node):
        node.SetAttribute(EDITED, "1" if changed else "0")
        for segment_id in node.GetSegmentation().GetSegmentIDs():
            kind = "SEMIAUTOMATIC" if changed else "AUTOMATIC"
            node.GetSegmentation().GetSegment(segment_id).SetTag("DICOM.SegmentAlgorithmType", kind)


class Watch:
    """Calls `changed` once somebody has edited one of the segmentations that it follows and paused for QUIET_MS."""

    def __init__(self, changed: Callable[[], None]) -> None:
        self._observed: dict[Any, list[int]] = {}
        self._timer = qt.QTimer()
        self._timer.setSingleShot(True)
        self._timer.setInterval(QUIET_MS)
        self._timer.timeout.connect(lambda *_a: changed())

    def follow(self, nodes: list[Any]) -> None:
        """These instead of those before. Not names, colours or surfaces but what changes the voxels counts."""
        wanted = {node.GetSegmentation() for node in nodes}
        for gone in set(self._observed) - wanted:
            for tag in self._observed.pop(gone):
                gone.RemoveObserver(tag)
        kind = slicer.vtkSegmentation
        events = (kind.SourceRepresentationModified, kind.SegmentAdded, kind.SegmentRemoved)
        for segmentation in wanted - set(self._observed):
            tags = [segmentation.AddObserver(event, lambda *_a: self._timer.start()) for event in events]
            self._observed[segmentation] = tags
        if not wanted:
            self._timer.stop()


def edited(node: Any) -> bool:
    return node.GetAttribute(EDITED) == "1"


def volumes_when_made(node: Any) -> dict[str, float]:
    """{segment id: ml} of the result as it arrived."""
    return dict(json.loads(node.GetAttribute(VOLUMES) or "{}"))


# ------------------------------------------------------------------------------------------------------------- editing


def open_editor(node: Any, source: Optional[Any] = None) -> None:
    """Keeps a hidden copy of the result as it is now (once), and opens the Segment Editor on it, over `source` or the
    image that the run was made on."""
    keep_before(node)
    views.own_layout()  # the editor puts one image into all views: a comparison would show it twice
    tag = "SegmentEditor"
    editor = slicer.mrmlScene.GetSingletonNode(tag, "vtkMRMLSegmentEditorNode")
    if editor is None:
        editor = slicer.mrmlScene.CreateNodeByClass("vtkMRMLSegmentEditorNode")
        editor.UnRegister(None)
        editor.SetSingletonTag(tag)
        editor = slicer.mrmlScene.AddNode(editor)
    editor.SetAndObserveSegmentationNode(node)
    reference = source or provenance.reference_of(node)
    if reference is not None and reference.IsA("vtkMRMLScalarVolumeNode"):
        editor.SetAndObserveSourceVolumeNode(reference)
    ids = node.GetSegmentation().GetSegmentIDs()
    if ids:
        editor.SetSelectedSegmentID(ids[0])
    node.SetDisplayVisibility(True)
    slicer.util.selectModule("SegmentEditor")


def keep_before(node: Any) -> None:
    """A hidden label map of the unedited result, saved with the scene; nothing if there is one or the result was
    edited."""
    layer = layer_of(node)
    if (
        layer is None
        or edited(node)
        or not provenance.made_by_medgen(node)
        or node.GetNodeReference(BEFORE_ROLE) is not None
    ):
        return
    before = slicer.mrmlScene.CreateNodeByClass("vtkMRMLLabelMapVolumeNode")
    before.UnRegister(None)
    before.SetName(f"{node.GetName()} before correction")
    before.SetHideFromEditors(True)
    image = sitk.GetImageFromArray(layer.voxels)
    set_grid(image, layer.grid)
    node_bridge.fill_volume(before, image)
    before.SetAttribute("MedGen.labels", json.dumps(layer.labels))
    slicer.mrmlScene.AddNode(before)
    before.SetAndObserveTransformNodeID(node.GetTransformNodeID())
    node.SetNodeReferenceID(BEFORE_ROLE, before.GetID())


@dataclass(frozen=True)
class Change:
    """What correction did to one segment. Before is None for a new segment or where no copy was kept."""

    name: str
    before_ml: Optional[float]
    after_ml: float
    dice: Optional[float]


def changes(node: Any) -> list[Change]:
    """One row a segment, in the segmentation's order."""
    segmentation = node.GetSegmentation()
    ids = list(segmentation.GetSegmentIDs())
    kept = node.GetNodeReference(BEFORE_ROLE)
    made = volumes_when_made(node)
    if kept is None or kept.GetImageData() is None:
        measure = Measure(node)
        for _step in measure.steps():
            pass
        after = {i: measure.millilitres.get(i) for i in ids}
        return [
            Change(
                segmentation.GetSegment(i).GetName(), made.get(i), ml if ml is not None else millilitres(node, i), None
            )
            for i, ml in after.items()
        ]
    labels = json.loads(kept.GetAttribute("MedGen.labels") or "{}")
    before = slicer.util.arrayFromVolume(kept)
    voxel_ml = abs(float(np.linalg.det(node_bridge.volume_grid(kept)[:3, :3]))) / 1000
    rows = []
    for segment_id in ids:
        now = sitk.GetArrayViewFromImage(node_bridge.label_image(node, kept, [segment_id])) > 0
        then = before == labels[segment_id] if segment_id in labels else None
        after_ml = float(np.count_nonzero(now)) * voxel_ml
        name = segmentation.GetSegment(segment_id).GetName()
        if then is None:
            rows.append(Change(name, None, after_ml, None))
            continue
        both, total = np.count_nonzero(now & then), np.count_nonzero(now) + np.count_nonzero(then)
        rows.append(Change(name, np.count_nonzero(then) * voxel_ml, after_ml, 2 * both / total if total else 1.0))
    return rows


def millilitres(node: Any, segment_id: str) -> float:
    """Of one segment, as it is now."""
    try:
        image = node_bridge.label_image(node, None, [segment_id])
    except BadInput:  # nothing in it
        return 0.0
    return float(np.count_nonzero(sitk.GetArrayViewFromImage(image))) * float(np.prod(image.GetSpacing())) / 1000


# ------------------------------------------------------------------------------------------------------------ training


def keep_as_training_case(node: Any, folder: Path) -> str:
    """Writes image and labels into a training folder (nnU-Net's raw layout):
    imagesTr/<case>_0000.nrrd, labelsTr/<case>.nrrd, dataset.json. Returns the case's name; raises BadInput."""
    reference = provenance.reference_of(node)
    if reference is None:
        raise BadInput("The image that this result was made from is no longer in the scene.")
    segmentation = node.GetSegmentation()
    names = {segmentation.GetSegment(i).GetName(): n + 1 for n, i in enumerate(segmentation.GetSegmentIDs())}
    description = folder / "dataset.json"
    known = json.loads(description.read_text("utf-8")) if description.is_file() else None
    if known and known.get("labels") != {"background": 0, **names}:
        raise BadInput("That folder holds cases with other structures; please choose another folder.")
    case = _free_name(folder, re.sub(r"[^A-Za-z0-9-]+", "-", reference.GetName()).strip("-") or "case")
    labels = node_bridge.label_image(node, reference)
    try:
        for part in ("imagesTr", "labelsTr"):
            (folder / part).mkdir(parents=True, exist_ok=True)
        sitk.WriteImage(node_bridge.volume_image(reference), str(folder / "imagesTr" / f"{case}_0000.nrrd"))
        sitk.WriteImage(sitk.Cast(labels, sitk.sitkUInt8), str(folder / "labelsTr" / f"{case}.nrrd"))
        count = len(list((folder / "labelsTr").glob("*.nrrd")))
        content = {
            "channel_names": {"0": "image"},
            "labels": {"background": 0, **names},
            "numTraining": count,
            "file_ending": ".nrrd",
        }
        description.write_text(json.dumps(content, indent=2) + "\n", "utf-8")
    except (OSError, RuntimeError) as error:
        raise BadInput(f"The case could not be written to '{folder}': {error}") from None
    return case


def _free_name(folder: Path, wanted: str) -> str:
    name, number = wanted, 1
    while (folder / "labelsTr" / f"{name}.nrrd").exists():
        number += 1
        name = f"{wanted}-{number}"
    return name
