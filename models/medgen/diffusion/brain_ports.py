"""The inputs and fitness that all brain methods of the diffusion family share. Standard library only."""

from __future__ import annotations

from collections.abc import Mapping

from medgen.spec import ROI, Bool, Code, FitnessWarning, Float, Image, ImageFacts, Mask, Port, Terminology
from medgen.weights import list_weights

LESION = Terminology(Code("SCT", "49755003", "Morphologically Altered Structure"), Code("SCT", "52988006", "Lesion"))
SEQUENCES = (("FLAIR", "FLAIR"), ("T2", "T2"), ("T1", "T1"), ("T1c", "T1c (with contrast agent)"))
INPUTS: tuple[Port, ...] = (
    *(
        Image(name, title, modality="MR", required=False, help="Skull-stripped, or with a brain mask.")
        for name, title in SEQUENCES
    ),
    Mask("brain", "Brain mask", required=False, help="Needed where the skull is still on."),
)
REGION: Port = ROI("roi", "Box to work in", required=False, help="Only what lies in it is worked on.")
RANGE = (
    Float("from_mm", "From", 0.0, "The lowest slice that is worked on: so far above the brain's lowest, as the plot of "
          "P(diseased) counts.", unit="mm", minimum=0.0, maximum=1000.0, step=5.0, advanced=True),
    Float("to_mm", "To", 1000.0, "The highest slice that is worked on.", unit="mm", minimum=0.0, maximum=1000.0,
          step=5.0, advanced=True),
)  # fmt: skip
COMPILE = Bool("compile", "Compile for the GPU", False, "The first run takes a minute longer, every step after it is "
               "faster: for whole volumes and many draws.", advanced=True)  # fmt: skip
RENDERED = (
    "The weights were trained on rendered brains with drawn lesions, not on scans: on scans they also react to what "
    "the rendering lacks."
)


def fitness(facts: Mapping[str, ImageFacts]) -> list[FitnessWarning]:
    found = []
    for name, image in facts.items():
        if image.modality == "CT" or image.minimum < -500:
            found.append(FitnessWarning(name, "This looks like a CT; the weights know MR only."))
        if max(image.spacing_mm) > 7:
            found.append(FitnessWarning(name, f"Slices {max(image.spacing_mm):.1f} mm apart leave most unseen."))
    if "FLAIR" not in facts and facts:
        found.append(FitnessWarning(next(iter(facts)), "Without FLAIR, small lesions in white matter are missed."))
    return found


def missing_weights(method_id: str) -> tuple[str, ...]:
    """The warning of a method for which no weights are installed; none once there are some."""
    if list_weights(method_id):
        return ()
    return (f"No weights come with this method yet: train them with `medgen train {method_id}`.",)
