"""A method for one volume, run on every frame of a sequence: one job a frame, the results gathered into sequences
that play in the same browser as the input."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Optional

import slicer

from MedGenSlicerLib import provenance


def browser_of(node: Any) -> Optional[Any]:
    """The sequence browser that shows its frames through this node; None for an ordinary node."""
    for browser in slicer.util.getNodesByClass("vtkMRMLSequenceBrowserNode"):
        if browser.GetSequenceNode(node) is not None:
            return browser
    return None


def sequence_of(node: Any) -> Optional[Any]:
    """The sequence whose current frame the node shows; None for an ordinary node."""
    browser = browser_of(node)
    return browser.GetSequenceNode(node) if browser is not None else None


def shown_node(node: Any) -> Any:
    """The volume that shows the current frame of a sequence node, if a browser plays it; else the node itself."""
    if node is not None and node.IsA("vtkMRMLSequenceNode"):
        for browser in slicer.util.getNodesByClass("vtkMRMLSequenceBrowserNode"):
            if browser.IsSynchronizedSequenceNode(node, True) and browser.GetProxyNode(node) is not None:
                return browser.GetProxyNode(node)
    return node


def browser_to_join(reference: Optional[Any], value: Any) -> Optional[Any]:
    """The browser of the input, where the result has a frame for each of its own."""
    count = len(value) if isinstance(value, (list, tuple)) else 0
    if reference is None or count < 2 or frame_count(reference) != count:
        return None
    return browser_of(reference)


def frame_count(node: Any) -> int:
    """0 for a node that is no frame of a sequence."""
    browser = browser_of(node)
    return browser.GetSequenceNode(node).GetNumberOfDataNodes() if browser is not None else 0


def place_words(node: Any) -> str:
    """Which frame the node shows ('lesion size 10 %'); empty for a node that is no frame of a sequence."""
    browser = browser_of(node)
    if browser is None or browser.GetSelectedItemNumber() < 0:
        return ""
    sequence = browser.GetSequenceNode(node)
    place = sequence.GetNthIndexValue(browser.GetSelectedItemNumber())
    return f"{sequence.GetIndexName()} {place} {sequence.GetIndexUnit() or ''}".strip()


def image_count(node: Any) -> int:
    """How many images of a set the node gives: the frames of a sequence, or one."""
    if node.IsA("vtkMRMLSequenceNode"):
        return node.GetNumberOfDataNodes()
    return frame_count(node) or 1


@dataclass
class FrameRun:
    """All jobs of one press of Apply. `port`: the input that takes another frame in every job."""

    port: str
    browser_id: str
    sequence_id: str
    waiting: int
    sequence_ids: dict[str, str] = field(default_factory=dict)  # output port: sequence node

    def frame(self, index: int) -> Optional[Any]:
        sequence = slicer.mrmlScene.GetNodeByID(self.sequence_id)
        return sequence.GetNthDataNode(index) if sequence is not None else None

    def keep(self, index: int, made: list[Any]) -> None:
        """Moves what one frame's job made from the scene into the sequences."""
        source = slicer.mrmlScene.GetNodeByID(self.sequence_id)
        for node in made:
            port = node.GetAttribute(provenance.PREFIX + "output")
            sequence = slicer.mrmlScene.GetNodeByID(self.sequence_ids.get(port, "none"))
            if sequence is None:
                sequence = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSequenceNode", node.GetName() + " frames")
                provenance.copy(node, sequence)
                self.sequence_ids[port] = sequence.GetID()
                if source is not None:
                    sequence.SetIndexName(source.GetIndexName())
                    sequence.SetIndexUnit(source.GetIndexUnit())
            value = source.GetNthIndexValue(index) if source is not None else str(index)
            sequence.SetDataNodeAtValue(node, value)
            slicer.mrmlScene.RemoveNode(node)

    def finish(self) -> list[Any]:
        """Joins the sequences to the input's browser; returns the nodes that show their frames."""
        browser = slicer.mrmlScene.GetNodeByID(self.browser_id)
        shown = []
        for sequence_id in self.sequence_ids.values():
            sequence = slicer.mrmlScene.GetNodeByID(sequence_id)
            if browser is None or sequence is None:
                continue
            browser.AddSynchronizedSequenceNodeID(sequence_id)
            proxy = browser.GetProxyNode(sequence)
            if proxy is not None:
                provenance.copy(sequence, proxy)
                shown.append(proxy)
        return shown


def frame_run(port: str, node: Any) -> Optional[FrameRun]:
    browser = browser_of(node)
    if browser is None:
        return None
    sequence = browser.GetSequenceNode(node)
    return FrameRun(port, browser.GetID(), sequence.GetID(), sequence.GetNumberOfDataNodes())
