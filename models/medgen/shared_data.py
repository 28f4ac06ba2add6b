"""Where the data for training and measuring lies on a developer's machine. None of it belongs to the project."""

from __future__ import annotations

import os
import plistlib
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING, Optional

if TYPE_CHECKING:
    import SimpleITK as sitk

ENVIRONMENT = "MEDGEN_SHARED"
HEAD_CT_ENVIRONMENT = "MEDGEN_HEAD_CT"
HEAD_CT = "/usr/share/doc/invesalius-examples/examples/Cranium.inv3"


def shared_folder() -> Optional[Path]:
    """The data folder: what MEDGEN_SHARED names, else `../shared/data` beside the checkout; None if missing."""
    named = os.environ.get(ENVIRONMENT)
    folder = Path(named) if named else Path(__file__).resolve().parents[3] / "shared" / "data"
    return folder if folder.is_dir() else None


def measured_head_ct() -> Optional[sitk.Image]:
    """The real head CT (HU, with its head rest) of Debian's package invesalius-examples, None where it is missing.
    It is under GPL-2: to measure on, never to train what ships. MEDGEN_HEAD_CT names a file elsewhere."""
    import numpy as np
    import SimpleITK as sitk

    path = Path(os.environ.get(HEAD_CT_ENVIRONMENT, HEAD_CT))
    if not path.is_file():
        return None
    with tarfile.open(path) as archive:
        parts = {Path(member.name).name: member for member in archive.getmembers()}

        def content(name: str) -> bytes:
            stream = archive.extractfile(parts[name])
            assert stream is not None
            return stream.read()

        facts = plistlib.loads(content("main.plist"))
        matrix = facts["matrix"]
        voxels = np.frombuffer(content(matrix["filename"]), matrix["dtype"]).reshape(matrix["shape"])
    image = sitk.GetImageFromArray(voxels)
    image.SetSpacing(facts["spacing"])
    image.SetDirection((1, 0, 0, 0, -1, 0, 0, 0, 1))  # its rows run from the back to the face
    return image
