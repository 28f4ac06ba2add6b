"""The mixing matrix: a row for each coarse donor, a column for each fine donor, a thumbnail in each cell."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Optional

import numpy as np
import qt
from slicer.i18n import tr as _

from MedGenSlicerLib import thumbnails

LEFT, TOP, CELL, GAP = 56, 18, 66, 2  # pixels
PANEL = 370  # what a panel of 400 px leaves


class MixGrid(qt.QWidget):
    """`picked(row, column)` is called with the cell that was clicked, counted from 0."""

    def __init__(self, picked: Callable[[int, int], None]) -> None:
        qt.QWidget.__init__(self)
        self._picked = picked
        self.donors: tuple[list[str], list[str]] = ([], [])
        self.cells: dict[tuple[int, int], Any] = {}
        self.chosen: Optional[tuple[int, int]] = None
        self.setToolTip(_("Rows give the coarse anatomy (outline, ventricles), columns the fine anatomy (folds). Click "
                          "on a mix to choose its two donors; Apply then makes it in full size."))  # fmt: skip

    def set_donors(self, coarse: list[str], fine: list[str]) -> None:
        """Names of the rows and of the columns; other donors empty the cells."""
        if (coarse, fine) != self.donors:
            self.donors, self.cells = (list(coarse), list(fine)), {}
            self.setFixedHeight(TOP + len(coarse) * self.side() + GAP if coarse and fine else 0)
        self.update()

    def side(self) -> int:
        """Pixels of a cell."""
        columns = max(1, len(self.donors[1]))
        return max(16, min(CELL, (max(PANEL, self.property("width")) - LEFT) // columns))

    def show_cell(self, row: int, column: int, picture: Any) -> None:
        """picture: uint8 [rows, columns]; a cell is square, so black is put beside what is not."""
        short = [max(picture.shape) - n for n in picture.shape]
        picture = np.pad(picture, [(n // 2, n - n // 2) for n in short])
        self.cells[row, column] = thumbnails.pixmap(picture)
        self.update()

    def clear_cells(self) -> None:
        self.cells = {}
        self.update()

    def place(self, row: int, column: int) -> tuple[int, int]:
        """Upper left pixel of a cell."""
        return LEFT + column * self.side(), TOP + row * self.side()

    def paintEvent(self, _event: Any) -> None:
        painter = qt.QPainter(self)
        painter.setRenderHint(qt.QPainter.SmoothPixmapTransform)
        side = self.side()
        middle = int(qt.Qt.AlignCenter)
        painter.setPen(qt.QPen(qt.QColor("#2b4257")))
        for column, name in enumerate(self.donors[1]):
            painter.drawText(LEFT + column * side, 0, side - GAP, TOP, middle, name)
        for row, name in enumerate(self.donors[0]):
            painter.drawText(0, TOP + row * side, LEFT - 4, side, middle | int(qt.Qt.TextWordWrap), name)
            for column in range(len(self.donors[1])):
                self._draw_cell(painter, row, column, side - GAP)
        painter.end()

    def _draw_cell(self, painter: Any, row: int, column: int, side: int) -> None:
        x, y = self.place(row, column)
        painter.fillRect(x, y, side, side, qt.QColor(thumbnails.DARK))
        if (row, column) in self.cells:
            painter.drawPixmap(x, y, side, side, self.cells[row, column])
        if (row, column) == self.chosen:
            pen = qt.QPen(qt.QColor("#e9a23b"))
            pen.setWidth(3)
            painter.setPen(pen)
            painter.drawRect(x + 1, y + 1, side - 2, side - 2)
            painter.setPen(qt.QPen(qt.QColor("#2b4257")))

    def mousePressEvent(self, event: Any) -> None:
        at, side = event.pos(), self.side()
        row, column = (at.y() - TOP) // side, (at.x() - LEFT) // side
        if 0 <= row < len(self.donors[0]) and 0 <= column < len(self.donors[1]):
            self._picked(row, column)
