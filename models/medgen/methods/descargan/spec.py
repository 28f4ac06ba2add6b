"""Wolleb, Sandkühler and Cattin 2020: disease-specific anomaly detection with weak supervision. Standard library
only."""

from __future__ import annotations

from medgen.diffusion.brain_ports import LESION, missing_weights
from medgen.spec import Choice, Float, Image, Label, LabelMap, Mask, MethodSpec, Paper, Plot, Table

SPEC = MethodSpec(
    id="descargan",
    title="FLAIR: what does not look healthy (fast)",
    summary="Redraws slices as healthy in one pass of a GAN and maps what changed; trained from image-level labels.",
    family="anomaly",
    paper=Paper(
        "DeScarGAN: Disease-Specific Anomaly Detection with Weak Supervision",
        "Wolleb J, Sandkühler R, Cattin PC",
        "MICCAI, LNCS 12264",
        2020,
        "10.1007/978-3-030-59719-1_2",
    ),
    intended_use="A fast look at where a group of images differs. Research only; not for diagnosis or treatment.",
    run="medgen.methods.descargan.infer:run",
    inputs=(
        Image("image", "Image", help="FLAIR, skull-stripped or with a brain mask (or what your own weights know)."),
        Mask("brain", "Brain mask", required=False, help="Needed where the skull is still on."),
    ),
    outputs=(
        LabelMap("anomaly", "Anomaly", labels=(Label(1, "Anomaly", (230, 60, 40), LESION),)),
        Image("anomaly_map", "Anomaly map", help="Absolute difference, smoothed; of images from -1 to 1."),
        Image("difference", "Signed difference", unit="difference", help="Redrawn minus original, -2 to 2."),
        Image("redrawn", "Redrawn image", synthetic=True),
        Plot("diseased", "P(diseased) along the slices", x="position_mm", y=("p_diseased",)),
        Table("report", "Report"),
    ),
    parameters=(
        Choice("branch", "Redraw as", "healthy", "Which branch of the generator.",
               options={"healthy": "healthy", "diseased": "diseased"}),
        Choice("threshold", "Threshold", "otsu", "Where the absolute difference is cut.",
               options={"otsu": "Otsu", "fixed": "a fixed value"}),
        Float("value", "Fixed threshold", 0.3, "For 'a fixed value'.", minimum=0.0, maximum=2.0, step=0.05),
        Float("smoothing", "Smoothing", 1.0, "Of the difference, before it is cut.", unit="px", minimum=0.0,
              maximum=3.0, step=0.5),
        Float("smallest", "Smallest piece", 50.0, "Smaller pieces are dropped.", unit="mm³", minimum=0.0,
              maximum=10000.0, step=10.0, advanced=True),
    ),
    warnings=(
        *missing_weights("descargan"),
        "Weights trained on rendered brains with drawn lesions react, on scans, to what the rendering lacks.",
        "The starter weights remove about half of a lesion's brightness; a threshold on FLAIR outlines lesions better.",
        "Redrawn images are synthetic and show no part of the patient.",
    ),
    modalities=("MR", "CR", "DX"),
    body_parts=("brain", "chest"),
    weights=("flair.safetensors",),
)  # fmt: skip

SPECS = (SPEC,)
