"""One run of a method on files: read, run in the worker, write everything or nothing."""

from __future__ import annotations

import errno
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import SimpleITK as sitk

from medgen import io
from medgen.errors import BadInput
from medgen.modality import check_modality
from medgen.spec import FitnessWarning, Image, ImageFacts, MethodSpec, Port
from medgen.worker.checks import check_inputs
from medgen.worker.jobs import Event, JobRequest
from medgen.worker.local import LocalWorker

PROVENANCE = "provenance.json"


@dataclass
class Case:
    """inputs: {port name: file or folder}; the rest as in JobRequest."""

    inputs: Mapping[str, Path]
    parameters: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    device: str = "auto"
    weights: str | None = None


def read_case(spec: MethodSpec, case: Case) -> tuple[JobRequest, list[FitnessWarning]]:
    """The job, and what is doubtful about its inputs. Raises BadInput."""
    spec.check_inputs(case.inputs)
    parameters = spec.check_parameters(case.parameters)
    values: dict[str, Any] = {}
    modalities: dict[str, str] = {}
    for port in spec.inputs:
        if port.name in case.inputs:
            values[port.name], modalities[port.name] = io.read_value(port, case.inputs[port.name])
    check_inputs(spec, values)
    facts: dict[str, ImageFacts] = {}
    for port in spec.inputs:
        if isinstance(port, Image) and port.name in values:
            image = values[port.name][0] if isinstance(values[port.name], list) else values[port.name]
            check_modality(port, image, modalities[port.name])
            if image.GetNumberOfComponentsPerPixel() == 1:
                array = sitk.GetArrayViewFromImage(image)
                facts[port.name] = ImageFacts.of_array(array, image.GetSpacing(), modalities[port.name])
    request = JobRequest(spec.id, values, parameters, case.seed, case.device, case.weights)
    return request, spec.fitness(facts) if facts else []


def run_case(
    spec: MethodSpec,
    request: JobRequest,
    out: Path,
    worker: LocalWorker,
    on_event: Callable[[Event], None] = lambda event: None,
) -> list[Path]:
    """Runs the job and writes its outputs and provenance.json into `out`; returns the files. Raises BadInput,
    MedGenError, Cancelled; then nothing in `out` has changed."""
    with whole_folder(out) as partial:
        outputs, provenance = worker.run(request, on_event)
        ports: dict[str, Port] = {port.name: port for port in spec.outputs}
        provenance["synthetic"] = any(isinstance(port, Image) and port.synthetic for port in spec.outputs)
        with full_disk_named(out):
            files = [path for name, value in outputs.items() for path in io.write_value(ports[name], value, partial)]
            files.append(partial / PROVENANCE)
            files[-1].write_text(json.dumps(provenance, indent=1) + "\n", "utf-8")
    return [out / path.name for path in files]


@contextmanager
def full_disk_named(out: Path) -> Iterator[None]:
    """Turns a failure to write into the sentence that the user reads (BadInput)."""
    try:
        yield
    except OSError as error:
        if error.errno == errno.ENOSPC or shutil.disk_usage(out).free < 1_000_000:
            raise BadInput(f"The disk that holds '{out}' is full: nothing was written.") from error
        raise BadInput(f"The results could not be written to '{out}': {error.strerror or error}.") from error


def make_folder(folder: Path) -> None:
    """Raises BadInput where it cannot be made."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(f"The folder '{folder}' cannot be written to: {error.strerror}.") from None


@contextmanager
def whole_folder(out: Path) -> Iterator[Path]:
    """A hidden folder inside `out` to write into; its files move up once all are there, and if the block fails, `out`
    is as it was (gone, where it was not there). Raises BadInput where `out` cannot be written to."""
    made = [folder for folder in (out, *out.parents) if not folder.exists()]
    try:
        out.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=".medgen-", dir=out))
    except OSError as error:
        raise BadInput(f"The folder '{out}' cannot be written to: {error.strerror}.") from None
    finished = False
    try:
        yield partial
        for path in sorted(partial.iterdir()):
            path.replace(out / path.name)
        finished = True
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        with suppress(OSError):  # somebody else has put a file there meanwhile
            for folder in [] if finished else made:
                folder.rmdir()
