"""Tronchin et al. 2021: whether a set of synthetic images looks real, copies a patient or repeats itself."""

from medgen.spec import Choice, Image, Int, MethodSpec, Paper, Plot, Table

SPECS = (
    MethodSpec(
        id="generator_gate",
        title="Check synthetic images",
        summary="Tells whether synthetic images can be told from real ones, copy a patient or repeat themselves.",
        family="brain_style",
        paper=Paper(
            "Evaluating GANs in Medical Imaging",
            "Tronchin L, Sicilia R, Cordelli E, Ramella S, Soda P",
            "DGM4MICCAI, LNCS 13003",
            2021,
            "10.1007/978-3-030-88210-5_10",
        ),
        intended_use="Before synthetic images leave the department or train a model. No flag is no proof of privacy.",
        run="medgen.methods.generator_gate.infer:run",
        inputs=(
            Image("real", "Real images", kind="set", anywhere=True, help="One image a patient, at least four; also "
                  "those that the generator learnt from, else a copy of them cannot be found."),
            Image("synthetic", "Synthetic images", kind="set", anywhere=True, help="At least four."),
        ),
        outputs=(
            Table("flags", "Flags"),
            Table("scores", "Scores"),
            Table("closest", "Closest pairs", help="The real image that each synthetic one is most like."),
            Plot("similarity", "Structural similarity", x="MS-SSIM",
                 y=("synthetic to real", "synthetic to synthetic", "real to real")),
            Table("map", "Map of features", help="Every test slice in the plane of the two principal components."),
        ),
        parameters=(
            Int("slices", "Slices an image", 8, "Spread over the middle of each volume.", minimum=1, maximum=64),
            Int("runs", "Runs", 5, "Times the test network is trained anew; the paper's figures are means of 50.",
                minimum=1, maximum=50),
            Int("epochs", "Epochs", 20, "Of each training.", minimum=1, maximum=200),
            Int("size", "Picture size", 80, "To which slices are scaled.", unit="pixels", minimum=32, maximum=160,
                step=16, advanced=True),
            Choice("axis", "Slice direction", "k", "Along which axis of the upright volume slices are cut.",
                   options={"k": "axial", "j": "coronal", "i": "sagittal"}, advanced=True),
            Choice("normalisation", "Intensities", "percentile", "Matched histograms show whether only the intensities "
                   "gave the synthetic images away.",
                   advanced=True, options={"percentile": "scaled per image", "histogram": "matched to the real ones"}),
        ),
        modalities=("any",),
        body_parts=("any",),
    ),
)  # fmt: skip
