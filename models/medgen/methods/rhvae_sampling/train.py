"""Training apart from a run, for cohorts that take long: `medgen train rhvae_sampling --data DIR -o DIR`.

The data folder holds the images (NIfTI, NRRD, MHA or PNG, aligned, one a patient) and, if there are classes, labels.csv
with a row an image in the order of the files' names and a column 'label'. What comes out, model.bin, is the input
`model` of a run on the same folder. A class that is finished is not trained again.
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import SimpleITK as sitk

from medgen.method import Progress, SilentProgress
from medgen.methods.rhvae_sampling.cohort import classes_of, read_cohort
from medgen.methods.rhvae_sampling.infer import settings_of
from medgen.methods.rhvae_sampling.learning import Fitted, fit
from medgen.methods.rhvae_sampling.saving import from_bytes, to_bytes
from medgen.methods.rhvae_sampling.spec import RHVAE_SAMPLING
from medgen.training.export import chosen_config

MODEL = "model.bin"
LABELS = "labels.csv"
SUFFIXES = (".nii", ".nii.gz", ".nrrd", ".mha", ".png")
CONFIGS: dict[str, dict[str, Any]] = {
    "smoke": {"epochs": 3, "latent": 2, "size": 16},
    "small": {},
    "paper": {"epochs": 4000},
}


def train(
    data: Path, out: Path, config: str = "small", seed: int = 0, device: str = "cpu", progress: Progress | None = None
) -> Path:
    """Returns the model's file. Raises BadInput for an unknown configuration or a folder that cannot be learnt from."""
    bar = progress or SilentProgress()
    parameters = RHVAE_SAMPLING.check_parameters(chosen_config(CONFIGS, config))
    files = sorted(path for path in data.iterdir() if path.name.lower().endswith(SUFFIXES))
    cohort = read_cohort([sitk.ReadImage(str(path)) for path in files], None, parameters)
    table = _table(data / LABELS)
    labels, _names = classes_of(table, parameters["class_column"], len(files))
    out.mkdir(parents=True, exist_ok=True)
    path = out / MODEL
    models: dict[str, Fitted] = from_bytes(path.read_bytes(), device) if path.is_file() else {}
    wanted = sorted(set(labels))
    for number, label in enumerate(wanted):
        if label in models:
            bar.log(f"Class {label} is trained already.")
            continue

        def report(share: float, loss: float, number: int = number, label: str = label) -> None:
            bar.raise_if_cancelled()
            bar.report(f"Learning class {label}", (number + share) / len(wanted), f"loss {loss:.4g}")

        own = [n for n, found in enumerate(labels) if found == label]
        models[label] = fit(cohort.values[own], settings_of(parameters), seed, device, report)
        partial = path.with_suffix(".partial")
        partial.write_bytes(to_bytes(models))
        partial.replace(path)
    return path


def _table(path: Path) -> dict[str, list[Any]] | None:
    if not path.is_file():
        return None
    with path.open(newline="", encoding="utf-8-sig") as stream:
        rows = list(csv.DictReader(stream))
    return {name: [row[name] for row in rows] for name in rows[0]} if rows else None
