"""The walls: who may import whom, what Slicer may load, how long a file may be, what the tree may hold."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MODELS = ROOT / "models"
PACKAGE = MODELS / "medgen"

SLICER_MAY_TAKE = {
    *("medgen.spec", "medgen.catalogue", "medgen.errors", "medgen.environment", "medgen.weights"),
    *("medgen.worker.client", "medgen.worker.processes"),
}
SLICER_MAY_NAME = {"medgen", "medgen.__version__", "medgen.worker"}  # as `from medgen.worker import client` does
SLICER_HAS = {"numpy", "SimpleITK", "vtk", "vtkmodules", "slicer", "qt", "ctk", "sitkUtils", "DICOMLib", "SampleData"}
SHARED = {"shared_data", "__version__"}
METHOD_MAY_TAKE = SHARED | {
    *("imaging", "nets", "losses", "metrics", "diffusion", "training", "spec", "method", "errors", "weights", "proofs")
}
TEXT_FILES = {".py", ".md", ".toml", ".json", ".txt", ".cmake", ".ui", ".yml", ".html", ".csv", ""}
KNOWS_METHODS = {"medgen.methods", "medgen.catalogue", "medgen.worker", "medgen.cli"}
ONLY_INSIDE_SLICER = {"slicer", "qt", "ctk", "PySide6", "PythonQt", "MedGenSlicerLib"}


def tracked_files(folder: Path) -> list[Path]:
    """What git keeps: files that lie about in a checkout are nobody's business."""
    # the checkout may belong to another user than the one who tests
    git = ["git", "-c", "safe.directory=*", "ls-files", "-z", "--", str(folder)]
    done = subprocess.run(git, cwd=ROOT, capture_output=True, text=True, check=True)
    found = sorted(path for name in done.stdout.split("\0") if name and (path := ROOT / name).is_file())
    assert found, f"git keeps nothing in {folder}"
    return found


def python_files(folder: Path) -> list[Path]:
    return [path for path in tracked_files(folder) if path.suffix == ".py"]


def imports(path: Path) -> set[str]:
    """Every dotted name that the file imports, at any depth; `from a import b` counts as a and a.b."""
    package = ".".join(path.relative_to(MODELS).parent.parts) if MODELS in path.parents else ""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"), str(path))):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            start = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            module = ".".join([*start, *([node.module] if node.module else [])])
            found.update({module}, (f"{module}.{alias.name}" for alias in node.names))
    return found


def inside(name: str, packages: set[str]) -> bool:
    return any(name == package or name.startswith(package + ".") for package in packages)


def relative(paths: list[Path]) -> list[str]:
    return [str(path.relative_to(ROOT)) for path in paths]


def slicer_files() -> list[Path]:
    return python_files(ROOT / "MedGenSlicer")


def loaded_by_slicer() -> list[Path]:
    """The files that Slicer's Python 3.9 runs."""
    taken = run_python(
        "import medgen.environment, medgen.catalogue as c, medgen.worker.client; c.load_catalogue(); "
        "print(*[m.__file__ for name, m in sys.modules.items() if name.split('.')[0] == 'medgen'])"
    )
    return sorted({Path(name) for name in taken} | set(slicer_files()))


def run_python(code: str, *options: str) -> list[str]:
    """The words that the code prints in a fresh Python that finds medgen in models/."""
    code = f"import sys; sys.path.insert(0, {str(MODELS)!r}); {code}"
    done = subprocess.run([sys.executable, *options, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def client_modules() -> list[str]:
    """The medgen modules that importing the worker's client brings into Slicer."""
    return run_python("import medgen.worker.client; print(*[m for m in sys.modules if m.startswith('medgen.')])")


def test_slicer_side_takes_only_the_declarations_and_the_client() -> None:
    own = {path.stem for path in slicer_files()} | {path.parent.name for path in slicer_files()}
    for path in slicer_files():
        for name in imports(path):
            top = name.split(".")[0]
            if top == "medgen":
                allowed = name in SLICER_MAY_NAME or inside(name, SLICER_MAY_TAKE)
            else:
                allowed = top in sys.stdlib_module_names or top in SLICER_HAS | own
            assert allowed, f"{path.relative_to(ROOT)} imports {name}"


def test_models_never_import_slicer_or_qt() -> None:
    for path in python_files(PACKAGE):
        wrong = [name for name in imports(path) if name.split(".")[0] in ONLY_INSIDE_SLICER]
        assert not wrong, f"{path.relative_to(ROOT)} imports {wrong}"


def test_a_method_takes_shared_parts_but_never_another_method() -> None:
    for path in python_files(PACKAGE / "methods"):
        if path.parent == PACKAGE / "methods":
            continue
        own = "medgen.methods." + path.relative_to(PACKAGE / "methods").parts[0]
        for name in imports(path):
            if name in ("medgen", "medgen.methods") or not name.startswith("medgen."):
                continue
            allowed = inside(name, {own}) or name.split(".")[1] in METHOD_MAY_TAKE
            # a proof is a user of its method, and may ask the catalogue for the gate as a user does
            allowed = allowed or (path.name == "proof.py" and inside(name, {"medgen.catalogue"}))
            assert allowed, f"{path.relative_to(ROOT)} imports {name}"


@pytest.mark.parametrize("part", ["exchange", "imaging", "nets", "losses", "metrics", "diffusion", "training"])
def test_shared_parts_know_no_method(part: str) -> None:
    for path in python_files(PACKAGE / part):
        wrong = [name for name in imports(path) if inside(name, KNOWS_METHODS)]
        assert not wrong, f"{path.relative_to(ROOT)} imports {wrong}"


def test_nothing_imports_the_command_line() -> None:
    for path in python_files(PACKAGE):
        if not str(path.relative_to(PACKAGE)).startswith("cli") and path.name != "__main__.py":
            wrong = [name for name in imports(path) if inside(name, {"medgen.cli"})]
            assert not wrong, f"{path.relative_to(ROOT)} imports {wrong}"


def test_declarations_need_the_standard_library_alone() -> None:
    """Slicer imports these at start-up: no site-packages (-S, -s), nothing from the environment (-E)."""
    code = "import medgen.spec, medgen.errors, medgen.catalogue as c; c.load_catalogue(); print(*sys.modules)"
    loaded = {name.split(".")[0] for name in run_python(code, "-ESs")}
    assert "medgen" in loaded
    assert not {"numpy", "torch", "SimpleITK", "monai", "rich", "typer"} & loaded


def test_client_brings_no_torch_no_threads_and_no_qt_into_slicer() -> None:
    loaded = {name.split(".")[0] for name in run_python("import medgen.worker.client; print(*sys.modules)")}
    assert not {"torch", "monai", "skimage", "scipy", "PySide6", "qt", "psutil"} & loaded
    for name in client_modules():
        path = MODELS / (name.replace(".", "/") + ".py")
        if path.exists():
            assert not {"threading", "concurrent.futures", "asyncio"} & imports(path), f"{name} uses threads"


def test_what_slicer_loads_keeps_to_python_3_9() -> None:
    """Slicer 5.8 and 5.10 run Python 3.9: no newer syntax, and annotations that are never evaluated."""
    for path in loaded_by_slicer():
        text = path.read_text("utf-8")
        tree = ast.parse(text, str(path), feature_version=(3, 9))
        has_annotations = any(isinstance(n, (ast.AnnAssign, ast.FunctionDef)) for n in ast.walk(tree))
        if has_annotations and " | " in text:
            assert "from __future__ import annotations" in text, f"{path.relative_to(ROOT)} lacks the future import"


def test_files_fit_in_500_lines() -> None:
    long = [path for path in python_files(ROOT) if len(path.read_text("utf-8").splitlines()) > 500]
    assert not long, relative(long)


def test_no_path_of_a_machine_and_no_registry_host_in_the_tree() -> None:
    # written in halves, so that this file passes its own test
    needles = [
        "/" + "work/",
        "bash" + "_jobs",
        "py" + "pi.org",
        "python" + "hosted.org",
        "npm" + "js.org",
        "debian" + ".org",
    ]
    for path in tracked_files(ROOT):
        if path.suffix in TEXT_FILES:
            text = path.read_bytes().decode("utf-8", "replace")
            assert not [n for n in needles if n in text], (
                f"{path.relative_to(ROOT)} names a machine's path or a registry"
            )
