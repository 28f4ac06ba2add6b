"""A batch of small cases, killed twice: nothing lost, nothing done twice, memory flat; and what a second worker gains.

The gain is measured as a user's batch has it: heads segmented by the multi-planar U-Net, from the command to the
report, start-up included; every process works with one thread, so that the gain is that of the second process. Two
cores must be free, or the figure tells of the other programs.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import SimpleITK as sitk

KILLS = 2
BARE = """
import time, torch
torch.set_num_threads(1)
layer, image = torch.nn.Conv2d(32, 32, 3, padding=1), torch.rand(8, 32, 160, 160)
with torch.inference_mode():
    for _ in range(3):
        layer(image)
    count, end = 0, time.monotonic() + 8
    while time.monotonic() < end:
        layer(image)
        count += 1
print(count)
"""
MODELS = Path(__file__).resolve().parents[2]


def run(quick: bool = False) -> dict[str, Any]:
    """quick: 120 cases instead of 300, and a shorter measurement of the gain."""
    cases, timed = (120, 4) if quick else (300, 24)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        image = folder / "image.nrrd"
        sitk.WriteImage(sitk.GetImageFromArray(np.arange(16**3, dtype=np.int16).reshape(16, 16, 16)), str(image))
        details = _killed(folder, image, cases)
        details |= _gain(folder, timed)
    passed = (
        details["cases_lost"] == 0
        and details["cases_done_twice"] == 0
        and details["memory_growth"] <= 0.05
        and details["speedup_2_workers"] >= 1.7
    )
    return {"name": "batch", "passed": passed, "details": details}


def _write_table(folder: Path, name: str, cases: int, cells: dict[str, Any]) -> Path:
    path = folder / name
    lines = ["case," + ",".join(cells)]
    lines += [f"case{n:03d}," + ",".join(str(cell) for cell in cells.values()) for n in range(cases)]
    path.write_text("\n".join(lines) + "\n", "utf-8")
    return path


def _start(method: str, table: Path, out: Path, workers: int) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "PYTHONPATH": str(MODELS), "OMP_NUM_THREADS": "1"}
    command = [
        sys.executable,
        "-m",
        "medgen.cli",
        "batch",
        method,
        str(table),
        "-o",
        str(out),
        "--workers",
        str(workers),
    ]
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def _killed(folder: Path, image: Path, cases: int) -> dict[str, Any]:
    """Kills the batch (only its first process: the others must notice) at random moments, then lets it end."""
    rng = random.Random(7)
    table = _write_table(folder, "killed.csv", cases, {"image": image, "seconds": 0.01})
    out = folder / "killed"
    seen: dict[str, float] = {}
    twice, memory, before = 0, [], 0
    for run_number in range(KILLS + 1):
        process = _start("identity", table, out, 2)
        tree = [psutil.Process(process.pid)]
        before = len(seen)
        stop_at = before + rng.randint(cases // 8, cases // 4) if run_number < KILLS else cases + 1
        while process.poll() is None:
            time.sleep(0.05)
            now = {p.parent.name: p.stat().st_mtime_ns for p in out.glob("case*/provenance.json")}
            twice += sum(now[name] != stamp for name, stamp in seen.items())
            seen.update(now)
            if run_number == KILLS:
                memory.append((len(seen) - before, _tree_bytes(tree)))
            if len(seen) >= stop_at:
                process.send_signal(signal.SIGKILL)
        _, error = process.communicate()
        if run_number == KILLS and process.returncode:
            raise RuntimeError(f"the batch did not end well: {error.decode()[-400:]}")
    with (out / "status.csv").open(encoding="utf-8") as file:
        done = sum(",done," in line for line in file)
    whole = sum((out / f"case{n:03d}" / "image.nii.gz").is_file() for n in range(cases))
    return {
        "cases": cases,
        "kills": KILLS,
        "cases_lost": cases - min(done, whole),
        "cases_done_twice": twice,
        "memory_growth": _growth(memory, cases - before),
        "memory_measured_over_cases": cases - before,
    }


def _tree_bytes(processes: list[psutil.Process]) -> int:
    total = 0
    for process in [*processes, *processes[0].children(recursive=True)] if processes[0].is_running() else []:
        try:
            total += process.memory_info().rss
        except psutil.Error:
            continue
    return total


def _growth(memory: list[tuple[int, int]], cases: int) -> float:
    """memory: (cases done, bytes) of the last run, of `cases`. The median while the last quarter of the cases was done
    over that of the second quarter, less 1: the first quarter warms up, and with the last case the processes end."""
    early = [size for done, size in memory if cases / 4 <= done < cases / 2]
    late = [size for done, size in memory if cases * 3 / 4 <= done < cases]
    return float(np.median(late) / np.median(early) - 1)


def _gain(folder: Path, cases: int) -> dict[str, Any]:
    """speedup_2_workers: of the whole command. speedup_when_warm: of the pace once every worker has ended its first
    case. speedup_of_bare_convolutions: what two processes can gain on this machine. load_before: programs that
    wanted a core in the minute before (1 or more spoils the figures)."""
    from medgen.imaging.phantoms import analytic_head, render_mr

    rng = np.random.default_rng(0)
    image = folder / "head.nii.gz"
    head = render_mr(analytic_head(rng, spacing_mm=1.5), "T1", rng)
    sitk.WriteImage(sitk.Cast(head, sitk.sitkInt16), str(image))
    table = _write_table(folder, "gain.csv", cases, {"image": image, "orientations": 1})
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    seconds, pace = {}, {}
    for workers in (1, 2):
        out, started = folder / f"gain{workers}", time.time()
        process = _start("multiplanar_unet", table, out, workers)
        _, error = process.communicate()
        if process.returncode:
            raise RuntimeError(error.decode()[-400:])
        seconds[workers] = time.time() - started
        ends = sorted(path.stat().st_mtime for path in out.glob("case*/provenance.json"))
        pace[workers] = (len(ends) - workers) / (ends[-1] - ends[workers - 1])
    return {
        "seconds_1_worker": seconds[1],
        "seconds_2_workers": seconds[2],
        "seconds_a_case_when_warm": 1 / pace[1],
        "speedup_2_workers": seconds[1] / seconds[2],
        "speedup_when_warm": pace[2] / pace[1],
        "gain_cases": cases,
        "threads_per_worker": 1,
        "speedup_of_bare_convolutions": _bare_gain(),
        "load_before": load,
    }


def _bare_gain() -> float:
    """How many convolutions two processes that do nothing else make, over those of one: what this machine allows."""
    made = {}
    for count in (1, 2):
        command = [sys.executable, "-c", BARE]
        processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(count)]
        made[count] = sum(int(process.communicate()[0]) for process in processes)
    return made[2] / made[1]


if __name__ == "__main__":
    print(json.dumps(run(True), indent=1))
