"""Coded meanings of what a synthetic CT is parted into (SNOMED CT, as DICOM PS3.16 uses it). Standard library only."""

from medgen.spec import Code, Terminology

BODY = Terminology(Code("SCT", "123037004", "Anatomical Structure"), Code("SCT", "38266002", "Entire body"))
BONE = Terminology(Code("SCT", "85756007", "Tissue"), Code("SCT", "272673000", "Bone"))
AIR = Terminology(Code("SCT", "105590001", "Substance"), Code("SCT", "15158005", "Air"))
