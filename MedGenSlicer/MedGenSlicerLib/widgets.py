"""Small pieces that every panel is made of. Only Qt that PythonQt and PySide6 share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Optional

import ctk
import qt
import slicer

ICONS = Path(__file__).resolve().parent / "Resources" / "Icons"


def icon(name: str) -> qt.QIcon:
    return qt.QIcon(str(ICONS / f"{name}.png"))


def section(layout: Any, title: str, tooltip: str = "", collapsed: bool = False) -> tuple[Any, Any]:
    """A foldable part of a panel: (the button that folds it, the layout to fill)."""
    button = ctk.ctkCollapsibleButton()
    button.setProperty("text", title)
    button.setProperty("collapsed", collapsed)
    button.setToolTip(tooltip)
    layout.addWidget(button)
    inside = qt.QVBoxLayout(button)
    inside.setContentsMargins(6, 6, 6, 6)
    inside.setSpacing(4)
    return button, inside


def row(*parts: Any, stretch: int = -1) -> Any:
    """A horizontal layout of widgets; `stretch` is the index of the one that takes the free width."""
    layout = qt.QHBoxLayout()
    layout.setSpacing(4)
    for index, part in enumerate(parts):
        layout.addWidget(part, 1 if index == stretch else 0)
    return layout


def button(text: str, tooltip: str, clicked: Callable[[], Any]) -> Any:
    made = qt.QPushButton(text)
    made.setToolTip(tooltip)
    made.clicked.connect(lambda *_: clicked())
    return made


def tool(icon_name: str, tooltip: str, clicked: Callable[[], Any], text: str = "") -> Any:
    made = qt.QToolButton()
    if icon_name:
        made.setIcon(icon(icon_name))
    if text:
        made.setText(text)
    made.setToolTip(tooltip)
    made.setAutoRaise(True)
    made.clicked.connect(lambda *_: clicked())
    return made


def text_label(text: str = "", tooltip: str = "") -> Any:
    """Words that wrap, in a panel that may be narrow."""
    made = qt.QLabel(text)
    made.setWordWrap(True)
    made.setToolTip(tooltip)
    made.setTextInteractionFlags(qt.Qt.TextSelectableByMouse)
    return made


class Notice:
    """A line with a sign before it, hidden while there is nothing to say."""

    def __init__(self, icon_name: str = "warning") -> None:
        self.widget = qt.QWidget()
        layout = qt.QHBoxLayout(self.widget)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(4)
        sign = qt.QLabel()
        sign.setPixmap(icon(icon_name).pixmap(16, 16))
        layout.addWidget(sign, 0, qt.Qt.AlignTop)
        self.label = text_label()
        layout.addWidget(self.label, 1)
        self.widget.setVisible(False)

    def say(self, sentence: str) -> None:
        if self.label.property("text") != sentence:
            self.label.setText(sentence)
        self.widget.setVisible(bool(sentence))


def clear_layout(layout: Any) -> None:
    """Removes every widget and inner layout.

    Widgets keep their parent until they are gone: the wrapper of one without a parent deletes it, and PythonQt drops
    the last wrapper while Qt is deleting that very widget, as it frees the functions connected to the widgets inside.
    """
    while layout.count():
        item = layout.takeAt(0)
        widget, inner = item.widget(), item.layout()
        if widget is not None:
            widget.hide()
            widget.deleteLater()
        elif inner is not None:
            clear_layout(inner)
            inner.deleteLater()


def node_selector(
    node_types: tuple[str, ...], tooltip: str, none_text: str = "", add: bool = False, children: bool = True
) -> Any:
    """A qMRMLNodeComboBox on the scene; with `none_text` it may be empty."""
    box = slicer.qMRMLNodeComboBox()
    box.setProperty("nodeTypes", list(node_types))
    box.setProperty("showChildNodeTypes", children)
    box.setProperty("noneEnabled", bool(none_text))
    if none_text:
        box.setProperty("noneDisplay", none_text)
    box.setProperty("addEnabled", add)
    box.setProperty("removeEnabled", add)
    box.setProperty("renameEnabled", True)
    box.setToolTip(tooltip)
    box.setMRMLScene(slicer.mrmlScene)
    return box


def set_combo(combo: Any, items: list[tuple[str, Any]], current: Any) -> None:
    """Fills a QComboBox with (text, data) and chooses the data, without signals."""
    combo.blockSignals(True)
    combo.clear()
    for text, data in items:
        combo.addItem(text, data)
    index = next((i for i, (_text, data) in enumerate(items) if data == current), 0)
    combo.setCurrentIndex(index)
    combo.blockSignals(False)


def combo_data(combo: Any) -> Any:
    return combo.itemData(combo.property("currentIndex"))


def minutes_text(seconds: Optional[float]) -> str:
    """'40 s', '3 min', '2 h 05 min'; empty for None."""
    if seconds is None:
        return ""
    if seconds < 1:
        return "1 s"
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds // 3600:.0f} h {seconds % 3600 // 60:02.0f} min"
