"""Latent codes of brains as table nodes, one row a brain: made by runs, drawn at random, loaded from files."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any, Optional

import slicer
from slicer.i18n import tr as _

from medgen.errors import BadInput
from MedGenSlicerLib import node_bridge, provenance

OUTPUT = "codes"  # what methods call the port
PICTURES = ("reconstruction", "brains", "mix")  # outputs that show what the code of the same run is the code of


def add_table(columns: dict[str, list[Any]], name: str) -> Any:
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTableNode", slicer.mrmlScene.GenerateUniqueName(name))
    node_bridge.fill_table(node, columns)
    node.SetUseColumnTitleAsColumnHeader(True)
    node.SetAttribute(provenance.PREFIX + "output", OUTPUT)
    return node


def tables(method: str) -> list[Any]:
    """Every table of codes in the scene that the methods called like this one take, the newest last: theirs, and those
    that were drawn or loaded."""
    found = slicer.util.getNodesByClass("vtkMRMLTableNode")
    codes = [node for node in found if node.GetAttribute(provenance.PREFIX + "output") == OUTPUT]
    return [node for node in codes if (node.GetAttribute(provenance.PREFIX + "method") or method).startswith(method)]


def names(node: Optional[Any]) -> list[str]:
    """What each row is called."""
    if node is None:
        return []
    table = node.GetTable()
    column = table.GetColumnByName("name")
    count = table.GetNumberOfRows()
    return [str(column.GetValue(row)) if column is not None else str(row + 1) for row in range(count)]


def image_of(code: Any) -> Optional[Any]:
    """The volume that the run which made the code made of it; None for a code that was loaded or drawn."""
    found = (of_run(code, "vtkMRMLScalarVolumeNode", output) for output in PICTURES)
    return next((node for node in found if node is not None), None)


def of_run(code: Any, node_class: str, output: str) -> Optional[Any]:
    """What the run that made the code gave beside it; None for a code that was loaded or drawn."""
    time = code.GetAttribute(provenance.PREFIX + "time")
    for node in slicer.util.getNodesByClass(node_class) if time else ():
        same_run = node.GetAttribute(provenance.PREFIX + "time") == time
        if same_run and node.GetAttribute(provenance.PREFIX + "output") == output:
            return node
    return None


def load(path: Path) -> Any:
    """A table of codes from a CSV or TSV file with a header, as 'Save...' writes it. Raises BadInput."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.reader(file, delimiter="\t" if path.suffix.lower() == ".tsv" else ","))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise BadInput(_("'{file}' cannot be read ({error}).").format(file=path.name, error=error)) from None
    header, *rows = rows or [[]]
    rows = [row for row in rows if row]
    if not rows or any(len(row) != len(header) for row in rows) or len(header) < 2:
        raise BadInput(_("'{file}' is no table of codes: a header and one row for each brain.").format(file=path.name))
    columns = {name: [_number(row[i]) for row in rows] for i, name in enumerate(header)}
    if not any(all(isinstance(value, float) for value in values) for values in columns.values()):
        raise BadInput(_("'{file}' is no table of codes: it holds no numbers.").format(file=path.name))
    return add_table(columns, path.stem)


def _number(text: str) -> Any:
    try:
        return float(text)
    except ValueError:
        return text
