"""Returns its input. For tests and benches of the way to the worker and back, and to see that a set-up works."""

from medgen.spec import Float, Image, MethodSpec, Paper

SPECS = (
    MethodSpec(
        id="identity",
        title="Identity (test)",
        summary="Gives the image back unchanged, to test the background process.",
        family="test",
        paper=Paper("None", "None", "None", 2026),
        intended_use="Testing the installation.",
        run="medgen.methods.identity.infer:run",
        inputs=(Image("image", "Image"),),
        outputs=(Image("image", "Image"),),
        parameters=(
            Float("seconds", "Duration", 0.0, "How long to pretend to work.", "s", minimum=0.0, maximum=3600.0),
        ),
    ),
)
