"""What a panel remembers, in a vtkMRMLScriptedModuleNode: it is saved with the scene and may exist several times.

Node inputs are node references (`input.<port>`), so that they survive renaming, saving and scene import. Values are
JSON
under `<method id>.<parameter>`; each is checked against the declaration when it is read, and the default taken if it no
longer fits.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Optional

import slicer

from medgen.errors import BadInput
from medgen.spec import MethodSpec

NODE_CLASS = "vtkMRMLScriptedModuleNode"
RESULT_ROLE = "result"


def parameter_sets(module_name: str) -> list[Any]:
    """The parameter nodes of a module, in the order of the scene."""
    return [n for n in slicer.util.getNodesByClass(NODE_CLASS) if n.GetAttribute("ModuleName") == module_name]


def add_parameter_set(module_name: str) -> Any:
    node = slicer.mrmlScene.CreateNodeByClass(NODE_CLASS)
    node.UnRegister(None)
    node.SetModuleName(module_name)
    node.SetAttribute("ModuleName", module_name)
    node.SetName(slicer.mrmlScene.GenerateUniqueName("Settings"))
    return slicer.mrmlScene.AddNode(node)


class PanelState:
    """The typed accessor. Every setter writes only what differs, so that a form that follows the node does not loop."""

    def __init__(self, node: Any) -> None:
        self.node = node

    def _set(self, key: str, text: str) -> None:
        if (self.node.GetParameter(key) or "") != text:
            self.node.SetParameter(key, text)

    @property
    def method_id(self) -> str:
        return self.node.GetParameter("method") or ""

    @method_id.setter
    def method_id(self, method_id: str) -> None:
        self._set("method", method_id)

    def untouched(self) -> bool:
        """Nothing was set or made yet; inputs that the panel chose by itself do not count."""
        return not self.results() and all(name == "method" for name in self.node.GetParameterNames())

    # ----------------------------------------------------------------------------------------------------- parameters

    def value(self, spec: MethodSpec, name: str) -> Any:
        parameter = spec.parameter(name)
        text = self.node.GetParameter(f"{spec.id}.{name}")
        if not text:
            return parameter.default
        try:
            return parameter.check(json.loads(text))
        except (BadInput, ValueError):  # from another version of the method
            return parameter.default

    def set_value(self, spec: MethodSpec, name: str, value: Any) -> None:
        value = spec.parameter(name).check(value)
        self._set(f"{spec.id}.{name}", "" if value == spec.parameter(name).default else json.dumps(value))

    def values(self, spec: MethodSpec) -> dict[str, Any]:
        return {p.name: self.value(spec, p.name) for p in spec.parameters}

    def reset(self, spec: MethodSpec) -> None:
        for parameter in spec.parameters:
            self._set(f"{spec.id}.{parameter.name}", "")

    def option(self, name: str, default: Any) -> Any:
        """A setting of the panel itself (seed, device, weights, ...) of the default's type."""
        text = self.node.GetParameter(f"option.{name}")
        try:
            return type(default)(json.loads(text)) if text else default
        except (TypeError, ValueError):
            return default

    def set_option(self, name: str, value: Any) -> None:
        self._set(f"option.{name}", json.dumps(value))

    # ---------------------------------------------------------------------------------------------------------- nodes

    def nodes(self, role: str) -> list[Any]:
        count = self.node.GetNumberOfNodeReferences(role)
        found = [self.node.GetNthNodeReference(role, index) for index in range(count)]
        return [node for node in found if node is not None]

    def input_nodes(self, port: str) -> list[Any]:
        return self.nodes(f"input.{port}")

    def input_node(self, port: str) -> Optional[Any]:
        found = self.input_nodes(port)
        return found[0] if found else None

    def set_input_nodes(self, port: str, nodes: Sequence[Any]) -> None:
        role, ids = f"input.{port}", [node.GetID() for node in nodes]
        if [node.GetID() for node in self.input_nodes(port)] == ids:
            return
        self.node.RemoveNodeReferenceIDs(role)
        for node_id in ids:
            self.node.AddNodeReferenceID(role, node_id)
        self.node.Modified()

    def segment_id(self, port: str) -> str:
        """Which segment fills a mask; empty: all of them."""
        return self.node.GetParameter(f"segment.{port}") or ""

    def set_segment_id(self, port: str, segment_id: str) -> None:
        self._set(f"segment.{port}", segment_id)

    def results(self) -> list[Any]:
        return self.nodes(RESULT_ROLE)

    def add_result(self, node: Any) -> None:
        self.node.AddNodeReferenceID(RESULT_ROLE, node.GetID())
