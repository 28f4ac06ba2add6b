"""Whether an image is of the kind that a method asks for, told from its header or its values."""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk

from medgen import spec as s
from medgen.errors import BadInput

MR_MODALITIES = {"MR", "T1", "T2", "PD", "FLAIR", "DIXON"}
TELLING_MODALITIES = {"MR", "CT", "US", "PT", "NM", "CR", "DX", "MG", "XA"}  # others (OT, SC...) say nothing
HU_OF_AIR = -900.0  # below this lies only the air (or the padding) of a CT image in Hounsfield units


def check_modality(port: s.Image, image: sitk.Image, modality: str) -> None:
    """modality: what the file's header says, '' where it says nothing; then Hounsfield units tell CT from MR.

    Raises BadInput with one sentence.
    """
    wanted, found = port.modality.upper(), modality.upper()
    accepted = MR_MODALITIES if wanted in MR_MODALITIES else {wanted}
    if wanted == "ANY" or image.GetNumberOfComponentsPerPixel() > 1:
        return
    if found in TELLING_MODALITIES and found not in accepted:
        raise BadInput(f"Input '{port.name}' ({port.title}) must be {port.modality}, but its header says {modality}.")
    if wanted in MR_MODALITIES and found != "MR":
        values = sitk.GetArrayViewFromImage(image)
        step = max(1, round((values.size / 100_000) ** (1 / values.ndim)))
        if np.percentile(values[(slice(None, None, step),) * values.ndim], 1) <= HU_OF_AIR:
            raise BadInput(f"Input '{port.name}' ({port.title}) must be {port.modality}, but its values are a CT's.")
