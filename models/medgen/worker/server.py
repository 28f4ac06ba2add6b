"""The far end of the worker: reads requests, runs one job at a time in the main thread, answers. Python 3.11.

A reader thread takes messages while a method computes: it marks jobs as cancelled, and when the client is gone (end of
stdin) it removes the shared blocks and kills the process group, in the middle of whatever C code is running (code that
never lets go of Python's lock delays this until it returns; the client's own kill does not wait for it).
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import importlib.metadata
import os
import platform
import queue
import signal
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import Any, NoReturn

import SimpleITK  # noqa: F401  (every job needs it; where it is missing the client must hear it at once)

import medgen
from medgen.catalogue import load_catalogue
from medgen.errors import BadInput, Cancelled, MedGenError
from medgen.spec import MethodSpec
from medgen.worker.devices import list_devices, loaded_torch
from medgen.worker.execution import RecentCache, failure_sentence, lacks_package, run_method
from medgen.worker.partials import Partials
from medgen.worker.protocol import Decoder, encode
from medgen.worker.transfer import Blocks, drain, pack, sweep, unpack

REST_SECONDS = 0.5  # without work, before memory is trimmed and PyTorch is loaded ahead
PROGRESS_PER_SECOND = 15.0
PROGRESS_BURST = 5


class JobProgress:
    """`medgen.method.Progress` over the pipe: at most 20 reports in any second, fraction never falling."""

    def __init__(self, server: Server, job: str, partials: Partials) -> None:
        self._server, self._job, self._partials = server, job, partials
        self._started = self._refilled = time.monotonic()
        self._fraction, self._tokens = 0.0, float(PROGRESS_BURST)

    def report(self, stage: str, fraction: float, message: str = "") -> None:
        now = time.monotonic()
        if fraction == fraction:  # a NaN changes nothing
            self._fraction = max(self._fraction, min(1.0, float(fraction)))
        self._tokens = min(float(PROGRESS_BURST), self._tokens + (now - self._refilled) * PROGRESS_PER_SECOND)
        self._refilled = now
        if self._tokens < 1:
            return
        self._tokens -= 1
        elapsed = now - self._started
        known = elapsed > 1 and self._fraction > 0.02
        remaining = elapsed * (1 - self._fraction) / self._fraction if known else None
        fields = {"stage": stage, "fraction": self._fraction, "message": message, "remaining_seconds": remaining}
        self._server.send("progress", job=self._job, **fields)

    def log(self, line: str) -> None:
        self._server.send("log", job=self._job, line=line)

    def notice(self, sentence: str) -> None:
        self._server.send("notice", job=self._job, sentence=sentence)

    def partial(self, name: str, value: Any) -> None:
        self._partials.show(name, value)

    def raise_if_cancelled(self) -> None:
        if self._job in self._server.cancelled:
            raise Cancelled("The job was cancelled.")


class Server:
    def __init__(self, session: str, shipment: int, source: int, sink: int) -> None:
        self.cancelled: set[str] = set()
        self._session, self._shipment = session, shipment
        self._source, self._sink = source, sink
        self._write_lock = threading.Lock()
        self._packing = threading.Lock()
        self._jobs: queue.Queue[dict[str, Any]] = queue.Queue()
        self._outputs: dict[int, Blocks] = {}
        self._shown: tuple[str, Partials] | None = None
        self._cache = RecentCache()
        self._torch_asked = False
        self._methods: dict[str, MethodSpec] = {}

    def send(self, message_type: str, **fields: Any) -> None:
        data = encode(message_type, **fields)
        try:
            with self._write_lock:
                while data:
                    data = data[os.write(self._sink, data) :]
        except BrokenPipeError:
            self._die()

    def serve(self) -> NoReturn:
        self.send("ready", info=worker_info(certain=False))
        threading.Thread(target=self._read, daemon=True).start()
        while True:
            try:
                message = self._jobs.get(timeout=REST_SECONDS)
            except queue.Empty:
                self._rest()
                message = self._jobs.get()
            self._run(message)
            del message

    # ---------------------------------------------------------------------------------------------------- reader thread

    def _read(self) -> None:
        decoder = Decoder()
        while data := os.read(self._source, 1 << 16):
            for message in decoder.feed(data):
                self._take(message)
        self._die()

    def _take(self, message: dict[str, Any]) -> None:
        kind = message["type"]
        if kind == "run":
            self._shipment = message["shipment"] + 1
            self._jobs.put(message)
        elif kind == "cancel":
            self.cancelled.add(message["job"])
        elif kind == "seen" and self._shown is not None and self._shown[0] == message["job"]:
            self._shown[1].taken()
        elif kind == "taken" and message["shipment"] in self._outputs:
            self._outputs.pop(message["shipment"]).close()
        elif kind == "mismatch":
            self.send("refused", sentence=message["sentence"])

    def _die(self) -> NoReturn:
        """The client is gone. Its last shipment may be here, or on its way."""
        self._packing.acquire(timeout=2.0)  # so that no block is made after the sweep
        for shipment in (self._shipment - 1, self._shipment):
            sweep(self._session, shipment)
        if hasattr(os, "killpg") and os.getpgrp() == os.getpid():
            os.killpg(os.getpid(), signal.SIGKILL)
        os._exit(0)

    # ------------------------------------------------------------------------------------------------------ main thread

    def _run(self, message: dict[str, Any]) -> None:
        job = message["job"]
        partials = self._partials(job, message["shipment"])
        progress = JobProgress(self, job, partials)
        try:
            inputs = self._unpack(message)
            self.send("started", job=job)
            try:
                outputs, provenance = run_method(self._find(message["method"]), inputs, message, progress, self._cache)
            finally:
                partials.end()
            blocks = self._outputs[message["shipment"]] = Blocks(self._session, message["shipment"], "o")
            with self._packing:
                described = drain(pack(outputs, blocks))
            self.send("finished", job=job, outputs=described, provenance=provenance)
        except Cancelled:
            self.send("cancelled", job=job)
        except BadInput as error:
            self.send("failed", job=job, kind="input", sentence=str(error))
        except (Exception, SystemExit) as error:
            if not isinstance(error, MedGenError):
                for line in traceback.format_exc().splitlines():
                    progress.log(line)
            kind = "setup" if lacks_package(error) else "failure"
            self.send("failed", job=job, kind=kind, sentence=failure_sentence(error))
        finally:
            self.cancelled.discard(job)

    def _partials(self, job: str, shipment: int) -> Partials:
        def send(name: str, described: dict[str, Any]) -> None:
            self.send("partial", job=job, name=name, value=described)

        made = Partials(send, Blocks(self._session, shipment, "p"), self._packing)
        self._shown = (job, made)
        return made

    def _unpack(self, message: dict[str, Any]) -> dict[str, Any]:
        blocks = Blocks(self._session, message["shipment"], "i")
        try:
            return drain(unpack(message["inputs"], blocks))
        finally:
            blocks.close()

    def _find(self, method_id: str) -> MethodSpec:
        if method_id not in self._methods:  # read seldom: it imports every spec and scans the installed packages
            self._methods = load_catalogue()  # may have grown since: an imported model
        if method_id not in self._methods:
            raise BadInput(f"There is no method '{method_id}' (known: {', '.join(self._methods)}).")
        return self._methods[method_id]

    def _rest(self) -> None:
        """Gives memory back and, once, loads PyTorch beside the main thread: a job that needs it waits for the rest of
        the import, one that does not runs at once."""
        free_memory()
        if not self._torch_asked:
            self._torch_asked = True
            threading.Thread(target=self._load_torch, daemon=True).start()

    def _load_torch(self) -> None:
        try:
            import torch  # noqa: F401
        except ImportError:
            return  # said by the job that needs it
        self.send("ready", info=worker_info(certain=True))


def worker_info(certain: bool) -> dict[str, Any]:
    versions = {"python": platform.python_version(), "medgen": medgen.__version__}
    for package in ("torch", "SimpleITK", "numpy"):
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {"pid": os.getpid(), "versions": versions, "devices": list_devices(), "certain": certain}


def free_memory() -> None:
    """What Python, the C library and CUDA hold without using it goes back to the system."""
    gc.collect()
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)
    torch = loaded_torch()
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()


def main() -> NoReturn:
    """Keeps the real stdout for the protocol; whatever a library prints goes to stderr."""
    parser = argparse.ArgumentParser(prog="medgen worker")
    parser.add_argument("--session", required=True)
    parser.add_argument("--shipment", type=int, default=0)
    parser.add_argument("--path", action="append", default=[], type=Path, help="folder with further method packages")
    arguments = parser.parse_args()
    sys.path.extend(str(path.resolve()) for path in arguments.path)
    source, sink = os.dup(0), os.dup(1)
    os.dup2(2, 1)
    with open(os.devnull, "rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    if hasattr(os, "setsid") and os.getpgrp() != os.getpid():
        os.setsid()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in a terminal is the client's to handle
    Server(arguments.session, arguments.shipment, source, sink).serve()
