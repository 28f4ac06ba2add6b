"""The main job on a real image, without Slicer: segment the MNI152 T1 that nilearn ships, and draw the result."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path

import SimpleITK as sitk

from medgen import rendering
from medgen.catalogue import find_method
from medgen.errors import MedGenError
from medgen.running import Case, read_case, run_case
from medgen.spec import LabelMap
from medgen.worker.jobs import Event
from medgen.worker.local import LocalWorker

METHOD = "multiplanar_unet"
HIDDEN = {"Cerebrospinal fluid"}  # in 3D it would cover the brain
NOTE = "Made by a network trained on rendered images. Research only, not for diagnosis or treatment."


def mni152_file(kind: str) -> Path:
    """kind: 't1', 'gm' or 'wm'; 1 mm, brain only, ICBM 152 nonlinear symmetric 2009a. Raises MedGenError."""
    found = importlib.util.find_spec("nilearn")
    if found is None or found.origin is None:
        raise MedGenError("The package nilearn, which brings the demo's image, is missing; run ./medgen demo.")
    return Path(found.origin).parent / "datasets" / "data" / f"mni_icbm152_{kind}_tal_nlin_sym_09a_converted.nii.gz"


def run_demo(folder: Path, worker: LocalWorker, on_event: Callable[[Event], None]) -> dict[Path, str]:
    """Writes everything into `folder`; returns what each file is."""
    spec = find_method(METHOD)
    image_file = mni152_file("t1")
    request, _ = read_case(spec, Case({"image": image_file}))
    written = run_case(spec, request, folder, worker, on_event)
    labels = next(port.labels for port in spec.outputs if isinstance(port, LabelMap))  # the first is the whole head
    image, marks = sitk.ReadImage(str(image_file)), sitk.ReadImage(str(folder / "segmentation.nii.gz"))
    title = "MNI152 T1 (ICBM 2009a), labelled by " + spec.title
    known = {
        "segmentation.nii.gz": "label map, NIfTI",
        "segmentation.seg.nrrd": "segmentation, opens in 3D Slicer with names and colours",
        "uncertainty.nii.gz": "where the network is unsure, 0 to 1",
        "volumes.csv": "table of volumes, ml",
        "provenance.json": "method, weights, seed, device",
    }
    files = {path: known.get(path.name, "") for path in written}
    rendering.three_planes(image, marks, labels, folder / "planes.png", title, NOTE)
    files[folder / "planes.png"] = "three planes, without and with overlay"
    solid = [x for x in labels if x.name not in HIDDEN]
    if rendering.surface_view(marks, solid, folder / "surfaces.png", title, NOTE):
        files[folder / "surfaces.png"] = "3D view, whole and cut open"
    else:
        files[folder / "surfaces.png"] = "not made: this machine cannot draw 3D"
    return files
