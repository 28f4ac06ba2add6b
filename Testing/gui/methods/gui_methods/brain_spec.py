"""Declarations as `brain_stylegan` has them, for balls with a hole: what the panel of brains is tried with."""

from dataclasses import replace

from medgen.spec import Choice, Float, Image, Int, Mask, MethodSpec, Paper, Table, Transform

PAPER = Paper("On the sphere and cylinder", "Archimedes", "Syracuse", -225)
SIZE = Choice("size", "Size", "full", "The small one comes at once.", options={"full": "full", "preview": "preview"})
SLOW = Float("seconds", "Duration", 0.0, "How long to take.", "s", advanced=True, minimum=0.0)
CROSSOVER = Int("crossover", "Crossover", 2, "Inputs taken from A.", minimum=0, maximum=4)
TRUNCATION = Float("truncation", "Truncation", 0.8, "0 is the mean.", minimum=0.0, maximum=1.5)
PAIR = (
    Table("a", "Coarse anatomy (A)", help="Code of the brain that gives the coarse anatomy."),
    Table("b", "Fine anatomy (B)", help="Code of the brain that gives the fine anatomy."),
)
CODES = Table("codes", "Codes")


def method(method_id, title, run, inputs, outputs, parameters):
    return MethodSpec(
        id=method_id,
        title=title,
        summary=f"{title}, of balls.",
        family="brain_style",
        paper=PAPER,
        intended_use="Testing panels.",
        run=f"gui_methods.brains:{run}",
        inputs=inputs,
        outputs=outputs,
        parameters=(*parameters, SLOW),
        modalities=("MR",),
        body_parts=("Head",),
    )


SPECS = (
    method("gui_brain", "Make balls", "make", (Table("codes", "Codes", required=False),),
           (Image("brains", "Brains", kind="set", synthetic=True), CODES),
           (Int("count", "How many", 1, "Balls.", minimum=1, maximum=100), TRUNCATION, SIZE)),
    method("gui_brain_mix", "Mix two balls", "mix", PAIR,
           (Image("mix", "Mix", synthetic=True), Image("a", "A", synthetic=True), Image("b", "B", synthetic=True),
            CODES),
           (CROSSOVER, Int("row_a", "Row of A", 1, "Of the table.", advanced=True, minimum=1),
            Int("row_b", "Row of B", 1, "Of the table.", advanced=True, minimum=1), SIZE)),
    method("gui_brain_grid", "Matrix of mixes", "grid",
           (Table("coarse", "Coarse donors"), Table("fine", "Fine donors")),
           (Image("grid", "Matrix", kind="set", synthetic=True),), (CROSSOVER, SIZE)),
    method("gui_brain_project", "Project a ball", "project",
           (Image("image", "T1 brain", modality="T1"), Mask("mask", "Brain", required=False)),
           (Image("reconstruction", "Reconstruction", synthetic=True),
            Image("difference", "Difference", unit="difference"), CODES, Transform("to_patient", "To the patient")),
           (Int("steps", "Steps", 50, "Of the search.", minimum=1, maximum=3000),)),
    method("gui_brain_training_set", "Balls it learnt from", "training_set", (),
           (Image("brains", "Training brains", kind="set"),),
           (Int("count", "How many", 8, "Balls.", minimum=4, maximum=100),)),
    replace(method("gui_volumes", "Volumes of a ball", "volumes", (Image("image", "MR image", modality="MR"),),
                   (Table("volumes", "Volumes"),), (Choice("orientations", "Quality", "1", options={"1": "fast"}),)),
            family="test"),
)  # fmt: skip
