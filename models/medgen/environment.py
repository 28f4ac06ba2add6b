"""The worker's own Python: finding an interpreter, making, checking and repairing a virtual environment.

Python 3.9, standard library only: Slicer's panel, `medgen setup` and the bootstrap script all use this file, the last
two before anything is installed. As a script (`python environment.py FOLDER [EXTRA ...]`) it makes the environment and
prints one line for each step, for who must not wait (Slicer runs it in a QProcess).
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Optional, Union

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from medgen.errors import BadInput, MedGenError
from medgen.weights import user_data_folder
from medgen.worker.devices import nvidia_names
from medgen.worker.processes import worker_environment

PROJECT_FILE = Path(__file__).resolve().parents[2] / "pyproject.toml"
MINIMUM_PYTHON = (3, 11)
PREFERRED = ("3.12", "3.11", "3.13")  # what is tried first, and what uv is asked for where there is none
NEEDED_BYTES = {"cpu": 3 * 10**9, "gpu": 10 * 10**9}
STAMP = "medgen-environment.json"
LOCK_SECONDS = 0.5  # between two looks at whether another process has finished

# Run by an interpreter of which nothing but its version is known.
_PROBE = "import json, sys, ensurepip, venv; print(json.dumps([list(sys.version_info[:2]), sys.executable]))"
_READ_PROJECT = """
import json, sys, tomllib
with open(sys.argv[1], "rb") as file:
    project = tomllib.load(file)["project"]
print(json.dumps([project["name"], project["dependencies"], project.get("optional-dependencies", {})]))
"""
_CHECK = """
import importlib.metadata as metadata, json, sys
from pip._vendor.packaging.requirements import Requirement
versions, missing = {}, []
for line in json.load(sys.stdin):
    requirement = Requirement(line)
    try:
        versions[requirement.name] = version = metadata.version(requirement.name)
    except metadata.PackageNotFoundError:
        version = None
    if version is None or not requirement.specifier.contains(version, prereleases=True):
        missing.append(line)
print(json.dumps({"versions": versions, "missing": missing}))
"""


def default_environment_folder() -> Path:
    """Where Slicer's worker lives unless the user points elsewhere."""
    return user_data_folder() / "environment"


def environment_python(folder: Path) -> Path:
    """The interpreter of a virtual environment, whether it exists or not."""
    return folder / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")


def find_python() -> Optional[Path]:
    """An interpreter that can make the environment: this one if it will do, then what is on the PATH. None if none."""
    own = Path(sys.executable or "").name.lower()
    slicers = "slicer" in own or "-real" in own  # works only with Slicer's libraries around it
    names = ["" if slicers else sys.executable, *(f"python{version}" for version in PREFERRED), "python3", "python"]
    for name in names:
        place = shutil.which(name) if name else None
        found = _probe(place) if place else None
        if found is not None and found[0] >= MINIMUM_PYTHON:
            return found[1]
    return None


def make_environment(folder: Path, extras: Sequence[str] = (), report: Callable[[str], None] = print) -> Path:
    """Makes the environment, or brings an existing one up to date, or repairs it; returns its interpreter.

    folder: becomes a virtual environment; extras: of pyproject.toml ('test', 'demo'); report: gets a line a step.
    Safe to repeat: an environment that is as it should be is left alone, and of two processes that make the same one
    the second waits. Raises MedGenError with one sentence.
    """
    folder = folder.resolve()
    python = environment_python(folder)
    if _ready(folder, extras):
        return python
    with _alone(folder, report):
        if not _ready(folder, extras):  # while this one waited, another may have made it
            _make(folder, python, extras, report)
    return python


def _ready(folder: Path, extras: Sequence[str]) -> bool:
    had = _stamped_extras(folder / STAMP)
    return had is not None and had.issuperset(extras) and _probe(environment_python(folder)) is not None


def _make(folder: Path, python: Path, extras: Sequence[str], report: Callable[[str], None]) -> None:
    stamp = folder / STAMP
    extras = sorted({*extras, *(_stamped_extras(stamp) or ())})  # what one command needs, another must not lose
    gpus = nvidia_names()
    _check_disk(folder, "gpu" if gpus else "cpu")
    _make_venv(folder, python, report)
    requirements = project_requirements(python, extras)
    torch = next(line for line in requirements if line.startswith("torch=="))
    _install_torch(python, torch, bool(gpus), report)
    report("Installing the other packages")
    _pip(python, requirements, report, "The packages could not be installed")
    stamp.write_text(json.dumps({"made_for": _fingerprint(), "extras": extras}), encoding="utf-8")
    report(f"Ready: {python}")


@contextmanager
def _alone(folder: Path, report: Callable[[str], None]) -> Iterator[None]:
    """Waits until no other process makes this environment. The lock lies beside the folder, which may be cleared; the
    system lets it go when its process ends, however that happens."""
    lock = folder.with_name(folder.name + ".lock")
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        file = lock.open("a+b")
    except OSError as error:
        raise MedGenError(f"The folder '{lock.parent}' cannot be written to ({error.strerror}).") from None
    with file:
        if not _locked(file.fileno()):
            report("Another MedGen is setting up this Python environment; waiting for it")
            while not _locked(file.fileno()):
                time.sleep(LOCK_SECONDS)
        yield


def _locked(descriptor: int) -> bool:
    """Takes the lock of an open file until it is closed; False where another process has it. A disk that knows no locks
    counts as taken: there, two at once are as they were."""
    try:
        if sys.platform == "win32":
            import msvcrt

            os.lseek(descriptor, 0, os.SEEK_SET)
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno not in (errno.EACCES, errno.EAGAIN, errno.EDEADLK)
    return True


def environment_status(folder: Path, extras: Sequence[str] = ()) -> dict[str, Any]:
    """What a settings panel shows: {'python': path, 'works': bool, 'sentence', 'python_version', 'versions': {package:
    version}, 'missing': [requirement], 'disk_bytes', 'gpus': [name]}. Takes about a second; imports no package."""
    python = environment_python(folder)
    status: dict[str, Any] = {
        "python": str(python),
        "works": False,
        "python_version": "",
        "versions": {},
        "missing": [],
    }
    status["gpus"] = nvidia_names()
    status["disk_bytes"] = sum(f.lstat().st_size for f in folder.rglob("*") if f.is_file()) if folder.is_dir() else 0
    found = _probe(python)
    if found is None:
        status["sentence"] = f"There is no working Python in {folder}: run the set-up."
        return status
    status["python_version"] = ".".join(map(str, found[0]))
    if found[0] < MINIMUM_PYTHON:
        status["sentence"] = f"Python {status['python_version']} is too old, 3.11 or later is needed: run the set-up."
        return status
    requirements = project_requirements(python, extras)
    checked = _ask([str(python), "-I", "-c", _CHECK], json.dumps(requirements))
    if checked is None:
        status["sentence"] = f"The packages in {folder} cannot be read: run the set-up."
        return status
    status.update(json.loads(checked))
    status["works"] = not status["missing"]
    lacks = ", ".join(status["missing"])
    status["sentence"] = f"These packages are missing or old: {lacks}. Run the set-up." if lacks else "Ready."
    return status


def project_requirements(python: Path, extras: Sequence[str] = ()) -> list[str]:
    """What pyproject.toml asks for, extras (also those that name others of this project) included. Read by `python`,
    since Python 3.9 has no TOML. Raises BadInput for an unknown extra."""
    answer = _ask([str(python), "-I", "-c", _READ_PROJECT, str(PROJECT_FILE)])
    if answer is None:
        raise MedGenError(f"{PROJECT_FILE} cannot be read.")
    name, requirements, optional = json.loads(answer)
    waiting, seen = list(extras), set()
    while waiting:
        extra = waiting.pop()
        if extra in seen:
            continue
        if extra not in optional:
            raise BadInput(f"There is no extra '{extra}' (there is: {', '.join(optional)}).")
        seen.add(extra)
        for line in optional[extra]:
            if line.startswith(f"{name}["):
                waiting += [part.strip() for part in line[len(name) + 1 : line.index("]")].split(",")]
            else:
                requirements.append(line)
    return requirements


# -------------------------------------------------------------------------------------------------------------- steps


def _make_venv(folder: Path, python: Path, report: Callable[[str], None]) -> None:
    if _probe(python) is not None:
        return
    base = find_python()
    if base is not None:
        report(f"Making a Python environment in {folder} with {base}")
        _run(
            [str(base), "-I", "-m", "venv", "--clear", str(folder)], report, "The Python environment could not be made"
        )
        return
    report("No Python 3.11 or later was found; fetching one with uv")
    tools = folder.with_name(folder.name + "-tools")
    failure = "Python 3.11 or later was not found and could not be fetched: install it and run the set-up again"
    _run([sys.executable, "-m", "pip", "install", "--quiet", "--target", str(tools), "uv"], report, failure)
    uv = str(tools / "bin" / ("uv.exe" if sys.platform == "win32" else "uv"))
    _run([uv, "venv", "--clear", "--seed", "--python", PREFERRED[0], str(folder)], report, failure)


def _install_torch(python: Path, torch: str, gpu: bool, report: Callable[[str], None]) -> None:
    """torch: 'torch==X'. The CUDA build is 3 GB of download, so it comes only where there is a GPU for it."""
    installed = _ask([str(python), "-I", "-c", "import importlib.metadata as m; print('torch==' + m.version('torch'))"])
    if installed is not None and installed.split("+")[0] == torch and not (gpu and "+cpu" in installed):
        return
    failure = "PyTorch could not be installed"
    if sys.platform == "darwin":
        report("Installing PyTorch")
        _pip(python, [torch], report, failure)
        return
    report(f"Installing PyTorch ({'for the GPU' if gpu else 'CPU build'})")
    attempts: list[Callable[[], None]] = [
        lambda: _pip(python, [f"{torch}+cpu"], report, failure),
        lambda: _uv_torch(python, torch, "cpu", report, failure),
    ]
    if gpu:
        attempts = [
            lambda: _uv_torch(python, torch, "auto", report, failure),
            lambda: _pip(python, [torch], report, failure),
        ]
    try:
        attempts[0]()
    except MedGenError:
        report("That did not work; trying another way")
        attempts[1]()


def _uv_torch(python: Path, torch: str, backend: str, report: Callable[[str], None], failure: str) -> None:
    _pip(python, ["uv"], report, failure)
    command = [
        str(python),
        "-I",
        "-m",
        "uv",
        "pip",
        "install",
        "--python",
        str(python),
        "--torch-backend",
        backend,
        torch,
    ]
    _run(command, report, failure)


def _pip(python: Path, requirements: list[str], report: Callable[[str], None], failure: str) -> None:
    command = [str(python), "-I", "-m", "pip", "install", "--no-input", "--disable-pip-version-check"]
    _run([*command, *requirements], report, failure)


def _run(command: list[str], report: Callable[[str], None], failure: str) -> None:
    """Passes the program's lines on; raises MedGenError(failure and its last error line) when it fails."""
    last = ""
    try:
        process = subprocess.Popen(
            command,
            env=worker_environment(os.environ),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
        )
    except OSError as error:
        raise MedGenError(f"{failure} ({command[0]}: {error.strerror}).") from None
    with process:
        assert process.stdout is not None
        for line in process.stdout:
            report(line.rstrip())
            if line.strip() and (not last or line.lower().startswith("error")):
                last = line.strip()
    if process.returncode:
        raise MedGenError(f"{failure} ({last or f'exit code {process.returncode}'}).")


def _probe(python: Union[str, Path]) -> Optional[tuple[tuple[int, int], Path]]:
    """Version and true place of an interpreter that can make environments; None for anything else of that name."""
    answer = _ask([str(python), "-I", "-c", _PROBE])
    try:
        (major, minor), executable = json.loads(answer or "")
    except ValueError:
        return None
    return (major, minor), Path(executable)


def _ask(command: list[str], text: str = "") -> Optional[str]:
    """What a short program prints, None if it fails."""
    try:
        answer = subprocess.run(
            command,
            input=text,
            env=worker_environment(os.environ),
            capture_output=True,
            encoding="utf-8",
            timeout=60,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout.strip() if answer.returncode == 0 else None


def _fingerprint() -> list[str]:
    """Changes when the environment must be looked at again: other requirements, another kind of machine."""
    return [hashlib.sha256(PROJECT_FILE.read_bytes()).hexdigest(), platform.machine(), str(nvidia_names())]


def _stamped_extras(stamp: Path) -> Optional[set[str]]:
    """The extras that a finished environment holds; None where it is unfinished or was made for something else."""
    try:
        said = json.loads(stamp.read_text(encoding="utf-8"))
        return set(said["extras"]) if said["made_for"] == _fingerprint() else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _check_disk(folder: Path, kind: str) -> None:
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    free, needed = shutil.disk_usage(existing).free, NEEDED_BYTES[kind]
    if free < needed:
        raise MedGenError(
            f"There is too little space for the Python environment in {folder}: "
            f"{free / 1e9:.1f} GB free, {needed / 1e9:.0f} GB needed."
        )


def main() -> int:
    try:
        make_environment(Path(sys.argv[1]), sys.argv[2:], lambda line: print(line, flush=True))
    except MedGenError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
