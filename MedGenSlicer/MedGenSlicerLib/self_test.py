"""What the self test of every module does, in the application ('Reload and Test', ctest) and in Testing/gui alike."""

from __future__ import annotations

from typing import Any

import slicer

from MedGenSlicerLib import correction, jobs, provenance, sample_data


def run_on_sample(case: Any, logic: Any, method_id: str, port: str, parameters: dict[str, Any]) -> list[Any]:
    """Loads the sample head, runs the method on it, checks that the results are named, placed and traceable."""
    slicer.mrmlScene.Clear(False)
    volume = sample_data.load_head()
    case.delayDisplay("Loaded the sample head")
    if not jobs.set_up():
        case.delayDisplay("The compute environment is not set up: nothing was run")
        return []
    results = logic.run(method_id, {port: volume}, parameters)
    case.assertTrue(results)
    for node in results:
        case.assertTrue(provenance.made_by_medgen(node))
        case.assertIs(provenance.reference_of(node), volume)
        case.assertTrue(node.GetName().startswith(volume.GetName()))
    case.delayDisplay(f"Ran {method_id}: {len(results)} results")
    return results


def check_correction(case: Any, node: Any) -> None:
    """An untouched segmentation is not taken for edited, one that lost a segment is."""
    for _step in correction.check(node):
        pass
    case.assertFalse(correction.edited(node))
    node.GetSegmentation().RemoveSegment(node.GetSegmentation().GetNthSegmentID(0))
    for _step in correction.check(node):
        pass
    case.assertTrue(correction.edited(node))
