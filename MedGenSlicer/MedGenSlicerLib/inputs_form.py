"""The inputs of a method: one row per role with the right nodes only, tools beside it, and warnings beneath it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Optional

import qt
import slicer
from slicer.i18n import tr as _

from medgen import spec
from medgen.spec import FitnessWarning, MethodSpec
from MedGenSlicerLib import (
    correction,
    frames,
    image_folder,
    input_guess,
    node_bridge,
    settings,
    steps,
    views,
    widgets,
)
from MedGenSlicerLib.frames import FrameRun
from MedGenSlicerLib.panel_state import PanelState

TITLE_WIDTH = 112  # of the 400 px that the panel has
CREATABLE = (spec.Points, spec.Planes, spec.ROI, spec.Mask, spec.LabelMap)
NEW_TOOLTIPS = {
    spec.Points: "Places a new list of points: click in a slice view; right-click to stop.",
    spec.Planes: "Adds a plane at the place that the red slice view shows.",
    spec.ROI: "Makes a box around the whole image, to be dragged smaller.",
    spec.Mask: "Makes an empty mask and opens the Segment Editor to paint it.",
    spec.LabelMap: "Makes an empty segmentation and opens the Segment Editor to paint it.",
    spec.Table: "Makes a table with usual values and opens it to be edited.",
}
LINE_TOOLTIP = "Places a new line: click on its start and its end in a slice view."


def takes_several(port: spec.Port) -> bool:
    return isinstance(port, spec.Planes) or getattr(port, "kind", "") == "set"


def port_help(port: spec.Port) -> str:
    """The tooltip of a row."""
    kind = port.help or _("The node to use as '{title}'.").format(title=port.title)
    if isinstance(port, spec.Image) and port.modality != "any":
        kind += " " + _("Expected: {modality}.").format(modality=port.modality)
    return kind if port.required else kind + " " + _("May be left empty.")


class InputRow:
    """One input: selector, which segment (for masks), a tool that makes a new one, warnings."""

    def __init__(self, port: spec.Port, form: InputsForm) -> None:
        self.port, self.form = port, form
        self.title = qt.QLabel(port.title + ("" if port.required else " " + _("(optional)")))
        self.title.setToolTip(port_help(port))
        self.title.setWordWrap(True)
        self.title.setFixedWidth(TITLE_WIDTH)
        none = _("Select...") if port.required else _("None")
        image = isinstance(port, (spec.Image, spec.Probability))
        self.selector = widgets.node_selector(node_bridge.node_classes(port), port_help(port), none, children=not image)
        self.selector.setSizePolicy(qt.QSizePolicy.Ignored, qt.QSizePolicy.Fixed)
        self.segment = qt.QComboBox()
        self.segment.setToolTip(_("Which segment of the segmentation is meant."))
        self.segment.setSizePolicy(qt.QSizePolicy.Ignored, qt.QSizePolicy.Fixed)
        self.segment.setVisible(False)
        parts = [self.selector, self.segment]
        if isinstance(port, CREATABLE) or getattr(port, "start", None):
            line = isinstance(port, spec.Points) and port.kind == "line"
            parts.append(widgets.tool("add", _(LINE_TOOLTIP if line else NEW_TOOLTIPS[type(port)]), self.make_new))
        self.layout = widgets.row(*parts, stretch=0)
        self.layout.setStretch(1, 1)
        self.frames = qt.QCheckBox()
        self.frames.setToolTip(_("Runs the method on every frame of the sequence, one after the other."))
        self.frames.setVisible(False)
        self.frames.toggled.connect(lambda *_a: self._frames_toggled())
        self.warning = widgets.Notice()
        self.selector.currentNodeChanged.connect(self._node_chosen)
        self.segment.currentIndexChanged.connect(lambda *_a: self._segment_chosen())

    def _node_chosen(self, *_arguments: object) -> None:
        node = frames.shown_node(self.selector.currentNode())
        if self.form.state is None or self.form.updating:
            return
        self.form.state.set_input_nodes(self.port.name, [node] if node is not None else [])
        self.form.state.set_segment_id(self.port.name, "")

    def _segment_chosen(self) -> None:
        if self.form.state is not None and not self.form.updating:
            self.form.state.set_segment_id(self.port.name, widgets.combo_data(self.segment) or "")

    def _frames_toggled(self) -> None:
        if self.form.state is not None and not self.form.updating:
            self.form.state.set_option(f"frames.{self.port.name}", self.frames.isChecked())

    def update(self, state: PanelState) -> None:
        node = state.input_node(self.port.name)
        self.selector.setCurrentNode(node)
        single = isinstance(self.port, spec.Image) and self.port.kind not in ("sequence", "set")
        count = frames.frame_count(node) if single and node is not None else 0
        self.frames.setVisible(count > 1)
        self.frames.setText(_("All {n} frames").format(n=count))
        self.frames.setChecked(count > 1 and state.option(f"frames.{self.port.name}", False))
        many = isinstance(self.port, spec.Mask) and node is not None and node.IsA("vtkMRMLSegmentationNode")
        ids = list(node.GetSegmentation().GetSegmentIDs()) if many else []
        self.segment.setVisible(len(ids) > 1)
        if len(ids) > 1:
            items = [(node.GetSegmentation().GetSegment(i).GetName(), i) for i in ids]
            everything = (_("All segments"), "")
            widgets.set_combo(self.segment, [everything, *items], state.segment_id(self.port.name))

    def make_new(self) -> None:
        node = make_input_node(self.port, self.form.reference())
        self.form.state.set_input_nodes(self.port.name, [node])
        if node.IsA("vtkMRMLSegmentationNode"):
            correction.open_editor(node, self.form.reference())


class SeveralRow(InputRow):
    """Several planes, or images of a set: the selector adds one, a line says how many there are."""

    def __init__(self, port: spec.Port, form: InputsForm) -> None:
        super().__init__(port, form)
        images = isinstance(port, spec.Image)
        self.selector.setProperty("noneDisplay", _("Add...") if images else _("Add a plane..."))
        if images:
            tooltip = _("Adds every image file of a folder: they are read into one sequence.")
            self.layout.addWidget(widgets.tool("", tooltip, self._ask_folder, _("Folder...")))
        self.count = qt.QLabel()
        self.count.setToolTip(_("What is used; the x takes the last one away again."))
        self.remove = widgets.tool(
            "remove", _("Takes the last one out of the list (it stays in the scene)."), self._pop
        )
        self.layout.addWidget(self.count)
        self.layout.addWidget(self.remove)

    def _node_chosen(self, *_arguments: object) -> None:
        node = frames.shown_node(self.selector.currentNode())
        if node is not None and self.form.state is not None and not self.form.updating:
            self.add(node)

    def add(self, node: Any) -> None:
        known = self.form.state.input_nodes(self.port.name)
        if node not in known:
            self.form.state.set_input_nodes(self.port.name, [*known, node])

    def _ask_folder(self) -> None:
        chosen = qt.QFileDialog.getExistingDirectory(None, self.port.title, settings.last_folder("images"))
        if chosen:
            settings.put("folder/images", chosen)
            self.add_folder(Path(chosen))

    def add_folder(self, folder: Path) -> None:
        """Reads the files one by one in the event loop."""
        made: list[Any] = []

        def done() -> None:
            if self.form.state is not None:
                self.add(made[0])

        steps.run(image_folder.read_steps(folder, made), done, lambda error: self.warning.say(str(error)))

    def _pop(self) -> None:
        self.form.state.set_input_nodes(self.port.name, self.form.state.input_nodes(self.port.name)[:-1])

    def update(self, state: PanelState) -> None:
        chosen = state.input_nodes(self.port.name)
        self.selector.setCurrentNode(None)
        for unused in (self.segment, self.frames):  # a section that was folded shows them
            unused.setVisible(False)
        if isinstance(self.port, spec.Image):
            count = sum(frames.image_count(node) for node in chosen)
            self.count.setText(_("{n} images").format(n=count) if count != 1 else _("1 image"))
        else:
            self.count.setText(_("{n} planes").format(n=len(chosen)) if len(chosen) != 1 else _("1 plane"))
        self.remove.setEnabled(bool(chosen))

    def make_new(self) -> None:
        self.add(make_input_node(self.port, self.form.reference()))


def make_input_node(port: spec.Port, reference: Optional[Any]) -> Any:
    """A new node for the port, started sensibly: a box around the image, a plane at the red slice, an empty mask on the
    image's grid."""
    name = slicer.mrmlScene.GenerateUniqueName(port.title)
    node = slicer.mrmlScene.AddNewNodeByClass(node_bridge.node_classes(port)[0], name)
    if isinstance(port, spec.ROI) and reference is not None:
        bounds = [0.0] * 6
        reference.GetRASBounds(bounds)
        node.SetCenterWorld(*((bounds[2 * i] + bounds[2 * i + 1]) / 2 for i in range(3)))
        node.SetSizeWorld(*(bounds[2 * i + 1] - bounds[2 * i] for i in range(3)))
    elif isinstance(port, spec.Planes):
        point, normal = views.slice_plane("Red")
        node.SetOriginWorld([float(x) for x in point])
        node.SetNormalWorld([float(x) for x in normal])
    elif isinstance(port, (spec.Mask, spec.LabelMap)):
        node.CreateDefaultDisplayNodes()
        if reference is not None:
            node.SetReferenceImageGeometryParameterFromVolumeNode(reference)
        title = port.title if isinstance(port, spec.Mask) else _("Structure 1")
        node.GetSegmentation().AddEmptySegment(port.name, title)
    elif isinstance(port, spec.Points):
        slicer.modules.markups.logic().SetActiveList(node)
        interaction = slicer.app.applicationLogic().GetInteractionNode()
        if port.kind == "line":
            interaction.SwitchToSinglePlaceMode()
        else:
            interaction.SwitchToPersistentPlaceMode()
    elif isinstance(port, spec.Table):
        node_bridge.fill_table(node, dict(port.start))
        node.SetUseColumnTitleAsColumnHeader(True)
        views.show_table(node)
    return node


class InputsForm:
    """`changed` is called after the user chose another input."""

    def __init__(self, layout: Any, changed: Callable[[], None]) -> None:
        self.layout = layout
        self._changed = changed
        self.state: Optional[PanelState] = None
        self.method: Optional[MethodSpec] = None
        self.rows: dict[str, InputRow] = {}
        self.updating = False

    def build(self, method: MethodSpec) -> None:
        """Makes the rows of another method."""
        widgets.clear_layout(self.layout)
        self.method, self.rows = method, {}
        for port in method.inputs:
            made = (SeveralRow if takes_several(port) else InputRow)(port, self)
            self.rows[port.name] = made
            line = qt.QHBoxLayout()
            line.addWidget(made.title)
            line.addLayout(made.layout, 1)
            self.layout.addLayout(line)
            self.layout.addWidget(made.frames)
            self.layout.addWidget(made.warning.widget)

    def update(self, state: PanelState) -> None:
        """Shows what the state holds."""
        self.state = state
        self.updating = True
        try:
            for made in self.rows.values():
                made.update(state)
        finally:
            self.updating = False

    def choose_likeliest(self, state: PanelState, among: Optional[list[Any]] = None) -> None:
        """Fills empty rows, with these nodes or with any; never changes a choice."""
        if self.method is None:
            return
        taken = [node for port in self.method.inputs for node in state.input_nodes(port.name)]
        if among is not None:
            offered = [node for port in self.method.inputs for node in input_guess.candidates(port)]
            taken += [node for node in offered if node not in among]
        empty = [p for p in self.method.inputs if not takes_several(p) and not state.input_nodes(p.name)]
        while empty:
            offers = [(port, input_guess.likeliest(port, taken, self.method.inputs)) for port in empty]
            fitting = [(port, node) for port, node in offers if node is not None]
            if not fitting:
                return
            # what is required first; a T1 goes to the input that asks for one, not to the first that takes any MR
            scores = [(port.required, input_guess.score(port, node, self.method.inputs)) for port, node in fitting]
            port, node = fitting[scores.index(max(scores))]
            taken.append(node)
            state.set_input_nodes(port.name, [node])
            empty.remove(port)

    def inputs(self) -> dict[str, list[Any]]:
        """{port: nodes}, empty ports left out."""
        if self.method is None or self.state is None:
            return {}
        found = {port.name: self.state.input_nodes(port.name) for port in self.method.inputs}
        return {name: nodes for name, nodes in found.items() if nodes}

    def reference(self) -> Optional[Any]:
        volumes = [n for nodes in self.inputs().values() for n in nodes[:1] if n.IsA("vtkMRMLVolumeNode")]
        return volumes[0] if volumes else None

    def frame_run(self) -> Optional[FrameRun]:
        """The frames to run on, if the user asked for all of them."""
        for name, made in self.rows.items():
            node = self.state.input_node(name) if self.state is not None else None
            if node is not None and made.frames.isChecked():
                return frames.frame_run(name, node)
        return None

    def missing(self) -> list[str]:
        """Titles of required inputs that are empty."""
        given = self.inputs()
        return [p.title for p in (self.method.inputs if self.method else ()) if p.required and p.name not in given]

    def show_warnings(self, beside: Optional[Any] = None) -> list[FitnessWarning]:
        """Asks the method about the images and shows each answer beneath its row. beside: a volume that they belong to,
        where it is not among them."""
        if self.method is None:
            return []
        images = {p.name for p in self.method.inputs if isinstance(p, spec.Image)}
        known = {name: input_guess.facts(nodes[0]) for name, nodes in self.inputs().items() if name in images}
        found = self.method.fitness({name: fact for name, fact in known.items() if fact is not None})
        found = [*found, *self._elsewhere(beside or self.reference())]
        for name, made in self.rows.items():
            made.warning.say(" ".join(w.sentence for w in found if w.input == name))
        return found

    def _elsewhere(self, leading: Optional[Any]) -> list[FitnessWarning]:
        """Of volumes that do not overlap the leading one: the volumes of one run share their frame."""
        assert self.method is not None
        volumes = [p.name for p in self.method.inputs if isinstance(p, spec.Image) and p.kind == "volume"]
        given = {name: nodes[0] for name, nodes in self.inputs().items() if name in volumes}
        words = _("It lies elsewhere than '{name}': the two do not overlap. Are they of one patient, and registered?")
        return [
            FitnessWarning(name, words.format(name=leading.GetName()))
            for name, node in given.items()
            if leading is not None and node is not leading and not node_bridge.overlap(node, leading)
        ]
