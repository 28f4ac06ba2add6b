"""The user's settings of this extension, kept by the application (not in the scene)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import qt

GROUP = "MedGen/"
IDLE_MINUTES = 10


def get(name: str, default: Any) -> Any:
    """Of the default's type; ini files give texts back."""
    value = qt.QSettings().value(GROUP + name)
    if value is None or value == "":
        return default
    if isinstance(default, bool):
        return str(value).lower() in ("true", "1")
    try:
        return type(default)(value)
    except (TypeError, ValueError):
        return default


def put(name: str, value: Any) -> None:
    qt.QSettings().setValue(GROUP + name, value)


def last_folder(purpose: str) -> str:
    return get(f"folder/{purpose}", str(Path.home()))


def seconds_per_voxel(method_id: str, device: str) -> float:
    """Measured in the last run of that method; 0: not known yet."""
    return get(f"speed/{method_id}/{device.replace(':', '_')}", 0.0)


def remember_speed(method_id: str, device: str, seconds: float, voxels: int) -> None:
    if voxels > 0:
        put(f"speed/{method_id}/{device.replace(':', '_')}", seconds / voxels)
