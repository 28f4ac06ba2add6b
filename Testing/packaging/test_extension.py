"""The extension as a user gets it: packaged by its own CMake files, compared with the tree, opened from the package."""

from __future__ import annotations

import re
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
MODULES = "lib/Slicer-5.8/qt-scripted-modules"


def tool(name: str) -> str:
    found = shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


@pytest.fixture(scope="module")
def package(tmp_path_factory) -> Path:
    """The installed extension's folder of scripted modules."""
    build, prefix = tmp_path_factory.mktemp("build"), tmp_path_factory.mktemp("extension")
    nothing = shutil.which("true") or sys.executable
    command = [tool("cmake"), "-S", str(ROOT), "-B", str(build), "-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={tool('ninja')}"]
    command += [f"-DSlicer_DIR={HERE / 'slicer'}", f"-DCMAKE_INSTALL_PREFIX={prefix}"]
    for language in ("C", "CXX"):  # nothing is compiled, so no compiler is asked for
        command += [f"-DCMAKE_{language}_COMPILER={nothing}", f"-DCMAKE_{language}_COMPILER_FORCED=TRUE"]
        command += [f"-DCMAKE_{language}_COMPILER_ID_RUN=TRUE"]
    for step in (command, [tool("cmake"), "--build", str(build)], [tool("cmake"), "--install", str(build)]):
        done = subprocess.run(step, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    return prefix / MODULES


def tracked(folder: str) -> set[str]:
    """Files of the checkout that git knows or would know."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", folder], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return {line for line in listed.stdout.splitlines() if (ROOT / line).is_file()}


def below(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_every_file_is_packaged_and_nothing_else(package):
    """A file that a CMake list forgets, or one that does not belong in the package, fails here."""
    expected = set()
    for path in tracked("MedGenSlicer"):
        parts = Path(path).parts[1:]
        if path.endswith((".cmake", "CMakeLists.txt", ".md")):
            continue
        expected.add("/".join(parts if parts[0] == "MedGenSlicerLib" else parts[1:]))
    for folder in ("models/medgen", "Resources/Weights", "Resources/Terminology", "Resources/SampleData"):
        expected |= {f"MedGenEngine/{path}" for path in tracked(folder)}
    expected |= {"MedGenEngine/pyproject.toml", "MedGenEngine/LICENSE.txt"}
    found = below(package)
    assert found - expected == set()
    assert expected - found == set()


OPEN = """
import sys
from pathlib import Path
gui, package, modules = sys.argv[1], Path(sys.argv[2]), sys.argv[3:]
sys.path[:] = [p for p in sys.path if "models" not in Path(p).name]
sys.path.insert(0, gui)
import harness
harness.FROM_CHECKOUT = False
harness.start()
sys.path.insert(0, str(package))
for name in modules:
    harness.load_module(name, package)
    harness.open_module(name)
import medgen, MedGenSlicerLib
from medgen.weights import STARTER_WEIGHTS
from medgen.environment import PROJECT_FILE
assert Path(medgen.__file__).is_relative_to(package), medgen.__file__
assert Path(MedGenSlicerLib.__file__).is_relative_to(package)
assert PROJECT_FILE.is_file() and STARTER_WEIGHTS.is_relative_to(package)
print("opened")
"""


def test_the_panels_open_from_the_package(package):
    names = [path.stem for path in package.glob("MedGen*.py")]
    assert {"MedGenSegment", "MedGenSyntheticCT", "MedGenUltrasound", "MedGenJobs"} <= set(names)
    command = [sys.executable, "-c", OPEN, str(ROOT / "Testing" / "gui"), str(package), *names]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and "opened" in done.stdout, done.stderr[-3000:]


def value(name: str) -> str:
    found = re.search(rf'set\({name} "([^"]+)"\)', (ROOT / "CMakeLists.txt").read_text("utf-8"))
    assert found, f"{name} is not set on one line"
    return found.group(1)


def test_what_the_extensions_index_asks_for():
    text = (ROOT / "CMakeLists.txt").read_text("utf-8")
    assert "project(MedGenSlicer)" in text
    for name in ("HOMEPAGE", "CONTRIBUTORS", "DESCRIPTION", "ICONURL", "SCREENSHOTURLS", "DEPENDS"):
        assert value(f"EXTENSION_{name}")
    assert "Apache" in value("EXTENSION_DESCRIPTION")
    assert (ROOT / "LICENSE.txt").is_file()
    urls = [value("EXTENSION_ICONURL"), *value("EXTENSION_SCREENSHOTURLS").split()]
    for url in urls:  # the file that the address serves lies in the tree
        assert (ROOT / url.split("/main/")[1]).is_file(), url
    icons = [ROOT / urls[0].split("/main/")[1]]
    icons += [
        ROOT / "MedGenSlicer" / n / "Resources" / "Icons" / f"{n}.png"
        for n in ("MedGenSegment", "MedGenSyntheticCT", "MedGenJobs")
    ]
    for icon in icons:
        assert struct.unpack(">II", icon.read_bytes()[16:24]) == (128, 128), icon
