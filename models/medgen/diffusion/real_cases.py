"""Scans with real lesions from the shared data, for measuring only."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import SimpleITK as sitk

from medgen.shared_data import shared_folder


@dataclass(frozen=True)
class RealCase:
    """images: skull-stripped sequences by name; lesion: uint8 0/1 on their grid."""

    name: str
    images: dict[str, sitk.Image]
    lesion: sitk.Image


def ms_cases() -> Iterator[RealCase]:
    """Multiple sclerosis in MNI space with a consensus mask (Lesjak et al., Neuroinformatics 2017; CC BY). None without
    the shared data."""
    folder = shared_folder()
    if folder is None:
        return
    for patient in sorted((folder / "mr_ms_openms" / "mni_skullstripped").glob("patient*")):
        images = {
            name: sitk.ReadImage(str(patient / f"{name}.nii.gz"), sitk.sitkFloat32)
            for name in ("FLAIR", "T1", "T2")
            if (patient / f"{name}.nii.gz").is_file()
        }
        yield RealCase(patient.name, images, sitk.ReadImage(str(patient / "GOLD_STANDARD.nii.gz"), sitk.sitkUInt8))
