"""Many synthetic images into a folder, with a manifest that says what each is, and the gate's report on all of them."""

from __future__ import annotations

import csv
import html
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import SimpleITK as sitk

from medgen import io
from medgen.catalogue import load_catalogue
from medgen.errors import BadInput
from medgen.running import full_disk_named, make_folder, run_case
from medgen.spec import Image, MethodSpec, Table
from medgen.worker.jobs import Event, JobRequest
from medgen.worker.local import LocalWorker

MANIFEST, CODES, GATE, REPORT = "manifest.csv", "codes.csv", "gate", "report.html"
GATE_METHOD, FEWEST = "generator_gate", 4
FACTS = ("method", "method_version", "weights", "weights_sha256", "device", "medgen_version", "started_utc")
HEADER = ("file", "seed", "synthetic", *FACTS, "parameters")
STYLE = "body{font:15px sans-serif;margin:2em}td,th{border:1px solid #ccc;padding:.3em .6em;text-align:left}"
STYLE += "table{border-collapse:collapse;margin-bottom:1.5em}.note{color:#8a4b00}"


@dataclass
class Cohort:
    """What is asked for. real: folder with real images for the gate; None: those that the method learnt from, where a
    method `<id>_training_set` makes them. gate: parameters of the gate, whose every run trains a network."""

    spec: MethodSpec
    count: int
    folder: Path
    seed: int = 0
    parameters: Mapping[str, Any] = field(default_factory=dict)
    device: str = "auto"
    weights: str | None = None
    real: Path | None = None
    gate: Mapping[str, Any] = field(default_factory=lambda: {"runs": 1})


def make_cohort(asked: Cohort, worker: LocalWorker, say: Callable[[str], None]) -> list[Path]:
    """Image i is drawn with seed + i, so that a cohort that was interrupted goes on with what is missing: images with
    another seed, other parameters or weights are made anew. Returns the images. Raises BadInput, MedGenError,
    Cancelled."""
    port = _image_port(asked.spec)
    make_folder(asked.folder)
    known = _read_manifest(asked.folder)
    parameters = _parameters(asked)
    weights = Path(asked.weights or next(iter(asked.spec.weights), "")).name
    files = []
    for number in range(asked.count):
        path = asked.folder / f"{asked.spec.id}_{number + 1:04d}_synthetic.nii.gz"
        seed = asked.seed + number
        wanted = {"seed": str(seed), "weights": weights, "parameters": json.dumps(parameters, sort_keys=True)}
        if not path.is_file() or not wanted.items() <= known.get(path.name, {}).items():
            facts = _make_one(asked, port, path, seed, parameters, worker)
            known[path.name] = {"file": path.name, "seed": str(seed), "synthetic": "yes", **facts}
            _write_manifest(asked.folder, known)
        files.append(path)
        say(f"{number + 1} of {asked.count} made: {path.name}")
    return files


def _image_port(spec: MethodSpec) -> Image:
    found = [port for port in spec.outputs if isinstance(port, Image) and port.synthetic]
    if not found or any(port.required for port in spec.inputs):
        raise BadInput(f"Method '{spec.id}' does not make images from a seed alone, so it can make no cohort.")
    return found[0]


def _parameters(asked: Cohort) -> dict[str, Any]:
    """Those of every image, one image a run."""
    one = {"count": 1} if any(p.name == "count" for p in asked.spec.parameters) else {}
    return asked.spec.check_parameters({**asked.parameters, **one})


def _make_one(
    asked: Cohort, port: Image, path: Path, seed: int, parameters: Mapping[str, Any], worker: LocalWorker
) -> dict[str, str]:
    request = JobRequest(asked.spec.id, {}, dict(parameters), seed, asked.device, asked.weights)
    outputs, provenance = worker.run(request)
    image = outputs[port.name][0] if isinstance(outputs[port.name], list) else outputs[port.name]
    with full_disk_named(asked.folder):
        io.write_image(image, path)
        for table in (p for p in asked.spec.outputs if isinstance(p, Table) and p.name == "codes"):
            _append_codes(asked.folder / CODES, path.name, outputs[table.name])
    facts = {name: str(provenance.get(name) or "") for name in FACTS}
    return {**facts, "parameters": json.dumps(provenance["parameters"], sort_keys=True)}


def _append_codes(path: Path, file: str, codes: Mapping[str, list[Any]]) -> None:
    """One row an image; a row of an earlier run is replaced."""
    rows = _read_dicts(path)
    new = {"file": file, **{name: values[0] for name, values in codes.items()}}
    rows = [row for row in rows if row["file"] != file and set(row) == set(new)]
    _write_rows(path, list(new), [*rows, new])


def _read_manifest(folder: Path) -> dict[str, dict[str, str]]:
    return {row["file"]: row for row in _read_dicts(folder / MANIFEST)}


def _read_dicts(path: Path) -> list[dict[str, str]]:
    """The rows that name a file; none where there is no table, or one that a spreadsheet program made another of."""
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8-sig") as stream:
        return [row for row in csv.DictReader(stream) if row.get("file")]


def _write_manifest(folder: Path, known: Mapping[str, Mapping[str, str]]) -> None:
    with full_disk_named(folder):
        _write_rows(folder / MANIFEST, list(HEADER), [known[name] for name in sorted(known)])


def _write_rows(path: Path, header: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> None:
    partial = path.with_suffix(".part")
    with partial.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, header)
        writer.writeheader()
        writer.writerows(rows)
    partial.replace(path)


# --------------------------------------------------------------------------------------------------------------- gate


def check_cohort(
    asked: Cohort, images: Sequence[Path], worker: LocalWorker, show: Callable[[Event], None] = lambda event: None
) -> dict[str, list[Any]]:
    """Runs the gate on the cohort, writes its tables into `gate/` and `report.html`; returns the table of flags. Raises
    BadInput for fewer than four images of a kind."""
    synthetic = [sitk.ReadImage(str(path)) for path in images]
    gate = load_catalogue()[GATE_METHOD]
    request = JobRequest(
        gate.id, {"real": real_images(asked, worker), "synthetic": synthetic}, dict(asked.gate), asked.seed
    )
    request.device = asked.device
    folder = asked.folder / GATE
    run_case(gate, request, folder, worker, show)
    files = {port.title: folder / f"{port.name}.csv" for port in gate.outputs if isinstance(port, Table)}
    tables = {title: _read_rows(path) for title, path in files.items() if path.is_file()}
    (asked.folder / REPORT).write_text(_page(asked, len(images), tables), "utf-8")
    rows = _read_rows(folder / "flags.csv")
    return {name: [row[index] for row in rows[1:]] for index, name in enumerate(rows[0])}


def real_images(asked: Cohort, worker: LocalWorker) -> list[sitk.Image]:
    if asked.real is not None:
        port = next(port for port in load_catalogue()[GATE_METHOD].inputs if port.name == "real")
        if not asked.real.is_dir():
            raise BadInput(f"There is no folder '{asked.real}'.")
        return list(io.read_value(port, asked.real)[0])
    examples = load_catalogue().get(f"{asked.spec.id}_training_set")
    if examples is None:
        raise BadInput("Name a folder with real images for the gate: this method has no training images to show.")
    outputs, _ = worker.run(JobRequest(examples.id, {}, {}, asked.seed, asked.device))
    return list(next(value for value in outputs.values() if isinstance(value, list)))


def _read_rows(path: Path) -> list[list[str]]:
    with path.open(newline="", encoding="utf-8") as stream:
        return list(csv.reader(stream))


def _page(asked: Cohort, count: int, tables: Mapping[str, list[list[str]]]) -> str:
    real = f"the images in {asked.real.name}" if asked.real else "images that the generator learnt from"
    parts = []
    for title, rows in tables.items():
        if len(rows) > 200:  # the map of features is for plotting
            continue
        cells = "".join("<tr>" + "".join(f"<td>{html.escape(_short(cell))}" for cell in row) + "</tr>" for row in rows)
        parts.append(f"<h2>{html.escape(title)}</h2><table>{cells}</table>")
    return f"""<!doctype html><meta charset=utf-8><title>Synthetic cohort</title><style>{STYLE}</style>
<h1>{count} synthetic images: {html.escape(asked.spec.title)}</h1>
<p class=note>All images in this folder are synthetic, none is validated for treatment. No flag proves no privacy.</p>
<p>{html.escape(MANIFEST)} says how each was made. They were compared with {html.escape(real)}.</p>{"".join(parts)}
"""


def _short(cell: str) -> str:
    try:
        return f"{float(cell):.4g}"
    except ValueError:
        return cell
