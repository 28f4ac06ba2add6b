"""Which node most likely fills an input, and what can be said of an image before a run."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Optional

import slicer
from vtk.util import numpy_support

from medgen import spec
from medgen.spec import ImageFacts
from MedGenSlicerLib import frames, node_bridge, provenance

WORDS = {  # what names of series say about their kind
    "CT": {"ct", "cta", "cbct", "hu", "chest", "abdomen"},
    "MR": {"mr", "mri", "t1", "t2", "flair", "pd", "dixon", "mrhead", "brain", "adc", "dwi"},
    "T1": {"t1", "mprage", "spgr", "mrhead", "t1w"},
    "T2": {"t2", "t2w"},
    "FLAIR": {"flair"},
    "US": {"us", "ultrasound", "echo", "doppler"},
}
COMMON = {"a", "and", "for", "image", "in", "of", "or", "the", "with"}  # words that tell no input from another
SUPPRESSED = re.compile(r"[a-z]+[^a-z0-9]*(suppress|sat\b|saturat)[a-z]*")  # 'fat-suppressed' is no image of fat
# an agent was given, whatever the name calls it; 'T1 without contrast' is none of these
CONTRAST = {"ce", "contrast", "gad", "gado", "gadolinium", "gd", "postcontrast", "t1c", "t1ce", "t1gd"}
UNENHANCED = re.compile(r"(without|w/o|no|non|pre)[^a-z0-9]*(contrast|gadolinium|gado|gad|gd|ce)\b")
_facts: dict[str, tuple[int, ImageFacts]] = {}  # node id: (time of change, facts)


def dicom_modality(node: Any) -> str:
    """'MR', 'CT', 'US', ... of a node that came from DICOM, else ''."""
    hierarchy = slicer.mrmlScene.GetSubjectHierarchyNode()
    item = hierarchy.GetItemByDataNode(node) if hierarchy is not None else 0
    return (hierarchy.GetItemAttribute(item, "DICOM.Modality") or "") if item else ""


def facts(node: Any) -> Optional[ImageFacts]:
    """None for a node without voxels (or without numbers, as a colour image)."""
    image = node.GetImageData() if hasattr(node, "GetImageData") else None
    scalars = image.GetPointData().GetScalars() if image is not None else None
    if scalars is None or scalars.GetNumberOfComponents() != 1 or scalars.GetNumberOfTuples() == 0:
        return None
    changed = max(image.GetMTime(), scalars.GetMTime())
    known = _facts.get(node.GetID())
    if known is None or known[0] != changed:
        columns, rows, slices = image.GetDimensions()
        array = numpy_support.vtk_to_numpy(scalars).reshape(slices, rows, columns)
        known = (changed, ImageFacts.of_array(array, node.GetSpacing(), dicom_modality(node)))
        _facts[node.GetID()] = known
    return known[1]


def forget_facts() -> None:
    _facts.clear()


def candidates(port: spec.Port) -> list[Any]:
    """The nodes of the scene that can fill the port, in the order of the scene."""
    classes = node_bridge.node_classes(port)
    found = [n for cls in classes for n in slicer.util.getNodesByClass(cls)]
    # a sequence that a browser plays is met as the volume that shows its frames
    exact = [n for n in found if not n.GetHideFromEditors() and frames.shown_node(n) is n]
    if isinstance(port, (spec.Image, spec.Probability)):  # label maps and colour images are scalar volumes to MRML
        exact = [n for n in exact if n.GetClassName() in classes]
    return exact


def likeliest(port: spec.Port, taken: list[Any], inputs: Sequence[spec.Port]) -> Optional[Any]:
    """The best candidate for one of a method's `inputs` by DICOM modality, words of the name and intensities; None if
    nothing speaks for any.

    A required image takes the newest volume that nothing speaks against. An image that may be left out takes only a
    volume that is named for it: another series, or another patient's, would change the result unseen. Results of MedGen
    come last, and never become such an image.
    """
    offered = [node for node in candidates(port) if node not in taken]
    if isinstance(port, spec.Image) and not port.required:
        offered = [
            node for node in offered if named_for(port, node, inputs) > 0 and not provenance.made_by_medgen(node)
        ]
    scored = [(score(port, node, inputs), index, node) for index, node in enumerate(offered)]
    if not scored:
        return None
    best, _index, node = max(scored, key=lambda s: (s[0], s[1]))
    threshold = 0.0 if port.required and isinstance(port, spec.Image) else 0.5
    return node if best >= threshold else None


def _words(text: str) -> set[str]:
    return set(re.findall(r"[a-z0-9]+", text.lower()))


def own_words(port: spec.Port, inputs: Sequence[spec.Port]) -> set[str]:
    """Of the port's name, and of its title those that no other input has: 'Dixon' does not tell water from fat."""
    others = [_words(f"{other.name} {other.title}") for other in inputs if other is not port]
    return (_words(port.name) | _words(port.title).difference(*others)) - COMMON


def named_for(port: spec.Port, node: Any, inputs: Sequence[spec.Port]) -> float:
    """How many of the port's own words stand in the node's name; less where other inputs' words do, too, but above 0
    as soon as there is one. 0 where another input's whole name says more of it: 'T1 with contrast' is no plain T1."""
    words = _words(UNENHANCED.sub("", SUPPRESSED.sub("", node.GetName().lower())))
    if words & CONTRAST:
        words |= {"contrast", "t1c"} if words & {*WORDS["T1"], "t1ce", "t1gd"} else {"contrast"}
    own = len(words & own_words(port, inputs))
    told = [len(words & (_words(f"{each.name} {each.title}") - COMMON)) for each in (port, *inputs)]
    if told[0] < max(told):
        return 0.0
    foreign = any(words & own_words(other, inputs) for other in inputs if other is not port)
    return own - 0.25 * (foreign and own > 0)


def score(port: spec.Port, node: Any, inputs: Sequence[spec.Port]) -> float:
    words = _words(node.GetName())
    total = named_for(port, node, inputs)
    if provenance.made_by_medgen(node) or provenance.is_synthetic(node):
        total -= 1.5
    if not isinstance(port, spec.Image) or port.modality == "any":
        return total + (0.1 if isinstance(port, spec.Image) else 0.0)
    wanted = port.modality.upper()
    elsewhere = WORDS["CT"] | WORDS["MR"] if wanted == "US" else WORDS["US"]
    if words & WORDS.get(wanted, {wanted.lower()}):
        total += 1.0
    elif words & elsewhere:
        total -= 2.0
    kind = dicom_modality(node).upper()
    general = "MR" if wanted in ("T1", "T2", "FLAIR", "PD") else wanted
    if kind:
        total += 2.0 if kind == general else -3.0
    elif general in ("CT", "MR"):
        known = facts(node)
        looks_like_ct = known is not None and known.minimum < -500
        total += 0.5 if looks_like_ct == (general == "CT") else -2.0
    return total
