"""`./medgen` before anything is installed: which Python it takes, what it sets up, what it hands over."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "medgen"

# Runs the script as `python medgen WORDS` would, with the given version; make_environment and exec are only told of.
PLAYED = """
import json, os, runpy, shutil, sys
sys.version_info = tuple({version})
if {alone}:
    shutil.which = lambda name: None
sys.path.insert(0, {models!r})
def make(folder, extras, report):
    print(json.dumps({{"folder": str(folder), "extras": list(extras)}}))
    from pathlib import Path
    return Path(sys.executable)
if sys.version_info >= (3, 11):
    import medgen.environment
    medgen.environment.make_environment = make
os.execve = lambda program, words, environment: (print(json.dumps([words, environment["PYTHONPATH"]])), os._exit(
    sys.stdout.flush() or 0))
sys.argv = ["medgen", *{words!r}]
runpy.run_path({script!r}, run_name="__main__")
"""


def played(*words: str, version: tuple[int, ...] = (3, 11, 0), alone: bool = False) -> subprocess.CompletedProcess[str]:
    code = PLAYED.format(version=version, alone=alone, models=str(ROOT / "models"), words=words, script=str(SCRIPT))
    return subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True)


@pytest.mark.parametrize(
    ("words", "extras"),
    [(["methods"], []), (["demo", "-o", "x"], ["demo"]), (["test", "-q"], ["test"]), (["--debug", "prove"], ["demo"])],
)
def test_a_command_gets_the_packages_that_it_needs_and_all_its_words(words: list[str], extras: list[str]) -> None:
    done = played(*words)
    made, (command, path) = map(json.loads, done.stdout.splitlines())
    assert made == {"folder": str(ROOT / ".venv"), "extras": extras}
    assert command[1:] == ["-m", "medgen.cli", *words]
    assert path == str(ROOT / "models")


def test_an_old_python_says_so_in_a_sentence() -> None:
    done = played("methods", version=(3, 9, 1), alone=True)
    assert done.returncode == 1
    assert done.stderr == "MedGen needs Python 3.11 or later; install it and run this again.\n"


def test_an_old_python_can_read_the_script() -> None:
    ast.parse(SCRIPT.read_text("utf-8"), feature_version=(3, 7))


@pytest.mark.skipif(os.name != "posix", reason="file modes")
def test_the_scripts_can_be_run() -> None:
    assert all(os.access(path, os.X_OK) for path in (SCRIPT, ROOT / ".ci" / "run"))
