"""The command line. Errors are one sentence on stderr; exit code 2 for bad input, 1 for a failure, 130 after Ctrl-C."""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Column, Table

from medgen.catalogue import find_method, load_catalogue
from medgen.errors import BadInput, MedGenError
from medgen.exchange.commands import export_app, import_app
from medgen.spec import MethodSpec, Parameter

app = typer.Typer(
    help="Generative and segmentation models for medical images. Nothing here is approved for treatment.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(export_app, name="export")
app.add_typer(import_app, name="import")
say = Console(stderr=True, highlight=False)
out = Console(highlight=False, soft_wrap=True)
ROOT = Path(__file__).resolve().parents[2]
BENCHMARKS = Path(__file__).with_name("benchmarks")
LARGEST_SEED = 2**31 - 1  # numpy's generators take no negative ones

Json = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")]
Quick = Annotated[bool, typer.Option("--quick", help="The short form, for CI.")]
Seed = Annotated[int, typer.Option(min=0, max=LARGEST_SEED, help="Of every random draw.")]
Folder = Annotated[Path, typer.Option("--out", "-o", help="Folder for the results; made if it is not there.")]


@app.callback()
def everything(debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False) -> None:
    """`--debug` may stand anywhere: `main` takes it out before typer looks."""


@contextmanager
def quiet_stdout() -> Iterator[None]:
    """What libraries print meanwhile, in C too, goes to stderr: standard output is for the result alone."""
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)


# ------------------------------------------------------------------------------------------------------------ methods


@app.command()
def methods(as_json: Json = False) -> None:
    """The catalogue."""
    catalogue = {name: spec for name, spec in load_catalogue().items() if spec.family != "test"}
    if as_json:
        print(json.dumps([describe(spec) for spec in catalogue.values()], indent=1))
        return
    table = Table(Column("Method", no_wrap=True), "What it does, and its inputs (? optional)", box=None)
    for spec in catalogue.values():
        inputs = ", ".join(port.name + ("" if port.required else "?") for port in spec.inputs)
        table.add_row(spec.id, f"{spec.summary}\nInputs: {inputs}\n")
    out.print(table)


def describe(spec: MethodSpec) -> dict[str, Any]:
    """A method's declaration as plain JSON."""

    def parameter(p: Parameter) -> dict[str, Any]:
        shown = {k: v for k, v in vars(p).items() if v not in ("", float("inf"), float("-inf"))}
        return {"kind": type(p).__name__.lower(), **{k: dict(v) if k == "options" else v for k, v in shown.items()}}

    return {
        "id": spec.id,
        "title": spec.title,
        "summary": spec.summary,
        "family": spec.family,
        "version": spec.version,
        "paper": spec.paper.citation,
        "licence": spec.licence,
        "intended_use": spec.intended_use,
        "warnings": list(spec.warnings),
        "modalities": list(spec.modalities),
        "body_parts": list(spec.body_parts),
        "inputs": [
            {"kind": type(p).__name__, "name": p.name, "title": p.title, "required": p.required} for p in spec.inputs
        ],
        "outputs": [{"kind": type(p).__name__, "name": p.name, "title": p.title} for p in spec.outputs],
        "parameters": [parameter(p) for p in spec.parameters],
        "weights": list(spec.weights),
    }


def pairs(given: list[str], what: str) -> dict[str, str]:
    """['a=1', ...] to {'a': '1', ...}. Raises BadInput."""
    found: dict[str, str] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals or not name or not value:
            raise BadInput(f"Write {what} as NAME=VALUE, not '{text}'.")
        if name in found:
            raise BadInput(f"{what.capitalize()} '{name}' is given twice.")
        found[name] = value
    return found


def weights_named(given: str | None) -> str | None:
    """A file by its full path, which the worker's own folder does not change; any other name as it is."""
    return str(Path(given).absolute()) if given and Path(given).is_file() else given


@app.command()
def run(
    method: Annotated[str, typer.Argument(help="A method's id; `medgen methods` lists them.")],
    folder: Folder,
    inputs: Annotated[list[str] | None, typer.Option("--input", "-i", help="name=FILE, once for each input.")] = None,
    parameters: Annotated[list[str] | None, typer.Option("--parameter", "-p", help="name=value.")] = None,
    weights: Annotated[str | None, typer.Option(help="A weights file other than the method's own.")] = None,
    seed: Seed = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda:0 ...")] = "auto",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier result in the folder.")] = False,
) -> None:
    """Run a method on files: NIfTI, NRRD, MHA, PNG or a DICOM folder in; results into a folder."""
    from medgen.running import PROVENANCE, Case, read_case, run_case
    from medgen.worker.local import LocalWorker

    spec = find_method(method)
    if (folder / PROVENANCE).exists() and not overwrite:
        raise BadInput(f"'{folder}' holds an earlier result; choose another folder, or say --overwrite.")
    files = {name: Path(value) for name, value in pairs(inputs or [], "an input").items()}
    case = Case(files, pairs(parameters or [], "a parameter"), seed, device, weights_named(weights))
    request, doubts = read_case(spec, case)
    for warning in doubts:
        say.print(f"Doubtful: {warning.sentence}", style="yellow", markup=False)
    with LocalWorker() as worker, JobBar(spec.title) as bar:
        written = run_case(spec, request, folder, worker, bar.show)
    for path in written:
        out.print(str(path), markup=False)
    for sentence in spec.warnings:
        say.print(f"Note: {sentence}", markup=False)


@app.command()
def batch(
    method: Annotated[str, typer.Argument(help="A method's id.")],
    table: Annotated[Path, typer.Argument(help="CSV: a column 'case', one for each input (paths), any parameters.")],
    folder: Folder,
    workers: Annotated[int, typer.Option(min=1, max=64, help="Cases at a time on this machine.")] = 1,
    cluster: Annotated[str | None, typer.Option(help="Address of a dask.distributed scheduler instead.")] = None,
    weights: Annotated[str | None, typer.Option(help="A weights file other than the method's own.")] = None,
    seed: Seed = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda:0 ...")] = "auto",
) -> None:
    """Run a method on many cases; started again with the same folder, it goes on with what is missing or failed."""
    from medgen.batch import DONE, Settings, Status, read_table, run_batch
    from medgen.batch_report import write_report

    spec = find_method(method)
    rows = read_table(table, spec)
    threads = max(1, (os.cpu_count() or 1) // workers)
    settings = Settings(method, folder, seed, device, weights_named(weights), threads)
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed:.0f} of {task.total:.0f}"))
    with Progress(*columns, TimeElapsedColumn(), console=say) as progress:
        task = progress.add_task(spec.title, total=len(rows))

        def show(status: Status, ended: int, total: int) -> None:
            progress.update(task, completed=ended)
            if status.state != DONE:
                progress.console.print(f"{status.case}: {status.sentence}", style="yellow", markup=False)

        statuses = run_batch(rows, settings, workers, cluster, show)
        progress.update(task, completed=len(rows))
    out.print(str(write_report(spec, statuses, folder)), markup=False)
    failed = [status for status in statuses.values() if status.state != DONE]
    if failed:
        raise MedGenError(f"{len(failed)} of {len(rows)} cases failed; the report and {folder / 'status.csv'} say why.")


@app.command()
def cohort(
    method: Annotated[str, typer.Argument(help="A method that makes images from a seed, as brain_stylegan.")],
    folder: Folder,
    count: Annotated[int, typer.Option("--count", "-n", min=1, max=10000, help="How many images.")] = 20,
    real: Annotated[Path | None, typer.Option(help="Real images for the gate; left out: those it learnt from.")] = None,
    parameters: Annotated[list[str] | None, typer.Option("--parameter", "-p", help="name=value.")] = None,
    gate: Annotated[list[str] | None, typer.Option(help="name=value for the gate; without, one run.")] = None,
    weights: Annotated[str | None, typer.Option(help="A weights file other than the method's own.")] = None,
    seed: Annotated[
        int, typer.Option(min=0, max=LARGEST_SEED, help="Of the first image; each further one takes the next.")
    ] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda:0 ...")] = "auto",
) -> None:
    """Make synthetic images, a manifest, and the gate's report: whether they copy a patient or repeat themselves."""
    from medgen.cohort import FEWEST, GATE_METHOD, REPORT, Cohort, check_cohort, make_cohort
    from medgen.worker.local import LocalWorker

    spec = find_method(method)
    given = spec.check_parameters(pairs(parameters or [], "a parameter"))
    asked = Cohort(spec, count, folder, seed, given, device, weights_named(weights), real)
    if gate:
        asked.gate = find_method(GATE_METHOD).check_parameters(pairs(gate, "a parameter"))
    with LocalWorker() as worker:
        files = make_cohort(asked, worker, lambda line: say.print(line, markup=False))
        if count < FEWEST:
            say.print(f"The gate needs at least {FEWEST} images: no report was made.", markup=False)
            return
        say.print("Checking with the gate", markup=False)
        with JobBar("Gate") as bar:
            flags = check_cohort(asked, files, worker, bar.show)
    for flag, raised, why in zip(flags["flag"], flags["raised"], flags["why"], strict=True):
        out.print(f"{flag}: {raised} ({why})", markup=False)
    out.print(str(folder / REPORT), markup=False)


class JobBar:
    """A progress bar that follows a job's events; a line a stage where there is no terminal."""

    def __init__(self, title: str) -> None:
        columns = [TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:3.0f} %")]
        columns += (TimeElapsedColumn(), TextColumn("{task.fields[left]}"))
        self.progress = Progress(*columns, console=say, disable=not say.is_terminal)
        self.task = self.progress.add_task(title, total=1.0, left="")
        self.stage = ""

    def __enter__(self) -> JobBar:
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    def show(self, event: Any) -> None:
        from medgen.worker.jobs import JobFinished, JobNotice, JobProgress

        if isinstance(event, JobProgress):
            left = "" if event.remaining_seconds is None else f"about {event.remaining_seconds:.0f} s left"
            text = event.stage + (f": {event.message}" if event.message else "")
            self.progress.update(self.task, completed=event.fraction, description=text, left=left)
            if event.stage != self.stage and not say.is_terminal:
                say.print(f"{event.stage} ({event.fraction:.0%})", markup=False)
            self.stage = event.stage
        elif isinstance(event, JobNotice):
            self.progress.console.print(event.sentence, style="yellow", markup=False)
        elif isinstance(event, JobFinished):
            self.progress.update(self.task, completed=1.0, description="Done", left="")


# ---------------------------------------------------------------------------------------- training, proofs, benchmarks


def method_module(spec: MethodSpec, name: str, what: str) -> Any:
    """The module `name` beside the method's code. Raises BadInput where the method has none."""
    package = spec.run.split(":")[0].rpartition(".")[0]
    if importlib.util.find_spec(f"{package}.{name}") is None:
        raise BadInput(f"Method '{spec.id}' has no {what}.")
    return importlib.import_module(f"{package}.{name}")


@app.command()
def train(
    method: str,
    data: Annotated[Path, typer.Option(help="Folder with the training data; the method's README says what it holds.")],
    folder: Folder,
    config: Annotated[str, typer.Option(help="smoke, small or paper; the method's README tells of others.")] = "small",
) -> None:
    """Train a method; started again with the same folder, it goes on where it stopped."""
    from medgen.running import make_folder

    if not data.is_dir():
        raise BadInput(f"There is no folder '{data}'.")
    spec = find_method(method)
    module = method_module(spec, "train", "training of its own")
    make_folder(folder)
    module.train(data, folder, config, progress=TrainingLines())
    out.print(f"Trained: {folder}", markup=False)


class TrainingLines:
    """Progress of a training as lines."""

    def report(self, stage: str, fraction: float, message: str = "") -> None:
        say.print(f"{stage} {fraction:6.1%}  {message}", markup=False)

    def log(self, line: str) -> None:
        say.print(line, markup=False)

    notice = log

    def raise_if_cancelled(self) -> None:
        pass


@app.command()
def prove(
    method: Annotated[str | None, typer.Argument()] = None,
    every: Annotated[bool, typer.Option("--all", help="Every method that has a proof.")] = False,
    quick: Quick = False,
    full: Annotated[bool, typer.Option("--full", help="The long form, for a GPU.")] = False,
    as_json: Json = False,
) -> None:
    """Check a paper's claims: quantity, baseline, margin, PASS or FAIL."""
    mode = "quick" if quick else "full" if full else "normal"
    if every == (method is not None):
        raise BadInput("Name one method, or say --all.")
    with quiet_stdout():
        reports = [module.prove(mode) for module in (all_proofs() if every else [_proof(method or "")])]
    if as_json:
        print(json.dumps(reports if every else reports[0], indent=1))
    for report in [] if as_json else reports:
        show_proof(report)
    sys.exit(0 if all(report["passed"] for report in reports) else 1)


def _proof(method: str) -> Any:
    return method_module(find_method(method), "proof", "proof")


def all_proofs() -> list[Any]:
    found = {}
    for spec in load_catalogue().values():
        package = spec.run.split(":")[0].rpartition(".")[0]
        if importlib.util.find_spec(f"{package}.proof"):
            found[package] = importlib.import_module(f"{package}.proof")
    return list(found.values())


def show_proof(report: dict[str, Any]) -> None:
    table = Table("Check", "Value", "Baseline", "Margin", "", box=None, title=report["method"], title_justify="left")
    for check in report["checks"]:
        verdict = "[green]PASS[/]" if check["passed"] else "[red]FAIL[/]"
        figures = [_short(check[key]) for key in ("value", "baseline", "margin")]
        table.add_row(check["name"], *figures, verdict)
    out.print(table)
    for sentence in report["skipped"]:
        out.print(f"Left out: {sentence}", markup=False)


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else "" if value is None else str(value)


@app.command()
def bench(
    name: Annotated[str | None, typer.Argument(help="Left out: all of them.")] = None,
    quick: Quick = False,
    as_json: Json = False,
) -> None:
    """Measure speed, memory and endurance."""
    known = sorted(p.stem for p in BENCHMARKS.glob("*.py") if "def run(" in p.read_text("utf-8"))
    if name is not None and name not in known:
        raise BadInput(f"There is no benchmark '{name}' (there is: {', '.join(known)}).")
    with quiet_stdout():
        reports = [importlib.import_module(f"medgen.benchmarks.{n}").run(quick) for n in ([name] if name else known)]
    if as_json:
        print(json.dumps(reports[0] if name else reports, indent=1))
    for report in [] if as_json else reports:
        table = Table("", "", box=None, title=f"{report['name']}: {'PASS' if report['passed'] else 'FAIL'}")
        for key, value in report["details"].items():
            table.add_row(key, _short(value))
        out.print(table)
    sys.exit(0 if all(report["passed"] for report in reports) else 1)


# ------------------------------------------------------------------------------------------- demo, tests, environment


@app.command()
def demo(folder: Folder = Path("demo-output")) -> None:
    """The main job on a real image: segment the MNI152 head, write results and pictures."""
    from medgen.demo import run_demo
    from medgen.worker.local import LocalWorker

    with LocalWorker() as worker, JobBar("Head MR") as bar:
        files = run_demo(folder, worker, bar.show)
    out.print("Everything lies here:")
    for path, what in files.items():
        out.print(f"  {path}  {what}", markup=False)


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def test(
    context: typer.Context,
    slow: Annotated[bool, typer.Option(help="The tests that take minutes, too.")] = False,
) -> None:
    """All tests: style, types, behaviour. What follows is passed on to pytest."""
    import subprocess

    command = [sys.executable, "-m", "pytest", *(["-m", ""] if slow else []), *context.args]
    environment = {**os.environ, "QT_QPA_PLATFORM": "offscreen"}
    sys.exit(subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode)


@app.command()
def setup(
    folder: Annotated[Path | None, typer.Option(help="Where; default: the user's data folder.")] = None,
    as_json: Json = False,
) -> None:
    """Make, check or repair the Python environment of the worker that 3D Slicer uses."""
    from medgen.environment import default_environment_folder, environment_status, make_environment

    folder = folder or default_environment_folder()
    make_environment(folder, report=lambda line: say.print(line, markup=False))
    status = environment_status(folder)
    print(json.dumps(status, indent=1, default=str) if as_json else status["sentence"])


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def worker(context: typer.Context) -> None:
    """The background process itself: JSON lines on standard input and output, with the arguments of its client."""
    script = Path(__file__).with_name("worker") / "__main__.py"
    os.execv(sys.executable, [sys.executable, "-I", str(script), *context.args])


@app.command()
def screenshots(folder: Annotated[Path, typer.Option("--out", "-o")] = ROOT / "Resources" / "Screenshots") -> None:
    """Draw every panel and a result, for the documentation."""
    import subprocess

    script = ROOT / "Testing" / "gui" / "screenshots.py"
    environment = {**os.environ, "QT_QPA_PLATFORM": "offscreen"}
    sys.exit(subprocess.run([sys.executable, str(script), str(folder)], env=environment, check=False).returncode)


# ---------------------------------------------------------------------------------------------------------- entry point


def main() -> NoReturn:
    debug = "--debug" in sys.argv
    arguments = [word for word in sys.argv[1:] if word != "--debug"]
    try:
        code = app(arguments, prog_name="medgen", standalone_mode=False)
    except MedGenError as error:
        _fail(error, str(error), error.exit_code, debug)
    except ModuleNotFoundError as error:
        _fail(error, f"The Python package '{error.name}' is missing; run `medgen setup`.", 1, debug)
    except Exception as error:
        if hasattr(error, "format_message"):  # typer's, of a wrong option; its class has moved between versions
            _fail(error, _usage(error), 2, debug)
        sentence = f"This failed inside MedGen ({type(error).__name__}: {_one_line(error)}); --debug shows where."
        _fail(error, sentence, 1, debug)
    if code == 130:  # what typer makes of Ctrl-C
        print("Cancelled.", file=sys.stderr)
    sys.exit(code or 0)


def _usage(error: Any) -> str:
    """Empty where the help was shown, for want of any word."""
    command = error.ctx.command_path if getattr(error, "ctx", None) else "medgen"
    said = _one_line(error.format_message()).rstrip(".")
    return f"{said}; '{command} --help' tells more." if said else ""


def _one_line(message: object) -> str:
    return " ".join(str(message).split())


def _fail(error: BaseException, sentence: str, code: int, debug: bool) -> NoReturn:
    if debug:
        traceback.print_exception(error)
    if sentence:
        print(sentence, file=sys.stderr)
    sys.exit(code)


if __name__ == "__main__":
    main()
