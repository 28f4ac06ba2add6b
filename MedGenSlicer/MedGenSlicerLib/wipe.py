"""A picture that is one volume left of an edge and another right of it: slice views have no wipe of their own."""

from __future__ import annotations

from typing import Any, Optional

import numpy as np
import slicer
import vtk
from slicer.i18n import tr as _
from vtk.util import numpy_support

from MedGenSlicerLib import provenance, views

REC_601 = np.array((0.299, 0.587, 0.114))  # luminance of red, green, blue


class Wipe:
    """Keeps one helper volume in the scene while it is used."""

    def __init__(self) -> None:
        self._node_id = ""
        self._after_id = ""

    def node(self) -> Optional[Any]:
        return slicer.mrmlScene.GetNodeByID(self._node_id) if self._node_id else None

    def show(self, before: Any, after: Any, share: float) -> Any:
        """The helper volume: `before` in the left share (0 to 1) of the columns, `after` in the rest. The two have one
        grid."""
        node = self.node()
        if node is None:
            node = slicer.vtkMRMLScalarVolumeNode()
            node.SetName(_("Wipe"))
            node.SetHideFromEditors(True)
            node.SetSaveWithScene(False)
            slicer.mrmlScene.AddNode(node)
            node.CreateDefaultDisplayNodes()
            self._node_id = node.GetID()
        mixed = grey(after).astype(np.float32)
        edge = round(share * mixed.shape[2])
        first = grey(before)
        mixed[:, :, :edge] = first[: mixed.shape[0], :, :edge]
        slicer.util.updateVolumeFromArray(node, mixed)
        matrix = vtk.vtkMatrix4x4()
        after.GetIJKToRASMatrix(matrix)
        node.SetIJKToRASMatrix(matrix)
        node.SetAndObserveTransformNodeID(after.GetTransformNodeID())
        provenance.copy(after, node)  # the views say that it is synthetic
        self._after_id = after.GetID()
        return node

    def end(self) -> None:
        """Takes the helper away; the views show the result again."""
        node, after = self.node(), slicer.mrmlScene.GetNodeByID(self._after_id or "none")
        if node is None:
            return
        if after is not None:
            views.replace(node, after)
        slicer.mrmlScene.RemoveNode(node)
        self._node_id = ""


def grey(volume: Any) -> np.ndarray:
    """Voxels [k, j, i], colour as luminance."""
    image = volume.GetImageData()
    columns, rows, slices = image.GetDimensions()
    scalars = image.GetPointData().GetScalars()
    values = numpy_support.vtk_to_numpy(scalars).reshape(slices, rows, columns, scalars.GetNumberOfComponents())
    return values[..., :3] @ REC_601 if values.shape[-1] >= 3 else values[..., 0]
