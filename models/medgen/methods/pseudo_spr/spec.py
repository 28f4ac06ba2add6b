"""Yawson et al. 2023: proton stopping power relative to water (SPR) from one to three MR channels and bone."""

from __future__ import annotations

from collections.abc import Mapping

from medgen.imaging.spr_table import SPR_TABLE
from medgen.imaging.terms import BONE_AND_AIR
from medgen.spec import (
    Bool,
    Choice,
    FitnessWarning,
    Float,
    Image,
    ImageFacts,
    LabelMap,
    Mask,
    MethodSpec,
    Paper,
    Plot,
    Points,
    Table,
)

CHANNELS = ("water", "t1", "fat")  # the order in which they lead: the first one given brings the grid

FAR_ABOVE = 8  # times the range of the other values


def fitness(facts: Mapping[str, ImageFacts]) -> list[FitnessWarning]:
    found: list[FitnessWarning] = []
    given = [name for name in CHANNELS if name in facts]
    for name in given:
        image = facts[name]
        if image.modality == "CT" or image.minimum < -500:
            found.append(FitnessWarning(name, "This looks like a CT; an MR is needed here."))
        elif image.percentiles[0] == image.percentiles[2]:
            found.append(FitnessWarning(name, "The image has next to no contrast."))
        elif image.maximum - image.percentiles[0] > FAR_ABOVE * (image.percentiles[2] - image.percentiles[0]):
            sentence = (
                "Single values lie far above all others (metal, or a damaged file?); the SPR there will be wrong."
            )
            found.append(FitnessWarning(name, sentence))
        if max(image.spacing_mm) > 4:
            sentence = f"Slices {max(image.spacing_mm):.1f} mm apart: thin bone and air cells will be missed."
            found.append(FitnessWarning(name, sentence))
        if min(image.extent_mm) < 120:
            sentence = f"Only {min(image.extent_mm):.0f} mm are covered along one axis; what lies outside has no SPR."
            found.append(FitnessWarning(name, sentence))
    if len(given) == 1:
        found.append(FitnessWarning(given[0], "With one MR channel the errors are larger than with two or three."))
    return found


SPR = MethodSpec(
    id="pseudo_spr",
    title="Stopping power (SPR) from head MR",
    summary="Predicts the proton stopping-power ratio of a head from T1 or Dixon MR, with water-equivalent depths.",
    family="synthetic_ct",
    paper=Paper(
        "Pseudo-SPR Map Generation from MRI Using U-Net Architecture for Ion Beam Therapy Application",
        "Yawson AK, Paul K, Beyer C, Dorsch S, Klüter S, Welzel T, Seidensaal K, Debus J, Jäkel O, Giske K",
        "MIUA, LNCS 14122",
        2023,
        "10.1007/978-3-031-48593-0_19",
    ),
    intended_use="Research on MR-only ion-beam planning. Not validated for treatment; check bone and air everywhere.",
    run="medgen.methods.pseudo_spr.infer:run",
    inputs=(
        Image("water", "Fat-suppressed MR (Dixon water)", False, "Brings the bone channel; any one MR is enough.",
              modality="MR"),
        Image("t1", "T1-weighted MR", False, "Spoiled gradient echo or MPRAGE.", modality="MR"),
        Image("fat", "Water-suppressed MR (Dixon fat)", False, modality="MR"),
        Mask("bone", "Bone", False, "Cortical bone and marrow. Bone and air are both dark in MR: this tells them "
             "apart. Need not be perfect."),
        Mask("body", "Body", False, "What belongs to the patient; found automatically where this is left out."),
        Mask("air", "Air (override)", False, "Gets the SPR of air, whatever the network says."),
        Mask("metal", "Metal (override)", False, "Gets the SPR of metal, whatever the network says."),
        Table("calibration", "HU to SPR table", False, "Columns HU and SPR of your scanner, rising; without it the "
              "table that the weights were trained with.", start=SPR_TABLE),
        Points("lines", "Beam lines", False, "Two points a line, from entry to target.", kind="line"),
    ),
    outputs=(
        Image("spr", "Stopping power ratio", modality="CT", unit="SPR", synthetic=True),
        Image("scaled", "SPR, scaled for export", False, "Whole numbers in the scale that was chosen.", modality="CT",
              synthetic=True),
        Image("ct", "Synthetic CT", False, "The SPR back through the table.", modality="CT", unit="HU",
              synthetic=True),
        LabelMap("segments", "Bone and air found", help="To correct by hand and to give back as bone and air.",
                 labels=BONE_AND_AIR),
        Table("depths", "Water-equivalent depths", False, "Length and water-equivalent thickness of every line, mm."),
        Plot("profile", "Water-equivalent depth", False, "Along the first line.", x="depth_mm",
             y=("water_equivalent_depth_mm",)),
    ),
    parameters=(
        Choice("scale", "Export scale", "none", "Never guess what the planning system expects: ask its manual.",
               options={"none": "SPR only (no scaled copy)", "relative": "1000 x (SPR - 1)", "times": "1000 x SPR"}),
        Bool("use_bone", "Use the bone segment", True, "Off: as if no bone segment were given."),
        Bool("structures", "Fit SPR to the head's structures", True, "A segmentation of the T1 or fat-suppressed MR "
             "(weights of multiplanar_unet) stands in for a bone segment, and SPR that does not fit what it finds "
             "becomes typical. Calcifications and implants are lost. Off: the network alone."),
        Bool("synthetic_ct", "Synthetic CT as well", False, "HU by the table read backwards."),
        Float("air_spr", "SPR of air", 0.001, "Outside the body, and in the air override.", advanced=True, minimum=0.0,
              maximum=1.0, step=0.001),
        Float("metal_spr", "SPR of metal", 3.2, "Titanium is about 3.2.", advanced=True, minimum=1.0, maximum=12.0),
        Choice("overlap", "Window overlap", "0.5", "More overlap: smoother, slower.", advanced=True,
               options={"0.25": "quarter", "0.5": "half (paper)"}),
    ),
    warnings=(
        "The weights had minutes of training on rendered heads, not on scans: SPR in the head is 9 % off on average, "
        "15 % where it is not fitted to structures.",
        "Synthetic, not validated for treatment.",
    ),
    modalities=("MR",),
    body_parts=("head",),
    weights=("head_dixon.safetensors",),
    fitness=fitness,
)  # fmt: skip

SPECS = (SPR,)
