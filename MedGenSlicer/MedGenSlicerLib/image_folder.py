"""The image files of a folder as one sequence: a set of images that need not share a grid."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import SimpleITK as sitk
import slicer
from slicer.i18n import tr as _

from medgen.errors import BadInput
from MedGenSlicerLib import node_bridge
from MedGenSlicerLib.node_bridge import Steps

ENDINGS = (".nii", ".nii.gz", ".nrrd", ".nhdr", ".mha", ".mhd", ".png", ".tif", ".tiff", ".jpg")


def read_steps(folder: Path, made: list[Any]) -> Steps:
    """Appends the sequence node to `made`; one file a step. Raises BadInput."""
    files = sorted(path for path in folder.iterdir() if path.name.lower().endswith(ENDINGS))
    if not files:
        raise BadInput(_("'{folder}' holds no image files.").format(folder=folder))
    sequence = slicer.vtkMRMLSequenceNode()
    sequence.SetName(folder.name)
    sequence.SetIndexName("image")
    sequence.SetIndexUnit("")
    for number, path in enumerate(files):
        try:
            image = sitk.ReadImage(str(path))
        except RuntimeError:
            raise BadInput(_("'{file}' cannot be read.").format(file=path)) from None
        yield
        if image.GetDimension() == 2:
            image = sitk.JoinSeries([image])
        node = slicer.vtkMRMLScalarVolumeNode()
        node.SetName(path.name)
        yield from node_bridge.fill_volume_steps(node, image)
        sequence.SetDataNodeAtValue(node, str(number))
    made.append(slicer.mrmlScene.AddNode(sequence))
