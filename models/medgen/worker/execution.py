"""One job: checks, weights, the method, another try where a GPU's memory ran out, provenance. Knows no pipes."""

from __future__ import annotations

import importlib.metadata
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeGuard

import medgen
from medgen.catalogue import load_run
from medgen.errors import MedGenError
from medgen.method import Context, Progress
from medgen.spec import MethodSpec
from medgen.weights import checked_weights
from medgen.worker.checks import check_inputs
from medgen.worker.devices import choose_device, loaded_torch

NETWORKS_KEPT = 4


class RecentCache(OrderedDict[Any, Any]):
    """`Context.cache`: the few things used last (networks with their weights); the oldest goes first."""

    def __init__(self) -> None:
        super().__init__()
        self._digests: dict[Path, str] = {}

    def renew(self, weights: Path, digest: str) -> None:
        """Forgets everything where the file has another content than in the job before: keys name its path only."""
        if self._digests.setdefault(weights, digest) != digest:
            self.clear()
            self._digests[weights] = digest

    def __getitem__(self, key: Any) -> Any:
        self.move_to_end(key)
        return super().__getitem__(key)

    def __setitem__(self, key: Any, value: Any) -> None:
        super().__setitem__(key, value)
        while len(self) > NETWORKS_KEPT:
            self.popitem(last=False)


def run_method(
    spec: MethodSpec, inputs: dict[str, Any], request: Mapping[str, Any], progress: Progress, cache: RecentCache
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns outputs and provenance (see `JobFinished`).

    request: {'parameters', 'seed', 'device', 'weights'} as in `JobRequest`. Raises BadInput for what cannot be used,
    MedGenError where the method does not keep its declaration, and whatever the method raises.
    """
    started, clock = datetime.now(UTC), time.monotonic()
    parameters = spec.check_parameters(request["parameters"])
    check_inputs(spec, inputs)
    weights, digest = _weights(spec, request["weights"])
    if weights is not None and digest is not None:
        cache.renew(weights, digest)
    context = Context(progress, choose_device(request["device"]), int(request["seed"]), weights, cache)
    notices: list[str] = []
    outputs = _run_within_memory(load_run(spec), inputs, parameters, context, notices)
    for port in spec.outputs:
        if port.required and outputs.get(port.name) is None:
            raise MedGenError(f"Method '{spec.id}' did not make its output '{port.name}'.")
    provenance = {
        "method": spec.id,
        "method_version": spec.version,
        "weights": ", ".join([*([weights.name] if weights else []), *context.borrowed]) or None,
        "weights_sha256": ", ".join([*([digest] if digest else []), *context.borrowed.values()]) or None,
        "parameters": parameters,
        "seed": context.seed,
        "device": context.device,
        "seconds": round(time.monotonic() - clock, 3),
        "medgen_version": medgen.__version__,
        "torch_version": _version("torch"),
        "started_utc": started.isoformat(timespec="milliseconds"),  # tells runs apart, too
        "notices": notices,
    }
    return outputs, provenance


def _weights(spec: MethodSpec, asked: str | None) -> tuple[Path | None, str | None]:
    if asked is None and not spec.weights:
        return None, None
    return checked_weights(spec.weights_id, asked or spec.weights[0])


def _run_within_memory(
    run: Callable[..., dict[str, Any]],
    inputs: dict[str, Any],
    parameters: dict[str, Any],
    context: Context,
    notices: list[str],
) -> dict[str, Any]:
    """Again with smaller patch batches, then on the CPU, each time the GPU's memory runs out."""
    ladder = [
        (0.25, context.device, "The GPU ran out of memory; it was tried again with fewer patches at once."),
        (1.0, "cpu", "The GPU ran out of memory; this ran on the CPU."),
    ]
    while True:
        try:
            return run(dict(inputs), dict(parameters), context)
        except Exception as error:
            if not _is_gpu_memory(error) or not ladder or context.device == "cpu":
                raise
        context.batch_scale, context.device, sentence = ladder.pop(0)
        context.cache.clear()  # networks that other jobs left on the GPU
        loaded_torch().cuda.empty_cache()
        notices.append(sentence)
        context.progress.notice(sentence)
        context.progress.raise_if_cancelled()


def _is_gpu_memory(error: Exception) -> bool:
    torch = loaded_torch()
    return torch is not None and isinstance(error, torch.OutOfMemoryError)


def lacks_package(error: BaseException) -> TypeGuard[ModuleNotFoundError]:
    return isinstance(error, ModuleNotFoundError) and not str(error.name).startswith("medgen")


def failure_sentence(error: BaseException) -> str:
    """What the user reads of any exception; the traceback goes to the log."""
    if isinstance(error, MedGenError):
        return str(error)
    if lacks_package(error):
        return f"The worker's Python lacks the package '{error.name}': run 'medgen setup' to repair it."
    if isinstance(error, MemoryError) or "not enough memory" in str(error) or "can't allocate memory" in str(error):
        return "The computer ran out of memory: close other programs, or use a smaller image or region."
    if _is_gpu_memory(error):  # type: ignore[arg-type]
        return "The GPU ran out of memory, also with few patches at once."
    return (
        f"The method failed: {type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"
    )


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
