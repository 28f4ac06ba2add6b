"""A MONAI bundle (folder or zip) becomes a method, once the user has agreed to exactly this bundle.

A bundle's configuration names classes and holds Python expressions: running it is running its makers' code. So it is
only read as JSON here. The user sees the bundle's hash, agrees to it, and the very same bytes are kept as one zip,
whose hash is checked before each run.
"""

from __future__ import annotations

import datetime
import hashlib
import io
import json
import stat
import zipfile
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from medgen.errors import BadInput
from medgen.imported import keep_model, method_id
from medgen.spec import Image, Label, LabelMap, MethodSpec, Paper

NEEDED = ("configs/metadata.json", "configs/inference.json")
MODELS = ("models/model.ts", "models/model.pt")
KEPT = ("configs/", "models/", "scripts/")
MAX_FILES, MAX_BYTES, MAX_RATIO = 2000, 8 * 2**30, 200
COLOURS = ((230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (0, 114, 178), (213, 94, 0), (204, 121, 167))


def _safe_name(name: str) -> str:
    """Raises BadInput for a name that leads out of the folder."""
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or ":" in name or "\0" in name:
        raise BadInput(f"The zip names a file outside of itself ('{name}'): it is not opened.")
    return str(path)


def _zip_files(path: Path) -> dict[str, bytes]:
    try:
        with zipfile.ZipFile(path) as archive:
            entries = [entry for entry in archive.infolist() if not entry.is_dir()]
            total = sum(entry.file_size for entry in entries)
            if len(entries) > MAX_FILES or total > min(MAX_BYTES, MAX_RATIO * path.stat().st_size + 2**20):
                raise BadInput(f"'{path.name}' would unpack to far more than a bundle holds: it is not opened.")
            if any(stat.S_ISLNK(entry.external_attr >> 16) for entry in entries):
                raise BadInput(f"'{path.name}' holds links to other files: it is not opened.")
            return {_safe_name(entry.filename): archive.read(entry) for entry in entries}
    except (zipfile.BadZipFile, OSError, RuntimeError, NotImplementedError, EOFError, ValueError) as error:
        raise BadInput(f"'{path.name}' cannot be opened as a zip: it is damaged.") from error
    except Exception as error:  # zlib.error, lzma.LZMAError, struct.error of a damaged member
        if isinstance(error, BadInput):
            raise
        raise BadInput(f"'{path.name}' cannot be opened as a zip: it is damaged.") from error


def _folder_files(path: Path) -> dict[str, bytes]:
    found = {}
    for file in sorted(p for p in path.rglob("*") if p.is_file() and not p.is_symlink()):
        name = file.relative_to(path).as_posix()
        if name.startswith(KEPT):
            found[name] = file.read_bytes()
    return found


def read_bundle(path: Path) -> dict[str, bytes]:
    """{name: content} of a bundle's configs, models and scripts; a single folder around them is taken off.

    Raises BadInput for what is no bundle, or a zip that is damaged or leads out of itself.
    """
    if not path.exists():
        raise BadInput(f"There is no bundle '{path}'.")
    try:
        files = _folder_files(path) if path.is_dir() else _zip_files(path)
    except OSError as error:
        raise BadInput(f"'{path}' cannot be read: {error.strerror}.") from error
    roots = {name.split("/", 1)[0] for name in files}
    if len(roots) == 1 and NEEDED[0] not in files:
        files = {name.split("/", 1)[1]: data for name, data in files.items() if "/" in name}
    files = {name: data for name, data in files.items() if name.startswith(KEPT)}
    missing = [name for name in NEEDED if name not in files]
    if missing:
        raise BadInput(f"'{path.name}' is no MONAI bundle with a JSON configuration: it has no {missing[0]}.")
    if not any(name in files for name in MODELS):
        raise BadInput(f"The bundle '{path.name}' has no weights ({MODELS[1]} or {MODELS[0]}).")
    return files


def pack(files: Mapping[str, bytes]) -> bytes:
    """One zip with the same bytes for the same content, whatever the bundle came in."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(files):
            archive.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), files[name])
    return stream.getvalue()


def _document(files: Mapping[str, bytes], name: str) -> dict[str, Any]:
    try:
        data = json.loads(files[name])
    except (ValueError, RecursionError) as error:
        raise BadInput(f"The bundle's {name} cannot be read as JSON.") from error
    if not isinstance(data, dict):
        raise BadInput(f"The bundle's {name} is not what MONAI describes.")
    return data


def _channel_names(port: Mapping[str, Any], fallback: str) -> list[str]:
    given = port.get("channel_def") or {}
    count = int(port.get("num_channels", len(given) or 1))
    if not 1 <= count <= 64:
        raise BadInput(f"The bundle's metadata asks for {count} channels.")
    return [str(given.get(str(c), f"{fallback} {c + 1}" if count > 1 else fallback)) for c in range(count)]


def _ports(metadata: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any], str]:
    """Input, output and the input's key. The only image in, the only prediction out."""
    formats = metadata["network_data_format"]
    inputs = {k: v for k, v in formats["inputs"].items() if v.get("type", "image") == "image"}
    if len(inputs) != 1 or len(formats["outputs"]) != 1:
        raise BadInput("This bundle has several inputs or outputs; MedGen runs bundles with one of each.")
    output = next(iter(formats["outputs"].values()))
    if output.get("format", output.get("type")) not in ("segmentation", "labels", "image", "probabilities"):
        raise BadInput("This bundle makes no segmentation, which is what MedGen runs bundles for.")
    key, given = next(iter(inputs.items()))
    return given, output, key


def _modality(given: Mapping[str, Any]) -> str:
    text = f"{given.get('modality', '')}".upper()
    return "CT" if "CT" in text.split() else "MR" if text.startswith("MR") else "any"


def _spec(metadata: Mapping[str, Any], folder_name: str, digest: str) -> MethodSpec:
    given, output, _ = _ports(metadata)
    title = str(metadata.get("name") or folder_name)
    inputs = [
        Image(method_id("image", f"{n}_{name}"), name, modality=_modality(given))
        for n, name in enumerate(_channel_names(given, "Image"))
    ]
    names = _channel_names(output, "Segment")
    labels = [(n, name) for n, name in enumerate(names) if name.lower() != "background"]
    if len(labels) == len(names):  # no background: channel 0 writes label 1
        labels = [(n + 1, name) for n, name in labels]
    return MethodSpec(
        id=method_id("monai", title, digest[:6]),
        title=f"{title} (MONAI bundle)",
        summary=str(metadata.get("task") or metadata.get("description") or "An imported MONAI bundle.")[:200],
        family="segmentation",
        paper=Paper(title, str(metadata.get("authors", "")), "MONAI bundle, imported", datetime.date.today().year),
        intended_use=str(metadata.get("intended_use") or "Only for what its makers say it is for."),
        run="medgen.exchange.monai_bundle:run",
        inputs=tuple(inputs),
        outputs=(LabelMap("segmentation", "Segmentation", labels=tuple(
            Label(value, name, COLOURS[value % len(COLOURS)]) for value, name in labels
        )),),
        warnings=("Imported from elsewhere: MedGen has not checked how well it works.",),
        modalities=tuple({_modality(given)} - {"any"}),
        weights=("bundle.zip",),
        licence=str(metadata.get("license", "as its makers say")),
        version=str(metadata.get("version", "1")),
    )  # fmt: skip


def import_monai(path: Path, agreed: str | None) -> MethodSpec:
    """Keeps the bundle and declares it, if `agreed` is the hash of exactly this bundle.

    Raises BadInput with the hash where it is not, and for what is no usable bundle; MedGenError where the data folder
    takes no files.
    """
    files = read_bundle(path)
    metadata = _document(files, "configs/metadata.json")
    _document(files, "configs/inference.json")
    try:
        content = pack(files)
        digest = hashlib.sha256(content).hexdigest()
        spec = _spec(metadata, path.stem, digest)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BadInput("The bundle's metadata.json does not describe its inputs and outputs.") from error
    if agreed != digest:
        raise BadInput(
            f"The configuration of '{path.name}' runs code of its makers. If you trust them, import it again with "
            f"--agree {digest}"
        )
    agreement = f"imported from '{path.name}' after agreeing to {digest}"
    keep_model(spec, lambda place: place.write_bytes(content), str(metadata.get("data_source", "")), agreement)
    return spec
