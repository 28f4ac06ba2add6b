"""Where the data for training and measuring lies on a developer's machine. None of it belongs to the project."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Optional

ENVIRONMENT = "MEDGEN_SHARED"


def shared_folder() -> Optional[Path]:
    """The data folder: what MEDGEN_SHARED names, else `../shared/data` beside the checkout; None if missing."""
    named = os.environ.get(ENVIRONMENT)
    folder = Path(named) if named else Path(__file__).resolve().parents[3] / "shared" / "data"
    return folder if folder.is_dir() else None
