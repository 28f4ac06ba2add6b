"""Generated pictures with their labels as a training set: what `medgen batch` made of labelled frames, as pairs.

OUT/images/CASE_001.png   OUT/labels/CASE_001.png   OUT/dicom/CASE_001.dcm, CASE_001_seg.dcm   OUT/manifest.csv
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from medgen.errors import BadInput
from medgen.imaging.ultrasound import full_scale
from medgen.spec import Code, Label, Terminology

MANIFEST = "manifest.csv"
COLUMNS = ("case", "sample", "image", "labels", "dicom", "dicom_seg", "left_out", "edge_correlation", "source",
           "method", "weights_sha256", "seed", "parameters", "synthetic")  # fmt: skip
TISSUE = Terminology(Code("SCT", "85756007", "Tissue"), Code("SCT", "85756007", "Tissue"))
COLOURS = ((230, 159, 0), (86, 180, 233), (0, 158, 115), (213, 94, 0), (120, 94, 240), (240, 228, 66))


@dataclass(frozen=True)
class Pair:
    """picture: uint8 [h, w]; labels: integers [h, w]; checks: this sample's row of the method's table."""

    case: str
    sample: int
    picture: np.ndarray
    labels: np.ndarray
    checks: dict[str, str]
    provenance: dict[str, Any]


def write_training_set(batch: Path, out: Path, sources: Path | None = None) -> Path:
    """Returns the manifest. A sample whose edges moved is named there but not written: its labels no longer fit.

    batch: the output folder of `medgen batch`; sources: the table that it was run on: a case whose picture there is
    DICOM gives derived DICOM and SEG too. Raises BadInput where there is no picture with labels.
    """
    folders = sorted(path for path in batch.iterdir() if (path / "provenance.json").is_file()) if batch.is_dir() else []
    found = _source_files(sources) if sources is not None else {}
    rows = [row for folder in folders for row in _case(folder, out, found.get(folder.name))]
    if not rows:
        raise BadInput(f"'{batch}' holds no generated picture with labels; give each case its labels and run it again.")
    path = out / MANIFEST
    out.mkdir(parents=True, exist_ok=True)  # nothing else may have been written
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, restval="")
        writer.writeheader()
        writer.writerows(rows)
    return path


def _source_files(table: Path) -> dict[str, Path]:
    """The picture of each case: the first cell after the name that is the path of something. Raises BadInput."""
    try:
        with table.open(newline="", encoding="utf-8-sig") as file:
            lines = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise BadInput(f"The table '{table}' cannot be read: {error}.") from None
    found = {}
    for line in lines:
        cells = [table.parent / text for name, text in line.items() if name not in ("case", None) and text]
        path = next((cell for cell in cells if cell.exists()), None)
        if path is not None and line.get("case"):
            found[line["case"]] = path
    return found


def _case(folder: Path, out: Path, source: Path | None) -> Iterator[dict[str, Any]]:
    for pair in _pairs(folder):
        row = {"case": pair.case, "sample": pair.sample, "source": str(source or ""), "synthetic": "yes"}
        row |= {key: pair.provenance.get(key, "") for key in ("method", "weights_sha256", "seed")}
        row["parameters"] = json.dumps(pair.provenance.get("parameters", {}))
        row["edge_correlation"] = pair.checks.get("edge_correlation", "")
        if pair.checks.get("edges") == "moved":
            row["left_out"] = "edges moved"
        else:
            row |= _write(pair, out, source)
        yield row


def _pairs(folder: Path) -> Iterator[Pair]:
    pictures = next((p for name in ("samples", "restyled") for p in sorted(folder.glob(f"{name}.*"))), None)
    labels = next((p for p in sorted(folder.glob("labels.*")) if not p.name.endswith(".seg.nrrd")), None)
    if pictures is None or labels is None:
        return
    checks: list[dict[str, str]] = []
    if (folder / "styles.csv").is_file():
        with (folder / "styles.csv").open(newline="", encoding="utf-8") as file:
            checks = list(csv.DictReader(file))
    provenance = json.loads((folder / "provenance.json").read_text("utf-8"))
    (truth,) = _flat(labels)
    for number, picture in enumerate(_eight_bits(pictures)):
        if picture.shape != truth.shape:
            raise BadInput(f"The labels of '{folder.name}' are not of the size of its picture.")
        row = checks[number] if number < len(checks) else {}
        yield Pair(folder.name, number + 1, picture, truth, row, provenance)


def _flat(path: Path) -> list[np.ndarray]:
    """Every frame of a file, [h, w]."""
    values = sitk.GetArrayFromImage(sitk.ReadImage(str(path)))
    return list(values.reshape(-1, *values.shape[-2:]))


def _eight_bits(path: Path) -> list[np.ndarray]:
    """Every frame of a file, uint8 [h, w]. Pictures of a source that had not 8 bits come as floating point."""
    frames = _flat(path)
    if frames[0].dtype == np.uint8:
        return frames
    white = full_scale(sitk.ReadImage(str(path)))
    return [np.rint(np.clip(frame / white, 0, 1) * 255).astype(np.uint8) for frame in frames]


def _write(pair: Pair, out: Path, source: Path | None) -> dict[str, str]:
    name = f"{pair.case}_{pair.sample:03d}"
    written = {}
    for kind, values in (("images", pair.picture), ("labels", pair.labels.astype(np.uint8))):
        path = out / kind / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        sitk.WriteImage(sitk.GetImageFromArray(values), str(path))
        written["image" if kind == "images" else kind] = path.relative_to(out).as_posix()
    if source is not None and _is_dicom(source):
        written |= _write_dicom(pair, out / "dicom" / name, source)
    return written


def _is_dicom(path: Path) -> bool:
    from medgen.io import is_dicom

    return path.exists() and is_dicom(path)


def _write_dicom(pair: Pair, stem: Path, source: Path) -> dict[str, str]:
    """The picture as derived ultrasound or secondary capture, and a SEG that refers to it."""
    from medgen.exchange.reading import read_dicom_folder
    from medgen.exchange.seg import export_seg
    from medgen.exchange.series import export_picture

    [reference] = read_dicom_folder(source)
    picture: Any = sitk.GetImageFromArray(pair.picture)
    if isinstance(reference.image, list):
        picture = [picture]
    made = export_picture(picture, reference, stem / "picture.dcm", pair.provenance, description="restyled")
    written = {"dicom": made.relative_to(stem.parents[1]).as_posix()}
    values = [int(v) for v in np.unique(pair.labels) if v]
    if values:
        labels = tuple(Label(v, f"Segment {v}", COLOURS[(v - 1) % len(COLOURS)], TISSUE) for v in values)
        [derived] = read_dicom_folder(stem)
        truth = sitk.GetImageFromArray(pair.labels.astype(np.uint8))
        path = export_seg(truth, labels, derived, stem.with_name(f"{stem.name}_seg.dcm"), pair.provenance)
        written["dicom_seg"] = Path(path).relative_to(stem.parents[1]).as_posix()
    return written
