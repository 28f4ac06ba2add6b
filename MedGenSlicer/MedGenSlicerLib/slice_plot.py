"""How likely each slice is diseased, as a curve: a click goes to that slice, a line tells which one is shown."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Optional

import numpy as np
import qt
from slicer.i18n import tr as _

HEIGHT, MARGIN = 96, 6  # pixels


class SlicePlot(qt.QWidget):
    """`clicked` is called with the number of a slice."""

    def __init__(self, clicked: Callable[[int], None]) -> None:
        qt.QWidget.__init__(self)
        self._clicked = clicked
        self.chances: list[float] = []
        self.shown: Optional[int] = None
        self.setFixedHeight(HEIGHT)
        self.setToolTip(_("P(diseased) from the lowest slice (left) to the highest. Click to go to a slice."))

    def fill(self, chances: list[float], shown: Optional[int]) -> None:
        if chances != self.chances or shown != self.shown:
            self.chances, self.shown = list(chances), shown
            self.update()

    def place(self, number: int) -> tuple[int, int]:
        """Of a slice, in pixels."""
        width = self.property("width") - 2 * MARGIN
        across = MARGIN + width * number / max(1, len(self.chances) - 1)
        return round(across), round(HEIGHT - MARGIN - self.chances[number] * (HEIGHT - 2 * MARGIN))

    def paintEvent(self, _event: Any) -> None:
        painter = qt.QPainter(self)
        painter.setRenderHint(qt.QPainter.Antialiasing)
        width = self.property("width")
        painter.fillRect(0, 0, width, HEIGHT, qt.QColor("#f4f6f8"))
        painter.setPen(qt.QPen(qt.QColor("#c4ccd4")))
        painter.drawLine(MARGIN, HEIGHT // 2, width - MARGIN, HEIGHT // 2)  # as likely as not
        if self.shown is not None and self.shown < len(self.chances):
            across, _down = self.place(self.shown)
            painter.setPen(qt.QPen(qt.QColor("#20242a")))
            painter.drawLine(across, 0, across, HEIGHT)
        pen = qt.QPen(qt.QColor("#c1543c"))
        pen.setWidth(2)
        painter.setPen(pen)
        places = [self.place(number) for number in range(len(self.chances))]
        for start, end in zip(places, places[1:]):
            painter.drawLine(*start, *end)
        if len(places) == 1:
            painter.drawEllipse(places[0][0] - 2, places[0][1] - 2, 4, 4)
        painter.end()

    def mousePressEvent(self, event: Any) -> None:
        if self.chances:
            share = (event.pos().x() - MARGIN) / max(1, self.property("width") - 2 * MARGIN)
            self._clicked(int(np.clip(round(share * (len(self.chances) - 1)), 0, len(self.chances) - 1)))
