"""Slicer itself opens the .seg.nrrd that the command line writes: segments, names, colours, codes, place."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import SimpleITK as sitk

from medgen.io import write_segmentation
from medgen.spec import Code, Label, Terminology


def test_slicer_reads_the_segmentation_of_the_command_line(scene, tmp_path: Path) -> None:
    import slicer

    tissue = Terminology(Code("SCT", "85756007", "Tissue"), Code("SCT", "72167002", "Soft tissue"))
    soft, bone = Label(2, "Soft", (10, 200, 30), tissue), Label(5, "Bone", (241, 214, 145))
    values = np.zeros((6, 7, 8), np.uint8)
    values[1:3, 2:4, 3:5], values[4, 5, 6] = 2, 5
    image = sitk.GetImageFromArray(values)
    image.SetSpacing((1.0, 2.0, 3.0))
    image.SetOrigin((-20.0, 30.0, 40.0))
    write_segmentation(image, (Label(0, "Background", (0, 0, 0)), soft, bone), tmp_path / "result.seg.nrrd")

    node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode")
    storage = slicer.vtkMRMLSegmentationStorageNode()
    storage.SetScene(scene)
    storage.SetFileName(str(tmp_path / "result.seg.nrrd"))
    assert storage.ReadData(node)
    segmentation = node.GetSegmentation()
    segments = [segmentation.GetNthSegment(n) for n in range(segmentation.GetNumberOfSegments())]
    assert [segment.GetName() for segment in segments] == ["Soft", "Bone"]
    assert np.allclose(segments[0].GetColor(), np.array([10, 200, 30]) / 255, atol=1e-3)
    assert [segment.GetLabelValue() for segment in segments] == [2, 5]
    assert "SCT^72167002^Soft tissue" in tag_of(segments[0])
    centre = node.GetSegmentCenterRAS(segmentation.GetNthSegmentID(1))  # voxel 6, 5, 4 of the file, in LPS -14, 40, 52
    assert np.allclose(centre, (14.0, -40.0, 52.0))


def tag_of(segment) -> str:
    """The segment's terminology entry; vtkSegment's getter wants a reference to write into."""
    import vtk

    value = vtk.reference("")
    assert segment.GetTag(segment.GetTerminologyEntryTagName(), value)
    return str(value)
