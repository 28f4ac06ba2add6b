"""`qt` and `ctk` as PythonQt presents them, from PySide6."""

from __future__ import annotations

import types

from PySide6 import QtCore, QtGui, QtWidgets


def qt() -> types.ModuleType:
    module = types.ModuleType("qt")
    for source in (QtCore, QtGui, QtWidgets):
        module.__dict__.update({name: getattr(source, name) for name in dir(source) if not name.startswith("_")})
    return module


def ctk() -> types.ModuleType:
    module = types.ModuleType("ctk")
    module.ctkCollapsibleButton = CollapsibleButton
    return module


class CollapsibleButton(QtWidgets.QWidget):
    """ctkCollapsibleButton: a header button that folds what its layout holds."""

    contentsCollapsed = QtCore.Signal(bool)

    def __init__(self, text: str = "", parent=None):
        super().__init__(parent)
        self._button = QtWidgets.QToolButton(self)
        self._button.setText(text)
        self._button.setToolButtonStyle(QtCore.Qt.ToolButtonTextBesideIcon)
        self._button.setSizePolicy(QtWidgets.QSizePolicy.Expanding, QtWidgets.QSizePolicy.Fixed)
        self._button.clicked.connect(lambda *_: self.setCollapsed(not self._collapsed))
        self._collapsed = False
        self.setContentsMargins(0, self._button.sizeHint().height() + 2, 0, 0)
        self._show_arrow()

    def resizeEvent(self, event):
        self._button.setGeometry(0, 0, self.width(), self._button.sizeHint().height())
        super().resizeEvent(event)

    def childEvent(self, event):
        super().childEvent(event)
        child = event.child()
        if event.added() and isinstance(child, QtWidgets.QWidget) and getattr(self, "_collapsed", False):
            child.hide()

    def _show_arrow(self):
        self._button.setArrowType(QtCore.Qt.RightArrow if self._collapsed else QtCore.Qt.DownArrow)

    def setText(self, text: str):
        self._button.setText(text)

    def _get_text(self) -> str:
        return self._button.text()

    def setCollapsed(self, collapsed: bool):
        if collapsed == self._collapsed:
            return
        self._collapsed = collapsed
        for child in self.children():
            if isinstance(child, QtWidgets.QWidget) and child is not self._button:
                child.setVisible(not collapsed)
        self.setMaximumHeight(self._button.sizeHint().height() + 4 if collapsed else 16777215)
        self._show_arrow()
        self.contentsCollapsed.emit(collapsed)

    def _get_collapsed(self) -> bool:
        return self._collapsed

    collapsed = QtCore.Property(bool, _get_collapsed, setCollapsed)
    text = QtCore.Property(str, _get_text, setText)
