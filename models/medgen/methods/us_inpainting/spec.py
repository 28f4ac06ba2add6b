"""Hung et al. 2021: fills in B-mode frames, the masks to fill, and the needle that shows better afterwards."""

from __future__ import annotations

from collections.abc import Mapping

from medgen.spec import (
    Bool,
    Choice,
    FitnessWarning,
    Float,
    Image,
    ImageFacts,
    Int,
    Label,
    LabelMap,
    MethodSpec,
    Paper,
    Points,
    Table,
)

PAPER = Paper(
    title="Hierarchical Probabilistic Ultrasound Image Inpainting via Variational Inference",
    authors="Hung ALY, Sun Z, Chen W, Galeotti J",
    venue="Deep Generative Models, DGM4MICCAI at MICCAI 2021, LNCS 13003",
    year=2021,
    doi="10.1007/978-3-030-88210-5_7",
)
FILLED = (Label(1, "Filled (invented)", (230, 159, 0)), Label(2, "Mixed at the rim", (240, 228, 66)))
ARTEFACTS = (
    Label(1, "Text and callipers", (86, 180, 233)),
    Label(2, "Reverberation", (213, 94, 0)),
    Label(3, "Shadow", (120, 94, 240)),
)
FRAMES = Image("frames", "Ultrasound", modality="US", kind="sequence", help="A still or a cine, grey or colour.")


def fitness(facts: Mapping[str, ImageFacts]) -> list[FitnessWarning]:
    frames = facts.get("frames")
    if frames is None:
        return []
    found = []
    if frames.modality not in ("", "US", "IVUS", "OT", "SC"):
        found.append(f"This is no ultrasound image, its header says {frames.modality}.")
    if max(frames.size) < 64:
        found.append("The frames are smaller than 64 pixels; there is too little context to fill from.")
    return [FitnessWarning("frames", sentence) for sentence in found]


INPAINTING = MethodSpec(
    id="us_inpainting",
    title="Ultrasound: fill an artefact or a gap",
    summary="Fills what you paint over in a B-mode frame or cine with plausible speckle: several fills, their mean "
    "and where they differ.",
    family="ultrasound",
    paper=PAPER,
    intended_use="Taking callipers, text, reverberations and narrow gaps out of frames for display, training data and "
    "trackers. Research only: never read tissue from a fill.",
    run="medgen.methods.us_inpainting.infer:run",
    inputs=(
        FRAMES,
        LabelMap("mask", "What to fill", kind="slice", help="Painted on one frame, filled in all of them; any "
                 "segments. 'Ultrasound: find artefacts' makes a first one."),
    ),
    outputs=(
        Image("inpainted", "Inpainted", kind="sequence", synthetic=True, help="The frames with the chosen fill; those "
              "outside the range as they were."),
        Image("samples", "Fills", kind="sequence", synthetic=True, help="Every fill of the first frame of the range."),
        Image("mean", "Mean fill", kind="slice", synthetic=True, help="Of that frame's fills."),
        Image("spread", "Spread of the fills", kind="slice", help="Standard deviation of that frame's fills; 0 to "
              "0.5, where white is 1."),
        LabelMap("filled", "Filled area", kind="slice", labels=FILLED, help="What was invented, and the rim over which "
                 "it was mixed into the frame; all else is bit for bit as it was."),
        Table("speckle", "Speckle", help="Brightness and speckle of the filled regions and of the rings around them, "
              "in the first frame of the range."),
        Points("needle", "Needle", required=False, kind="line", help="Where it enters the filled frame, and its tip."),
        Table("needle_lines", "Needle before and after", required=False, help="The line through the needle without and "
              "with the fill: entry, tip (column and row) and supporting pixels."),
    ),
    parameters=(
        Int("samples", "Fills", 8, "How many different fills of the first frame.", minimum=1, maximum=32),
        Choice("result", "Keep", "sample", "What goes into the inpainted frames.", options={
            "sample": "one of the fills", "mean": "the mean (smooth)", "biharmonic": "no network: smooth interpolation",
        }),
        Int("sample", "Fill number", 1, "Which of the fills is kept.", minimum=1, maximum=32),
        Choice("frames", "Frames", "all", "What is filled.", options={
            "all": "the whole cine", "range": "from first to last frame",
        }),
        Int("first", "First frame", 1, "Of the range, counted from 1.", minimum=1, maximum=100_000),
        Int("last", "Last frame", 1, "Of the range; a lower number than the first one counts as the first.", minimum=1,
            maximum=100_000),
        Int("dilation", "Grow the mask", 3, "Pixels by which what was painted is widened.", unit="px", advanced=True,
            minimum=0, maximum=15),
        Int("feather", "Feather", 4, "Width of the rim over which fill and frame are mixed; beyond it nothing changes.",
            unit="px", advanced=True, minimum=0, maximum=10),
        Float("temperature", "Variety", 1.0, "Multiplies the spread of the draws: 0 always the same, 1 as learnt.",
              advanced=True, minimum=0.0, maximum=1.5, step=0.1),
        Float("context", "Context", 2.5, "Side of the region that the network sees to that of the hole.",
              advanced=True, minimum=1.5, maximum=4.0, step=0.5),
        Bool("steady", "Same speckle in every frame", True, "One seed for all frames; without, the fill flickers.",
             advanced=True),
        Bool("needle", "Find the needle", False, "Fits a line through the brightest needle of the range's first frame, "
             "without and with the fill."),
    ),
    warnings=(
        "Filled tissue is invented: it looks plausible and says nothing about the patient.",
        "The weights had a short training on real and simulated frames: speckle looks right, structure is often wrong.",
    ),
    modalities=("US",),
    body_parts=("any",),
    weights=("b_mode.safetensors", "b_mode_l2.safetensors", "b_mode_no_vi.safetensors"),
    fitness=fitness,
)  # fmt: skip

ARTEFACT_MASKS = MethodSpec(
    id="us_artefact_masks",
    title="Ultrasound: find artefacts",
    summary="Marks burned-in text and callipers, reverberations and shadows as segments to correct and to fill.",
    family="ultrasound",
    paper=PAPER,
    intended_use="A first mask for filling, to be corrected by hand. It knows brightness and shape, not anatomy.",
    run="medgen.methods.us_inpainting.artefacts:run",
    inputs=(FRAMES,),
    outputs=(LabelMap("artefacts", "Artefacts", kind="slice", labels=ARTEFACTS),
             Table("found", "Found", help="Share of the fan that each kind covers.")),
    parameters=(
        Bool("text", "Text and callipers", True, "Saturated thin shapes; in a cine also what never changes."),
        Bool("reverberation", "Reverberation", True, "Bright echoes that repeat downwards at equal distances, and "
             "comet tails."),
        Bool("shadow", "Shadow", True, "Dark columns that reach the bottom of the fan."),
        Float("sensitivity", "Sensitivity", 0.5, "Higher finds more, and more that is none.", minimum=0.0, maximum=1.0,
              step=0.1),
    ),
    modalities=("US",),
    body_parts=("any",),
    fitness=fitness,
)  # fmt: skip

SPECS = (INPAINTING, ARTEFACT_MASKS)
