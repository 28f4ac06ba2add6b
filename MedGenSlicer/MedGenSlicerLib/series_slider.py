"""A slider through the images of a series: a lesion of growing size, the frames of a cine."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Optional

import qt
from slicer.i18n import tr as _

from MedGenSlicerLib import frames, widgets


class SeriesSlider:
    """node: the one that shows an image of the series, if there is a series; changed: called once another is shown,
    whoever chose it."""

    def __init__(self, layout: Any, node: Callable[[], Optional[Any]], changed: Callable[[], None]) -> None:
        self._node, self._changed = node, changed
        self.label = qt.QLabel()
        self.slider = qt.QSlider(qt.Qt.Horizontal)
        self.slider.setToolTip(_("Shows one image of the series after the other, in all views."))
        self.slider.valueChanged.connect(lambda *_a: self._slid())
        layout.addLayout(widgets.row(self.label, self.slider, stretch=1))

    def update(self) -> None:
        """Cheap: called after every change."""
        node = self._node()
        count = frames.frame_count(node) if node is not None else 0
        for each in (self.label, self.slider):
            each.setVisible(count > 1)
        if count < 2:
            return
        number = frames.browser_of(node).GetSelectedItemNumber()
        self.slider.blockSignals(True)
        self.slider.setRange(0, count - 1)
        self.slider.setValue(number)
        self.slider.blockSignals(False)
        words = _("{place} ({n} of {all})").format(place=frames.place_words(node), n=number + 1, all=count)
        words = words[0].upper() + words[1:]
        if self.label.property("text") != words:
            self.label.setText(words)
            self._changed()

    def _slid(self) -> None:
        node = self._node()
        if node is not None:
            frames.browser_of(node).SetSelectedItemNumber(self.slider.property("value"))
            self.update()
