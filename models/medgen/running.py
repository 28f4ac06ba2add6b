"""One run of a method on files: read, run in the worker, write everything or nothing."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medgen import io
from medgen.errors import BadInput, MedGenError
from medgen.modality import check_modality
from medgen.spec import FitnessWarning, Image, ImageFacts, MethodSpec, Port
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
    facts: dict[str, ImageFacts] = {}
    for port in spec.inputs:
        if port.name not in case.inputs:
            continue
        values[port.name], modality = io.read_value(port, case.inputs[port.name])
        if isinstance(port, Image):
            first = values[port.name][0] if isinstance(values[port.name], list) else values[port.name]
            check_modality(port, first, modality)
            if first.GetNumberOfPixels() > 1 and first.GetNumberOfComponentsPerPixel() == 1:
                facts[port.name] = _facts(first, modality)
    request = JobRequest(spec.id, values, parameters, case.seed, case.device, case.weights)
    return request, spec.fitness(facts) if facts else []


def _facts(image: Any, modality: str) -> ImageFacts:
    import SimpleITK as sitk

    return ImageFacts.of_array(sitk.GetArrayViewFromImage(image), image.GetSpacing(), modality)


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
        files = [path for name, value in outputs.items() for path in io.write_value(ports[name], value, partial)]
        provenance["synthetic"] = any(isinstance(port, Image) and port.synthetic for port in spec.outputs)
        files.append(partial / PROVENANCE)
        files[-1].write_text(json.dumps(provenance, indent=1) + "\n", "utf-8")
    return [out / path.name for path in files]


@contextmanager
def whole_folder(out: Path) -> Iterator[Path]:
    """A folder beside `out` to write into; its files move into `out` once all are there. Raises BadInput where `out`
    cannot be written to, MedGenError when the disk is full."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=".medgen-", dir=out))
    except OSError as error:
        raise BadInput(f"The folder '{out}' cannot be written to: {error.strerror}.") from None
    try:
        yield partial
        for path in sorted(partial.iterdir()):
            path.replace(out / path.name)
    except OSError as error:
        raise MedGenError(f"The results could not be written to '{out}': {error.strerror or error}.") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
