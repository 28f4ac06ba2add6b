"""Sample images for tutorials and self tests: the core's, and an analytic head that this extension ships."""

from __future__ import annotations

from typing import Any

import slicer
from slicer.i18n import tr as _

from MedGenSlicerLib import engine_folder

CATEGORY = "MedGen"
HEAD = "MedGenHead"
FOLDER = engine_folder() / "Resources" / "SampleData"


def register() -> None:
    """Called once the application has started: adds our samples to the Sample Data module."""
    import SampleData

    logic = SampleData.SampleDataLogic
    if any(source.sampleName == HEAD for source in getattr(slicer.modules, "sampleDataSources", {}).get(CATEGORY, [])):
        return
    logic.registerCustomSampleDataSource(
        category=CATEGORY,
        sampleName=HEAD,
        uris=[(FOLDER / f"{HEAD}.nrrd").as_uri()],  # the module wants as many addresses as nodes
        fileNames=[f"{HEAD}.nrrd"],
        nodeNames=["MedGen head T1"],
        customDownloader=lambda _source: [load_head()],
        thumbnailFileName=str(FOLDER / "MedGenHead.png"),
    )


def load_head() -> Any:
    """A drawn T1 of a head, 2 mm voxels; needs no network."""
    node = slicer.util.loadVolume(str(FOLDER / "MedGenHead.nrrd"), {"show": False})
    node.SetName(slicer.mrmlScene.GenerateUniqueName(_("MedGen head T1")))
    return node


def draw_ultrasound(size: int = 160) -> Any:
    """A drawn B-mode frame: speckle in layers, a dark vessel, a calliper; for self tests."""
    import numpy as np

    rng = np.random.default_rng(0)
    row, column = np.mgrid[:size, :size] / size
    brightness = 0.25 + 0.15 * np.sin(9 * row + column) + 0.5 * np.exp(-(((row - 0.5) / 0.02) ** 2))
    brightness[(row - 0.7) ** 2 + (column - 0.4) ** 2 < 0.01] = 0.04
    frame = np.clip(140 * brightness * rng.rayleigh(0.8, row.shape), 4, 255)
    frame[40:49, 60] = frame[44, 56:65] = 255
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", _("MedGen ultrasound"))
    slicer.util.updateVolumeFromArray(node, frame.astype(np.uint8)[None])
    node.SetSpacing(0.25, 0.25, 1.0)
    node.CreateDefaultDisplayNodes()
    return node
