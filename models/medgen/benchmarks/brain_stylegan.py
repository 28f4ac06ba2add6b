"""What brains cost: a preview and the first cell of a mixing grid with the starter weights in a warm worker; one sample
of the paper's size (96 x 112 x 80, 64 filters) and of a millimetre (192 x 224 x 160) with random weights; memory."""

from __future__ import annotations

import gc
import resource
import subprocess
import sys
import time
from typing import Any

import torch

from medgen.errors import BadInput
from medgen.method import Context, SilentProgress
from medgen.methods.brain_stylegan import infer
from medgen.methods.brain_stylegan.spec import GRID, ID, SAMPLE
from medgen.nets.stylegan3d import Architecture, Generator
from medgen.weights import checked_weights

PREVIEW_BAR, CELL_BAR, SAMPLE_BAR, MEMORY_BAR = 0.3, 1.0, 6.0, 2.5  # seconds, GB
PAPER, MILLIMETRE = Architecture((64,) * 5, 64), Architecture((64, 64, 64, 64, 32, 16), 64)
THREADS = 2


def run(quick: bool) -> dict[str, Any]:
    """quick: without the millimetre."""
    torch.set_num_threads(min(THREADS, torch.get_num_threads()))
    details: dict[str, Any] = {"bars": {"preview_seconds": PREVIEW_BAR, "first_cell_seconds": CELL_BAR,
                                        "sample_seconds": SAMPLE_BAR, "memory_gb": MEMORY_BAR}}  # fmt: skip
    try:
        context = Context(weights=checked_weights(ID, SAMPLE.weights[0])[0])
        details |= {"preview_seconds": preview(context), "first_cell_seconds": first_cell(context)}
        passed = details["preview_seconds"] < PREVIEW_BAR and details["first_cell_seconds"] < CELL_BAR
    except BadInput as error:  # the others shall be measured all the same
        details["not measured"], passed = str(error), False
    for name, architecture in {"paper": PAPER, **({} if quick else {"millimetre": MILLIMETRE})}.items():
        details[name] = measured_apart(architecture)
        passed &= details[name]["memory_gb"] < MEMORY_BAR
    passed &= details["paper"]["seconds"] < SAMPLE_BAR
    return {"name": "brain_stylegan", "passed": bool(passed), "details": details}


def preview(context: Context) -> float:
    """Seconds of the fastest of five."""
    parameters = SAMPLE.check_parameters({"size": "preview"})
    found = []
    for _ in range(5):
        started = time.perf_counter()
        infer.sample({}, parameters, context)
        found.append(time.perf_counter() - started)
    return min(found[1:])


class _First(SilentProgress):
    def __init__(self) -> None:
        self.started, self.seconds = time.perf_counter(), 0.0

    def partial(self, name: str, value: Any) -> None:
        self.seconds = self.seconds or time.perf_counter() - self.started


def first_cell(context: Context) -> float:
    """Seconds until the first of 5 x 5 cells is shown."""
    codes = infer.sample({}, SAMPLE.check_parameters({"count": 5}), context)["codes"]
    context.progress = first = _First()
    infer.grid({"coarse": codes, "fine": codes}, GRID.check_parameters({"size": "preview"}), context)
    return first.seconds


def measured_apart(architecture: Architecture) -> dict[str, float]:
    """In a process of its own, whose memory is the sample's alone."""
    command = [sys.executable, "-m", __name__, *map(str, architecture.filters), str(architecture.latent)]
    seconds, gigabytes = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-2:]
    return {"seconds": float(seconds), "memory_gb": float(gigabytes)}


@torch.inference_mode()
def measure(architecture: Architecture) -> tuple[float, float]:
    """Seconds of the second of two samples in bfloat16, and the largest resident memory in GB."""
    torch.set_num_threads(THREADS)
    network = Generator(architecture).eval()
    seconds = 0.0
    for seed in range(2):
        gc.collect()
        started = time.perf_counter()
        w = network.for_layers(network.mapped(torch.randn(1, architecture.latent)))
        network(w, network.noise(1, torch.Generator().manual_seed(seed)), infer.precision(network))
        seconds = time.perf_counter() - started
    unit = 1 if sys.platform == "darwin" else 1024
    return seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


if __name__ == "__main__":
    *filters, latent = map(int, sys.argv[1:])
    print(*measure(Architecture(tuple(filters), latent)))
