"""Shi, Mettes, Zheng and Snoek 2021: synthetic CT of a head from one MR, bone edges taught on their own."""

from __future__ import annotations

from collections.abc import Mapping

from medgen.imaging.terms import BONE_AND_AIR, FIT_HU
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
    Probability,
    Table,
)


def fitness(facts: Mapping[str, ImageFacts]) -> list[FitnessWarning]:
    image = facts.get("mr")
    if image is None:
        return []
    found: list[str] = []
    if image.modality == "CT" or image.minimum < -500:
        found.append("This looks like a CT; an MR is needed here.")
    if max(image.spacing_mm) > 3:
        found.append(f"Slices {max(image.spacing_mm):.1f} mm apart: thin bone will be missed or smeared.")
    if min(image.extent_mm) < 130:
        covered = f"Only {min(image.extent_mm):.0f} mm are covered along one axis"
        found.append(f"{covered}: the field of view cuts the head, and there is no CT of what lies outside.")
    elif max(image.extent_mm) > 400:
        found.append("The image is larger than a head; crop it to the head first.")
    low, _, high = image.percentiles
    if low == high:
        found.append("The image has next to no contrast.")
    elif image.maximum - low > 8 * (high - low):
        found.append("Single values lie far above all others (metal, or a damaged file?); the CT there will be wrong.")
    warnings = [FitnessWarning("mr", sentence) for sentence in found]
    reference = facts.get("reference")
    if reference is not None and (reference.modality == "MR" or reference.minimum > -200):
        warnings.append(FitnessWarning("reference", "This is no CT in Hounsfield units: it has no air."))
    return warnings


FREQUENCY = MethodSpec(
    id="frequency_mr_to_ct",
    title="Synthetic CT from head MR, frequency-supervised",
    summary="Makes a CT in HU of one head MR, with a target of its own for the edges of bone.",
    family="synthetic_ct",
    paper=Paper(
        "Frequency-Supervised MR-to-CT Image Synthesis",
        "Shi Z, Mettes P, Zheng G, Snoek C",
        "DGM4MICCAI, LNCS 13003",
        2021,
        "10.1007/978-3-030-88210-5_1",
    ),
    intended_use="Research on MR-only planning and attenuation correction. Not validated for treatment.",
    run="medgen.methods.frequency_mr_to_ct.infer:run",
    inputs=(
        Image("mr", "Planning MR", modality="MR", help="T1 of a head, with skull, any orientation."),
        Mask("body", "Body", False, "What belongs to the patient; found automatically where this is left out."),
        Image("reference", "Reference CT", False, "Registered to the MR: fills the table of errors.", modality="CT"),
    ),
    outputs=(
        Image("ct", "Synthetic CT", modality="CT", unit="HU", synthetic=True),
        Mask("outline", "Body outline", help="To correct by hand and to give back as body."),
        LabelMap("segments", "Bone and air found", labels=BONE_AND_AIR),
        Image("uncertainty", "Uncertainty", False, "Spread over mirrored and rescaled runs of the network.", unit="HU"),
        Image("high", "High frequencies", False, "What holds the edges of the CT.", unit="HU", synthetic=True),
        Probability("share", "Frequency map", False, "Where the network looked for edges, 0 to 1."),
        Table("metrics", "Errors against the reference", False),
    ),
    parameters=(
        Bool("uncertainty", "Uncertainty", False, "The spread of four runs, mirrored and rescaled: takes four times as "
             "long."),
        Bool("frequency_maps", "Frequency maps", False, "The high-frequency image and the map that parts it."),
        Bool("remove_bias", "Remove the bias field", True, "N4: evens out shading before the network looks."),
        FIT_HU,
        Float("bone_hu", "Bone from", 250.0, "In the segments.", "HU", minimum=100, maximum=1500,
              step=50),
        Float("air_hu", "Air below", -300.0, "In the segments.", "HU", minimum=-900, maximum=-100,
              step=50),
        Bool("fill_outside", "Clear what is outside the body", True, "Air (-1000 HU) outside the body.", advanced=True),
        Choice("overlap", "Window overlap", "0.5", "More overlap: smoother, slower.", advanced=True,
               options={"0.25": "quarter", "0.5": "half", "0.75": "three quarters"}),
        Choice("patch", "Window", "96", "Voxels of 1 mm along a side; trained with 96.", advanced=True,
               options={"48": "48", "64": "64", "96": "96"}),
    ),
    warnings=(
        "The starter weights draw thin bone too light or miss it. HU fitted to structures are typical of a tissue, not "
        "of this patient; where they are not, parts of ventricles may turn into air or bone. Correct bone and air by "
        "hand, or train on, or on your own pairs (see the README).",
        "They were trained on rendered heads, not on scans.",
        "Synthetic, not validated for treatment.",
    ),
    modalities=("MR",),
    body_parts=("head",),
    weights=("head_mr_to_ct.safetensors",),
    fitness=fitness,
)  # fmt: skip

SPECS = (FREQUENCY,)
