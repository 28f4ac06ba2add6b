"""Finding the methods: the folders under medgen/methods, the entry points `medgen.methods` of other packages, and the
models that the user imported.

Standard library only and Python 3.9, since Slicer imports this file at start-up. Each `methods/<id>/spec.py` has a
tuple `SPECS` of MethodSpec; an entry point names an object that is such a tuple.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import pkgutil
from collections.abc import Callable
from typing import Any

import medgen.methods
from medgen.errors import BadInput
from medgen.imported import imported_specs
from medgen.spec import MethodSpec

ENTRY_POINT_GROUP = "medgen.methods"


def _own_specs() -> list[MethodSpec]:
    found: list[MethodSpec] = []
    for module in pkgutil.iter_modules(medgen.methods.__path__):
        if importlib.util.find_spec(f"medgen.methods.{module.name}.spec") is None:
            continue  # a folder that declares nothing yet
        found.extend(importlib.import_module(f"medgen.methods.{module.name}.spec").SPECS)
    return found


def _third_party_specs() -> list[MethodSpec]:
    points = importlib.metadata.entry_points()
    # Python 3.9 returns a dict of groups, 3.10 and later an object that selects
    group: Any = (
        points.select(group=ENTRY_POINT_GROUP) if hasattr(points, "select") else points.get(ENTRY_POINT_GROUP, ())
    )
    return [spec for point in group for spec in point.load()]


def load_catalogue() -> dict[str, MethodSpec]:
    """Every method by id, in alphabetical order. Raises BadInput when two packages claim one id."""
    catalogue: dict[str, MethodSpec] = {}
    for spec in sorted(_own_specs() + _third_party_specs() + imported_specs(), key=lambda s: s.id):
        if spec.id in catalogue:
            raise BadInput(f"Two installed packages both provide a method called '{spec.id}'.")
        catalogue[spec.id] = spec
    return catalogue


def find_method(method_id: str) -> MethodSpec:
    """Raises BadInput for an unknown id."""
    catalogue = load_catalogue()
    if method_id not in catalogue:
        raise BadInput(f"There is no method '{method_id}' (known: {', '.join(catalogue) or 'none'}).")
    return catalogue[method_id]


def load_run(spec: MethodSpec) -> Callable[..., dict[str, Any]]:
    """Imports what the method needs (torch and more): only the worker calls this."""
    module, function = spec.run.split(":")
    return getattr(importlib.import_module(module), function)
