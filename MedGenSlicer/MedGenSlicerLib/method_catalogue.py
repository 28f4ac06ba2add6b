"""The methods that this Slicer knows: MedGen's own, and those of packages in the folders that the user named."""

from __future__ import annotations

import os
import sys

from medgen import weights
from medgen.catalogue import find_method, load_catalogue
from medgen.spec import Image, MethodSpec
from MedGenSlicerLib import settings


def method_folders() -> list[str]:
    """Folders with further method packages; on sys.path once this was called."""
    folders = [folder for folder in settings.get("method_folders", "").split(os.pathsep) if folder]
    sys.path.extend(folder for folder in folders if folder not in sys.path)
    return folders


def of_families(families: tuple[str, ...], also: tuple[str, ...] = (), first: str = "") -> list[MethodSpec]:
    """In alphabetical order of their ids after the one that most users come for; those whose weights are missing last.
    A panel opens with the first. also: ids of methods of other families."""
    method_folders()
    found = [method for method in load_catalogue().values() if method.family in families or method.id in also]
    return sorted(found, key=lambda method: (not ready(method), method.id != first))


def for_files() -> list[MethodSpec]:
    """Every method but those for tests and for a panel's live view: what a batch on files can run. First those that
    take images and are ready."""
    method_folders()
    found = [method for method in load_catalogue().values() if method.family not in ("test", "preview")]
    return sorted(found, key=lambda method: not (ready(method) and any(isinstance(p, Image) for p in method.inputs)))


def ready(method: MethodSpec) -> bool:
    """Whether it needs no weights, or has them."""
    return not method.weights or has_weights(method.weights_id)


def has_weights(method_id: str) -> bool:
    return bool(weights.list_weights(method_id))


def find(method_id: str) -> MethodSpec:
    """Raises BadInput for an unknown id."""
    method_folders()
    return find_method(method_id)
