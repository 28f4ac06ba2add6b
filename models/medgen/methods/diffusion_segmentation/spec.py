"""Wolleb, Sandkühler, Bieder, Valmaggia and Cattin 2022: mask ensembles from one diffusion model. Standard library
only."""

from __future__ import annotations

from medgen.diffusion.brain_ports import COMPILE, INPUTS, LESION, RANGE, REGION, RENDERED, fitness, missing_weights
from medgen.spec import Bool, Choice, Float, Image, Int, Label, LabelMap, MethodSpec, Paper, Probability, Table

SPEC = MethodSpec(
    id="diffusion_segmentation",
    title="Brain MR lesions, with uncertainty",
    summary="Draws the lesion mask several times with a diffusion model: their mean, and where they disagree.",
    family="segmentation",
    paper=Paper(
        "Diffusion Models for Implicit Image Segmentation Ensembles",
        "Wolleb J, Sandkühler R, Bieder F, Valmaggia P, Cattin PC",
        "MIDL, PMLR 172",
        2022,
        "10.48550/arXiv.2112.03145",
    ),
    intended_use="A first draft of lesions and a map of where not to trust it. Research only; check every slice.",
    run="medgen.methods.diffusion_segmentation.infer:run",
    inputs=(*INPUTS, REGION),
    outputs=(
        LabelMap(
            "segmentation",
            "Lesions",
            labels=(Label(1, "Lesion", (230, 60, 40), LESION), Label(2, "Uncertain zone", (250, 200, 60), LESION)),
            help="The uncertain zone lies outside the lesion, where the draws disagree.",
        ),
        Probability("mean", "Mean of the draws"),
        Probability("votes", "Share of the draws", help="How many of the drawn masks hold the voxel: a probability."),
        Probability("staple", "STAPLE of the draws", help="Every draw counts by how far the others bear it out."),
        Image("variance", "Variance of the draws", help="0 where all draws agree; 0.25 where half of them disagree."),
        Image("draws", "Draws", required=False, kind="sequence", help="Every draw, to scroll through."),
        Table("volumes", "Volumes by draw"),
    ),
    parameters=(
        Int("draws", "Draws", 5, "Masks drawn for every slice; the mean gains most from the first five.", minimum=1,
            maximum=100),
        Choice("consensus", "Consensus", "mean", "How the draws become one mask.",
               options={"mean": "mean of the draws", "majority": "majority of the masks", "staple": "STAPLE"}),
        Float("threshold", "Threshold", 0.5, "Of the mean, or of STAPLE's probability.", minimum=0.05, maximum=0.95,
              step=0.05),
        Float("uncertain", "Uncertain from", 0.05, "Variance above which a voxel counts as uncertain.", minimum=0.0,
              maximum=0.25, step=0.01),
        Choice("sampler", "Sampler", "dpm2", "The paper's is DDPM with 1000 steps.", advanced=True,
               options={"dpm2": "DPM-Solver++, second order", "ddim": "DDIM", "ddpm": "DDPM"}),
        Int("steps", "Steps", 10, "Network evaluations for each draw; DDIM wants 20 or more, DDPM 50.", minimum=2,
            maximum=1000, step=5, advanced=True),
        Float("eta", "Randomness of a step", 0.0, "Of DDIM: 0 is none but in the start, 1 as much as in DDPM.",
              minimum=0.0, maximum=1.0, step=0.1, advanced=True),
        Float("smallest", "Smallest piece", 50.0, "Smaller pieces of lesion are dropped.", unit="mm³", minimum=0.0,
              maximum=10000.0, step=10.0, advanced=True),
        Bool("keep", "Keep every draw", False, "Also gives the draws themselves, as a sequence.", advanced=True),
        *RANGE,
        COMPILE,
    ),
    warnings=(*missing_weights("diffusion_segmentation"), RENDERED),
    modalities=("MR",),
    body_parts=("brain",),
    weights=("lesions.safetensors",),
    fitness=fitness,
)  # fmt: skip

SPECS = (SPEC,)
