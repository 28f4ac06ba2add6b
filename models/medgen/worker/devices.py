"""Which devices a job can run on, told without loading PyTorch where it is not loaded yet."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from medgen.errors import BadInput


def nvidia_names() -> list[str]:
    """Names of the NVIDIA GPUs, asked of the driver; empty without a driver. Standard library only."""
    cards = sorted(Path("/proc/driver/nvidia/gpus").glob("*/information"))
    if cards:
        lines = [line for card in cards for line in card.read_text(errors="replace").splitlines()]
        return ["NVIDIA " + line.split(":", 1)[1].strip().removeprefix("NVIDIA ") for line in lines if "Model:" in line]
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return []
    command = [tool, "--query-gpu=name", "--format=csv,noheader"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return [line.strip() for line in answer.stdout.splitlines() if line.strip()] if answer.returncode == 0 else []


def loaded_torch() -> Any:
    """PyTorch if it has been imported, None if not, or if another thread has not finished importing it."""
    torch = sys.modules.get("torch")
    return None if torch is None or getattr(torch.__spec__, "_initializing", False) else torch


def list_devices() -> list[dict[str, str]]:
    """[{'id', 'title'}], the best first, 'cpu' last. A guess from the driver until PyTorch is loaded."""
    cpu = {"id": "cpu", "title": f"CPU ({os.cpu_count()} cores)"}
    torch = loaded_torch()
    if torch is not None:
        devices = [
            {"id": f"cuda:{i}", "title": torch.cuda.get_device_name(i)} for i in range(torch.cuda.device_count())
        ]
        if torch.backends.mps.is_available():
            devices.append({"id": "mps", "title": "Apple GPU"})
        return [*devices, cpu]
    if "+cpu" in _torch_version():
        return [cpu]
    return [*({"id": f"cuda:{i}", "title": name} for i, name in enumerate(nvidia_names())), cpu]


def choose_device(asked: str) -> str:
    """'auto' becomes the best there is; anything else must exist. Raises BadInput."""
    if asked != "cpu" and (list_devices()[0]["id"] != "cpu" or sys.platform == "darwin"):
        with contextlib.suppress(ImportError):
            import torch  # noqa: F401  (what the driver says of a GPU is a guess: it may be too old for this PyTorch)
    known = [device["id"] for device in list_devices()]
    if asked == "auto":
        return known[0]
    if asked == "cuda":
        asked = "cuda:0"
    if asked not in known:
        raise BadInput(f"There is no device '{asked}' here (there is: {', '.join(known)}).")
    return asked


def _torch_version() -> str:
    try:
        return importlib.metadata.version("torch")
    except importlib.metadata.PackageNotFoundError:
        return "+cpu"
