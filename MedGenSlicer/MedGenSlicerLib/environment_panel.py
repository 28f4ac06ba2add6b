"""The compute environment: the Python in which the methods run. What is installed, set-up with one button, repair,
another interpreter, how long it stays ready, where weights lie."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any, Optional

import qt
import slicer
from slicer.i18n import tr as _

from medgen import environment, weights
from MedGenSlicerLib import engine_folder, jobs, settings, widgets
from MedGenSlicerLib.command_process import CommandProcess

STATUS = (
    "import json, pathlib, sys; sys.path.insert(0, sys.argv[1]); from medgen import environment; "
    "print(json.dumps(environment.environment_status(pathlib.Path(sys.argv[2]))))"
)
PACKAGES_SHOWN = ("torch", "SimpleITK", "numpy")


def slicer_python() -> str:
    """A Python that can run our standard-library scripts: Slicer's own launcher, which sets up its libraries itself."""
    home = getattr(slicer.app, "slicerHome", "") or ""
    return (
        shutil.which("PythonSlicer") or shutil.which("PythonSlicer", path=os.path.join(home, "bin")) or sys.executable
    )


def environment_folder() -> Path:
    """The environment that is looked at: of the interpreter that the user chose, else MedGen's own."""
    chosen = settings.get("python", "")
    return Path(chosen).parents[1] if chosen else environment.default_environment_folder()


def disk_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) if folder.is_dir() else 0


def short_path(path: str) -> str:
    """With ~ for the home folder: the panel is narrow."""
    home = str(Path.home())
    return "~" + path[len(home) :] if path.startswith(home + os.sep) else path


def size_text(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"


class EnvironmentPanel:
    def __init__(self, layout: Any) -> None:
        self.process: Optional[CommandProcess] = None
        self.status: dict[str, Any] = {}
        self.controller = jobs.controller()
        form = qt.QFormLayout()
        form.setFieldGrowthPolicy(qt.QFormLayout.AllNonFixedFieldsGrow)
        layout.addLayout(form)
        self.labels = {}
        for key, title, tooltip in (
            ("state", _("State"), _("Whether methods can run.")),
            ("python", _("Python"), _("The interpreter that runs the methods.")),
            ("packages", _("Packages"), _("The main packages and their versions.")),
            ("devices", _("Processors"), _("What the methods can run on, the best first.")),
            ("disk", _("Disk"), _("What the environment takes on the disk.")),
            ("process", _("Process"), _("The background process: it starts with the first job.")),
        ):
            self.labels[key] = widgets.text_label(tooltip=tooltip)
            form.addRow(title, self.labels[key])
        self.consent = widgets.text_label(
            _(
                "Set up downloads PyTorch and other packages (1 GB, with a GPU 4 GB) into its own folder. "
                "Slicer's own Python is not touched."
            )
        )
        layout.addWidget(self.consent)
        self.set_up = widgets.button(_("Set up"), _("Makes or repairs the environment, in the background."), self.make)
        self.check = widgets.button(_("Check"), _("Looks again at what is installed."), self.look)
        self.other = widgets.button(
            _("Other Python..."), _("Uses an interpreter of your own that has the packages."), self._choose_python
        )
        layout.addLayout(widgets.row(self.set_up, self.check, self.other))
        self.own = widgets.button(
            _("Back to MedGen's own Python"),
            _("Uses the environment that 'Set up' makes."),
            lambda: self.use_python(""),
        )
        layout.addWidget(self.own)
        self.busy = qt.QProgressBar()
        self.busy.setRange(0, 0)
        self.busy.setToolTip(_("The set-up is under way."))
        self.busy.setVisible(False)
        layout.addWidget(self.busy)
        self.log = qt.QPlainTextEdit()
        self.log.setReadOnly(True)
        self.log.setMaximumHeight(110)
        self.log.setToolTip(_("What the set-up does."))
        self.log.setVisible(False)
        layout.addWidget(self.log)
        self._build_settings(layout)
        self.controller.listeners.append(self._process_changed)
        self.update()

    def _build_settings(self, layout: Any) -> None:
        form = qt.QFormLayout()
        form.setFieldGrowthPolicy(qt.QFormLayout.AllNonFixedFieldsGrow)
        layout.addLayout(form)
        self.idle = qt.QSpinBox()
        self.idle.setRange(0, 600)
        self.idle.setSuffix(" min")
        self.idle.setSpecialValueText(_("until Slicer ends"))
        self.idle.setToolTip(_("How long the background process stays ready without work. It holds memory meanwhile."))
        self.idle.setValue(settings.get("idle_minutes", settings.IDLE_MINUTES))
        self.idle.valueChanged.connect(lambda *_a: self.controller.set_idle_minutes(self.idle.property("value")))
        self.stop = widgets.button(
            _("Stop now"), _("Ends the background process and its jobs."), self.controller.restart
        )
        form.addRow(_("Keep ready for"), widgets.row(self.idle, self.stop, stretch=0))
        self.weights = widgets.text_label(tooltip=_("Trained networks: those that came with MedGen, and your own."))
        folder = widgets.tool("", _("Opens the folder of your own weights."), self._open_weights, "...")
        form.addRow(_("Weights"), widgets.row(self.weights, folder, stretch=0))
        self.folders = qt.QLineEdit(settings.get("method_folders", ""))
        self.folders.setPlaceholderText(_("none"))
        self.folders.setToolTip(
            _(
                "Folders with further method packages, parted by '{sign}'. Takes effect when Slicer starts again."
            ).format(sign=os.pathsep)
        )
        self.folders.editingFinished.connect(
            lambda *_a: settings.put("method_folders", self.folders.property("text").strip())
        )
        form.addRow(_("More methods"), self.folders)

    # ----------------------------------------------------------------------------------------------------------- show

    def update(self) -> None:
        """Shows what is known; asks in the background the first time."""
        if not self.status and self.process is None:
            self.look()
        self._show()

    def _show(self) -> None:
        known = self.status
        self.labels["state"].setText(known.get("sentence", _("Looking...")))
        version = known.get("python_version", "")
        self.labels["python"].setText(short_path(jobs.interpreter()) + (f" ({version})" if version else ""))
        versions = known.get("versions", {})
        shown = [f"{name} {versions[name]}" for name in PACKAGES_SHOWN if versions.get(name)]
        self.labels["packages"].setText(", ".join(shown) or "-")
        devices = [d["title"] for d in jobs.known_devices()] or known.get("gpus") or []
        self.labels["devices"].setText(", ".join(devices) or _("CPU ({n} cores)").format(n=os.cpu_count()))
        disk = known.get("disk_bytes", 0)
        self.labels["disk"].setText(size_text(disk) if disk else "-")
        self._show_process()
        working = bool(known.get("works"))
        self.set_up.setText(_("Repair") if known.get("disk_bytes") and not working else _("Set up"))
        own = not settings.get("python", "")
        running = self.process is not None
        self.set_up.setEnabled(own and not running and not working and bool(known))
        self.set_up.setToolTip(
            _("Everything is installed.") if working else _("Makes or repairs the environment, in the background.")
        )
        self.consent.setVisible(own and not working)
        self.check.setEnabled(not running)
        self.own.setVisible(not own)
        starters, mine = weights.STARTER_WEIGHTS, weights.user_data_folder() / "Weights"
        self.weights.setText(
            _("{a}; your own {b}").format(a=size_text(disk_bytes(starters)), b=size_text(disk_bytes(mine)))
        )

    def _show_process(self) -> None:
        words = {"off": _("not running"), "starting": _("starting"), "ready": _("ready"), "killed": _("ending")}
        states = [words.get(client.state, client.state) for client in self.controller.clients.values()]
        lost = self.controller.process_log[-1:]
        self.labels["process"].setText(", ".join(states or [words["off"]]) + ("; " + lost[0] if lost else ""))
        self.stop.setEnabled(any(client.state != "off" for client in self.controller.clients.values()))

    def _process_changed(self, _ticket: Any) -> None:
        self._show_process()

    # ----------------------------------------------------------------------------------------------------------- work

    def look(self) -> None:
        """Asks what is installed; takes about a second, in another process."""
        lines: list[str] = []

        def ended(code: int) -> None:
            self.process = None
            try:
                self.status = json.loads(lines[-1]) if code == 0 else {}
            except (IndexError, ValueError):
                self.status = {}
            if not self.status:
                self.status = {"sentence": _("The environment could not be checked."), "works": False}
            self._show()

        models = str(engine_folder() / "models")
        command = [slicer_python(), "-I", "-c", STATUS, models, str(environment_folder())]
        self.process = CommandProcess(command, lines.append, ended)
        self._show()

    def make(self) -> None:
        """Makes or repairs the environment. The user asked for it by pressing the button that says what it
        downloads."""
        self.log.setPlainText("")
        self.log.setVisible(True)
        self.busy.setVisible(True)

        def ended(code: int) -> None:
            self.process = None
            self.busy.setVisible(False)
            self.controller.restart()
            self.look()

        script = engine_folder() / "models" / "medgen" / "environment.py"
        command = [slicer_python(), "-I", str(script), str(environment.default_environment_folder())]
        self.process = CommandProcess(command, self.log.appendPlainText, ended)
        self._show()

    def _choose_python(self) -> None:
        title = _("Folder of a Python environment that has MedGen's packages")
        folder = qt.QFileDialog.getExistingDirectory(self.other, title, str(environment_folder()))
        if folder:
            self.use_python(str(environment.environment_python(Path(folder))))

    def use_python(self, path: str) -> None:
        """Another interpreter from now on; empty: MedGen's own."""
        settings.put("python", path)
        self.status = {}
        self.controller.restart()
        self.look()

    def _open_weights(self) -> None:
        folder = weights.user_data_folder() / "Weights"
        folder.mkdir(parents=True, exist_ok=True)
        qt.QDesktopServices.openUrl(qt.QUrl.fromLocalFile(str(folder)))

    def cleanup(self) -> None:
        if self._process_changed in self.controller.listeners:
            self.controller.listeners.remove(self._process_changed)
        if self.process is not None:
            self.process.stop()
