"""What every `proof.py` returns: checks with their figures. Slow parts of the project's claims, runnable by anyone."""

from __future__ import annotations

from typing import Any, Literal

Mode = Literal["quick", "normal", "full"]


def check(name: str, value: float, baseline: float, margin: float, higher: bool = True) -> dict[str, Any]:
    """Passed when `value` lies above `baseline + margin` (`higher`), else when it lies below `baseline - margin`.

    baseline: the figure of an honest comparator, or the bar itself with margin 0.
    """
    passed = value >= baseline + margin if higher else value <= baseline - margin
    figures = {"value": round(value, 4), "baseline": round(baseline, 4), "margin": margin}
    return {"name": name, **figures, "passed": bool(passed)}


def verdict(method: str, checks: list[dict[str, Any]], skipped: list[str]) -> dict[str, Any]:
    """skipped: what could not be checked on this machine or in this mode, a sentence each."""
    return {"method": method, "passed": all(c["passed"] for c in checks), "checks": checks, "skipped": skipped}
