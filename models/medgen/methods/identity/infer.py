"""The work of the test method: none, for as long as asked."""

from __future__ import annotations

import time
from typing import Any

from medgen.method import Context

STEP_SECONDS = 0.02


def run(inputs: dict[str, Any], parameters: dict[str, Any], context: Context) -> dict[str, Any]:
    seconds = parameters["seconds"]
    start = time.monotonic()
    while (elapsed := time.monotonic() - start) < seconds:
        context.progress.raise_if_cancelled()
        context.progress.report("Waiting", elapsed / seconds)
        time.sleep(min(STEP_SECONDS, seconds - elapsed))
    return {"image": inputs["image"]}
