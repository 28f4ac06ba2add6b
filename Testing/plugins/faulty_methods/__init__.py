"""Methods that misbehave on purpose, and one that mirrors every kind of value, for the tests of the worker."""

from medgen.spec import (
    ROI,
    Blob,
    Choice,
    Float,
    Image,
    LabelMap,
    Mask,
    MethodSpec,
    Paper,
    Planes,
    Points,
    Table,
    Transform,
)

FAULTS = [
    *("none", "segfault", "sleep_in_c", "hold_gil", "ignore_cancel", "allocate", "print", "exit", "raise", "memory"),
    *("missing_package", "no_output", "child", "many_reports", "notice", "cache", "torch", "partials"),
]

_PAPER = Paper("None", "None", "None", 2026)

FAULTY = MethodSpec(
    id="faulty",
    title="Faulty (test)",
    summary="Misbehaves as asked.",
    family="test",
    paper=_PAPER,
    intended_use="Testing.",
    run="faulty_methods.run:run_faulty",
    inputs=(Image("image", "Image", required=False),),
    outputs=(Image("image", "Image", required=False), Table("table", "Table")),
    parameters=(
        Choice("fault", "Fault", "none", options={fault: fault for fault in FAULTS}),
        Float("seconds", "Duration", 600.0, minimum=0.0, maximum=600.0),
    ),
)

_PORTS = (
    Image("image", "Image", required=False),
    Image("second", "Second image", required=False),
    Image("elsewhere", "Somebody else's image", required=False, anywhere=True),
    Image("slice", "Slice", required=False, kind="slice"),
    Image("rgb", "Colour image", required=False, kind="rgb"),
    Image("sequence", "Sequence", required=False, kind="sequence"),
    Mask("mask", "Mask", required=False),
    LabelMap("labels", "Labels", required=False),
    Points("points", "Points", required=False),
    Planes("planes", "Planes", required=False),
    ROI("roi", "Box", required=False),
    Table("table", "Table", required=False),
    Transform("transform", "Transform", required=False),
    Blob("blob", "Blob", required=False),
)

MIRROR = MethodSpec(
    id="mirror",
    title="Mirror (test)",
    summary="Gives back whatever it gets.",
    family="test",
    paper=_PAPER,
    intended_use="Testing.",
    run="faulty_methods.run:run_mirror",
    inputs=_PORTS,
    outputs=_PORTS,
)

NEEDS_WEIGHTS = MethodSpec(
    id="needs_weights",
    title="Needs weights (test)",
    summary="Says which weights it got.",
    family="test",
    paper=_PAPER,
    intended_use="Testing.",
    run="faulty_methods.run:run_weights",
    inputs=(),
    outputs=(Table("table", "Table"),),
    weights=("small.safetensors",),
)

SPECS = (FAULTY, MIRROR, NEEDS_WEIGHTS)
