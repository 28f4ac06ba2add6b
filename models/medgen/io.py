"""Files of the command line: reading a method's inputs, writing its outputs. The worker and the methods see no files.

Images: NIfTI, NRRD, MetaImage, PNG, JPEG, TIFF, a DICOM file or a folder with one DICOM series. Points, planes and
regions: Slicer's markups (.mrk.json) or plain JSON as `medgen.spec` describes it. Tables: CSV. Transforms: 4x4 JSON.
"""

from __future__ import annotations

import csv
import gzip
import json
import struct
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from medgen import spec as s
from medgen.errors import BadInput

IMAGE_SUFFIXES = (".nii", ".nii.gz", ".nrrd", ".nhdr", ".mha", ".mhd", ".png", ".jpg", ".jpeg", ".tif", ".tiff")
IMAGE_PORTS = (s.Image, s.Mask, s.LabelMap, s.Probability)
NIFTI_FLOATS = {16: "f4", 64: "f8"}  # datatype code: numpy's name


def is_dicom(path: Path) -> bool:
    """A folder counts as DICOM; a file does when it carries the 'DICM' mark after its preamble."""
    if path.is_dir():
        return True
    with path.open("rb") as stream:
        return stream.read(132)[128:] == b"DICM"


def read_image(path: Path) -> tuple[sitk.Image, str]:
    """The image and its modality ('MR', 'CT', ...; '' where the file does not say). Raises BadInput."""
    if not path.exists():
        raise BadInput(f"There is no file or folder '{path}'.")
    try:
        if is_dicom(path):
            from medgen.exchange.reading import read_series

            return read_series(path)
        if not path.name.lower().endswith(IMAGE_SUFFIXES):
            raise BadInput(f"'{path}' is no image file that MedGen reads (NIfTI, NRRD, MHA, PNG or a DICOM folder).")
        image = sitk.ReadImage(str(path))
        if ".nii" in path.suffixes and not _nifti_is_finite(path):
            raise BadInput(f"'{path}' contains NaN or infinite values.")
    except PermissionError:
        raise BadInput(f"'{path}' may not be read: permission denied.") from None
    except (RuntimeError, EOFError, OSError, ValueError, OverflowError, struct.error) as error:
        if "orthonormal" in str(error):
            raise BadInput(f"The axes of '{path}' are not at right angles; resample it first.") from error
        raise BadInput(f"'{path}' cannot be read as an image: it is damaged or not what its name says.") from error
    return image, ""


def _nifti_is_finite(path: Path) -> bool:
    """Asks the file itself, since ITK puts 0 for NaN and infinity as it reads NIfTI. Offsets: NIfTI-1 and NIfTI-2
    headers."""
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as stream:
        header = stream.read(540)
        order = "<" if header[0] in (348 & 255, 540 & 255) else ">"
        second = struct.unpack_from(order + "i", header)[0] == 540
        (kind,) = struct.unpack_from(order + "h", header, 12 if second else 70)
        (start,) = struct.unpack_from(order + ("q" if second else "f"), header, 168 if second else 108)
        if kind not in NIFTI_FLOATS:
            return True
        stream.seek(int(start))
        number = np.dtype(order + NIFTI_FLOATS[kind])
        while data := stream.read(1 << 24):
            if not np.isfinite(np.frombuffer(data, number, len(data) // number.itemsize)).all():
                return False
    return True


# ------------------------------------------------------------------------------------------------------ markups, tables


def _markup_to_lps(markup: Mapping[str, Any]) -> np.ndarray:
    """3x3 that turns the coordinates of a Slicer markup into LPS."""
    ras = str(markup.get("coordinateSystem", "LPS")).upper() in {"RAS", "0"}
    return np.diag([-1.0, -1.0, 1.0]) if ras else np.eye(3)


def _points(markup: Mapping[str, Any]) -> list[list[float]]:
    to_lps = _markup_to_lps(markup)
    return [(to_lps @ point["position"]).tolist() for point in markup["controlPoints"]]


def _plane(markup: Mapping[str, Any]) -> dict[str, list[float]]:
    to_lps = _markup_to_lps(markup)
    return {"origin": (to_lps @ markup["center"]).tolist(), "normal": (to_lps @ markup["normal"]).tolist()}


def _roi(markup: Mapping[str, Any]) -> dict[str, Any]:
    to_lps = _markup_to_lps(markup)
    axes = to_lps @ np.reshape(markup["orientation"], (3, 3))  # columns are the box's axes
    return {"center": (to_lps @ markup["center"]).tolist(), "axes": axes.tolist(), "size_mm": list(markup["size"])}


def _read_json(path: Path, port: s.Port) -> Any:
    """Plain JSON as the port's class describes it, or Slicer's markups."""
    data = json.loads(path.read_text("utf-8"))
    if not isinstance(data, dict) or "markups" not in data:
        return data
    markups = data["markups"]
    if isinstance(port, s.Planes):
        return [_plane(markup) for markup in markups]
    if isinstance(port, s.ROI):
        return _roi(markups[0])
    return [point for markup in markups for point in _points(markup)]


def _read_table(path: Path) -> dict[str, list[Any]]:
    def number(text: str) -> float | str:
        try:
            return float(text)
        except ValueError:
            return text

    with path.open(newline="", encoding="utf-8-sig") as stream:  # Excel begins its CSV in UTF-8 with a mark
        rows = list(csv.DictReader(stream))
    return {name: [number(row[name]) for row in rows] for name in (rows[0] if rows else ())}


def read_value(port: s.Port, path: Path) -> tuple[Any, str]:
    """What the port wants, from the file, and the modality where the file says it. Raises BadInput."""
    several = isinstance(port, s.Image) and port.kind in ("sequence", "set")
    if several and path.is_dir():
        files = sorted(file for file in path.iterdir() if file.name.lower().endswith(IMAGE_SUFFIXES))
        if files:
            return [read_image(file)[0] for file in files], ""
    if isinstance(port, IMAGE_PORTS):
        image, modality = read_image(path)
        if several:
            return frames_of(image), modality
        return (whole_numbers(image) if isinstance(port, (s.Mask, s.LabelMap)) else image), modality
    if not path.is_file():
        raise BadInput(f"There is no file '{path}'.")
    try:
        if isinstance(port, s.Blob):
            return path.read_bytes(), ""
        return (_read_table(path) if isinstance(port, s.Table) else _read_json(path, port)), ""
    except OSError as error:
        raise BadInput(f"'{path}' may not be read: {error.strerror}.") from error
    except (ValueError, KeyError, IndexError, TypeError, RecursionError, csv.Error) as error:
        raise BadInput(f"'{path}' does not hold what input '{port.name}' ({port.title}) needs.") from error


def whole_numbers(image: sitk.Image) -> sitk.Image:
    """A label map that a program saved as floating point, as integers again; anything else as it is."""
    values = sitk.GetArrayViewFromImage(image)
    if values.dtype.kind != "f" or not np.array_equal(values, np.trunc(values)) or abs(values).max(initial=0) >= 2**15:
        return image
    return sitk.Cast(image, sitk.sitkInt16)


def frames_of(image: sitk.Image) -> list[sitk.Image]:
    """The frames of a sequence: a 4D image along t, a 3D image along k, a 2D image is one; each keeps its geometry."""
    last = image.GetDimension() - 1
    if last == 1:
        return [image]
    return [image[(slice(None),) * last + (index,)] for index in range(image.GetSize()[last])]


# ------------------------------------------------------------------------------------------------------------- writing


def write_image(image: sitk.Image, path: Path) -> None:
    """Writes and reads back: on a full disk ITK cuts NIfTI files short without a word. Raises OSError."""
    try:
        sitk.WriteImage(image, str(path), useCompression=True)
        written = sitk.ReadImage(str(path))
    except RuntimeError as error:
        raise OSError(f"'{path.name}' could not be written") from error
    if not np.array_equal(sitk.GetArrayViewFromImage(written), sitk.GetArrayViewFromImage(image), equal_nan=True):
        raise OSError(f"'{path.name}' was cut short while it was written")


def _terminology_tag(label: s.Label) -> str:
    """Slicer's TerminologyEntry, as its segmentation files write it."""
    term = label.terminology
    if term is None:
        return "~~^^~^^~^^~~^^~^^"

    def code(value: s.Code | None) -> str:
        return f"{value.scheme}^{value.value}^{value.meaning}" if value else "^^"

    return "~".join(
        [
            "Segmentation category and type - 3D Slicer General Anatomy list",
            *(code(term.category), code(term.type), code(term.type_modifier)),
            "Anatomic codes - DICOM master list",
            *(code(term.region), code(term.region_modifier)),
        ]
    )


def write_segmentation(labelmap: sitk.Image, labels: tuple[s.Label, ...], path: Path) -> None:
    """Slicer's .seg.nrrd: one layer, each label a segment with its name, colour and coded meaning. Raises OSError."""
    image = sitk.Cast(labelmap, sitk.sitkUInt8 if max((x.value for x in labels), default=0) < 256 else sitk.sitkUInt16)
    extent = " ".join(f"0 {n - 1}" for n in image.GetSize())
    image.SetMetaData("Segmentation_MasterRepresentation", "Binary labelmap")
    image.SetMetaData("Segmentation_ContainedRepresentationNames", "Binary labelmap|")
    image.SetMetaData("Segmentation_ReferenceImageExtentOffset", "0 0 0")
    for number, label in enumerate(label for label in labels if label.value):
        entries = {
            "ID": f"Segment_{label.value}",
            "Name": label.name,
            "NameAutoGenerated": "0",
            "Color": " ".join(f"{c / 255:.6f}" for c in label.colour),
            "ColorAutoGenerated": "0",
            "LabelValue": str(label.value),
            "Layer": "0",
            "Extent": extent,
            "Tags": f"TerminologyEntry:{_terminology_tag(label)}|",
        }
        for key, text in entries.items():
            image.SetMetaData(f"Segment{number}_{key}", text)
    write_image(image, path)


def _write_table(table: Mapping[str, list[Any]], path: Path) -> None:
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(table)
        writer.writerows(zip(*table.values(), strict=True))


def _write_points(points: list[list[float]], path: Path) -> None:
    controls = [{"label": f"{n + 1}", "position": list(map(float, p))} for n, p in enumerate(points)]
    markup = {"type": "Fiducial", "coordinateSystem": "LPS", "controlPoints": controls}
    path.write_text(json.dumps({"markups": [markup]}, indent=1), "utf-8")


def _write_picture(image: Any, folder: Path, name: str) -> list[Path]:
    """An image or a sequence: PNG where it is flat with 8 bits, else NIfTI (frames joined along the last axis). Of a
    series a file for each number, with which its name ends."""
    if isinstance(image, dict):
        files = (_write_picture(image[number], folder, f"{name}_{text}") for number, text in _sortable(image).items())
        return [path for made in files for path in made]
    if isinstance(image, list):  # frames that are volumes of one slice are joined as the flat pictures that they hold
        frames = [f[:, :, 0] if f.GetDimension() == 3 and f.GetSize()[2] == 1 else f for f in image]
        image = sitk.JoinSeries(frames) if len(frames) > 1 else frames[0]
    flat = image.GetDimension() == 2 and image.GetPixelID() in (sitk.sitkUInt8, sitk.sitkVectorUInt8)
    path = folder / (name + (".png" if flat else ".nii.gz"))
    write_image(image, path)
    return [path]


def _sortable(numbers: Iterable[float]) -> dict[float, str]:
    """Each as a text, in their order; padded with zeros, so that files sort by number."""
    texts = {number: f"{number:g}".partition(".") for number in sorted(numbers)}
    width = max(len(whole) for whole, _, _ in texts.values())
    return {number: whole.zfill(width) + point + rest for number, (whole, point, rest) in texts.items()}


def _as_file(write: Callable[[Any, Path], object], suffix: str) -> Callable[[Any, Path, str], list[Path]]:
    def to_folder(value: Any, folder: Path, name: str) -> list[Path]:
        path = folder / (name + suffix)
        write(value, path)
        return [path]

    return to_folder


def _write_json(value: Any, path: Path) -> None:
    path.write_text(json.dumps(value, indent=1, default=np.ndarray.tolist), "utf-8")


_WRITERS: dict[type[s.Port], Callable[[Any, Path, str], list[Path]]] = {
    s.Blob: _as_file(lambda value, path: path.write_bytes(value), ".bin"),
    s.Table: _as_file(_write_table, ".csv"),
    s.Plot: _as_file(_write_table, ".csv"),
    s.Points: _as_file(_write_points, ".mrk.json"),
    s.Image: _write_picture,
    s.Mask: _write_picture,
    s.Probability: _write_picture,
}


def _numbered(labelmap: sitk.Image) -> tuple[s.Label, ...]:
    """Labels for a map whose values mean what the user painted: 'Segment 1' and on."""
    values = np.unique(sitk.GetArrayViewFromImage(labelmap))
    colours = ((128, 174, 128), (241, 214, 145), (177, 122, 101), (111, 184, 210), (216, 101, 79))  # Slicer's first
    return tuple(s.Label(int(v), f"Segment {v}", colours[(int(v) - 1) % len(colours)]) for v in values if v)


def write_value(port: s.Port, value: Any, folder: Path) -> list[Path]:
    """Writes an output under its port's name; returns the files made. Raises OSError."""
    if isinstance(port, s.LabelMap):
        files = _write_picture(value, folder, port.name)
        if value.GetDimension() == 3:
            files.append(folder / f"{port.name}.seg.nrrd")
            write_segmentation(value, port.labels or _numbered(value), files[-1])
        return files
    return _WRITERS.get(type(port), _as_file(_write_json, ".json"))(value, folder, port.name)
