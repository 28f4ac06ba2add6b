"""Methods that the user added: other people's trained models, each declared by a JSON file in the user's data folder.

Standard library only and Python 3.9, since the catalogue (and so Slicer) reads them. The importers in `medgen.exchange`
write them: `user_data_folder()/imported/<id>.json` beside `user_data_folder()/Weights/<id>/`.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from medgen import spec as s
from medgen.errors import BadInput, MedGenError
from medgen.weights import file_sha256, user_data_folder

# a declaration names one of these: a file in the data folder must not make other code run
RUNS = ("medgen.exchange.nnunet:run", "medgen.exchange.monai_bundle:run")
TYPES = {t.__name__: t for t in (s.Image, s.LabelMap, s.Float, s.Int, s.Bool, s.Choice, s.Text)}


def imported_folder() -> Path:
    return user_data_folder() / "imported"


def method_id(prefix: str, name: str, digest: str = "") -> str:
    """A catalogue key from any name: lower case letters, digits and underscores. digest: tells models of the same name
    apart, however long that is."""
    words = re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")
    end = f"_{digest}" if digest else ""
    return f"{prefix}_{words or 'model'}"[: 80 - len(end)] + end


def _plain(part: Any) -> dict[str, Any]:
    return {"type": type(part).__name__, **dataclasses.asdict(part)}


def write_declaration(spec: s.MethodSpec) -> Path:
    """Makes the method known to the catalogue. Raises BadInput if it names a run that is not one of RUNS."""
    if spec.run not in RUNS:
        raise BadInput(f"An imported method cannot run '{spec.run}'.")
    data = {f.name: getattr(spec, f.name) for f in dataclasses.fields(spec) if f.name != "fitness"}
    data["paper"] = dataclasses.asdict(spec.paper)
    for key in ("inputs", "outputs", "parameters"):
        data[key] = [_plain(part) for part in data[key]]
    path = imported_folder() / f"{spec.id}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(json.dumps(data, indent=1), encoding="utf-8")
    part.replace(path)
    return path


def keep_model(spec: s.MethodSpec, write: Callable[[Path], object], training_data: str, command: str) -> None:
    """Keeps the weights that `write` puts at a path, with a card, in the user's data folder, and declares the method.
    Raises MedGenError where that folder takes no files."""
    place = user_data_folder() / "Weights" / spec.id
    try:
        place.mkdir(parents=True, exist_ok=True)
        path = place / spec.weights[0]
        write(path)
        card = {
            "title": spec.title,
            "files": {path.name: {"sha256": file_sha256(path)}},
            "training_data": training_data,
            "command": command,
            "licence": spec.licence,
            "intended_use": spec.intended_use,
            "known_failures": [],
            "trained_on_rendered": False,
        }
        (place / "card.json").write_text(json.dumps(card, indent=1), "utf-8")
        write_declaration(spec)
    except OSError as error:
        raise MedGenError(f"The model could not be stored in '{place}': {error}.") from error


def _part(data: dict[str, Any]) -> Any:
    values = dict(data)
    part = TYPES[values.pop("type")]
    if "labels" in values:
        values["labels"] = tuple(s.Label(x["value"], x["name"], tuple(x["colour"])) for x in values["labels"])
    return part(**values)


def _read(path: Path) -> s.MethodSpec:
    data = json.loads(path.read_text(encoding="utf-8"))
    if data["run"] not in RUNS or data["id"] != path.stem:
        raise ValueError("not a declaration of this project")
    data["paper"] = s.Paper(**data["paper"])
    for key in ("inputs", "outputs", "parameters"):
        data[key] = tuple(_part(part) for part in data[key])
    for key in ("warnings", "modalities", "body_parts", "weights"):
        data[key] = tuple(data[key])
    return s.MethodSpec(**data)


def imported_specs() -> list[s.MethodSpec]:
    """Every readable declaration; a damaged one is passed over with a line in the log, so that the others stay
    usable."""
    found = []
    for path in sorted(imported_folder().glob("*.json")):
        try:
            found.append(_read(path))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            logging.getLogger("medgen").warning("The imported model %s cannot be read: %s", path.name, error)
    return found
