"""Wolleb, Sandkühler, Bieder and Cattin 2022: guided edits of lesions. Standard library only."""

from __future__ import annotations

from medgen.diffusion.brain_ports import (
    COMPILE,
    INPUTS,
    LESION,
    RANGE,
    REGION,
    RENDERED,
    SEQUENCES,
    fitness,
    missing_weights,
)
from medgen.spec import Axis, Choice, Float, Image, Int, Label, LabelMap, Mask, MethodSpec, Paper, Probability, Table

SIZES = Axis("lesion size", "%")

SPEC = MethodSpec(
    id="diffusion_edit",
    title="Brain MR: change a lesion, or paint one in",
    summary="Redraws brain slices with a lesion of another size, or with one in a painted region, for teaching.",
    family="anomaly",
    paper=Paper(
        "The Swiss Army Knife for Image-to-Image Translation: Multi-Task Diffusion Models",
        "Wolleb J, Sandkühler R, Bieder F, Cattin PC",
        "arXiv 2204.02641",
        2022,
        "10.48550/arXiv.2204.02641",
    ),
    intended_use="Teaching and making labelled cases. Synthetic images: never for a patient's diagnosis or treatment.",
    run="medgen.methods.diffusion_edit.infer:run",
    inputs=(*INPUTS, Mask("region", "Region for the lesion", required=False, help="For 'paint a lesion in'."), REGION),
    outputs=(
        *(
            Image(f"edited_{name}", f"Edited {title}", required=False, synthetic=True, series=SIZES)
            for name, title in SEQUENCES
        ),
        Image("difference", "Difference", help="Sum over the sequences of the absolute change.", series=SIZES),
        LabelMap(
            "lesion",
            "Lesion in the edited image",
            required=False,
            labels=(Label(1, "Lesion (synthetic)", (230, 60, 40), LESION),),
            help="As a network that did not guide the edit sees it.",
        ),
        Probability(
            "chance",
            "Chance of lesion",
            required=False,
            help="Of a series: how sure a network that did not guide the edits is of lesion.",
            series=SIZES,
        ),
        Table("sizes", "Sizes", required=False, help="Of a series: mean over its slices, a row for each size."),
        Table("report", "Report"),
    ),
    parameters=(
        Choice("edit", "Edit", "region", "What is asked for.",
               options={"region": "paint a lesion into the region", "size": "bring the lesion to a size",
                        "grow": "grow", "shrink": "shrink"}),
        Float("size", "Wanted size", 5.0, "For 'bring the lesion to a size': its share of the slice's brain.", unit="%",
              minimum=0.0, maximum=40.0, step=1.0),
        Int("sizes", "Number of sizes", 1, "More than 1: a series of images, from the wanted size to the last one.",
            minimum=1, maximum=20),
        Float("last_size", "Last size", 20.0, "Of a series: the share of the slice's brain where it ends.", unit="%",
              minimum=0.0, maximum=40.0, step=1.0),
        Float("strength", "Strength", 1.0, "Of the guidance; 1 is what did well on rendered slices.", minimum=0.01,
              maximum=100.0, step=0.5),
        Int("noise_level", "Noise level", 400, "How much of the image is given up and redrawn; of 1000.", minimum=50,
            maximum=600, step=50),
        Int("steps", "Steps", 20, "Network evaluations each way.", minimum=2, maximum=1000, step=5, advanced=True),
        Choice("solver", "Solver", "dpm2", "How the steps are taken.", advanced=True,
               options={"dpm2": "DPM-Solver++, second order", "ddim": "DDIM, as in the paper"}),
        Choice("label", "Network is told", "own", "Which class the noise network is told that a slice has.",
               options={"own": "its own, or healthy and then diseased", "any": "nothing (takes twice as long)"},
               advanced=True),
        *RANGE,
        COMPILE,
    ),
    warnings=(
        *missing_weights("diffusion_edit"),
        RENDERED,
        "Edited images are synthetic and show no patient.",
    ),
    modalities=("MR",),
    body_parts=("brain",),
    weights=("edit.safetensors",),
    fitness=fitness,
)  # fmt: skip

SPECS = (SPEC,)
