"""The report of a batch: one HTML page with every case's state, picture and table. Opens from disk, fetches nothing."""

from __future__ import annotations

import csv
import html
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk

from medgen.spec import Image, LabelMap, MethodSpec, Table

if TYPE_CHECKING:
    from medgen.batch import Status

THUMBNAIL = "thumbnail.png"
HEIGHT = 160  # pixels of a thumbnail
REPORT = "report.html"
STYLE = """body{font:15px sans-serif;margin:2em;max-width:75em}table{border-collapse:collapse}
td,th{border:1px solid #ccc;padding:.4em .6em;vertical-align:top;text-align:left}img{display:block;background:#000}
.failed{background:#fde8e8}.waiting{background:#fff8dc}details table{font-size:85%}.note{color:#8a4b00}"""


def write_thumbnail(spec: MethodSpec, inputs: Mapping[str, Any], folder: Path) -> None:
    """Axial, coronal and sagittal slice of the first image, with the first label map over it, into `folder`."""
    from PIL import Image as Picture

    image = next((inputs[p.name] for p in spec.inputs if isinstance(p, Image) and p.name in inputs), None)
    if not isinstance(image, sitk.Image) or image.GetDimension() != 3 or image.GetNumberOfComponentsPerPixel() > 1:
        return
    labels = next((port for port in spec.outputs if isinstance(port, LabelMap)), None)
    file = folder / f"{labels.name}.nii.gz" if labels else None
    marks = sitk.ReadImage(str(file)) if file and file.is_file() else None
    upright = sitk.DICOMOrient(image, "LPS")
    grey = sitk.GetArrayFromImage(upright).astype(np.float32)
    low, high = np.percentile(grey, (1, 99.5))
    grey = np.clip((grey - low) / max(float(high - low), 1e-6), 0, 1) * 255
    colour = np.repeat(grey[..., None], 3, -1)
    at = [n // 2 for n in grey.shape]
    if labels is not None and marks is not None:
        values = sitk.GetArrayFromImage(sitk.DICOMOrient(marks, "LPS"))
        if values.shape == grey.shape and values.any():
            table = np.zeros((int(values.max()) + 1, 3), np.float32)
            for label in labels.labels:
                if label.value < len(table):  # the image may lack the last labels
                    table[label.value] = label.colour
            if not labels.labels:
                table[1:] = (128, 174, 128)
            inside = values > 0
            colour[inside] = 0.55 * colour[inside] + 0.45 * table[values[inside]]
            at = [int(np.median(axis)) for axis in np.nonzero(inside)]
    strips = [
        _fit(plane, *spacing)
        for plane, spacing in zip(
            (colour[at[0]], colour[::-1, at[1]], colour[::-1, :, at[2]]),
            _pixel_sizes(upright.GetSpacing()),
            strict=True,
        )
    ]
    Picture.fromarray(np.concatenate(strips, axis=1)).save(folder / THUMBNAIL)


def _pixel_sizes(spacing: tuple[float, ...]) -> list[tuple[float, float]]:
    x, y, z = spacing
    return [(y, x), (z, x), (z, y)]


def _fit(plane: npt.NDArray[np.float32], vertical_mm: float, horizontal_mm: float) -> npt.NDArray[np.uint8]:
    from PIL import Image as Picture

    rows, columns = plane.shape[:2]
    width = max(1, round(HEIGHT * columns * horizontal_mm / (rows * vertical_mm)))
    return np.asarray(Picture.fromarray(plane.astype(np.uint8)).resize((min(width, 4 * HEIGHT), HEIGHT)))


def write_report(spec: MethodSpec, statuses: Mapping[str, Status], out: Path) -> Path:
    """`report.html` in `out`; returns its path."""
    counts = {state: sum(s.state == state for s in statuses.values()) for state in ("done", "failed", "waiting")}
    rows = "\n".join(_row(spec, status, out) for status in statuses.values())
    notes = "".join(f"<p class=note>{html.escape(warning)}</p>" for warning in spec.warnings)
    page = f"""<!doctype html><meta charset=utf-8><title>{html.escape(spec.title)}</title><style>{STYLE}</style>
<h1>{html.escape(spec.title)}</h1>
<p>{counts["done"]} done, {counts["failed"]} failed, {counts["waiting"]} waiting.
Method {html.escape(spec.id)}, version {html.escape(spec.version)}: {html.escape(spec.paper.citation)}</p>
<p class=note>{html.escape(spec.intended_use)} Nothing here is approved for treatment.</p>{notes}
<table><tr><th>Case<th>State<th>Picture<th>Results</tr>
{rows}
</table>
"""
    path = out / REPORT
    path.write_text(page, encoding="utf-8")
    return path


def _row(spec: MethodSpec, status: Status, out: Path) -> str:
    name = html.escape(status.case)
    state = f"{status.state}" + (f", {status.seconds:.1f} s" if status.seconds else "")
    picture = f'<img src="{name}/{THUMBNAIL}" alt="three slices">' if (out / status.case / THUMBNAIL).is_file() else ""
    sentence = f"<p>{html.escape(status.sentence)}</p>" if status.sentence else ""
    results = _results(spec, out / status.case)
    return f"<tr class={status.state}><td>{name}<td>{state}{sentence}<td>{picture}<td>{results}</tr>"


def _results(spec: MethodSpec, folder: Path) -> str:
    parts = []
    for port in spec.outputs:
        path = folder / f"{port.name}.csv"
        if isinstance(port, Table) and path.is_file():
            with path.open(newline="", encoding="utf-8") as file:
                lines = list(csv.reader(file))
            body = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}" for cell in line) for line in lines)
            parts.append(f"<details><summary>{html.escape(port.title)}</summary><table>{body}</table></details>")
    provenance = folder / "provenance.json"
    if provenance.is_file():
        for notice in json.loads(provenance.read_text("utf-8")).get("notices", []):
            parts.append(f"<p class=note>{html.escape(notice)}</p>")
    return "".join(parts)
