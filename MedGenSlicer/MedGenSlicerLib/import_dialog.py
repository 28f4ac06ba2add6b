"""'Add a trained model...': an nnU-Net v2 results folder or a MONAI bundle becomes a method of the catalogue.

The files are read in the worker's Python by `medgen import`; a bundle runs code of its makers, so it is added only
after the user agreed to exactly that bundle.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Optional

import qt
import slicer
from slicer.i18n import tr as _

from medgen.errors import MedGenError
from medgen.spec import MethodSpec
from MedGenSlicerLib import jobs, method_catalogue, settings, widgets
from MedGenSlicerLib.command_process import CommandProcess, medgen_command

HASH = re.compile(r"--agree ([0-9a-f]{64})")
_open: list[Any] = []  # keeps the dialog alive in PythonQt


def kind_of(path: Path) -> str:
    """'nnunet' for a results folder, 'monai' for what looks like a bundle, '' for anything else."""
    if path.is_dir() and (path / "plans.json").is_file() and (path / "dataset.json").is_file():
        return "nnunet"
    if path.suffix.lower() == ".zip" and path.is_file():
        return "monai"
    return "monai" if (path / "configs" / "metadata.json").is_file() else ""


class ImportDialog:
    """`added` is called with the new method."""

    def __init__(self, added: Callable[[MethodSpec], None]) -> None:
        self._added = added
        self.process: Optional[CommandProcess] = None
        self.lines: list[str] = []
        self.digest = ""
        self.dialog = qt.QDialog(slicer.util.mainWindow())
        self.dialog.setWindowTitle(_("Add a trained model"))
        self.dialog.resize(460, 260)
        layout = qt.QVBoxLayout(self.dialog)
        layout.addWidget(
            widgets.text_label(
                _(
                    "An nnU-Net v2 results folder (the one with dataset.json, plans.json and fold_0) or a MONAI bundle "
                    "(a folder with 'configs' and 'models', or its zip). It is copied, checked and then stands among "
                    "the methods of MedGen Segment."
                )
            )
        )
        self.path = qt.QLineEdit()
        self.path.setPlaceholderText(_("folder or zip"))
        self.path.setToolTip(_("Where the model lies now."))
        folder = widgets.button(_("Folder..."), _("Chooses a folder."), self._ask_folder)
        file = widgets.button(_("Zip..."), _("Chooses a zipped bundle."), self._ask_file)
        layout.addLayout(widgets.row(self.path, folder, file, stretch=0))
        self.trust = qt.QCheckBox(_("I trust the makers of this bundle: it may run their code"))
        self.trust.setToolTip(_("A MONAI bundle's configuration is a program. It runs with your rights."))
        self.trust.setVisible(False)
        self.hash = widgets.text_label(tooltip=_("Your consent holds for exactly the bundle with this SHA-256."))
        layout.addWidget(self.hash)
        layout.addWidget(self.trust)
        layout.addStretch(1)
        self.status = widgets.Notice("info")
        layout.addWidget(self.status.widget)
        self.button = widgets.button(_("Add"), _("Reads, checks and copies the model."), self.add)
        close = widgets.button(_("Close"), _("Closes this window."), self.dialog.close)
        layout.addLayout(widgets.row(self.button, close, stretch=0))
        self.path.textChanged.connect(lambda *_a: self._path_changed())
        self.trust.toggled.connect(lambda *_a: self.update())
        self.update()

    def _ask_folder(self) -> None:
        chosen = qt.QFileDialog.getExistingDirectory(
            self.dialog, _("Folder of the model"), settings.last_folder("models")
        )
        if chosen:
            self.path.setText(chosen)

    def _ask_file(self) -> None:
        chosen = qt.QFileDialog.getOpenFileName(
            self.dialog, _("Zipped bundle"), settings.last_folder("models"), "*.zip"
        )
        path = chosen[0] if isinstance(chosen, tuple) else chosen  # PySide6 gives the filter as well
        if path:
            self.path.setText(path)

    def chosen(self) -> Path:
        return Path(self.path.property("text").strip())

    def _path_changed(self) -> None:
        self.digest = ""
        self.hash.setText("")
        self.trust.setChecked(False)
        self.trust.setVisible(False)
        self.status.say("")
        self.update()

    def update(self) -> None:
        if not self.path.property("text").strip():
            reason = _("Choose the folder or the zip of a model.")
        elif not kind_of(self.chosen()):
            reason = _("This is neither an nnU-Net v2 results folder nor a MONAI bundle.")
        elif self.digest and not self.trust.isChecked():
            reason = _("Tick the box if you trust the makers of this bundle.")
        elif not jobs.interpreter():
            reason = _("The compute environment is not set up: see MedGen Jobs.")
        else:
            reason = ""
        if reason and self.process is None:
            self.status.say(reason)
        self.button.setEnabled(not reason and self.process is None)

    def add(self) -> None:
        path, kind = self.chosen(), kind_of(self.chosen())
        settings.put("folder/models", str(path.parent))
        words = ["import", kind, str(path), *(["--agree", self.digest] if self.digest else [])]
        self.lines = []
        self.status.say(_("Reading the model..."))
        self.process = CommandProcess(medgen_command(jobs.interpreter(), *words), self.lines.append, self._ended)
        self.update()

    def _ended(self, code: int) -> None:
        self.process = None
        said = " ".join(self.lines).strip()
        asks = HASH.search(said)
        if code == 0 and self.lines:
            self._take(self.lines[-1].strip())
            return
        if asks and not self.digest:
            self.digest = asks.group(1)
            self.hash.setText(_("SHA-256 of this bundle: {digest}").format(digest=" ".join(_groups(self.digest))))
            self.trust.setVisible(True)
            self.update()
            return
        self.button.setEnabled(True)
        self.status.say(said or _("The model could not be read."))

    def _take(self, method_id: str) -> None:
        try:
            method = method_catalogue.find(method_id)
        except MedGenError as error:
            self.status.say(str(error))
            return
        self.path.blockSignals(True)
        self.path.setText("")
        self.path.blockSignals(False)
        self.digest = ""
        self.hash.setText("")
        self.trust.setVisible(False)
        self._added(method)
        self.update()
        self.status.say(_("Added: {title}").format(title=method.title))


def _groups(digest: str) -> list[str]:
    """In eights, so that the line wraps and can be compared."""
    return [digest[i : i + 8] for i in range(0, len(digest), 8)]


def show(added: Callable[[MethodSpec], None]) -> ImportDialog:
    made = ImportDialog(added)
    _open[:] = [made]
    made.dialog.show()
    return made
