"""'Export...': format, folder, what is missing, and the writing in the background."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any, Optional

import qt
import slicer
from slicer.i18n import tr as _

from medgen.errors import MedGenError
from MedGenSlicerLib import export_files, jobs, settings, widgets
from MedGenSlicerLib.command_process import CommandProcess, medgen_command
from MedGenSlicerLib.export_files import Format

_open: list[Any] = []  # keeps the dialog alive in PythonQt


class ExportDialog:
    def __init__(self, node: Any) -> None:
        self.node_id = node.GetID()
        self.formats = export_files.formats(node)
        self.process: Optional[CommandProcess] = None
        self.lines: list[str] = []
        self.dialog = qt.QDialog(slicer.util.mainWindow())
        self.dialog.setWindowTitle(_("Export '{name}'").format(name=node.GetName()))
        self.dialog.resize(460, 320)
        layout = qt.QVBoxLayout(self.dialog)
        form = qt.QFormLayout()
        form.setFieldGrowthPolicy(qt.QFormLayout.AllNonFixedFieldsGrow)
        layout.addLayout(form)
        self.format = qt.QComboBox()
        widgets.set_combo(self.format, [(f.title, f.id) for f in self.formats], "")
        self.format.setToolTip(_("What to write."))
        form.addRow(_("Format"), self.format)
        self.folder = self._folder_row(form, _("Folder"), _("Where the files go."), settings.last_folder("export"))
        source = export_files.dicom_folder(node)
        self.source = self._folder_row(
            form, _("Source series"), _("Folder with the DICOM files of the source image."), str(source or "")
        )
        self.checks = widgets.text_label(tooltip=_("What is missing or doubtful."))
        layout.addWidget(self.checks)
        layout.addStretch(1)
        self.status = widgets.Notice("info")
        layout.addWidget(self.status.widget)
        self.button = widgets.button(_("Export"), _("Writes the files."), self.export)
        close = widgets.button(_("Close"), _("Closes this window."), self.dialog.close)
        layout.addLayout(widgets.row(self.button, close, stretch=0))
        self.format.currentIndexChanged.connect(lambda *_a: self.update())
        for line in (self.folder, self.source):
            line.textChanged.connect(lambda *_a: self.update())
        self.update()

    def _folder_row(self, form: Any, title: str, tooltip: str, value: str) -> Any:
        line = qt.QLineEdit(value)
        line.setToolTip(tooltip)

        def browse() -> None:
            found = qt.QFileDialog.getExistingDirectory(self.dialog, title, line.property("text"))
            if found:
                line.setText(found)

        form.addRow(title, widgets.row(line, widgets.tool("", tooltip, browse, "..."), stretch=0))
        return line

    def chosen(self) -> Format:
        return self.formats[self.format.property("currentIndex")]

    def _source(self) -> Optional[Path]:
        text = self.source.property("text").strip()
        return Path(text) if text and Path(text).is_dir() else None

    def update(self) -> None:
        node = slicer.mrmlScene.GetNodeByID(self.node_id)
        if node is None:
            self.checks.setText(_("The result is no longer in the scene."))
            self.button.setEnabled(False)
            return
        found = export_files.findings(node, self.chosen(), self._source())
        if not self.folder.property("text").strip():
            found.insert(0, (True, _("Choose a folder.")))
        self.checks.setText("\n".join(("✗ " if stops else "• ") + sentence for stops, sentence in found))
        self.source.setEnabled(bool(self.chosen().command))
        stopped = any(stops for stops, _sentence in found)
        self.button.setEnabled(not stopped and self.process is None)
        self.button.setToolTip(_("Something is missing: see the list.") if stopped else _("Writes the files."))

    def export(self) -> None:
        node, chosen = slicer.mrmlScene.GetNodeByID(self.node_id), self.chosen()
        folder = Path(self.folder.property("text").strip())
        settings.put("folder/export", str(folder))
        out = folder / export_files.file_name(node, chosen)
        self.lines = []
        try:
            if chosen.command:
                self._start(node, chosen, out)
            else:
                export_files.write_plain(node, chosen, out)
                self.status.say(_("Written: {path}").format(path=out))
        except (MedGenError, OSError, RuntimeError) as error:
            self.status.say(str(error))
        self.update()

    def _start(self, node: Any, chosen: Format, out: Path) -> None:
        source = self._source()
        assert source is not None
        scratch = Path(tempfile.mkdtemp(prefix="MedGenExport", dir=slicer.app.temporaryPath))  # another may be writing
        out.parent.mkdir(parents=True, exist_ok=True)
        arguments = export_files.dicom_arguments(node, chosen, source, out, scratch)

        def ended(code: int) -> None:
            self.process = None
            shutil.rmtree(scratch, ignore_errors=True)  # it holds the patient's image
            words = " ".join(self.lines[-6:])
            self.status.say(_("Written: {path}").format(path=out) if code == 0 else words or _("The export failed."))
            self.update()

        self.status.say(_("Writing..."))
        self.process = CommandProcess(medgen_command(jobs.interpreter(), *arguments), self.lines.append, ended)


def show(node: Any) -> ExportDialog:
    made = ExportDialog(node)
    _open[:] = [made, *(each for each in _open if each.process is not None)]
    made.dialog.show()
    return made
