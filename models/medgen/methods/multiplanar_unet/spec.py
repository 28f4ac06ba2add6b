"""Laprade, Perslev and Sporring 2021 in two uses: ready weights for head MR, and training on a few painted planes."""

from __future__ import annotations

from collections.abc import Mapping

from medgen.imaging.head_labels import BONE_AND_AIR, LABELS
from medgen.spec import (
    ROI,
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
    Planes,
    Plot,
    Probability,
    Table,
)

PAPER = Paper(
    "How Few Annotations are Needed for Segmentation Using a Multi-planar U-Net?",
    "Laprade WM, Perslev M, Sporring J",
    "DALI at MICCAI, LNCS 13003",
    2021,
    "10.1007/978-3-030-88210-5_20",
)


def head_fitness(facts: Mapping[str, ImageFacts]) -> list[FitnessWarning]:
    image = facts.get("image")
    found: list[str] = []
    if image is None:
        return []
    if image.modality == "CT" or image.minimum < -500:
        found.append("This looks like a CT; the weights know MR only.")
    if max(image.spacing_mm) > 3:
        found.append(
            f"Slices {max(image.spacing_mm):.1f} mm apart are coarser than the 3 mm these weights manage well."
        )
    if min(image.extent_mm) < 80:
        found.append(f"Only {min(image.extent_mm):.0f} mm are covered along one axis; a head needs 150 mm or so.")
    elif max(image.extent_mm) > 400:
        found.append("The image is larger than a head; crop it to the head first.")
    if image.percentiles[0] == image.percentiles[2]:
        found.append("The image has next to no contrast.")
    return [FitnessWarning("image", sentence) for sentence in found]


def few_planes_fitness(facts: Mapping[str, ImageFacts]) -> list[FitnessWarning]:
    image = facts.get("image")
    if image is None or max(image.spacing_mm) <= 4 * min(image.spacing_mm):
        return []
    return [FitnessWarning("image", "The slices are so thick that cuts across them will look blurred to the network.")]


HEAD = MethodSpec(
    id="multiplanar_unet",
    title="Head MR: brain structures, bone, skin",
    summary="Labels 23 tissues and structures of a head in an MR image of any contrast, with or without skull.",
    family="segmentation",
    paper=PAPER,
    intended_use="A first draft to correct by hand. Research only; not for diagnosis or treatment.",
    run="medgen.methods.multiplanar_unet.infer:run",
    inputs=(Image("image", "Head MR", modality="MR", help="T1, T2, PD or FLAIR of a head, any orientation."),),
    outputs=(
        LabelMap("segmentation", "Head structures", required=False, labels=LABELS),
        LabelMap(
            "bone_air",
            "Bone and air",
            required=False,
            help="Bone with its marrow, and the cavities that the head encloses.",
            labels=BONE_AND_AIR,
        ),
        Probability(
            "uncertainty",
            "Uncertainty",
            required=False,
            help="1 minus the mean probability of the chosen label: near 0 where the orientations agree and are sure.",
        ),
        Table("volumes", "Volumes", required=False),
    ),
    parameters=(
        Choice(
            "orientations",
            "Quality",
            "3",
            "From how many directions the volume is cut; more take longer and smooth out slips.",
            options={"1": "fast (one direction)", "3": "best (three directions)"},
        ),
        Choice(
            "structures",
            "Structures",
            "all",
            "Everything, or only what a synthetic CT must not mistake: bone and air.",
            advanced=True,
            options={"all": "all", "bone_air": "bone and air"},
        ),
    ),
    warnings=(
        "The weights were trained on rendered images of 14 heads, not on scans: tumours, bleeding, implants and "
        "children's heads were not among them.",
    ),
    modalities=("MR",),
    body_parts=("head",),
    weights=("head_mr.safetensors",),
    fitness=head_fitness,
)

FEW_PLANES = MethodSpec(
    id="multiplanar_unet_few_planes",
    title="Any structure: paint a few slices, get the volume",
    summary="Learns from a few slices that you painted and segments the whole volume; paint one more and continue.",
    family="segmentation",
    paper=PAPER,
    intended_use="Contouring a structure for which no trained model exists. Research only; check every slice.",
    run="medgen.methods.multiplanar_unet.few_planes:run",
    inputs=(
        Image("image", "Image", help="The volume that was painted on."),
        LabelMap("painted", "Painted segments", help="Segments painted on the finished slices; the rest is ignored."),
        Planes("planes", "Finished slices", help="The slices on which everything was painted; four or more do well."),
        Blob("model", "Model to continue from", required=False, help="The model of an earlier run on this structure."),
        ROI("roi", "Region", required=False, help="Only this box is learnt from and segmented."),
    ),
    outputs=(
        LabelMap("segmentation", "Segmentation"),
        Probability("probability", "Probability", help="Of belonging to any of the painted segments."),
        Image("disagreement", "Disagreement", help="Spread of the probability over the directions, 0 to 0.5."),
        Planes("next_plane", "Slice to paint next", help="Where the directions disagree most."),
        Plot("training", "Training", x="update", y=("loss",)),
        Table("held_out", "Leave-one-slice-out", required=False, help="Dice on each slice by a network that did not "
              "learn from it."),
        Blob("model", "Model"),
    ),
    parameters=(
        Int("updates", "Updates", 600, "Steps of training; more fit better and take longer.", minimum=20, maximum=22400,
            step=100),
        Int("training_planes", "Cuts to learn from", 128, "Random cuts through the painted slices; 0 learns from the "
            "painted slices as they are.", minimum=0, maximum=1024, step=32),
        Int("orientations", "Directions", 3, "Directions that vote on every voxel.", minimum=1, maximum=9),
        Bool("leave_one_out", "Check by leaving slices out", False, "Trains once more for every slice, without it, and "
             "tells how well the others predict it."),
        Choice("width", "Network width", "8", "Channels of the first layer; the paper's is 64.", advanced=True,
               options={"8": "8", "16": "16", "32": "32", "64": "64 (paper)"}),
        Float("learning_rate", "Learning rate", 1e-3, "1e-5 in the paper, for its width and 22,400 updates.",
              advanced=True, minimum=1e-6, maximum=1e-1, step=1e-4),
        Float("spacing_mm", "Voxel size", 0.0, "Of the isotropic grid that is cut; 0 takes the smallest spacing of the "
              "image.", unit="mm", advanced=True, minimum=0.0, maximum=10.0),
        Float("threshold", "Threshold", 0.5, "Probability above which a voxel belongs to a segment.", advanced=True,
              minimum=0.0, maximum=1.0, step=0.05),
    ),
    modalities=("MR", "CT", "US", "EM"),
    body_parts=("any",),
    fitness=few_planes_fitness,
)  # fmt: skip

SPECS = (HEAD, FEW_PLANES)
