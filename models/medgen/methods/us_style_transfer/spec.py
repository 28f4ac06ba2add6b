"""Declaration of the ultrasound style transfer."""

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
    LabelMap,
    MethodSpec,
    Paper,
    Table,
)

PAPER = Paper(
    title="Ultrasound Variational Style Transfer to Generate Images Beyond the Observed Domain",
    authors="Hung ALY, Galeotti J",
    venue="Deep Generative Models, DGM4MICCAI at MICCAI 2021, LNCS 13003",
    year=2021,
    doi="10.1007/978-3-030-88210-5_2",
)
SOURCES = {
    "sampled": "drawn at random",
    "image": "a style image",
    "code": "a saved style",
    "map": "a place on the style map",
    "interpolated": "between two styles",
}


def fitness(facts: Mapping[str, ImageFacts]) -> list[FitnessWarning]:
    warnings = []
    for name, found in facts.items():
        if found.modality not in ("", "US", "OT", "SC"):
            warnings.append(FitnessWarning(name, f"This is no ultrasound image, its header says {found.modality}."))
        if max(found.size) < 64:
            warnings.append(FitnessWarning(name, "The picture is smaller than 64 pixels: its texture cannot be told."))
    return warnings


STYLE_TRANSFER = MethodSpec(
    id="us_style_transfer",
    title="Ultrasound: another machine's look",
    summary="Restyles B-mode frames, keeps their anatomy; the look comes from an image, a saved style or a draw.",
    family="ultrasound",
    paper=PAPER,
    intended_use="More looks of labelled frames to train and test on. Research only: the texture is invented, do not "
    "read tissue from it.",
    run="medgen.methods.us_style_transfer.infer:run",
    inputs=(
        Image("frames", "Ultrasound", modality="US", kind="sequence", help="The frame or cine whose anatomy is kept; "
              "colour becomes grey."),
        Image("style_image", "Style image", modality="US", kind="sequence", required=False, anywhere=True,
              help="A frame with the wanted look, of any anatomy; of a cine the mean look."),
        Image("second_image", "Second style image", modality="US", kind="sequence", required=False, anywhere=True,
              help="The other end of 'between two styles'; without it, a style drawn at random."),
        Blob("style_code", "Saved style", required=False, help="The style of an earlier run."),
        LabelMap("labels", "Labels", kind="slice", required=False, help="Carried over as they are: restyling moves no "
                 "anatomy."),
    ),
    outputs=(
        Image("restyled", "Restyled", kind="sequence", synthetic=True, help="The frames in the "
              "chosen sample's style; those outside the range as they were."),
        Image("samples", "Restyled samples", kind="sequence", required=False, synthetic=True,
              help="The first frame of the range in every sample's style."),
        LabelMap("labels", "Labels", required=False),
        Table("styles", "Styles", help="Every sample: its place on the style map, and how well edges stayed where they "
              "were (correlation of gradient magnitudes; below 0.6 they moved)."),
        Blob("style_code", "Style code", help="Of the chosen sample: can be given to a later run."),
    ),
    parameters=(
        Choice("style", "Style from", "map", "Where the look comes from.", options=SOURCES),
        Int("samples", "Samples", 5, "How many versions. With a style image the first is its style itself and the "
            "others are drawn around it; between two styles they go from one to the other.", minimum=1, maximum=50),
        Int("sample", "Sample number", 1, "Which sample's style the frames get.", minimum=1, maximum=50),
        Float("strength", "Strength", 1.0, "0 keeps the look of the frame, 1 takes the style's.", minimum=0.0,
              maximum=1.0, step=0.1),
        Float("temperature", "Spread", 0.5, "How far drawn styles lie from the middle; 0.5 as in the authors' code.",
              minimum=0.0, maximum=2.0, step=0.1),
        Float("interpolation", "Between", 0.5, "0 is the first style, 1 the second; used with one sample.", minimum=0.0,
              maximum=1.0, step=0.1),
        Choice("frames", "Frames", "all", "What is restyled.", advanced=True, options={
            "all": "the whole cine", "range": "from first to last frame",
        }),
        Int("first", "First frame", 1, "Of the range, counted from 1.", advanced=True, minimum=1, maximum=100_000),
        Int("last", "Last frame", 1, "Of the range; a lower number than the first one counts as the first.",
            advanced=True, minimum=1, maximum=100_000),
        Float("map_x", "Map, across", 0.0, "Place on the style map.", advanced=True, minimum=-10.0, maximum=10.0),
        Float("map_y", "Map, up", 0.0, "Place on the style map.", advanced=True, minimum=-10.0, maximum=10.0),
        Bool("keep_outside", "Keep what lies outside the fan", True, "Text, scales and black border stay as they are."),
        Choice("size", "Working size", "384", "Longer side of the fan in the network; larger keeps finer speckle and "
               "takes longer.", advanced=True, options={"256": "256", "384": "384", "512": "512", "768": "768"}),
        Choice("draw", "Drawing", "channels", "Independent noise averages out and changes the look little.",
               advanced=True, options={"channels": "one number a channel, and noise", "noise": "independent noise"}),
    ),
    warnings=(
        "The starter weights had 1878 training steps: brightness and contrast follow the style, speckle hardly does, "
        "and drawn styles come out flat, at times far too bright. A style image, a saved style or the map work better.",
        "They learnt from real frames of muscle, carotid and breast, and simulated ones: other anatomy and other "
        "machines may come out wrong.",
    ),
    modalities=("US",),
    body_parts=("any",),
    weights=("b_mode.safetensors",),
    fitness=fitness,
)  # fmt: skip

SPECS = (STYLE_TRANSFER,)
