"""What is written on every node that MedGen made, as `MedGen.*` attributes, and how to read it back."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, Optional

import slicer

from medgen.errors import MedGenError
from MedGenSlicerLib import method_catalogue

PREFIX = "MedGen."
INPUT_ROLE = "MedGen.input."
PLAIN = ("method", "method_version", "medgen_version", "torch_version", "weights", "weights_sha256", "device", "seed")


@dataclass
class RunRecord:
    """One run as the scene sees it. inputs: {port: [node ids]}; reference_id: the image that gives frame, study and
    name."""

    method_id: str
    method_title: str
    inputs: dict[str, list[str]] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)  # node id: name when the run began
    dicom_uids: dict[str, str] = field(default_factory=dict)  # node id: DICOM.instanceUIDs
    reference_id: str = ""
    parent_transform_id: str = ""

    @property
    def reference_name(self) -> str:
        return self.names.get(self.reference_id, self.method_title)

    def reference(self) -> Optional[Any]:
        return slicer.mrmlScene.GetNodeByID(self.reference_id) if self.reference_id else None


def record_inputs(record: RunRecord, inputs: dict[str, list[Any]]) -> None:
    for port, nodes in inputs.items():
        record.inputs[port] = [node.GetID() for node in nodes]
        for node in nodes:
            record.names[node.GetID()] = node.GetName()
            uids = node.GetAttribute("DICOM.instanceUIDs")
            if uids:
                record.dicom_uids[node.GetID()] = uids


def write(node: Any, record: RunRecord, provenance: dict[str, Any], port: str, synthetic: bool) -> None:
    for key in PLAIN:
        node.SetAttribute(PREFIX + key, str(provenance.get(key) if provenance.get(key) is not None else ""))
    node.SetAttribute(PREFIX + "parameters", json.dumps(provenance.get("parameters", {}), sort_keys=True, default=str))
    node.SetAttribute(PREFIX + "time", str(provenance.get("started_utc", "")))
    node.SetAttribute(PREFIX + "seconds", f"{float(provenance.get('seconds', 0)):.1f}")
    node.SetAttribute(PREFIX + "notices", json.dumps(provenance.get("notices", [])))
    node.SetAttribute(PREFIX + "output", port)
    node.SetAttribute(PREFIX + "synthetic", "1" if synthetic else "0")
    node.SetAttribute(PREFIX + "inputs", json.dumps(record.inputs))
    node.SetAttribute(PREFIX + "input_names", json.dumps(record.names))
    node.SetAttribute(PREFIX + "input_dicom_uids", json.dumps(record.dicom_uids))
    for name, ids in record.inputs.items():
        for node_id in ids:
            if slicer.mrmlScene.GetNodeByID(node_id) is not None:
                node.AddNodeReferenceID(INPUT_ROLE + name, node_id)
    if record.reference() is not None:
        node.SetNodeReferenceID("MedGen.reference", record.reference_id)


def copy(source: Any, target: Any) -> None:
    """Every MedGen.* attribute, and the reference, from one node to another."""
    for name in source.GetAttributeNames():
        if name.startswith(PREFIX):
            target.SetAttribute(name, source.GetAttribute(name))
    target.SetNodeReferenceID("MedGen.reference", source.GetNodeReferenceID("MedGen.reference"))


def reference_of(node: Any) -> Optional[Any]:
    """The image that the run was made on; None once it is gone."""
    return node.GetNodeReference("MedGen.reference")


def made_by_medgen(node: Any) -> bool:
    return bool(node.GetAttribute(PREFIX + "method"))


def is_synthetic(node: Any) -> bool:
    return node.GetAttribute(PREFIX + "synthetic") == "1"


def of_synthetic_image(node: Any) -> bool:
    """Whether a result that is no image belongs to one that a network made, as contours of a synthetic CT do: the first
    thing that the method makes is synthetic."""
    try:
        outputs = method_catalogue.find(node.GetAttribute(PREFIX + "method") or "").outputs
    except MedGenError:  # MedGen did not make it
        return False
    return bool(getattr(outputs[0], "synthetic", False))


def notices(node: Any) -> list[str]:
    return list(json.loads(node.GetAttribute(PREFIX + "notices") or "[]"))


def description(node: Any) -> str:
    """A few lines for a tooltip."""
    wanted = (("method", "Method"), ("weights", "Weights"), ("device", "Device"), ("seed", "Seed"), ("time", "Made"))
    lines = [f"{title}: {node.GetAttribute(PREFIX + key)}" for key, title in wanted if node.GetAttribute(PREFIX + key)]
    return "\n".join([node.GetName(), *lines])
