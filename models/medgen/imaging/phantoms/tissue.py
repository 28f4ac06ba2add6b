"""The tissues of the head phantoms: which labels they carry and what each modality sees of them.

Label values are FreeSurfer's inside the brain and those of the SynthSeg head maps outside it (506 eyeball, 507 soft
tissue, ...). Five values are this package's own: FAT, parted from 507, and the lesions.

Sources: MR relaxation near 3 T after Stanisz et al., MRM 2005;54:507 and Bojorquez et al., MRI 2017;35:69 (fat, muscle,
eye and lesions rounded to typical values); HU after Schneider et al., PMB 2000;45:459 and common radiology ranges.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional

import numpy as np
import numpy.typing as npt

AIR, MUSCLE, FAT, SKIN, BONE, MARROW, EYE = 0, 507, 520, 511, 515, 516, 506
WMH, OEDEMA, TUMOUR, NECROSIS, STROKE = 601, 602, 603, 604, 605
LESIONS = (WMH, OEDEMA, TUMOUR, NECROSIS, STROKE)
WHITE_MATTER, GREY_MATTER, VENTRICLES, CSF = (2, 41), (3, 42), (4, 43), 24
BRAIN = (
    *(2, 3, 4, 5, 7, 8, 10, 11, 12, 13, 14, 15, 16, 17, 18, 25, 26, 28, 30, 72, 85, 136, 137),
    *(41, 42, 43, 44, 46, 47, 49, 50, 51, 52, 53, 54, 57, 58, 60, 62, 163, 164),
    *LESIONS,
)
TOP_LABEL = 1024


@dataclass(frozen=True)
class Tissue:
    """proton_density relative to water; t1_ms, t2_ms at 3 T; t1_contrast_ms: T1 after gadolinium, where it enhances;
    hu, hu_sd: mean and within-tissue standard deviation; water, fat: Dixon signal fractions of free water (bone and air
    give none)."""

    name: str
    labels: tuple[int, ...]
    proton_density: float
    t1_ms: float
    t2_ms: float
    hu: float
    hu_sd: float
    water: float
    fat: float
    t1_contrast_ms: Optional[float] = None


TISSUES: tuple[Tissue, ...] = (
    Tissue("air", (AIR,), 0.0, 1000, 50, -1000, 4, 0.0, 0.0),
    Tissue("cerebral white matter", (2, 41, 25, 57), 0.70, 830, 72, 28, 2, 0.70, 0.01),
    Tissue("cerebral cortex", (3, 42), 0.81, 1400, 92, 37, 2, 0.81, 0.01),
    Tissue("cerebellar white matter", (7, 46), 0.71, 880, 74, 29, 2, 0.71, 0.01),
    Tissue("cerebellar cortex", (8, 47), 0.81, 1330, 92, 37, 2, 0.81, 0.01),
    Tissue("thalamus", (10, 49), 0.77, 1120, 80, 35, 2, 0.77, 0.01),
    Tissue("caudate", (11, 50, 26, 58), 0.80, 1280, 84, 37, 2, 0.80, 0.01),
    Tissue("putamen", (12, 51), 0.79, 1200, 78, 37, 2, 0.79, 0.01),
    Tissue("pallidum", (13, 52), 0.75, 980, 62, 38, 3, 0.75, 0.01),
    Tissue("hippocampus and amygdala", (17, 53, 18, 54), 0.82, 1350, 96, 36, 2, 0.82, 0.01),
    Tissue("brain stem and diencephalon", (16, 28, 60), 0.74, 960, 78, 30, 3, 0.74, 0.01),
    Tissue("ventricular csf", (4, 43, 5, 44, 14, 15, 72), 1.0, 4200, 1700, 7, 2, 1.0, 0.0),
    Tissue("outer csf", (CSF,), 0.98, 4000, 1400, 9, 3, 0.98, 0.0),
    Tissue("choroid plexus", (136, 137, 163, 164), 0.90, 1900, 160, 42, 8, 0.90, 0.01, 700),
    Tissue("vessel", (30, 62, 502), 0.72, 1850, 55, 44, 4, 0.72, 0.01, 320),
    Tissue("dura and sinus", (514,), 0.72, 1500, 50, 55, 6, 0.70, 0.03, 380),
    Tissue("spinal cord and nerve", (512, 530, 85), 0.73, 950, 80, 33, 3, 0.73, 0.02),
    Tissue("eyeball", (EYE,), 0.98, 3800, 900, 12, 3, 0.98, 0.0),
    Tissue("muscle", (MUSCLE, 508), 0.80, 1400, 36, 55, 6, 0.78, 0.04),
    Tissue("fat", (FAT,), 0.72, 390, 95, -95, 10, 0.06, 0.90),
    Tissue("mucosa", (509,), 0.86, 1500, 100, 38, 10, 0.84, 0.03, 600),
    Tissue("skin", (SKIN,), 0.70, 850, 45, 35, 18, 0.50, 0.30),
    Tissue("cortical bone", (BONE,), 0.10, 300, 2, 1150, 190, 0.03, 0.02),
    Tissue("marrow", (MARROW,), 0.55, 430, 65, 330, 110, 0.20, 0.45),
    Tissue("white matter hyperintensity", (WMH,), 0.82, 1350, 140, 22, 2, 0.82, 0.01),
    Tissue("oedema", (OEDEMA,), 0.86, 1650, 190, 20, 2, 0.86, 0.01),
    Tissue("enhancing tumour", (TUMOUR,), 0.84, 1500, 120, 42, 5, 0.84, 0.01, 480),
    Tissue("necrosis", (NECROSIS,), 0.95, 2800, 420, 14, 3, 0.95, 0.01, 2400),
    Tissue("stroke", (STROKE,), 0.86, 1550, 165, 24, 2, 0.86, 0.01),
)
INDEX = {tissue.name: number for number, tissue in enumerate(TISSUES)}


def _table() -> npt.NDArray[np.uint8]:
    table = np.full(TOP_LABEL, INDEX["muscle"], np.uint8)  # a label that nobody declared is soft tissue
    for number, tissue in enumerate(TISSUES):
        table[list(tissue.labels)] = number
    return table


TISSUE_OF_LABEL = _table()
ALL_LABELS = tuple(sorted(label for tissue in TISSUES for label in tissue.labels))
