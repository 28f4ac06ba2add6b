"""Declaration of the brain generator: draw, mix, grid of mixes, project a patient's brain, interpolate."""

from __future__ import annotations

from collections.abc import Mapping

from medgen.spec import (
    Blob,
    Bool,
    Choice,
    FitnessWarning,
    Float,
    Image,
    ImageFacts,
    Int,
    Mask,
    MethodSpec,
    Paper,
    Parameter,
    Port,
    Table,
    Transform,
)
from medgen.weights import list_weights

PAPER = Paper(
    title="3D-StyleGAN: A Style-Based Generative Adversarial Network for Generative Modeling of Three-Dimensional "
    "Medical Images",
    authors="Hong S, Marinescu R, Dalca AV, Bonkhoff AK, Bretzner M, Rost NS, Golland P",
    venue="Deep Generative Models, DGM4MICCAI at MICCAI 2021, LNCS 13003",
    year=2021,
    doi="10.1007/978-3-030-88210-5_3",
)
ID = "brain_stylegan"
INTENDED = "Synthetic brains for teaching, testing and sharing. Research only, not for diagnosis."
NETWORKS = ("brain_8mm.safetensors", "brain_4mm.safetensors")
TRAINING_SET = "training_brains.safetensors"
SHIPPED = {path.name for path in list_weights(ID)}
RENDERED = (
    "The starter weights learnt from rendered brains of 14 heads, bent and atrophied at random, not from patients."
)
SYNTHETIC = "Every brain is synthetic, that of a projection too: what it shows may not be there."
COARSE = "Drawn brains lack fine folds: at 8 mm grain stands for them, at 4 mm they are smooth and too much alike."
CODES_HELP = "One row a brain: its name and its numbers w1, w2, ...; as an earlier run gave it."

SIZE = Choice("size", "Size", "full", "A preview has voxels of 4 mm at least.", advanced=True,
              options={"full": "as the network makes it", "preview": "preview"})  # fmt: skip
CROSSOVER = Int("crossover", "Crossover", 3, "How many layers, from the coarsest, take the first brain's style; the "
                "others take the second one's. 8 are all at 4 mm, 6 at 8 mm.", minimum=0, maximum=12)  # fmt: skip
ROWS = tuple(
    Int(f"row_{name}", f"Row of {name.upper()}", 1, "Of its table, counted from 1.", advanced=True, minimum=1,
        maximum=100_000)
    for name in ("a", "b")
)  # fmt: skip
CODES = Table("codes", "Codes", help="One row a brain: can be given to a later run.")
TWO_CODES = (
    Table("a", "Brain A", help=CODES_HELP),
    Table("b", "Brain B", help=CODES_HELP),
)


def fitness(facts: Mapping[str, ImageFacts]) -> list[FitnessWarning]:
    found = facts.get("image")
    if found is None:
        return []
    warnings = []
    if found.modality not in ("", "MR"):
        warnings.append(FitnessWarning("image", f"This is no MR image, its header says {found.modality}."))
    if max(found.spacing_mm) > 4:
        warnings.append(
            FitnessWarning("image", f"Voxels of {max(found.spacing_mm):.1f} mm are thick for a whole brain.")
        )
    return warnings


def _own(
    suffix: str, title: str, summary: str, inputs: tuple[Port, ...], outputs: tuple[Port, ...],
    parameters: tuple[Parameter, ...], weights: tuple[str, ...] = NETWORKS, synthetic: bool = True,
) -> MethodSpec:  # fmt: skip
    return MethodSpec(
        id=ID + suffix,
        title=title,
        summary=summary,
        family="brain_style",
        paper=PAPER,
        intended_use=INTENDED,
        run=f"medgen.methods.brain_stylegan.infer:{'sample' if not suffix else suffix[1:]}",
        inputs=inputs,
        outputs=outputs,
        parameters=parameters,
        warnings=(SYNTHETIC, RENDERED, COARSE) if synthetic else (RENDERED,),
        modalities=("MR",),
        body_parts=("brain",),
        weights=tuple(name for name in weights if name in SHIPPED) or weights[:1],
        weights_of=ID,
        fitness=fitness,
    )


SAMPLE = _own(
    "",
    "Synthetic brains",
    "Makes T1 brains that are nobody's, by a style-based generator; the same seed makes the same brain.",
    (Table("codes", "Codes", required=False, help=CODES_HELP + " They are made again instead of drawing new ones."),),
    (Image("brains", "Synthetic brains", kind="set", synthetic=True), CODES),
    (
        Int("count", "Brains", 1, "Their seeds follow on each other.", minimum=1, maximum=100),
        Float("truncation", "Truncation", 0.8, "0 makes the mean brain, 1 draws as in training, more exaggerates.",
              minimum=0.0, maximum=1.5, step=0.05),
        SIZE,
    ),
)  # fmt: skip

MIX = _own(
    "_mix",
    "Brain of two brains",
    "Gives the coarse anatomy of one brain (outline, ventricles) the fine one of another (sulci).",
    (
        *TWO_CODES,
        Blob("noise_a", "Detail of A", required=False, help="From the projection of A."),
        Blob("noise_b", "Detail of B", required=False, help="From the projection of B."),
    ),
    (
        Image("mix", "Mix of A and B", synthetic=True),
        Image("a", "Brain A", required=False, synthetic=True),
        Image("b", "Brain B", required=False, synthetic=True),
        CODES,
    ),
    (CROSSOVER, *ROWS, SIZE),
)

GRID = _own(
    "_grid",
    "Mixing matrix",
    "Every coarse anatomy of one table with every fine anatomy of another.",
    (Table("coarse", "Coarse", help=CODES_HELP + " A row of the matrix each."),
     Table("fine", "Fine", help=CODES_HELP + " A column of the matrix each.")),
    (Image("grid", "Mixing matrix", kind="set", synthetic=True, help="Row by row."), CODES),
    (CROSSOVER, SIZE),
)  # fmt: skip

PROJECT = _own(
    "_project",
    "Project a brain",
    "Finds the code whose brain is most like a patient's, so that it can be mixed and changed.",
    (
        Image("image", "T1", modality="T1", help="Skull-stripped, or with a brain mask."),
        Mask("mask", "Brain mask", required=False),
        Transform("transform", "Patient to model", required=False, help="Where the brain lies in the model's space, as "
                  "an earlier run gave it; without it the brain is aligned."),
    ),
    (
        Image("reconstruction", "Reconstruction", synthetic=True, help="On the T1's grid, in its intensities."),
        Image("difference", "Difference", unit="difference", synthetic=True, help="Reconstruction minus T1."),
        CODES,
        Blob("noise", "Detail", help="The noise maps that were found; can be given to a later mix."),
        Table("fit", "Fit", help="Squared error of the whole picture and of the pooled one, at every tenth step."),
        Transform("to_patient", "Patient to model", help="Points of the patient to points of the model's space: what "
                  "brings a brain from there to the patient."),
    ),
    (
        Int("steps", "Steps", 200, "The paper takes 1000.", minimum=10, maximum=3000, step=10),
        Float("rate", "Learning rate", 0.3, "As in the paper.", advanced=True, minimum=0.001,
              maximum=1.0, step=0.01),
        Bool("optimise_noise", "Find the noise too", True, "Finer detail, not part of the code.", advanced=True),
        Bool("pooled", "Coarse match too", True, "The pooled picture's error counts as much as the whole one's.",
             advanced=True),
    ),
)  # fmt: skip

INTERPOLATE = _own(
    "_interpolate",
    "From brain to brain",
    "A film that turns one brain into another.",
    TWO_CODES,
    (Image("path", "From A to B", kind="sequence", synthetic=True), CODES),
    (Int("steps", "Frames", 9, "The first is A, the last is B.", minimum=2, maximum=60), *ROWS, SIZE),
)

TRAINING = _own(
    "_training_set",
    "Brains it learnt from",
    "Some of the rendered brains that the starter weights learnt from: what copies are looked for in.",
    (),
    (Image("brains", "Brains learnt from", kind="set"),),
    (
        Int("count", "Brains", 20, "Two of each of the 14 heads are kept.", minimum=4, maximum=28),
        Choice(
            "voxels",
            "Voxels",
            "8",
            "Those of the brains that they are compared with.",
            options={"8": "8 mm", "4": "4 mm"},
        ),
    ),
    weights=(TRAINING_SET,),
    synthetic=False,
)

SPECS = (SAMPLE, MIX, GRID, PROJECT, INTERPOLATE, TRAINING)
