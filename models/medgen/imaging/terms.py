"""Coded meanings of what a synthetic CT is parted into (SNOMED CT, as DICOM PS3.16 uses it). Standard library only."""

from medgen.spec import Code, Label, Terminology

BODY = Terminology(Code("SCT", "123037004", "Anatomical Structure"), Code("SCT", "38266002", "Entire body"))
BONE = Terminology(Code("SCT", "85756007", "Tissue"), Code("SCT", "272673000", "Bone"))
AIR = Terminology(Code("SCT", "105590001", "Substance"), Code("SCT", "15158005", "Air"))

BONE_AND_AIR = (Label(1, "Bone", (241, 214, 145), BONE), Label(2, "Air inside the body", (128, 174, 255), AIR))
