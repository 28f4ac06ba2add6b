"""What the MedGen modules share inside Slicer: panels made from a method's declaration, the bridge between MRML
nodes and SimpleITK images, the jobs in the background process, and how their results come into the scene.

Importing this package makes `medgen` (models/ of the source checkout, or the copy packaged beside this folder)
importable.
"""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent


def engine_folder() -> Path:
    """The folder that holds `models/` and `Resources/`: the checkout, or MedGenEngine of an installed extension."""
    for folder in (HERE.parent.parent, HERE.parent / "MedGenEngine"):
        if (folder / "models" / "medgen" / "spec.py").is_file():
            return folder
    raise ImportError("The MedGen extension is incomplete: its 'medgen' package is missing. Please install it again.")


def find_medgen() -> None:
    folder = str(engine_folder() / "models")
    if folder not in sys.path:
        sys.path.append(folder)


find_medgen()
