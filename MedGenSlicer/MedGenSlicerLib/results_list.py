"""What the runs produced: a row per node with eye, name, 3D, Correct, Compare, Export; the volumes; what correction
changed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Optional

import qt
import slicer
from slicer.i18n import tr as _

from medgen.errors import MedGenError
from MedGenSlicerLib import (
    correction,
    export_dialog,
    export_files,
    provenance,
    result_presenter,
    settings,
    views,
    widgets,
)

MOST_COLUMNS = 12
RUNS_SHOWN = 1  # older results wait behind 'Show older results'


class ResultRow:
    """One node: eye and name above, what can be done with it beneath."""

    def __init__(self, node: Any, owner: ResultsList) -> None:
        self.node_id, self.owner = node.GetID(), owner
        self.widget = qt.QFrame()
        self.widget.setFrameShape(qt.QFrame.StyledPanel)
        self.widget.setSizePolicy(qt.QSizePolicy.Preferred, qt.QSizePolicy.Minimum)  # or a long notice squeezes it
        layout = qt.QVBoxLayout(self.widget)
        layout.setContentsMargins(4, 4, 4, 4)
        layout.setSpacing(2)
        self.eye = widgets.tool("eye_on", _("Shows or hides this result in the views."), self._toggle)
        self.name = qt.QLineEdit()
        self.name.setToolTip(_("Name of the result: click to rename it."))
        self.name.setFrame(False)
        self.name.editingFinished.connect(lambda *_a: self._rename())
        self.three_d = widgets.tool(
            "cube", _("Shows the surfaces in the 3D view. Takes some seconds."), self._toggle_3d
        )
        first = widgets.row(self.eye, self.name, self.three_d, stretch=1)
        layout.addLayout(first)
        if not result_presenter.can_be_shown(node):
            self.eye.setEnabled(False)
            self.eye.setToolTip(_("This is not drawn in the views."))
        self.banner = widgets.Notice("synthetic")
        layout.addWidget(self.banner.widget)
        self.correct = widgets.button(
            _("Correct"), _("Opens the Segment Editor on this result, over the image it was made from."), self._correct
        )
        self.compare = qt.QToolButton()
        self.compare.setText(_("Compare"))
        self.compare.setToolTip(_("Shows the result against the image it was made from."))
        self.compare.setPopupMode(qt.QToolButton.InstantPopup)
        self.compare.setSizePolicy(qt.QSizePolicy.Expanding, qt.QSizePolicy.Fixed)
        self._fill_compare(node)
        self.export = widgets.button(
            _("Export..."), _("Writes this result to files, after a check of what is missing."), self._export
        )
        self.export.setEnabled(bool(export_files.formats(node)))
        if node.IsA("vtkMRMLSegmentationNode") or node.IsA("vtkMRMLVolumeNode"):
            layout.addLayout(widgets.row(self.correct, self.compare, self.export))
        else:
            first.addWidget(self.export)
        self.keep = widgets.button(
            _("Keep as training case..."),
            _("Writes the image and the corrected labels into a folder that nnU-Net can train from."),
            self._keep,
        )
        layout.addWidget(self.keep)
        if not node.IsA("vtkMRMLSegmentationNode"):
            self.three_d.setVisible(False)
            self.correct.setVisible(False)
        self.update()

    def node(self) -> Optional[Any]:
        return slicer.mrmlScene.GetNodeByID(self.node_id)

    def _fill_compare(self, node: Any) -> None:
        menu = qt.QMenu(self.compare)
        if node.IsA("vtkMRMLVolumeNode"):
            actions = [
                (_("Side by side"), self._side_by_side),
                (_("Blend"), self._blend),
                (_("Flicker"), self._flicker),
            ]
        elif node.IsA("vtkMRMLSegmentationNode"):
            actions = [(_("Outlines only"), self._outlines), (_("Flicker"), self._flicker)]
        else:
            actions = []
        for title, action in actions:
            menu.addAction(title).triggered.connect(lambda *_a, action=action: action())
        self.compare.setMenu(menu)
        if not actions:
            self.compare.setVisible(False)

    def update(self) -> None:
        node = self.node()
        if node is None:
            return
        if self.name.property("text") != node.GetName():
            self.name.setText(node.GetName())
            self.name.setCursorPosition(len(node.GetName()))  # what it is stands at the end
        self.name.setToolTip(provenance.description(node))
        shown = result_presenter.is_shown(node)
        self.eye.setIcon(widgets.icon("eye_on" if shown else "eye_off"))
        synthetic = provenance.is_synthetic(node)
        changed = correction.edited(node)
        self.banner.say(
            _("Synthetic image, not validated for treatment.")
            if synthetic
            else _("Corrected by hand. A new run makes a new result and leaves this one as it is.")
            if changed
            else ""
        )
        self.keep.setVisible(changed)

    def _rename(self) -> None:
        node, name = self.node(), self.name.property("text").strip()
        if node is not None and name and name != node.GetName():
            node.SetName(name)

    def _toggle(self) -> None:
        node = self.node()
        if node is not None:
            result_presenter.set_shown(node, not result_presenter.is_shown(node))
            self.update()

    def _toggle_3d(self) -> None:
        node = self.node()
        if node is not None:
            result_presenter.set_three_d_shown(node, not result_presenter.three_d_shown(node))

    def _correct(self) -> None:
        if self.node() is not None:
            correction.open_editor(self.node(), self.owner.drawn_on(self.node()))

    def _pair(self) -> Optional[tuple[Any, Any]]:
        node = self.node()
        reference = provenance.reference_of(node) if node is not None else None
        if reference is None or not reference.IsA("vtkMRMLVolumeNode"):
            self.owner.say(_("There is no image in the scene that this result was made from."))
            return None
        return reference, node

    def _side_by_side(self) -> None:
        pair = self._pair()
        if pair:
            views.side_by_side(pair)
            self.owner.views_changed()

    def _blend(self) -> None:
        pair = self._pair()
        if pair:
            views.blend(*pair)

    def _flicker(self) -> None:
        self.owner.flicker(self.node())

    def _outlines(self) -> None:
        display = self.node().GetDisplayNode() if self.node() is not None else None
        if display is not None:
            display.SetVisibility2DFill(not display.GetVisibility2DFill())

    def _export(self) -> None:
        if self.node() is not None:
            export_dialog.show(self.node())

    def _keep(self) -> None:
        title = _("Folder for training cases")
        folder = qt.QFileDialog.getExistingDirectory(self.widget, title, settings.last_folder("training"))
        if folder:
            settings.put("folder/training", folder)
            self.owner.keep_case(self.node(), Path(folder))


class ResultsList:
    def __init__(self, layout: Any) -> None:
        self.rows_widget = qt.QWidget()
        self._rows_layout = qt.QVBoxLayout(self.rows_widget)
        self._rows_layout.setContentsMargins(0, 0, 0, 0)
        self._rows_layout.setSpacing(4)
        self.empty = widgets.text_label(_("Results will be listed here."))
        layout.addWidget(self.empty)
        layout.addWidget(self.rows_widget)
        self.older = widgets.button(_("Show older results"), _("Lists every result of this panel."), self._show_older)
        layout.addWidget(self.older)
        self.table = qt.QTableWidget()
        self.table.setToolTip(_("Volumes of the newest segmentation; after a correction also before and after."))
        self.table.setEditTriggers(qt.QAbstractItemView.NoEditTriggers)
        self.table.setVisible(False)
        layout.addWidget(self.table)
        self.back = widgets.button(
            _("Back to my layout"), _("Brings back the views as they were before the comparison."), self._own_layout
        )
        layout.addWidget(self.back)
        self.message = widgets.Notice("info")
        layout.addWidget(self.message.widget)
        self.drawn_on: Callable[[Any], Optional[Any]] = lambda _node: None  # an image that segments belong to, unlike
        # those found in the image that the run was made on
        self.rows: list[ResultRow] = []
        self._show_all = False
        self._nodes: list[Any] = []
        self._flicker = views.Flicker()
        self._segment_timer = qt.QTimer()
        self._segment_timer.setInterval(views.FLICKER_MS)
        self._segment_timer.timeout.connect(self._blink)
        self._blinking = ""
        self.views_changed()

    def say(self, sentence: str) -> None:
        self.message.say(sentence)

    def update(self, nodes: list[Any]) -> None:
        """nodes: the results, oldest first; rows show the newest first."""
        self._nodes = list(nodes)
        runs = _newest_runs_first([node for node in nodes if not node.IsA("vtkMRMLTextNode")])
        newest = [node for run in runs for node in run]
        shown = newest if self._show_all else [node for run in runs[:RUNS_SHOWN] for node in run]
        self.older.setVisible(len(shown) < len(newest))
        if [row.node_id for row in self.rows] != [node.GetID() for node in shown]:
            widgets.clear_layout(self._rows_layout)
            self.rows = [ResultRow(node, self) for node in shown]
            for row in self.rows:
                self._rows_layout.addWidget(row.widget)
        self.empty.setVisible(not newest)
        told = [n for run in runs for n in _segmentations_first(run)]
        if not told:
            self.table.setVisible(False)
        elif told[0].IsA("vtkMRMLSegmentationNode"):
            self._show_volumes(told[0])
        else:
            self._show_table(told[0])
        self.views_changed()

    def views_changed(self) -> None:
        """Which eyes are open, and whether there is a layout to go back to."""
        for row in self.rows:
            row.update()
        self.back.setVisible(views.away() or self._flicker.running() or bool(self._blinking))

    def _show_older(self) -> None:
        self._show_all = True
        self.update(self._nodes)

    def _own_layout(self) -> None:
        self.stop_flicker()
        views.own_layout()
        self.views_changed()

    # ---------------------------------------------------------------------------------------------------------- tables

    def _show_volumes(self, node: Any) -> None:
        if correction.edited(node):
            header = [_("Structure"), _("Before, ml"), _("After, ml"), _("Dice")]
            rows = [
                [c.name, _number(c.before_ml, 2), _number(c.after_ml, 2), _number(c.dice, 3)]
                for c in correction.changes(node)
            ]
        else:
            header = [_("Structure"), _("Volume, ml")]
            made = correction.volumes_when_made(node)
            segmentation = node.GetSegmentation()
            rows = [
                [segmentation.GetSegment(i).GetName(), _number(made.get(i), 2)] for i in segmentation.GetSegmentIDs()
            ]
        self._fill_table(header, rows)

    def _show_table(self, node: Any) -> None:
        table = node.GetTable()
        header = [table.GetColumnName(c) for c in range(table.GetNumberOfColumns())]
        rows = [
            [table.GetValue(r, c).ToString() for c in range(table.GetNumberOfColumns())]
            for r in range(table.GetNumberOfRows())
        ]
        self._fill_table(header, rows)

    def _fill_table(self, header: list[str], rows: list[list[str]]) -> None:
        self.table.setColumnCount(len(header))
        self.table.setRowCount(len(rows))
        self.table.setHorizontalHeaderLabels(header)
        self.table.verticalHeader().setVisible(False)
        for r, values in enumerate(rows):
            for c, value in enumerate(values):
                item = qt.QTableWidgetItem(value)
                if c > 0:
                    item.setTextAlignment(qt.Qt.AlignRight | qt.Qt.AlignVCenter)
                self.table.setItem(r, c, item)
        self.table.verticalHeader().setDefaultSectionSize(22)
        columns = self.table.horizontalHeader()
        for c in range(len(header)):
            wide = c == 0 and len(header) <= 4
            columns.setSectionResizeMode(c, qt.QHeaderView.Stretch if wide else qt.QHeaderView.ResizeToContents)
        self.table.setFixedHeight(min(6, max(1, len(rows))) * 22 + (30 if len(header) <= 4 else 46))
        self.table.setVisible(bool(rows))

    # --------------------------------------------------------------------------------------------------------- flicker

    def flicker(self, node: Any) -> None:
        self.stop_flicker()
        if node is None:
            return
        if node.IsA("vtkMRMLSegmentationNode"):
            self._blinking = node.GetID()
            self._segment_timer.start()
        else:
            reference = provenance.reference_of(node)
            if reference is not None and reference.IsA("vtkMRMLVolumeNode"):
                self._flicker.start(reference, node)
        self.views_changed()

    def _blink(self) -> None:
        node = slicer.mrmlScene.GetNodeByID(self._blinking)
        if node is None:
            self.stop_flicker()
        else:
            node.SetDisplayVisibility(not node.GetDisplayVisibility())

    def stop_flicker(self) -> None:
        self._segment_timer.stop()
        node = slicer.mrmlScene.GetNodeByID(self._blinking) if self._blinking else None
        if node is not None:
            node.SetDisplayVisibility(True)
        self._blinking = ""
        if self._flicker.running():
            self._flicker.stop()

    # -------------------------------------------------------------------------------------------------------- training

    def keep_case(self, node: Optional[Any], folder: Path) -> None:
        if node is None:
            return
        try:
            case = correction.keep_as_training_case(node, folder)
            self.say(_("Kept as '{case}' in {folder}.").format(case=case, folder=folder))
        except MedGenError as error:
            self.say(str(error))


def _newest_runs_first(nodes: list[Any]) -> list[list[Any]]:
    """What one run made stays together, in the order of its declaration, and what was later made of it by hand."""
    runs: dict[str, list[Any]] = {}
    for node in nodes:
        time = node.GetAttribute("MedGen.time") or ""
        runs[time] = [*runs.pop(time, []), node]  # the run that was added to last is the newest
    return list(reversed(runs.values()))


def _segmentations_first(run: list[Any]) -> list[Any]:
    """What of a run can be told in the small table; a latent code, as wide as it is, cannot."""
    tables = [n for n in run if n.IsA("vtkMRMLTableNode") and n.GetNumberOfColumns() <= MOST_COLUMNS]
    return [*(n for n in run if n.IsA("vtkMRMLSegmentationNode")), *tables]


def _number(value: Optional[float], digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
