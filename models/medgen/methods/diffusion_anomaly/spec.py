"""Wolleb, Bieder, Sandkühler and Cattin 2022: anomaly maps of brain MR without lesion masks. Standard library only."""

from __future__ import annotations

from dataclasses import replace

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
from medgen.spec import (
    Bool,
    Choice,
    Float,
    Image,
    Int,
    Label,
    LabelMap,
    MethodSpec,
    Paper,
    Plot,
    Table,
)

SPEC = MethodSpec(
    id="diffusion_anomaly",
    title="Brain MR: what does not look healthy",
    summary="Redraws a brain as healthy with a diffusion model that never saw a lesion mask, and maps what changed.",
    family="anomaly",
    paper=Paper(
        "Diffusion Models for Medical Anomaly Detection",
        "Wolleb J, Bieder F, Sandkühler R, Cattin PC",
        "MICCAI, LNCS 13438",
        2022,
        "10.1007/978-3-031-16452-1_4",
    ),
    intended_use="A first look at where a brain may be abnormal. Research only; not for diagnosis or treatment.",
    run="medgen.methods.diffusion_anomaly.infer:run",
    inputs=(*INPUTS, REGION),
    outputs=(
        LabelMap("anomaly", "Anomaly", labels=(Label(1, "Anomaly", (230, 60, 40), LESION),)),
        Image("anomaly_map", "Anomaly map", help="Sum over the sequences of the absolute change."),
        *(
            Image(f"healthy_{name}", f"Pseudo-healthy {title}", required=False, synthetic=True)
            for name, title in SEQUENCES
        ),
        LabelMap(
            "flair_threshold",
            "FLAIR threshold",
            required=False,
            labels=(Label(1, "Bright in FLAIR", (60, 160, 230), LESION),),
            help="The simple rival: the brightest voxels of the brain in FLAIR.",
        ),
        Plot("diseased", "P(diseased) along the slices", x="position_mm", y=("p_diseased",)),
        Table("report", "Report"),
    ),
    parameters=(
        Float("guidance", "Guidance", 15.0, "How strongly the slice is drawn toward healthy; too much leaves "
              "traces at the brain's rim.", minimum=0.0, maximum=1000.0, step=5.0),
        Int("noise_level", "Noise level", 200, "How much of the image is given up and redrawn; of 1000.", minimum=50,
            maximum=600, step=50),
        Choice("slices", "Slices", "all", "Redrawing only slices that look diseased is faster.",
               options={"all": "all of the brain", "suspicious": "only those more likely diseased than not"}),
        Choice("threshold", "Threshold", "otsu", "Where the map is cut.",
               options={"otsu": "Otsu", "fixed": "a fixed value", "percentile": "a percentile of the brain"}),
        Float("value", "Fixed threshold", 0.5, "For 'a fixed value', in units of the map.", minimum=0.0, maximum=4.0,
              step=0.05),
        Float("percentile", "Percentile", 97.0, "For 'a percentile', and for the FLAIR threshold.", unit="%",
              minimum=50.0, maximum=100.0, step=0.5),
        Int("steps", "Steps", 25, "Network evaluations each way; more return closer to the image and take longer.",
            minimum=2, maximum=1000, step=5, advanced=True),
        Choice("solver", "Solver", "dpm2", "How the steps are taken.", advanced=True,
               options={"dpm2": "DPM-Solver++, second order", "ddim": "DDIM, as in the paper",
                        "ddpm": "DDPM: at random, changes anatomy"}),
        Choice("label", "Network is told", "healthy", "Which class the noise network is told that a slice has.",
               options={"healthy": "that it is healthy", "any": "nothing (takes twice as long)"}, advanced=True),
        Bool("clamp", "Clamp", False, "Cut predicted images off at -1 and 1 as the paper's code does.", advanced=True),
        Float("smoothing", "Smoothing", 2.0, "Of the map, in pixels of 1.5 mm.", unit="px", minimum=0.0, maximum=3.0,
              step=0.5, advanced=True),
        Int("rim", "Rim left out", 0, "Pixels of 1.5 mm at the brain's outline, where strong guidance leaves traces.",
            minimum=0, maximum=5, advanced=True),
        Float("smallest", "Smallest piece", 50.0, "Smaller pieces are dropped.", unit="mm³", minimum=0.0,
              maximum=10000.0, step=10.0, advanced=True),
        *RANGE,
        COMPILE,
    ),
    warnings=(
        *missing_weights("diffusion_anomaly"),
        RENDERED,
        "Pseudo-healthy images are synthetic and show no part of the patient.",
    ),
    modalities=("MR",),
    body_parts=("brain",),
    weights=("brain_mr.safetensors",),
    fitness=fitness,
)  # fmt: skip

REDRAWING = ("guidance", "noise_level", "steps", "solver", "label", "clamp", "smoothing")

SLICE = MethodSpec(
    id="diffusion_anomaly_slice",
    title="Brain MR: one slice redrawn as healthy",
    summary="One slice as diffusion_anomaly redraws it, at once: what a panel shows while its sliders move.",
    family="preview",
    paper=SPEC.paper,
    intended_use=SPEC.intended_use,
    run="medgen.methods.diffusion_anomaly.infer:run_slice",
    inputs=INPUTS,
    outputs=(
        Image("anomaly_map", "Anomaly map", kind="slice"),
        *(
            Image(f"healthy_{name}", f"Pseudo-healthy {title}", required=False, synthetic=True, kind="slice")
            for name, title in SEQUENCES
        ),
        Table("report", "Report"),
    ),
    parameters=(
        *(
            Float(name, name[0].upper(), 0.0, "Of a point in the slice, RAS.", unit="mm", minimum=-1000.0,
                  maximum=1000.0)
            for name in ("r_mm", "a_mm", "s_mm")
        ),
        *(SPEC.parameter(name) for name in (*REDRAWING, "rim")),
    ),
    warnings=SPEC.warnings,
    modalities=("MR",),
    body_parts=("brain",),
    weights=SPEC.weights,
    weights_of=SPEC.id,
    fitness=fitness,
)  # fmt: skip

XRAY = MethodSpec(
    id="diffusion_anomaly_xray",
    title="Chest X-ray: what does not look healthy",
    summary="Redraws a chest X-ray as one without a finding and maps what changed.",
    family="anomaly",
    paper=SPEC.paper,
    intended_use="Research only; not for diagnosis or treatment.",
    run="medgen.methods.diffusion_anomaly.infer_xray:run",
    inputs=(Image("image", "Chest X-ray", modality="any", kind="slice"),),
    outputs=(
        LabelMap("anomaly", "Anomaly", labels=(Label(1, "Anomaly", (230, 60, 40), LESION),)),
        Image("anomaly_map", "Anomaly map", help="Absolute change, of the X-ray scaled to 0..1."),
        Image("healthy", "Pseudo-healthy X-ray", synthetic=True),
        Table("report", "Report"),
    ),
    parameters=(
        replace(SPEC.parameter("guidance"), default=60.0),
        *(SPEC.parameter(name) for name in REDRAWING if name != "guidance"),
    ),
    warnings=(
        *missing_weights("diffusion_anomaly_xray"),
        "A pseudo-healthy image is synthetic and shows no part of the patient.",
    ),
    modalities=("CR", "DX"),
    body_parts=("chest",),
    weights=("xray.safetensors",),
)

SPECS = (SPEC, SLICE, XRAY)
