"""Giving a segment of a synthetic CT or stopping-power map the density that it must have. The image stays as it is:
what is changed is a new volume beside it, which says so."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import SimpleITK as sitk
import slicer
import vtk
from slicer.i18n import tr as _
from vtk.util import numpy_support

from medgen import spec
from medgen.errors import BadInput, MedGenError
from MedGenSlicerLib import method_catalogue, node_bridge, provenance
from MedGenSlicerLib.node_bridge import Steps

OVERRIDES = "MedGen.overrides"
SOURCE_ROLE = "MedGen.overridden"
# id, value; what a planner usually enters
PRESETS = {
    "HU": (("air", -1000.0), ("soft", 40.0), ("bone", 700.0), ("metal", 3000.0)),
    "SPR": (("air", 0.001), ("soft", 1.03), ("bone", 1.4), ("metal", 3.2)),
}


def preset_titles() -> dict[str, str]:
    return {"air": _("Air"), "soft": _("Soft tissue"), "bone": _("Bone"), "metal": _("Metal (titanium)")}


def preset_for(name: str) -> str:
    """The preset that a segment's name speaks of, '' if none."""
    words = name.lower().replace("_", " ").split()
    known = {"air": "air", "gas": "air", "bone": "bone", "metal": "metal", "implant": "metal", "soft": "soft"}
    return next((known[word] for word in words if word in known), "")


def unit_of(node: Any) -> str:
    """'HU' or 'SPR'."""
    return node.GetAttribute("MedGen.unit") or "HU"


def is_density(node: Any) -> bool:
    """Whether the volume is a synthetic CT or SPR map, or made of one by hand: of a run's synthetic images in HU the
    first, no part of it as its high frequencies; not its uncertainty, which is told in HU too."""
    unit = node.GetAttribute("MedGen.unit")
    if not provenance.is_synthetic(node) or unit not in PRESETS:
        return False
    try:
        outputs = method_catalogue.find(node.GetAttribute("MedGen.method") or "").outputs
    except MedGenError:  # of a method that is not there any more
        return True
    made = [p.name for p in outputs if isinstance(p, spec.Image) and p.synthetic and p.unit == unit]
    return node.GetAttribute("MedGen.output") in made[:1]


def synthetic_volumes() -> list[Any]:
    """The synthetic CTs and SPR maps of the scene, in its order."""
    return [node for node in slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode") if is_density(node)]


def overrides(node: Any) -> list[dict[str, Any]]:
    """[{segment, value, unit, ml}] in the order in which they were set; empty for an image as the network made it."""
    return list(json.loads(node.GetAttribute(OVERRIDES) or "[]"))


def override_steps(volume: Any, segmentation: Any, segment_id: str, value: float) -> Steps:
    """A copy of the volume in which every voxel of the segment holds `value`. Raises BadInput where the segment is
    empty there, or the value cannot be held."""
    segment = segmentation.GetSegmentation().GetSegment(segment_id)
    if segment is None:
        raise BadInput(_("Choose the segment that is to get the value."))
    image = node_bridge.label_image(segmentation, volume, [segment_id])
    yield
    inside = sitk.GetArrayViewFromImage(image) > 0
    count = int(np.count_nonzero(inside))
    if count == 0:
        raise BadInput(_("The segment '{name}' is empty where the image is.").format(name=segment.GetName()))
    yield
    data = vtk.vtkImageData()
    data.DeepCopy(volume.GetImageData())
    yield
    scalars = data.GetPointData().GetScalars()
    voxels = numpy_support.vtk_to_numpy(scalars).reshape(inside.shape)
    voxels[inside] = _held(value, voxels.dtype)
    yield
    ml = count * abs(float(np.linalg.det(node_bridge.volume_grid(volume)[:3, :3]))) / 1000
    entry = {"segment": segment.GetName(), "value": value, "unit": unit_of(volume), "ml": round(ml, 3)}
    return _copy_of(volume, data, entry)


def _held(value: float, dtype: np.dtype) -> Any:
    if dtype.kind not in "iu":
        return value
    limits = np.iinfo(dtype)
    if not limits.min <= round(value) <= limits.max:
        raise BadInput(_("This image holds whole numbers from {a} to {b} only.").format(a=limits.min, b=limits.max))
    return round(value)


def _copy_of(volume: Any, data: Any, entry: dict[str, Any]) -> Any:
    """The new node beside its source: same grid, transform, display and provenance, and what was set by hand."""
    node = slicer.vtkMRMLScalarVolumeNode()
    words = f"{volume.GetName()}, {entry['segment']} = {entry['value']:g} {entry['unit']}"
    node.SetName(slicer.mrmlScene.GenerateUniqueName(words))
    matrix = vtk.vtkMatrix4x4()
    volume.GetIJKToRASMatrix(matrix)
    node.SetIJKToRASMatrix(matrix)
    node.SetAndObserveImageData(data)
    slicer.mrmlScene.AddNode(node)
    node.SetAndObserveTransformNodeID(volume.GetTransformNodeID())
    node.CreateDefaultDisplayNodes()
    display, shown = node.GetDisplayNode(), volume.GetDisplayNode()
    if shown is not None:
        display.SetAutoWindowLevel(False)
        display.SetWindowLevel(shown.GetWindow(), shown.GetLevel())
        display.SetAndObserveColorNodeID(shown.GetColorNodeID())
    provenance.copy(volume, node)
    node.SetAttribute(OVERRIDES, json.dumps([*overrides(volume), entry]))
    node.SetNodeReferenceID(SOURCE_ROLE, volume.GetID())
    hierarchy = slicer.mrmlScene.GetSubjectHierarchyNode()
    beside, item = (hierarchy.GetItemByDataNode(n) if hierarchy is not None else 0 for n in (volume, node))
    if beside and item:
        hierarchy.SetItemParent(item, hierarchy.GetItemParent(beside))
    return node


def source_of(node: Any) -> Any:
    """The volume that an override was made from; None for one that a network made."""
    return node.GetNodeReference(SOURCE_ROLE)
