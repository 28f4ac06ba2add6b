"""Scans with real lesions from the shared data, for measuring only."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import SimpleITK as sitk

from medgen.imaging.brain_mask import rough_brain
from medgen.shared_data import shared_folder


@dataclass(frozen=True)
class RealCase:
    """images: sequences by name; lesion: uint8 0/1 on their grid; brain: mask of it, None where the images are
    stripped."""

    name: str
    images: dict[str, sitk.Image]
    lesion: sitk.Image
    brain: sitk.Image | None = None


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


def tumour_cases() -> Iterator[RealCase]:
    """A tumour in post-contrast T1, whole head, slices of 6.5 mm (pyradiomics' own example, BSD-3-Clause), with a rough
    brain mask, which is good where the tumour is. None without the shared data."""
    folder = shared_folder()
    path = folder / "mr_tumour_pyradiomics" if folder is not None else None
    if path is None or not path.is_dir():
        return
    image = sitk.ReadImage(str(path / "brain1_image.nii.gz"), sitk.sitkFloat32)
    lesion = sitk.ReadImage(str(path / "brain1_label.nii.gz"), sitk.sitkUInt8)
    yield RealCase("brain1", {"T1c": image}, lesion, rough_brain(image))
