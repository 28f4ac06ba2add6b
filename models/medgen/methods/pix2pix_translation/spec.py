"""Paavilainen, Akram and Kannala 2021: MR to CT and CT to MR, learnt from unpaired scans and an aligned stand-in; and
the stand-in itself, made from a few segments."""

from __future__ import annotations

from collections.abc import Mapping

from medgen.imaging.terms import FIT_HU
from medgen.spec import (
    Bool,
    FitnessWarning,
    Float,
    Image,
    ImageFacts,
    LabelMap,
    Mask,
    MethodSpec,
    Paper,
    Table,
)

PAPER = Paper(
    "Bridging the Gap Between Paired and Unpaired Medical Image Translation",
    "Paavilainen P, Akram SU, Kannala J",
    "DGM4MICCAI, LNCS 13003",
    2021,
    "10.1007/978-3-030-88210-5_4",
)
RESEARCH = "Research; synthetic, not validated for treatment. Networks of this kind can invent or drop structures."


def _common(name: str, image: ImageFacts) -> list[FitnessWarning]:
    found = []
    if max(image.spacing_mm) > 6:
        found.append(f"Slices {max(image.spacing_mm):.1f} mm apart are coarser than the weights were made for.")
    if min(image.extent_mm) < 60:
        found.append(f"Only {min(image.extent_mm):.0f} mm are covered along one axis; a head needs 150 mm or so.")
    elif max(image.extent_mm) > 450:
        found.append("The image is larger than a head; crop it to the head first.")
    if image.percentiles[0] == image.percentiles[2]:
        found.append("The image has next to no contrast.")
    return [FitnessWarning(name, sentence) for sentence in found]


def mr_fitness(facts: Mapping[str, ImageFacts]) -> list[FitnessWarning]:
    image = facts.get("mr")
    if image is None:
        return []
    found = _common("mr", image)
    if image.modality == "CT" or image.minimum < -500:
        found.append(FitnessWarning("mr", "This looks like a CT; an MR is needed here."))
    return found


def ct_fitness(facts: Mapping[str, ImageFacts]) -> list[FitnessWarning]:
    image = facts.get("ct")
    if image is None:
        return []
    found = _common("ct", image)
    if image.modality == "MR" or image.minimum > -200:
        found.append(FitnessWarning("ct", "This does not look like a CT in Hounsfield units: it has no air."))
    if image.maximum > 2900:
        found.append(
            FitnessWarning("ct", "Something denser than bone is in it (metal?); its surroundings will suffer.")
        )
    return found


UNCERTAINTY = Bool("uncertainty", "Uncertainty", False, "Eight more runs with random units switched off, and their "
                   "standard deviation: takes nine times as long.")  # fmt: skip
FILL = Bool("fill_outside", "Clear what is outside the body", True, "Air outside the body. Off, as in the paper: a "
            "couch may be translated, or invented.", advanced=True)  # fmt: skip
WARNINGS = (
    "The weights were trained for minutes on rendered heads (and one real CT): they show how the method works and are "
    "no basis for a plan. Train it on your own scans.",
    RESEARCH,
)

MR_TO_CT = MethodSpec(
    id="pix2pix_mr_to_ct",
    title="MR to CT, learnt from unpaired scans",
    summary="Makes a realistic CT of a head MR, slice by slice, aligned with it.",
    family="synthetic_ct",
    paper=PAPER,
    intended_use=RESEARCH,
    run="medgen.methods.pix2pix_translation.infer:mr_to_ct",
    inputs=(
        Image("mr", "Planning MR", modality="MR", help="T1, T2 or PD of a head, any orientation."),
        Mask("body", "Body", False, "What belongs to the patient; found automatically where this is left out."),
        Mask("bone", "Bone (override)", False, "Where the CT shows less than bone in here, it gets the HU of bone."),
        Mask("air", "Air (override)", False, "Gets the HU of air."),
    ),
    outputs=(
        Image("ct", "Synthetic CT", modality="CT", unit="HU", synthetic=True),
        Image("spread", "Uncertainty", False, "Standard deviation of eight runs.", unit="HU"),
        Table("checks", "Checks"),
    ),
    parameters=(
        UNCERTAINTY,
        FIT_HU,
        FILL,
        Float("bone_hu", "HU of bone", 700.0, "Of the bone override.", "HU", True, minimum=100, maximum=3000, step=50),
        Float("air_hu", "HU of air", -1000.0, "Of the air override and outside the body.", "HU", True, minimum=-1024,
              maximum=-200, step=10),
    ),
    warnings=(
        "The network alone misses much of the bone; HU fitted to structures are typical of a tissue, not of this "
        "patient.",
        *WARNINGS,
    ),
    modalities=("MR",),
    body_parts=("head",),
    weights=("mr_to_ct.safetensors",),
    fitness=mr_fitness,
)  # fmt: skip

CT_TO_MR = MethodSpec(
    id="pix2pix_ct_to_mr",
    title="CT to MR, contours carried along",
    summary="Makes a T1-like MR of a head CT, so that its contours can train an MR model.",
    family="synthetic_ct",
    paper=PAPER,
    intended_use=RESEARCH,
    run="medgen.methods.pix2pix_translation.infer:ct_to_mr",
    inputs=(
        Image("ct", "CT", modality="CT", help="In Hounsfield units; a couch may be in it."),
        Mask("body", "Body", False, "What belongs to the patient; found automatically where this is left out."),
        LabelMap("contours", "Contours to carry along", False, "Come back on the synthetic MR's grid."),
    ),
    outputs=(
        Image("mr", "Synthetic MR", modality="MR", help="T1-like; 0 to 1000, without a unit.", synthetic=True),
        Image("spread", "Uncertainty", False, "Standard deviation of eight runs."),
        LabelMap("carried", "Contours", False),
        Table("checks", "Checks"),
    ),
    parameters=(UNCERTAINTY, FILL),
    warnings=WARNINGS,
    modalities=("CT",),
    body_parts=("head",),
    weights=("ct_to_mr.safetensors",),
    fitness=ct_fitness,
)

BULK_DENSITY = MethodSpec(
    id="bulk_density_ct",
    title="Bulk-density CT from segments",
    summary="Gives each of a few segments one HU value: a pseudo-CT without a network, and a stand-in to train with.",
    family="synthetic_ct",
    paper=PAPER,
    intended_use="Research; a crude density map, and the aligned partner that training on unpaired scans needs.",
    run="medgen.methods.pix2pix_translation.infer:bulk_density_ct",
    inputs=(
        Mask("body", "Body", help="Gives the grid; what is in no other segment counts as soft tissue."),
        Mask("fat", "Fat", False),
        Mask("bone", "Bone", False),
        Mask("air", "Air inside the body", False),
    ),
    outputs=(Image("ct", "Bulk-density CT", modality="CT", unit="HU", synthetic=True),),
    parameters=(
        Float("soft_hu", "Soft tissue", 40, "", "HU", minimum=-200, maximum=200, step=5),
        Float("fat_hu", "Fat", -80, "", "HU", minimum=-200, maximum=100, step=5),
        Float("bone_hu", "Bone", 500, "", "HU", minimum=100, maximum=3000, step=50),
        Float("air_hu", "Air", -1000, "", "HU", minimum=-1024, maximum=-200, step=10),
    ),
    modalities=("MR",),
    body_parts=("any",),
)

SPECS = (MR_TO_CT, CT_TO_MR, BULK_DENSITY)
