"""The worker's Python: found, checked, made and repaired, with a sentence for each thing that can go wrong.

pip is played by a script, so that no test installs anything; the real set-up is what `medgen test` begins with.
"""

import shutil
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor, TimeoutError
from pathlib import Path

import pytest

from medgen import environment
from medgen.environment import (
    environment_python,
    environment_status,
    find_python,
    make_environment,
    project_requirements,
)
from medgen.errors import BadInput, MedGenError

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="plays pip with a shell script")

# Answers short questions as the real interpreter does, and writes down what pip and uv were asked to do.
PLAYED = """#!/bin/sh
case "$*" in
  *" -m pip install "*|*" -m uv "*)
    echo "$@" >> "{log}"
    case "$*" in {fails}) echo "Collecting things"; echo "ERROR: no matching distribution"; exit 1;; esac
    echo "Successfully installed"; exit 0;;
  *"metadata as m"*) {torch};;
esac
exec "{python}" "$@"
"""


class PlayedEnvironment:
    """A folder whose interpreter is the script above."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.log, self.lines = folder / "env", folder / "pip.log", []

    def make(self, *extras: str, fails: str = "nothing", torch: str = "exit 1") -> Path:
        self.play(fails, torch)
        return make_environment(self.folder, extras, self.lines.append)

    def play(self, fails: str = "nothing", torch: str = "exit 1") -> None:
        python = environment_python(self.folder)
        python.parent.mkdir(parents=True, exist_ok=True)
        python.write_text(PLAYED.format(log=self.log, fails=fails, torch=torch, python=sys.executable))
        python.chmod(python.stat().st_mode | stat.S_IXUSR)

    def asked(self) -> list[str]:
        return self.log.read_text().splitlines() if self.log.exists() else []


@pytest.fixture
def played(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PlayedEnvironment:
    monkeypatch.setattr(environment, "nvidia_names", list)
    monkeypatch.setattr(sys, "platform", "linux")
    return PlayedEnvironment(tmp_path)


def test_this_interpreter_will_do() -> None:
    assert find_python() == Path(sys.executable)


def test_old_and_broken_interpreters_are_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, text in {"python3.12": "exit 1", "python3.11": "echo '[[3, 9], \"/old\"]'", "python3": ""}.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "executable", "/opt/Slicer/bin/PythonSlicer")
    assert find_python() is None


def test_requirements_come_from_the_project_with_nested_extras() -> None:
    python = Path(sys.executable)
    plain, test = project_requirements(python), project_requirements(python, ["test"])
    assert any(line.startswith("torch==") for line in plain)
    assert set(plain) < set(test)
    assert any(line.startswith("nilearn") for line in test)  # test names the extra demo
    assert not any(line.startswith("medgen") for line in test)
    with pytest.raises(BadInput, match="no extra 'nothing'"):
        project_requirements(python, ["nothing"])


def test_without_a_gpu_the_cpu_build_comes_first(played: PlayedEnvironment) -> None:
    assert played.make() == environment_python(played.folder)
    first, second = played.asked()
    assert first.endswith("+cpu") and "torch==" in first
    assert "SimpleITK" in second
    assert played.lines[-1].startswith("Ready")


def test_where_pip_has_no_cpu_build_uv_brings_it(played: PlayedEnvironment) -> None:
    played.make(fails="*+cpu")
    torch, uv, uv_torch, others = played.asked()
    assert "+cpu" in torch and uv.endswith(" uv")
    assert "--torch-backend cpu torch==" in uv_torch and "SimpleITK" in others


def test_with_a_gpu_uv_chooses_the_build_for_the_driver(
    played: PlayedEnvironment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(environment, "nvidia_names", lambda: ["NVIDIA H100"])
    played.make()
    assert "--torch-backend auto torch==" in played.asked()[1]


def test_torch_that_is_there_stays(played: PlayedEnvironment) -> None:
    torch = next(line for line in project_requirements(Path(sys.executable)) if line.startswith("torch=="))
    played.make(torch=f"echo '{torch}+cpu'; exit 0")
    assert len(played.asked()) == 1


def test_a_cpu_build_is_replaced_when_there_is_a_gpu(
    played: PlayedEnvironment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(environment, "nvidia_names", lambda: ["NVIDIA H100"])
    torch = next(line for line in project_requirements(Path(sys.executable)) if line.startswith("torch=="))
    played.make(torch=f"echo '{torch}+cpu'; exit 0")
    assert any("--torch-backend auto" in line for line in played.asked())


def test_a_second_time_does_nothing_until_more_is_asked(played: PlayedEnvironment) -> None:
    played.make()
    played.log.unlink()
    played.make()
    assert played.asked() == []
    played.make("demo")
    assert any("nilearn" in line for line in played.asked())


def test_a_failure_is_one_sentence_and_is_tried_again_next_time(played: PlayedEnvironment) -> None:
    with pytest.raises(MedGenError, match=r"^PyTorch could not be installed \(ERROR: no matching distribution\)\.$"):
        played.make(fails="*torch*")
    with pytest.raises(MedGenError, match="The packages could not be installed"):
        played.make(fails="*SimpleITK*")
    played.make()


def test_of_two_at_once_the_second_waits_and_finds_it_made(played: PlayedEnvironment) -> None:
    played.play(torch="sleep 0.5; exit 1")
    with ThreadPoolExecutor(2) as pool:
        for made in [pool.submit(make_environment, played.folder, (), played.lines.append) for _ in range(2)]:
            assert made.result() == environment_python(played.folder)
    assert len(played.asked()) == 2  # torch and the others, once
    assert sum("waiting for it" in line for line in played.lines) == 1


def test_a_killed_set_up_holds_up_nobody(played: PlayedEnvironment) -> None:
    code = """
import sys, time; sys.path.insert(0, sys.argv[1])
from pathlib import Path
from medgen.environment import _alone
with _alone(Path(sys.argv[2]), print):
    print("alone", flush=True)
    time.sleep(60)
"""
    command = [sys.executable, "-c", code, str(Path(environment.__file__).parents[1]), str(played.folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as first, ThreadPoolExecutor(1) as pool:
        assert first.stdout is not None and first.stdout.readline() == "alone\n"
        second = pool.submit(played.make)
        with pytest.raises(TimeoutError):
            second.result(0.5)
        first.kill()
        assert second.result(20) == environment_python(played.folder)


def test_too_little_disk_space_is_one_sentence(played: PlayedEnvironment, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=10**9))
    with pytest.raises(MedGenError, match=r"too little space .*: 1\.0 GB free, 3 GB needed"):
        played.make()
    assert played.asked() == []


def test_no_python_at_all_is_one_sentence(played: PlayedEnvironment, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "find_python", lambda: None)
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with pytest.raises(MedGenError, match=r"Python 3\.11 or later was not found and could not be fetched"):
        make_environment(played.folder, (), played.lines.append)


def test_a_broken_environment_becomes_a_real_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With pip doing nothing, so that only venv is real."""
    monkeypatch.setattr(environment, "_pip", lambda *_: None)
    monkeypatch.setattr(environment, "_uv_torch", lambda *_: None)
    python = environment_python(tmp_path / "env")
    python.parent.mkdir(parents=True)
    python.symlink_to("/nowhere/python")
    assert "no working Python" in environment_status(tmp_path / "env")["sentence"]
    assert make_environment(tmp_path / "env", (), lambda line: None) == python
    assert subprocess.run([python, "-c", "import sys; sys.exit(sys.prefix == sys.base_prefix)"]).returncode == 0
    status = environment_status(tmp_path / "env")
    assert not status["works"] and any(line.startswith("torch") for line in status["missing"])
    assert "missing or old: torch==" in status["sentence"]


def test_status_of_the_environment_that_runs_the_tests() -> None:
    status = environment_status(Path(sys.prefix))
    assert status["works"], status["sentence"]
    assert status["versions"]["torch"].startswith("2.") and status["disk_bytes"] > 10**8


@pytest.mark.parametrize("file", ["environment.py", "weights.py", "worker/devices.py"])
def test_nothing_needs_more_than_the_standard_library(file: str) -> None:
    module = "medgen." + file.removesuffix(".py").replace("/", ".")
    code = f"import sys; sys.path.insert(0, sys.argv[1]); import {module}"
    models = str(Path(environment.__file__).parents[1])
    subprocess.run([sys.executable, "-I", "-S", "-c", code, models], check=True)
