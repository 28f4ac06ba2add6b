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
