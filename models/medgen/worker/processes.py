"""Starting and ending the worker's process tree. Python 3.9, standard library only."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

SERVER = Path(__file__).with_name("__main__.py")

# What a process needs of its surroundings; nothing that tells a Python, a linker or ITK where to find code.
_NAMES = {
    *("PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LANGUAGE", "TZ", "TMPDIR", "TEMP", "TMP"),
    *("SYSTEMROOT", "SYSTEMDRIVE", "WINDIR", "COMSPEC", "PATHEXT", "USERPROFILE", "USERNAME", "HOMEDRIVE", "HOMEPATH"),
    *("APPDATA", "LOCALAPPDATA", "PROGRAMDATA", "PROGRAMFILES", "NUMBER_OF_PROCESSORS", "PROCESSOR_ARCHITECTURE"),
    *("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"),
    *("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"),
}
_MALLOC = ("hugetlb=1", f"mmap_threshold={1 << 32}", f"trim_threshold={1 << 32}")
_PREFIXES = ("LC_", "XDG_", "CUDA_", "NVIDIA_", "PYTORCH_", "TORCH_", "MEDGEN_", "PIP_", "UV_")


def worker_environment(base: Mapping[str, str]) -> dict[str, str]:
    """The variables of `base` that may reach a foreign Python: an allow-list, since Slicer sets many that break one.

    Large arrays come in pages of 2 MB where the system has them (glibc 2.35 and later), and their memory is used again
    instead of fetched from the system each time: a head is segmented in three quarters of the time. The worker gives it
    all back when it rests.
    """
    kept = {name: value for name, value in base.items() if name.upper() in _NAMES or name.upper().startswith(_PREFIXES)}
    return {**kept, "GLIBC_TUNABLES": ":".join(f"glibc.malloc.{name}" for name in _MALLOC)}


def worker_arguments(python: str, session: str, shipment: int, extra_paths: list[str]) -> list[str]:
    """-I: no PYTHON* variables, no user packages, no current folder."""
    arguments = [python, "-I", "-X", "utf8", str(SERVER), "--session", session, "--shipment", str(shipment)]
    for path in extra_paths:
        arguments += ["--path", path]
    return arguments


def kill_tree(pid: int) -> None:
    """Kills a worker with all its children and returns at once. A process that has ended is no error.

    The worker leads a process group of its own, so that its children go too.
    """
    if sys.platform == "win32":
        subprocess.Popen(
            ["taskkill", "/PID", str(pid), "/T", "/F"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            creationflags=subprocess.CREATE_NO_WINDOW,
        )
        return
    for kill in (os.killpg, os.kill):  # the group does not exist in the first milliseconds of the process
        try:
            kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
        except PermissionError:
            pass
        return


def kill_orphans(pid: int) -> None:
    """Kills the children that a worker left when it ended (a crash ends the worker only). pid: the worker's. POSIX."""
    if sys.platform != "win32" and pid > 1:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, signal.SIGKILL)


def exit_sentence(code: int) -> str:
    """What an exit code says to a user. Negative: the number of the signal that ended the process."""
    if code >= 0:
        return f"it ended with code {code}"
    if -code == 9:
        return "it was killed, perhaps because the computer ran out of memory"
    try:
        return f"it crashed with signal {signal.Signals(-code).name}"
    except ValueError:
        return f"it crashed with signal {-code}"
