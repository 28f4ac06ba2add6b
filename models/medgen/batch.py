"""Many cases with one method: `medgen batch`. Resumable, one status row a case, an HTML report at the end.

Each case runs in a process of a pool, which keeps a warm worker of its own, and ends in a folder of its own that
appears complete or not at all; a batch that was stopped, killed or had failures goes on with what is missing when it is
started again. The pool is of local processes, or a `dask.distributed` cluster: both are concurrent.futures executors.
"""

from __future__ import annotations

import csv
import json
import multiprocessing
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Executor, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from medgen.catalogue import find_method
from medgen.errors import BadInput, MedGenError
from medgen.running import PROVENANCE, Case, make_folder, read_case, run_case
from medgen.spec import MethodSpec
from medgen.worker.local import LocalWorker

STATUS = "status.csv"
RUNNING = ".running"
WAITING, DONE, FAILED = "waiting", "done", "failed"
ATTEMPTS = 2  # of a case whose process died under it


@dataclass(frozen=True)
class Row:
    """One case of the table. inputs: {port name: path}, parameters: {name: text}."""

    name: str
    inputs: dict[str, Path]
    parameters: dict[str, str]


@dataclass
class Status:
    """What became of a case. sentence: why it failed, or what to know about its result."""

    case: str
    state: str = WAITING
    seconds: float = 0.0
    sentence: str = ""


@dataclass(frozen=True)
class Settings:
    """The same for every case. threads: of each process, so that several share the cores."""

    method: str
    out: Path
    seed: int = 0
    device: str = "auto"
    weights: str | None = None
    threads: int = 1


# --------------------------------------------------------------------------------------------------------- the table


def read_table(path: Path, spec: MethodSpec) -> list[Row]:
    """A CSV with a column `case` (a name for each), a column for each input (a path, relative to the table) and, where
    wanted, a column for a parameter. An empty cell leaves an optional input or a parameter out. Raises BadInput."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            lines = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise BadInput(f"The table '{path}' cannot be read: {error}.") from None
    columns = list(lines[0]) if lines else []
    if "case" not in columns:
        raise BadInput(f"The table '{path}' needs a column 'case' and at least one row.")
    inputs = {port.name for port in spec.inputs}
    for column in columns:
        if column != "case" and column not in inputs:
            spec.parameter(column)
    rows = [_row(line, inputs, path.parent) for line in lines]
    names = [row.name for row in rows]
    for name in names:
        if not name or name.startswith(".") or Path(name).name != name:
            raise BadInput(f"A case is called '{name}', which cannot be a folder's name.")
        if names.count(name) > 1:
            raise BadInput(f"Two cases are called '{name}'.")
    return rows


def _row(line: dict[str, str], inputs: set[str], folder: Path) -> Row:
    cells = {name: (text or "").strip() for name, text in line.items() if name}
    filled = {name: text for name, text in cells.items() if text and name != "case"}
    return Row(
        cells["case"],
        {name: folder / text for name, text in filled.items() if name in inputs},
        {name: text for name, text in filled.items() if name not in inputs},
    )


# ---------------------------------------------------------------------------------------------------------- one case

_worker: LocalWorker | None = None  # of this process of the pool


def run_row(row: Row, settings: Settings) -> Status:
    """Runs one case in this process's warm worker; its folder appears when it is complete."""
    started = time.monotonic()
    if (settings.out / row.name).is_dir():  # finished by a process that died before it could say so
        return Status(row.name, DONE)
    partial = settings.out / RUNNING / row.name
    shutil.rmtree(partial, ignore_errors=True)
    spec = find_method(settings.method)
    case = Case(row.inputs, row.parameters, settings.seed, settings.device, settings.weights)
    try:
        request, warnings = read_case(spec, case)
        run_case(spec, request, partial, _warm_worker(settings.threads))
        from medgen.batch_report import write_thumbnail

        write_thumbnail(spec, request.inputs, partial)
        os.replace(partial, settings.out / row.name)
    except Exception as error:  # whatever one case brings about, the others go on
        shutil.rmtree(partial, ignore_errors=True)
        known = isinstance(error, (MedGenError, OSError))
        sentence = str(error) if known else f"This failed inside MedGen ({type(error).__name__}: {error})."
        return Status(row.name, FAILED, time.monotonic() - started, sentence)
    return Status(row.name, DONE, time.monotonic() - started, " ".join(w.sentence for w in warnings))


def _warm_worker(threads: int) -> LocalWorker:
    global _worker
    if _worker is None:
        counts = dict.fromkeys(("OMP_NUM_THREADS", "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"), str(threads))
        _worker = LocalWorker(environment={**os.environ, **counts})
    return _worker


# ------------------------------------------------------------------------------------------------------- many cases


@contextmanager
def local_pool(workers: int) -> Iterator[Executor]:
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), initializer=_die_with_parent)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def _die_with_parent() -> None:
    """A pool's process waits for ever when its parent is killed; this ends it (and, by end of file, its worker)."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@contextmanager
def cluster_pool(address: str) -> Iterator[Executor]:
    """A dask.distributed scheduler's address, as 'tcp://host:8786'; its workers see the same paths. Raises BadInput."""
    try:
        from distributed import Client
        from distributed.comm import resolve_address
    except ImportError:
        raise MedGenError("A cluster needs the Python package 'distributed'; install it and try again.") from None
    try:
        # resolved first: a client that was given no address prints a traceback as it goes
        client = Client(resolve_address(address), timeout=10, set_as_default=False)
    except (OSError, ValueError, TimeoutError) as error:
        raise BadInput(f"There is no dask scheduler at '{address}' ({error}).") from None
    with client:
        yield client.get_executor(pure=False)


def run_batch(
    rows: list[Row],
    settings: Settings,
    workers: int = 1,
    cluster: str | None = None,
    report: Callable[[Status, int, int], None] = lambda status, ended, total: None,
) -> dict[str, Status]:
    """Runs every case that has no folder yet; returns the status of all. `report` hears of each case as it ends.

    A failed case is tried again only when the batch is started again. Raises BadInput where `out` cannot be written, or
    holds a case's folder that another method or no batch made.
    """
    _refuse_foreign_folders(rows, settings)
    make_folder(settings.out)
    make_folder(settings.out / RUNNING)
    statuses = _known(rows, settings.out)
    waiting = [row for row in rows if statuses[row.name].state != DONE]
    for row in waiting:
        statuses[row.name] = Status(row.name)
    write_status(settings.out, statuses)

    def ended(status: Status) -> None:
        statuses[status.case] = status
        write_status(settings.out, statuses)
        report(status, sum(s.state != WAITING for s in statuses.values()), len(statuses))

    attempts = dict.fromkeys((row.name for row in waiting), 0)
    while waiting:
        with cluster_pool(cluster) if cluster else local_pool(workers) as pool:
            waiting = _one_round(pool, waiting, settings, attempts, ended)
    shutil.rmtree(settings.out / RUNNING, ignore_errors=True)
    return statuses


def _one_round(
    pool: Executor,
    rows: list[Row],
    settings: Settings,
    attempts: dict[str, int],
    ended: Callable[[Status], None],
) -> list[Row]:
    """Runs rows until all have ended or the pool broke; returns those to run again in a fresh pool.

    Few are handed in at a time, so that the death of a process touches few: which of those in hand killed it cannot be
    known, so each of them counts an attempt and is tried alone in the next round.
    """
    queue, again = list(rows), []
    alone = any(attempts[row.name] for row in rows)
    width = 1 if alone else 4 * (getattr(pool, "_max_workers", None) or 8)
    in_hand: dict[Future[Status], Row] = {}
    while queue or in_hand:
        while queue and len(in_hand) < width:
            row = queue.pop(0)
            in_hand[pool.submit(run_row, row, settings)] = row
        finished, _ = wait(in_hand, return_when=FIRST_COMPLETED)
        for future in finished:
            row = in_hand.pop(future)
            try:
                ended(future.result())
            except BrokenExecutor:
                attempts[row.name] += 1
                if attempts[row.name] < ATTEMPTS:
                    again.append(row)
                else:
                    ended(Status(row.name, FAILED, 0.0, "The process that ran this case died twice."))
        if again:
            again += [row for row in in_hand.values()]
            return again + queue
    return again


# ------------------------------------------------------------------------------------------------------- the status


def _refuse_foreign_folders(rows: list[Row], settings: Settings) -> None:
    """They would count as done: of another method's batch, or the folder that holds the case's own images."""
    for folder in (settings.out / row.name for row in rows):
        if folder.is_dir():
            method = None
            with suppress(OSError, ValueError, KeyError, TypeError):
                method = json.loads((folder / PROVENANCE).read_text("utf-8"))["method"]
            if method != settings.method:
                what = f"a result of '{method}'" if method else "no result of a batch"
                raise BadInput(f"'{folder}' holds {what}: choose another folder for the results.")


def _known(rows: list[Row], out: Path) -> dict[str, Status]:
    """What earlier runs left: a case is done when its folder is there, whatever the table says."""
    told: dict[str, Status] = {}
    if (out / STATUS).is_file():
        with (out / STATUS).open(newline="", encoding="utf-8") as file, suppress(ValueError, KeyError, TypeError):
            for line in csv.DictReader(file):  # which somebody may have saved with a spreadsheet program
                told[line["case"]] = Status(line["case"], line["state"], float(line["seconds"]), line["sentence"])
    known = {}
    for row in rows:
        status = told.get(row.name, Status(row.name))
        if (out / row.name).is_dir():
            status.state = DONE
        elif status.state == DONE:
            status = Status(row.name)
        known[row.name] = status
    return known


def write_status(out: Path, statuses: dict[str, Status]) -> None:
    """One row a case, replaced whole, so that a reader never sees half of it."""
    partial = out / (STATUS + ".partial")
    with partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["case", "state", "seconds", "sentence"])
        for status in statuses.values():
            writer.writerow([status.case, status.state, f"{status.seconds:.2f}", status.sentence])
    partial.replace(out / STATUS)
