"""Many brains into a folder, with a manifest and the gate's report: `medgen cohort` in the background."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Optional

import qt
from slicer.i18n import tr as _

from MedGenSlicerLib import jobs, settings, widgets
from MedGenSlicerLib.command_process import CommandProcess, medgen_command

REPORT = "report.html"


class CohortTools:
    def __init__(self, panel: Any, layout: Any, method_id: str) -> None:
        self.panel, self.method_id = panel, method_id
        self.process: Optional[CommandProcess] = None
        self._last, self._flags = "", []
        self.button, inside = widgets.section(
            layout, _("Cohort"), _("Many brains into a folder, each with its seed, and the gate's report."), True
        )
        self.count = qt.QSpinBox()
        self.count.setRange(1, 10000)
        self.count.setValue(20)
        self.count.setToolTip(
            _("How many brains, from the seed under Advanced on. Four or more are checked with the gate.")
        )
        self.start_button = widgets.button(_("Make the cohort"), "", self.toggle)
        inside.addLayout(widgets.row(qt.QLabel(_("Brains")), self.count, self.start_button, stretch=2))
        form = qt.QFormLayout()
        form.setFieldGrowthPolicy(qt.QFormLayout.AllNonFixedFieldsGrow)
        inside.addLayout(form)
        self.folder = self._folder_row(
            form, _("Into"), _("Where the brains go; what is there already is kept."), "cohort"
        )
        self.real = self._folder_row(
            form, _("Real images"), _("For the gate. Left empty: images that the network learnt from."), ""
        )
        self.bar = qt.QProgressBar()
        self.bar.setToolTip(_("How many brains are made."))
        self.bar.setVisible(False)
        inside.addWidget(self.bar)
        self.message = widgets.text_label()
        inside.addWidget(self.message)
        self.report = widgets.button(_("Open the report"), _("Opens the gate's report in the browser."), self._open)
        inside.addWidget(self.report)
        self.button.contentsCollapsed.connect(lambda *_a: self.update())
        self.update()

    def _folder_row(self, form: Any, title: str, tooltip: str, purpose: str) -> Any:
        line = qt.QLineEdit(settings.get(f"folder/{purpose}", "") if purpose else "")
        line.setToolTip(tooltip)
        line.textChanged.connect(lambda *_a: self.update())

        def browse() -> None:
            chosen = qt.QFileDialog.getExistingDirectory(None, title, line.property("text"))
            if chosen:
                line.setText(chosen)

        form.addRow(title, widgets.row(line, widgets.tool("", tooltip, browse, "..."), stretch=0))
        return line

    def _text(self, line: Any) -> str:
        return line.property("text").strip()

    def reason_off(self) -> str:
        if not jobs.set_up():
            return _("The Python environment for the methods is not set up yet.")
        return "" if self._text(self.folder) else _("Choose a folder for the brains.")

    def update(self) -> None:
        if not hasattr(self, "report"):  # a line is being made
            return
        running = self.process is not None
        off = "" if running else self.reason_off()
        self.start_button.setText(_("Stop") if running else _("Make the cohort"))
        self.start_button.setEnabled(not off)
        stop = _("Ends it; what is made stays, and the next start goes on with the rest.")
        self.start_button.setToolTip(off or (stop if running else _("Makes the brains in the background.")))
        for each in (self.count, self.folder, self.real):
            each.setEnabled(not running)
        self.bar.setVisible(running and not self.button.property("collapsed"))
        self.report.setEnabled(not running and bool(self._text(self.folder)) and self._report_file().is_file())

    def _report_file(self) -> Path:
        return Path(self._text(self.folder)) / REPORT

    def toggle(self) -> None:
        if self.process is not None:
            self.process.stop()
            self._over(_("Stopped. What is made stays."))
        else:
            self.start()

    def start(self) -> None:
        state = self.panel.state
        if state is None or self.reason_off():
            return
        settings.put("folder/cohort", self._text(self.folder))
        self.bar.setRange(0, self.count.property("value"))
        self.bar.setValue(0)
        self._last, self._flags = "", []
        command = medgen_command(jobs.interpreter(), *self.words())
        self.process = CommandProcess(command, self._line, self._ended)
        self.message.setText(_("Starting..."))
        self.update()

    def words(self) -> list[str]:
        """The command line; of the panel's options those that the method has."""
        state = self.panel.state
        words = ["cohort", self.method_id, "-o", self._text(self.folder), "-n", str(self.count.property("value"))]
        words += ["--seed", str(state.option("seed", 0)), "--device", state.option("device", jobs.AUTO) or jobs.AUTO]
        maker = self.panel.chooser.methods.get(self.method_id)
        if maker is not None:
            words += ["-p", f"truncation={state.value(maker, 'truncation')}"]
        if state.option("weights", ""):
            words += ["--weights", state.option("weights", "")]
        return [*words, "--real", self._text(self.real)] if self._text(self.real) else words

    def _line(self, line: str) -> None:
        found = re.match(r"(\d+) of \d+ ", line)
        if found:
            self.bar.setValue(int(found.group(1)))
        if re.match(r"[A-Z]+: (yes|no) ", line):
            self._flags.append(line)
        self._last = line
        self.message.setText(line)

    def _ended(self, code: int) -> None:
        failed = self._last or _("It could not be started.")
        self._over(failed if code else "\n".join([_("Done."), *self._flags]))

    def _over(self, words: str) -> None:
        self.process = None
        self.message.setText(words)
        self.update()

    def _open(self) -> None:
        qt.QDesktopServices.openUrl(qt.QUrl.fromLocalFile(str(self._report_file())))

    def cleanup(self) -> None:
        if self.process is not None:
            self.process.stop()
            self.process = None
