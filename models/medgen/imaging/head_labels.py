"""The structures that the starter weights know. Standard library only.

Values, and what they gather from the label maps (FreeSurfer's numbers inside the brain, the maps' own outside it): left
and right are one label, choroid plexus counts as its ventricle, white matter lesions as white matter, and all that is
neither bone, skin, eye nor cord outside the brain is one 'soft tissue'.
"""

from __future__ import annotations

from medgen.imaging import terms
from medgen.spec import Code, Label, Terminology


def _sct(value: str, meaning: str) -> Code:
    return Code("SCT", value, meaning)


_ANATOMY = _sct("123037004", "Anatomical Structure")
_TISSUE = _sct("85756007", "Tissue")

# value: (name, FreeSurfer-like colour, category, code as in DICOM CID 7140 where it has one, labels of the maps)
_TABLE = {
    1: (
        "Cerebral white matter",
        (245, 245, 245),
        _TISSUE,
        _sct("68523003", "Cerebral white matter"),
        (2, 41, 25, 57, 30, 62),
    ),
    2: ("Cerebral cortex", (205, 62, 78), _TISSUE, _sct("40146001", "Cerebral cortex"), (3, 42)),
    3: (
        "Lateral ventricles",
        (120, 18, 134),
        _ANATOMY,
        _sct("66720007", "Lateral ventricle"),
        (4, 43, 5, 44, 72, 136, 137, 163, 164),
    ),
    4: ("Cerebellar white matter", (220, 248, 164), _TISSUE, _sct("33060004", "Cerebellar white matter"), (7, 46)),
    5: ("Cerebellar cortex", (230, 148, 34), _TISSUE, _sct("25991003", "Cerebellar cortex"), (8, 47)),
    6: ("Thalamus", (0, 118, 14), _ANATOMY, _sct("42695009", "Thalamus"), (10, 49)),
    7: ("Caudate nucleus", (122, 186, 220), _ANATOMY, _sct("11000004", "Caudate nucleus"), (11, 50)),
    8: ("Putamen", (236, 13, 176), _ANATOMY, _sct("89278009", "Putamen"), (12, 51)),
    9: ("Pallidum", (12, 48, 255), _ANATOMY, _sct("14738005", "Globus pallidus"), (13, 52)),
    10: ("Hippocampus", (220, 216, 20), _ANATOMY, _sct("5366008", "Hippocampus"), (17, 53)),
    11: ("Amygdala", (103, 255, 255), _ANATOMY, _sct("4958002", "Amygdaloid structure"), (18, 54)),
    12: ("Nucleus accumbens", (255, 165, 0), _ANATOMY, _sct("427667007", "Nucleus accumbens"), (26, 58)),
    13: ("Ventral diencephalon", (165, 42, 42), _ANATOMY, Code("DCM", "110700", "Ventral Diencephalon"), (28, 60, 85)),
    14: ("Brain stem", (119, 159, 176), _ANATOMY, _sct("119238007", "Brain stem"), (16,)),
    15: ("Third ventricle", (204, 182, 142), _ANATOMY, _sct("49841001", "Third ventricle"), (14,)),
    16: ("Fourth ventricle", (42, 204, 164), _ANATOMY, _sct("35918002", "Fourth ventricle"), (15,)),
    17: ("Cerebrospinal fluid", (60, 60, 200), _ANATOMY, _sct("35951006", "Subarachnoid space"), (24,)),
    18: ("Spinal cord", (244, 214, 49), _ANATOMY, _sct("2748008", "Spinal cord"), (512,)),
    19: ("Cortical bone", (241, 214, 145), _TISSUE, _sct("272673000", "Bone"), (515,)),
    20: ("Bone marrow", (190, 120, 70), _TISSUE, _sct("14016003", "Bone marrow"), (516,)),
    21: ("Eyes", (150, 200, 255), _ANATOMY, _sct("81745001", "Eye"), (506,)),
    22: ("Skin", (177, 122, 101), _TISSUE, _sct("39937001", "Skin"), (511,)),
    23: ("Soft tissue", (128, 100, 80), _TISSUE, _sct("87784001", "Soft tissue"), (507, 508, 509, 520, 530, 502, 514)),
}
SOURCES: dict[int, tuple[int, ...]] = {value: row[4] for value, row in _TABLE.items()}
LABELS = tuple(
    Label(value, name, colour, Terminology(category, code))
    for value, (name, colour, category, code, _) in _TABLE.items()
)
CLASSES = len(LABELS) + 1  # and background, 0
BONE = (19, 20)

# the two that MR cannot tell apart by their brightness, for whoever makes a CT of it
BONE_AND_AIR = (
    Label(1, "Bone", (241, 214, 145), terms.BONE),
    Label(2, "Air", (0, 151, 206), terms.AIR),
)
