"""Many cases with one method, in the background: which files, where results go, how each case stands, the report."""

from __future__ import annotations

import csv
import os
from pathlib import Path
from typing import Any, Optional

import qt
from slicer.i18n import tr as _

from medgen.spec import Image, MethodSpec
from MedGenSlicerLib import jobs, settings, widgets
from MedGenSlicerLib.command_process import CommandProcess, medgen_command
from MedGenSlicerLib.method_chooser import MethodChooser

IMAGE_FILES = ("*.nii", "*.nii.gz", "*.nrrd", "*.nhdr", "*.mha", "*.mhd")
TABLE, STATUS, REPORT = "cases.csv", "status.csv", "report.html"
LOOK_EVERY_MS = 1000


def only_input(method: MethodSpec) -> Optional[str]:
    """The input that a folder of images fills: the only required one, if it is a volume."""
    required = [port for port in method.inputs if port.required]
    fits = len(required) == 1 and isinstance(required[0], Image) and required[0].kind == "volume"
    return required[0].name if fits else None


def cases_in(folder: Path) -> list[tuple[str, Path]]:
    """(name, path) of every image file of a folder, and of every folder in it that holds DICOM files."""
    files = sorted({path for pattern in IMAGE_FILES for path in folder.glob(pattern)})
    found = [(path.name.split(".")[0], path) for path in files]
    inner = [folder, *sorted(path for path in folder.iterdir() if path.is_dir())]
    return found + [(path.name, path) for path in inner if _holds_dicom(path)]


def _holds_dicom(folder: Path) -> bool:
    for path in folder.iterdir():
        if path.is_file() and not path.name.startswith("."):
            with path.open("rb") as file:
                return file.read(132)[128:] == b"DICM"  # the first file tells
    return False


def read_table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8-sig") as file:
        return list(csv.DictReader(file))


class BatchPanel:
    """`cases` are rows of the table that `medgen batch` reads; inputs are absolute paths."""

    def __init__(self, layout: Any, methods: list[MethodSpec]) -> None:
        self.method: Optional[MethodSpec] = None
        self.cases: list[dict[str, str]] = []
        self.process: Optional[CommandProcess] = None
        self.last_line = ""
        self.stopped = False
        self._build(layout, methods)
        self.timer = qt.QTimer()
        self.timer.setInterval(LOOK_EVERY_MS)
        self.timer.timeout.connect(lambda *_a: self.look())
        self.chooser.start()
        self.update()

    # ------------------------------------------------------------------------------------------------------ the parts

    def _build(self, layout: Any, methods: list[MethodSpec]) -> None:
        _button, inside = widgets.section(
            layout, _("Method"), _("What is done with every case, with its usual options.")
        )
        self.chooser = MethodChooser(inside, methods, self._choose)
        _button, inside = widgets.section(layout, _("Cases"), _("The images to work on."))
        self.add_folder = widgets.button(
            _("Add folder..."),
            _("Adds every image file of a folder, and every folder in it that holds a DICOM series."),
            self._ask_folder,
        )
        self.open_table = widgets.button(
            _("Open table..."),
            _("A CSV with the columns 'case', one for each input of the method (paths), and any parameters."),
            self._ask_table,
        )
        self.clear = widgets.button(_("Clear"), _("Empties the list; no file is touched."), self.clear_cases)
        inside.addLayout(widgets.row(self.add_folder, self.open_table, self.clear))
        self.table = qt.QTableWidget(0, 3)
        self.table.setHorizontalHeaderLabels([_("Case"), _("State"), _("Note")])
        self.table.setEditTriggers(qt.QTableWidget.NoEditTriggers)
        self.table.verticalHeader().setVisible(False)
        self.table.horizontalHeader().setStretchLastSection(True)
        self.table.setColumnWidth(0, 150)
        self.table.setColumnWidth(1, 70)
        self.table.setMinimumHeight(200)
        self.table.setToolTip(_("How each case stands; a failed one says why."))
        inside.addWidget(self.table)
        _button, inside = widgets.section(layout, _("Results"), _("Where they go."))
        form = qt.QFormLayout()
        form.setFieldGrowthPolicy(qt.QFormLayout.AllNonFixedFieldsGrow)
        inside.addLayout(form)
        self.folder = qt.QLineEdit(settings.get("folder/batch", ""))
        self.folder.setPlaceholderText(_("choose a folder"))
        self.folder.setToolTip(
            _("Every case gets a folder of its own in here. Cases that are done there are left alone.")
        )
        self.folder.textChanged.connect(lambda *_a: self.update())
        browse = widgets.tool("", _("Chooses the folder."), self._ask_out, "...")
        form.addRow(_("Folder"), widgets.row(self.folder, browse, stretch=0))
        self.workers = qt.QSpinBox()
        self.workers.setRange(1, max(1, os.cpu_count() or 1))
        self.workers.setToolTip(_("How many cases run at a time. Each takes memory; on one GPU leave it at 1."))
        form.addRow(_("At a time"), self.workers)
        self._build_run(layout)
        layout.addStretch(1)

    def _build_run(self, layout: Any) -> None:
        self.start_button = widgets.button(_("Start"), "", self.toggle)
        layout.addWidget(self.start_button)
        self.bar = qt.QProgressBar()
        self.bar.setToolTip(_("Cases that have ended."))
        layout.addWidget(self.bar)
        self.message = widgets.text_label()
        layout.addWidget(self.message)
        self.report = widgets.button(
            _("Open report"), _("A page with pictures and volumes of every case, in the browser."), self._open_report
        )
        layout.addWidget(self.report)

    # -------------------------------------------------------------------------------------------------------- choices

    def _choose(self, method: MethodSpec) -> None:
        self.method = method
        self.update()

    def _ask_folder(self) -> None:
        chosen = qt.QFileDialog.getExistingDirectory(None, _("Folder with images"), settings.last_folder("cases"))
        if chosen:
            self.add(Path(chosen))

    def add(self, folder: Path) -> None:
        """Adds what the folder holds; a name that is taken gets a number."""
        port = only_input(self.method) if self.method else None
        if port is None:
            return
        settings.put("folder/cases", str(folder))
        found = cases_in(folder)
        for name, path in found:
            taken = {case["case"] for case in self.cases}
            unique = next(n for n in (name, *(f"{name}_{i}" for i in range(2, 10_000))) if n not in taken)
            self.cases.append({"case": unique, port: str(path)})
        self.update()
        if not found:
            self.message.setText(_("'{folder}' holds no image files and no DICOM series.").format(folder=folder))

    def _ask_table(self) -> None:
        chosen = qt.QFileDialog.getOpenFileName(None, _("Table of cases"), settings.last_folder("cases"), "*.csv")
        path = chosen[0] if isinstance(chosen, tuple) else chosen  # PySide6 gives the filter as well
        if path:
            self.use_table(Path(path))

    def use_table(self, path: Path) -> None:
        """Takes a table's rows; relative paths count from the table."""
        inputs = {port.name for port in self.method.inputs} if self.method else set()
        try:
            rows = read_table(path)
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            self.message.setText(_("The table cannot be read: {error}").format(error=error))
            return
        self.cases = [
            {name: str(path.parent / text) if name in inputs and text else text for name, text in row.items() if name}
            for row in rows
        ]
        self.update()

    def clear_cases(self) -> None:
        self.cases = []
        self.update()

    def _ask_out(self) -> None:
        chosen = qt.QFileDialog.getExistingDirectory(None, _("Folder for the results"), settings.last_folder("batch"))
        if chosen:
            self.folder.setText(chosen)

    def out(self) -> Path:
        return Path(self.folder.property("text").strip())

    # ------------------------------------------------------------------------------------------------------------ run

    def why_not(self) -> str:
        """Why the batch cannot start; empty if it can."""
        if self.method is None:
            return _("Choose a method.")
        if not self.cases:
            return _("Add the cases: a folder of images, or a table.")
        missing = [p.name for p in self.method.inputs if p.required and p.name not in self.cases[0]]
        if "case" not in self.cases[0] or missing:
            return _("The table lacks the column '{name}'.").format(name=missing[0] if missing else "case")
        if not self.folder.property("text").strip():
            return _("Choose a folder for the results.")
        if not jobs.interpreter():
            return _("The compute environment is not set up: see MedGen Jobs.")
        return ""

    def toggle(self) -> None:
        if self.process is not None:
            self._stop()
        else:
            self.start()

    def start(self) -> None:
        assert self.method is not None
        out = self.out()
        settings.put("folder/batch", str(out))
        try:
            out.mkdir(parents=True, exist_ok=True)
            with (out / TABLE).open("w", newline="", encoding="utf-8") as file:
                writer = csv.DictWriter(file, list(self.cases[0]))
                writer.writeheader()
                writer.writerows(self.cases)
        except (OSError, ValueError) as error:
            self.message.setText(_("The folder cannot be written to: {error}").format(error=error))
            return
        self.last_line, self.stopped = "", False
        words = ["batch", self.method.id, str(out / TABLE), "-o", str(out)]
        words += ["--workers", str(self.workers.property("value"))]
        self.process = CommandProcess(medgen_command(jobs.interpreter(), *words), self._line, self._ended)
        self.timer.start()
        self.update()

    def _stop(self) -> None:
        if self.process is not None:
            self.process.stop()
        self.stopped = True
        self._ended(0)

    def _line(self, line: str) -> None:
        self.last_line = line

    def _ended(self, code: int) -> None:
        self.process = None
        self.timer.stop()
        self.update()
        self.look()
        if self.stopped:
            self.message.setText(_("Stopped. What is done stays; Start goes on with the rest."))
        elif code and not (self.out() / REPORT).is_file():
            self.message.setText(self.last_line or _("The batch could not be started."))

    def look(self) -> None:
        """Reads how the cases stand and shows it."""
        states = self.states()
        for number, case in enumerate(self.cases):
            state, note = states.get(case.get("case", ""), ("", ""))
            self._cell(number, 1, self._state_text(state))
            self._cell(number, 2, note)
        mine = [states.get(case.get("case", ""), ("", ""))[0] for case in self.cases]
        done, failed = mine.count("done"), mine.count("failed")
        self.bar.setRange(0, max(1, len(self.cases)))
        self.bar.setValue(done + failed)
        if done or failed:
            self.message.setText(
                _("{done} of {total} done, {failed} failed.").format(done=done, failed=failed, total=len(self.cases))
            )
        self.report.setEnabled(self.process is None and (self.out() / REPORT).is_file())

    def states(self) -> dict[str, tuple[str, str]]:
        path = self.out() / STATUS
        if not self.folder.property("text").strip() or not path.is_file():
            return {}
        return {row["case"]: (row["state"], row["sentence"]) for row in read_table(path)}

    def _state_text(self, state: str) -> str:
        words = {"done": _("done"), "failed": _("failed"), "waiting": _("waiting") if self.process else ""}
        return words.get(state, "")

    def _cell(self, row: int, column: int, text: str) -> None:
        item = qt.QTableWidgetItem(text)
        item.setToolTip(text)
        self.table.setItem(row, column, item)

    def _open_report(self) -> None:
        qt.QDesktopServices.openUrl(qt.QUrl.fromLocalFile(str(self.out() / REPORT)))

    # ----------------------------------------------------------------------------------------------------------- state

    def update(self) -> None:
        running = self.process is not None
        reason = "" if running else self.why_not()
        self.table.setRowCount(len(self.cases))
        for number, case in enumerate(self.cases):
            self._cell(number, 0, case.get("case", ""))
        self.start_button.setText(_("Stop") if running else _("Start"))
        self.start_button.setEnabled(not reason)
        self.start_button.setToolTip(
            reason or (_("Ends the batch.") if running else _("Runs every case not yet done."))
        )
        for each in (self.add_folder, self.open_table, self.clear, self.folder, self.workers, self.chooser.list):
            each.setEnabled(not running)
        if self.method is not None and only_input(self.method) is None:
            self.add_folder.setEnabled(False)
            self.add_folder.setToolTip(_("This method needs several inputs for a case: use a table."))
        self.message.setText(reason)
        self.look()

    def cleanup(self) -> None:
        self.timer.stop()
        if self.process is not None:
            self.process.stop()
            self.process = None


def wait_for(panel: BatchPanel, seconds: float = 120) -> None:
    """Runs the event loop until the batch has ended; for scripts and self tests."""
    loop, timer = qt.QEventLoop(), qt.QTimer()
    waited = [0.0]

    def look(*_arguments: object) -> None:
        waited[0] += 0.1
        if panel.process is None or waited[0] > seconds:
            loop.quit()

    timer.timeout.connect(look)
    timer.start(100)
    loop.exec_()
    timer.stop()
