"""Declaration of the sampling of a small cohort's latent space."""

from __future__ import annotations

from collections.abc import Mapping

from medgen.spec import (
    Blob,
    Choice,
    FitnessWarning,
    Float,
    Image,
    ImageFacts,
    Int,
    Mask,
    MethodSpec,
    Paper,
    Plot,
    Table,
    Text,
)

PAPER = Paper(
    title="Data Augmentation with Variational Autoencoders and Manifold Sampling",
    authors="Chadebec C, Allassonniere S",
    venue="DALI at MICCAI 2021, LNCS 13003",
    year=2021,
    doi="10.1007/978-3-030-88210-5_17",
)
LARGE = 128


def fitness(facts: Mapping[str, ImageFacts]) -> list[FitnessWarning]:
    found = facts.get("images")
    if found is not None and sum(n > LARGE for n in found.size) > 2:
        sentence = "The volumes are large: they are learnt at the working size, and fine detail is lost."
        return [FitnessWarning("images", sentence)]
    return []


RHVAE_SAMPLING = MethodSpec(
    id="rhvae_sampling",
    title="More images like these (manifold sampling)",
    summary="Learns a small cohort of aligned images and makes new ones of each class where it vouches for them.",
    family="brain_style",
    paper=PAPER,
    intended_use="Extra training images for a classifier of a rare group. Research only; look at the closest pairs "
    "before the images leave the department.",
    run="medgen.methods.rhvae_sampling.infer:run",
    inputs=(
        Image("images", "Cohort", kind="set", anywhere=True, help="Aligned images of one size, pictures or volumes, "
              "of one patient each; some tens of each class."),
        Table("labels", "Classes", required=False, help="A row an image, in their order: the column of classes, and "
              "'id' where images have names. Without it all are one class."),
        Mask("mask", "Region", required=False, help="Only what lies in it is learnt; the images are cut to its box."),
        Blob("model", "Trained model", required=False, help="Of an earlier run on the same cohort, or of 'medgen "
             "train': nothing is trained."),
    ),
    outputs=(
        Image("synthetic", "Synthetic images", kind="sequence", synthetic=True, help="At the working size, class after "
              "class."),
        Table("codes", "Codes", help="A row a synthetic image: class, code, how well the cohort vouches for it."),
        Table("map", "Latent map", help="Cohort, samples, geodesic and a grid of log-volumes, in the plane of the "
              "codes' principal components, class by class."),
        Plot("chart", "Latent map, chart", x="component 1", points=True, help="Of the class of the geodesic.",
             y=("inside the cohort", "cohort", "synthetic", "geodesic")),
        Image("geodesic", "Between two images", kind="sequence", synthetic=True, help="Along the shortest way through "
              "the cohort's space."),
        Table("similarity", "Closest pairs", help="The cohort's image that each synthetic one is most like."),
        Plot("training", "Training", x="epoch", y=("loss",), required=False),
        Blob("model", "Trained model", help="Holds the cohort's codes and what was learnt of it: treat it as patients' "
             "data."),
    ),
    parameters=(
        Int("count", "New images of each class", 100, "How many.", minimum=1, maximum=5000, step=10),
        Int("epochs", "Epochs", 400, "Passes over the cohort; more for very few images.", minimum=1, maximum=10_000,
            step=100),
        Choice("sampler", "Sampler", "hmc", "Where codes are drawn. The prior is the baseline of the paper.", options={
            "hmc": "Hamiltonian Monte Carlo", "walk": "Riemannian random walk", "prior": "standard normal prior",
        }),
        Choice("content", "What is learnt", "auto", "Volumes are scaled down to the working size.", options={
            "auto": "the images as they are", "slice": "one slice of each volume",
        }),
        Float("position", "Slice at", 50.0, "Of the way through the volume.", unit="%", minimum=0.0, maximum=100.0,
              step=1.0),
        Choice("axis", "Slice direction", "k", "Of the upright volume.",
               options={"k": "axial", "j": "coronal", "i": "sagittal"}),
        Int("size", "Working size", 64, "Longest side; smaller images stay as they are. 32 for volumes on a CPU.",
            unit="pixels", minimum=8, maximum=160, step=8),
        Int("from_image", "Geodesic from image", 0, "Counted from 1; 0 takes the two that lie farthest apart.",
            minimum=0, maximum=100_000),
        Int("to_image", "Geodesic to image", 0, "Of the same class.", minimum=0, maximum=100_000),
        Int("frames", "Pictures of the geodesic", 11, "From one image to the other.", minimum=3, maximum=101,
            advanced=True),
        Choice("intensities", "Intensities", "image", "CT and other measured values keep their meaning with one range.",
               options={"image": "scaled per image", "cohort": "one range for the cohort"}, advanced=True),
        Text("class_column", "Class column", "label", "Of the table of classes.", advanced=True),
        Int("latent", "Size of the code", 10, "Numbers that describe an image; 2 for a map without projection.",
            minimum=2, maximum=32, advanced=True),
        Float("temperature", "Reach T", 0.0, "How far an image vouches in the latent space; 0 takes 1.25 times the "
              "mean distance of neighbours.", minimum=0.0, maximum=5.0, step=0.1, advanced=True),
        Float("floor", "Metric floor", 1e-3, "Lambda, what is left of the metric far from every image.", minimum=1e-4,
              maximum=1e-1, step=1e-4, advanced=True),
        Int("steps", "Sampler steps", 200, "Of every chain.", minimum=20, maximum=1000, step=10, advanced=True),
        Float("step_size", "Leapfrog step", 0.05, "First size; tuned until 60 to 90 % are accepted.", minimum=0.005,
              maximum=0.2, step=0.005, advanced=True),
        Float("spread", "Walk's spread", 0.5, "Variance of the random walk's velocity.", minimum=0.05, maximum=2.0,
              step=0.05, advanced=True),
    ),
    warnings=(
        "With few images a sample may be nearly a copy of a patient: read the table of closest pairs.",
        "Differences between classes that come from age, machine or centre are learnt as if they were the disease.",
    ),
    modalities=("any",),
    body_parts=("any",),
    fitness=fitness,
)  # fmt: skip

SPECS = (RHVAE_SAMPLING,)
