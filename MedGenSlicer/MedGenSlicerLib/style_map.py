"""The looks that a style network knows, as points in a plane: a click takes the look at that place."""

from __future__ import annotations

from typing import Any, Optional

import qt
from slicer.i18n import tr as _

from medgen import weights
from medgen.errors import BadInput
from MedGenSlicerLib import widgets

REACH = 3.0  # of the map, to every side of its middle
COLOURS = ("#2f6f9f", "#2a9d8f", "#e9a23b", "#c1543c", "#7a5ea8", "#5d7488", "#8a9a2c", "#b05a8a")
SIDE = 180  # pixels


class MapWidget(qt.QWidget):
    """`clicked` is called with the place, in units of the map."""

    def __init__(self, clicked: Any) -> None:
        qt.QWidget.__init__(self)
        self._clicked = clicked
        self.points: list[tuple[float, float, str]] = []
        self.chosen: Optional[tuple[float, float]] = None
        self.setFixedHeight(SIDE)
        self.setToolTip(_("Every dot is a frame that the network learnt from, a colour for each machine. Click to take "
                          "the look of a place: near a dot it is that frame's."))  # fmt: skip

    def place(self, x: float, y: float) -> tuple[float, float]:
        """Units of the map to pixels."""
        width, height = self.property("width"), self.property("height")
        return (x / REACH + 1) * width / 2, (1 - y / REACH) * height / 2

    def paintEvent(self, _event: Any) -> None:
        painter = qt.QPainter(self)
        painter.setRenderHint(qt.QPainter.Antialiasing)
        painter.fillRect(0, 0, self.property("width"), self.property("height"), qt.QColor("#f4f6f8"))
        names = sorted({name for _x, _y, name in self.points})
        painter.setPen(qt.QPen(qt.QColor("#ffffff")))
        for x, y, name in self.points:
            painter.setBrush(qt.QBrush(qt.QColor(COLOURS[names.index(name) % len(COLOURS)])))
            across, down = self.place(x, y)
            painter.drawEllipse(int(across) - 5, int(down) - 5, 10, 10)
        if self.chosen is not None:
            across, down = (int(v) for v in self.place(*self.chosen))
            pen = qt.QPen(qt.QColor("#20242a"))
            pen.setWidth(2)
            painter.setPen(pen)
            painter.drawLine(across - 9, down, across + 9, down)
            painter.drawLine(across, down - 9, across, down + 9)
        painter.end()

    def mousePressEvent(self, event: Any) -> None:
        at = event.pos()
        x = (2 * at.x() / self.property("width") - 1) * REACH
        y = (1 - 2 * at.y() / self.property("height")) * REACH
        self._clicked(round(x, 2), round(y, 2))


class StyleMap:
    """Beneath the inputs of a method with the parameters style, map_x and map_y."""

    def __init__(self, panel: Any, layout: Any) -> None:
        self.panel = panel
        self.method = panel.method
        self.map = MapWidget(self.choose)
        layout.addWidget(self.map)
        self.words = widgets.text_label()
        layout.addWidget(self.words)
        layout.addWidget(widgets.text_label(_("Labels are carried over as they are: restyling moves no anatomy.")))
        self.map.points = known_looks(self.method.id)
        self.update()

    def choose(self, x: float, y: float) -> None:
        state = self.panel.state
        if state is not None:
            state.set_value(self.method, "map_x", x)
            state.set_value(self.method, "map_y", y)
            state.set_value(self.method, "style", "map")

    def update(self) -> None:
        state = self.panel.state
        if state is None:
            return
        by_map = state.value(self.method, "style") == "map"
        place = (state.value(self.method, "map_x"), state.value(self.method, "map_y"))
        self.map.chosen = place if by_map else None
        if by_map and self.map.points:
            name = min(self.map.points, key=lambda p: (p[0] - place[0]) ** 2 + (p[1] - place[1]) ** 2)[2]
            self.words.setText(_("Style of the map at the cross; nearest: {name}.").format(name=name))
        else:
            self.words.setText(_("Click on the map to take a style from there."))
        self.map.setVisible(bool(self.map.points))
        self.map.update()

    def reason_off(self) -> str:
        """What the chosen source of the style needs."""
        state = self.panel.state
        style = state.value(self.method, "style") if state is not None else ""
        given = {port for port in ("style_image", "style_code") if state is not None and state.input_nodes(port)}
        if style == "image" and "style_image" not in given:
            return _("Choose a style image, or another source of the style.")
        if style == "code" and "style_code" not in given:
            return _("Choose a saved style, or another source of the style.")
        if style == "interpolated" and not given:
            return _("Choose a style image or a saved style to start from.")
        return ""


def known_looks(method_id: str) -> list[tuple[float, float, str]]:
    """(x, y, name) of every point on the map of the starter weights; empty without them."""
    for path in weights.list_weights(method_id):
        try:
            found = weights.load_card(path.parent).get("style_map") or {}
        except BadInput:
            continue
        return list(zip(found.get("x", []), found.get("y", []), found.get("name", [])))
    return []
