"""What specs of synthetic CTs share: coded meanings of the parts (SNOMED CT, as DICOM PS3.16 uses it) and an option.
Standard library only."""

from medgen.spec import Bool, Code, Label, Terminology

BODY = Terminology(Code("SCT", "123037004", "Anatomical Structure"), Code("SCT", "38266002", "Entire body"))
BONE = Terminology(Code("SCT", "85756007", "Tissue"), Code("SCT", "272673000", "Bone"))
AIR = Terminology(Code("SCT", "105590001", "Substance"), Code("SCT", "15158005", "Air"))

BONE_AND_AIR = (Label(1, "Bone", (241, 214, 145), BONE), Label(2, "Air inside the body", (128, 174, 255), AIR))

FIT_HU = Bool("structures", "Fit HU to the head's structures", True, "A segmentation of the MR (weights of "
              "multiplanar_unet) tells brain, fluid, bone and soft tissue apart; HU that do not fit become typical "
              "ones. Calcifications and implants are lost. Off: the network alone.")  # fmt: skip
