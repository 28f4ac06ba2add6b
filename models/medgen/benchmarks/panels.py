"""What the panels cost Slicer: start, opening, pauses of the event loop, memory. Measured in the harness of
Testing/gui, in a process of its own, since this package never imports Qt or Slicer."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from medgen.errors import MedGenError

SCRIPT = Path(__file__).resolve().parents[3] / "Testing" / "gui" / "bench_panels.py"
BARS = {"import_seconds": 0.3, "panel_seconds": 0.5, "longest_pause_ms": 50.0, "memory_growth": 0.05}


def run(quick: bool) -> dict[str, Any]:
    """50 runs for the memory, 15 when quick. Needs the source checkout with the extra [test]."""
    if not SCRIPT.is_file():
        raise MedGenError("This bench needs the source checkout: Testing/gui is not there.")
    command = [sys.executable, str(SCRIPT), *(["--quick"] if quick else [])]
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8")
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no output"])[-1]
        raise MedGenError(f"The panels could not be measured: {last}.")
    details = json.loads(done.stdout.strip().splitlines()[-1])
    passed = all(details[key] <= bar for key, bar in BARS.items()) and not details["torch_in_sys_modules"]
    return {"name": "panels", "passed": passed, "details": {**details, "bars": BARS}}
