"""Declarations of the test methods; every kind of input, parameter and output occurs."""

from medgen.imaging import terms
from medgen.spec import (
    ROI,
    Blob,
    Bool,
    Choice,
    Code,
    FitnessWarning,
    Float,
    Image,
    Int,
    Label,
    LabelMap,
    Mask,
    MethodSpec,
    Paper,
    Planes,
    Plot,
    Points,
    Probability,
    Table,
    Terminology,
    Text,
    Transform,
)

PAPER = Paper("A threshold selection method from gray-level histograms", "N. Otsu", "IEEE Trans. SMC", 1979)
TISSUE = Code("SCT", "85756007", "Tissue")


def fitness(facts):
    found = []
    if "image" in facts and min(facts["image"].spacing_mm) > 4:
        found.append(FitnessWarning("image", "The voxels are larger than 4 mm: thin structures will be missed."))
    return found


PARAMETERS = (
    Float("low", "Lower threshold", 50.0, "Voxels above this are tissue.", "", minimum=0.0, maximum=4000.0, step=1.0),
    Float("high", "Upper threshold", 200.0, "Voxels above this are bright.", minimum=0.0, maximum=4000.0, step=1.0),
    Bool("clean", "Remove small islands", False, "Removes specks."),
    Float("seconds", "Duration", 0.0, "How long to take.", "s", advanced=True, minimum=0.0, maximum=600.0),
    Choice("fault", "Fault", "none", "What goes wrong.", advanced=True, options={"none": "None", "raise": "Raise",
                                                                            "die": "Die"}),
    Int("islands", "Smallest island", 10, "Smaller ones go.", "voxels", advanced=True, minimum=1, maximum=1000),
    Text("note", "Note", "", "Goes into the log.", advanced=True),
)  # fmt: skip

SPECS = (
    MethodSpec(
        id="gui_threshold",
        title="Two thresholds",
        summary="Parts an MR image into dark, tissue and bright by two thresholds.",
        family="segmentation",
        paper=PAPER,
        intended_use="Testing panels.",
        warnings=("Knows nothing of anatomy.",),
        run="gui_methods.run:threshold",
        inputs=(Image("image", "MR image", modality="MR"), Mask("mask", "Where to look", required=False)),
        outputs=(
            LabelMap(
                "labels",
                "tissues",
                labels=(
                    Label(1, "Tissue", (200, 120, 90), Terminology(TISSUE, Code("SCT", "91723000", "Anatomy"))),
                    Label(2, "Bright", (240, 220, 120), Terminology(TISSUE, Code("SCT", "55603005", "Fat"))),
                ),
            ),
            Table("counts", "voxel counts", required=False),
        ),
        parameters=PARAMETERS,
        modalities=("MR",),
        body_parts=("Head",),
        fitness=fitness,
    ),
    MethodSpec(
        id="gui_pseudo_ct",
        title="Inverted intensities",
        summary="Turns an MR image into a made-up CT by inverting it.",
        family="segmentation",
        paper=PAPER,
        intended_use="Testing panels.",
        run="gui_methods.run:pseudo_ct",
        inputs=(Image("image", "Planning MR", modality="MR"),),
        outputs=(
            Image("ct", "CT", unit="HU", synthetic=True),
            Probability("doubt", "doubt", required=False),
        ),
        modalities=("MR", "CT"),
        body_parts=("Pelvis",),
    ),
    MethodSpec(
        id="gui_synthetic_ct",
        title="Bands of brightness",
        summary="Turns an MR image into a made-up CT by thresholds.",
        family="synthetic_ct",
        paper=PAPER,
        intended_use="Testing panels.",
        run="gui_methods.run:synthetic_ct",
        inputs=(
            Image("image", "Planning MR", modality="MR"),
            Mask("body", "Body", required=False),
            Mask("bone", "Bone", required=False),
            Mask("air", "Air", required=False),
        ),
        outputs=(
            Image("ct", "CT", unit="HU", synthetic=True),
            LabelMap(
                "segments",
                "Body, bone and air",
                labels=(
                    Label(1, "Body", (177, 122, 101), terms.BODY),
                    Label(2, "Bone", (241, 214, 145), terms.BONE),
                    Label(3, "Air", (0, 151, 206), terms.AIR),
                ),
            ),
            Image("uncertainty", "Uncertainty", unit="HU"),
        ),
        modalities=("MR",),
        body_parts=("Head",),
    ),
    MethodSpec(
        id="gui_fill",
        title="Fill with noise",
        summary="Fills what was painted with noise, several times.",
        family="ultrasound",
        paper=PAPER,
        intended_use="Testing panels.",
        run="gui_methods.run:fill",
        inputs=(
            Image("frames", "Ultrasound", modality="US", kind="sequence"),
            LabelMap("mask", "What to fill", kind="slice"),
        ),
        outputs=(
            Image("inpainted", "Inpainted", kind="sequence", synthetic=True),
            Image("samples", "Fills", kind="sequence", synthetic=True),
            Image("mean", "Mean fill", kind="slice", synthetic=True),
            Image("spread", "Spread of the fills", kind="slice"),
            LabelMap("filled", "Filled area", kind="slice", labels=(Label(1, "Filled (invented)", (230, 159, 0)),)),
        ),
        parameters=(
            Int("samples", "Fills", 3, "How many.", minimum=1, maximum=32),
            Int("sample", "Fill number", 1, "Which is kept.", minimum=1, maximum=32),
            Float("seconds", "Duration of a frame", 0.0, "How long to take.", "s", advanced=True, minimum=0.0),
        ),
        modalities=("US",),
        body_parts=("Any",),
    ),
    MethodSpec(
        id="gui_synthetic_spr",
        title="Bands of stopping power",
        summary="Turns an MR image into a made-up map of stopping power.",
        family="synthetic_ct",
        paper=PAPER,
        intended_use="Testing panels.",
        run="gui_methods.run:synthetic_spr",
        inputs=(Image("image", "Planning MR", modality="MR"),),
        outputs=(Image("spr", "SPR", unit="SPR", synthetic=True),),
        modalities=("MR",),
        body_parts=("Head",),
    ),
    MethodSpec(
        id="gui_everything",
        title="Everything",
        summary="Takes and gives every kind of value.",
        family="test",
        paper=PAPER,
        intended_use="Testing panels.",
        run="gui_methods.run:everything",
        inputs=(
            Image("image", "Image"),
            Image("frames", "Frames", required=False, kind="sequence"),
            Image("photo", "Photo", required=False, kind="rgb"),
            LabelMap("labels", "Labels", required=False),
            Points("points", "Points", required=False),
            Planes("planes", "Planes", required=False),
            ROI("roi", "Box", required=False),
            Table("table", "Table", required=False),
            Transform("transform", "Transform", required=False),
            Blob("model", "Model", required=False),
        ),
        outputs=(
            Image("frames", "frames", kind="sequence"),
            Image("photo", "photo", kind="rgb"),
            LabelMap("labels", "labels"),
            Points("points", "points"),
            Planes("planes", "planes"),
            ROI("roi", "box"),
            Table("table", "table"),
            Plot("plot", "plot", x="x", y=("y",)),
            Transform("transform", "transform"),
            Blob("model", "model"),
        ),
    ),
)
