"""Checks a synthetic CT or stopping-power map: against a reference where there is one, and along lines."""

from __future__ import annotations

from collections.abc import Mapping

from medgen.imaging.spr_table import SPR_TABLE
from medgen.spec import (
    Choice,
    FitnessWarning,
    Float,
    Image,
    ImageFacts,
    Mask,
    MethodSpec,
    Paper,
    Plot,
    Points,
    Table,
)

VALUE, DEPTH = "HU or SPR", "depth (mm)"
SYNTHETIC, REFERENCE = "synthetic", "reference"


def fitness(facts: Mapping[str, ImageFacts]) -> list[FitnessWarning]:
    found = []
    for name in ("synthetic", "reference"):
        image = facts.get(name)
        if image is not None and (image.modality == "MR" or (image.minimum >= 0 and image.maximum > 20)):
            sentence = "This looks like an MR; HU reach below 0 in air, and SPR stays below 20."
            found.append(FitnessWarning(name, sentence))
    reference, synthetic = facts.get("reference"), facts.get("synthetic")
    if reference is not None and synthetic is not None and reference == synthetic:
        found.append(FitnessWarning("reference", "This seems to be the synthetic image itself."))
    return found


REVIEW = MethodSpec(
    id="synthetic_ct_review",
    title="Check a synthetic CT or SPR map",
    summary="Errors by region and a difference map against a reference, a histogram, and water-equivalent depths.",
    family="synthetic_ct",
    paper=Paper(
        "Fast calculation of the exact radiological path for a three-dimensional CT array",
        "Siddon RL",
        "Medical Physics 12:252",
        1985,
        "10.1118/1.595715",
    ),
    intended_use="Looking at synthetic images before they are used in research. Not a validation for treatment.",
    run="medgen.methods.synthetic_ct_review.infer:run",
    inputs=(
        Image("synthetic", "Synthetic CT or SPR", modality="CT", help="In HU, or relative to water (water 1)."),
        Image("reference", "Reference CT or SPR", required=False, modality="CT",
              help="A true CT or SPR map of the same patient in the same position; it is resampled to the synthetic "
              "image. A CT beside an SPR map is turned into SPR by the table."),
        Mask("body", "Body", required=False, help="The patient's outline; found in the reference where left out."),
        Points("lines", "Line", required=False, kind="line", help="Along which the water-equivalent depth is measured, "
               "from its first point to its second."),
        Table("calibration", "HU to SPR table", required=False, start=SPR_TABLE, help="Columns HU and SPR, as measured "
              "for your scanner. Without it a plausible table of no scanner in particular is used."),
    ),
    outputs=(
        Table("metrics", "Errors by region", required=False, help="Bone edge: within the set distance of the surface "
              "of the reference's bone. Dice: overlap of the class in both images."),
        Image("difference", "Difference", required=False, unit="difference",
              help="Synthetic - reference: positive where too dense; 0 outside the body and the reference."),
        Plot("histogram", "Histogram", x=VALUE, y=(SYNTHETIC, REFERENCE), help="Per cent of the body's volume."),
        Table("water_paths", "WET of lines", required=False, help="Water-equivalent thickness."),
        Plot("water_depth", "WEPL along line", required=False, x=DEPTH, y=("WEPL synthetic (mm)",
             "WEPL reference (mm)"), help="Water-equivalent depth over depth, along the first line."),
        Plot("spr_profile", "SPR along line", required=False, x=DEPTH, y=("SPR synthetic", "SPR reference")),
    ),
    parameters=(
        Choice("unit", "Values", "auto", "What the synthetic image holds.",
               options={"auto": "recognise", "HU": "HU", "SPR": "SPR (water 1)"}),
        Float("edge_mm", "Bone edge", 4.0, "How far the bone-edge band reaches to either side.", "mm", minimum=0.5,
              maximum=20.0, step=0.5),
        Float("q", "PSNR range Q", 4095.0, "PSNR = 20 log10(Q / RMSE). In HU, or in thousandths of SPR.",
              advanced=True, minimum=1.0, maximum=65535.0, step=100.0),
    ),
    modalities=("CT",),
    body_parts=("head", "any"),
    fitness=fitness,
)  # fmt: skip

SPECS = (REVIEW,)
