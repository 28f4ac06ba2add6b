"""Ctrl-C at the command line: the job ends, its processes too, and nothing is left in the output folder."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import SimpleITK as sitk

MODELS = Path(__file__).resolve().parents[2] / "models"


@pytest.fixture
def command(tmp_path: Path) -> list[str]:
    sitk.WriteImage(
        sitk.GetImageFromArray(np.arange(8000, dtype=np.int16).reshape(20, 20, 20)), str(tmp_path / "in.nrrd")
    )
    run = [sys.executable, "-m", "medgen.cli", "run", "identity", "-i", f"image={tmp_path / 'in.nrrd'}"]
    return [*run, "-o", str(tmp_path / "out")]


def test_ctrl_c_cancels_and_leaves_nothing(command: list[str], tmp_path: Path) -> None:
    process = subprocess.Popen(
        [*command, "-p", "seconds=200"], cwd=MODELS, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    assert "Waiting" in process.stderr.readline()  # the worker is at it
    family = psutil.Process(process.pid).children(recursive=True)
    assert family
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert said.splitlines()[-1] == "Cancelled."
    assert "Traceback" not in said
    assert not (tmp_path / "out").exists()
    assert not [child for child in family if child.is_running() and child.status() != psutil.STATUS_ZOMBIE]


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_a_terminal_sees_a_bar_with_stage_and_remaining_time(command: list[str]) -> None:
    master, slave = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "120"}
    process = subprocess.Popen(
        [*command, "-p", "seconds=4"], cwd=MODELS, stderr=slave, stdout=subprocess.DEVNULL, env=environment
    )
    os.close(slave)
    seen = b""
    end = time.monotonic() + 120
    while time.monotonic() < end:
        try:
            data = os.read(master, 4096)
        except OSError:  # the other side is closed
            break
        if not data:
            break
        seen += data
    os.close(master)
    assert process.wait(timeout=60) == 0
    text = seen.decode("utf-8", "replace")
    assert "Waiting" in text and "100 %" in text and "s left" in text
