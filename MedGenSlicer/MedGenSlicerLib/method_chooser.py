"""The top of a panel: search and filters, the list of methods, one line about the chosen one, and its card."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Optional

import qt
from slicer.i18n import tr as _

from medgen.spec import MethodSpec
from MedGenSlicerLib import import_dialog, model_card, widgets


class MethodChooser:
    """`chosen` is called with the spec whenever another method is chosen."""

    def __init__(self, layout: Any, methods: Iterable[MethodSpec], chosen: Callable[[MethodSpec], None]) -> None:
        self.methods = {m.id: m for m in methods}
        self._chosen = chosen
        self.current: Optional[MethodSpec] = None
        self.search = qt.QLineEdit()
        self.search.setPlaceholderText(_("Search methods"))
        self.search.setClearButtonEnabled(True)
        self.search.setToolTip(_("Shows only the methods whose title or description contains these words."))
        self.modality = self._filter(_("Any modality"), "modalities", _("Shows only methods for this kind of image."))
        self.body_part = self._filter(_("Any body part"), "body_parts", _("Shows only methods for this body part."))
        layout.addLayout(widgets.row(self.search, self.modality, self.body_part, stretch=0))
        self.list = qt.QComboBox()
        self.list.setToolTip(_("What to do with the image."))
        self.list.setSizePolicy(qt.QSizePolicy.Ignored, qt.QSizePolicy.Fixed)
        self.info = widgets.tool(
            "info",
            _("Shows the card of this method: paper, intended use, training data, known failures."),
            self.show_card,
        )
        self.more = widgets.tool(
            "add",
            _("Add a trained model: an nnU-Net results folder or a MONAI bundle becomes a method."),
            self.ask_for_model,
        )
        layout.addLayout(widgets.row(self.list, self.info, self.more, stretch=0))
        self.summary = widgets.text_label()
        layout.addWidget(self.summary)
        self.search.textChanged.connect(lambda *_a: self._fill())
        self.modality.currentIndexChanged.connect(lambda *_a: self._fill())
        self.body_part.currentIndexChanged.connect(lambda *_a: self._fill())
        self.list.currentIndexChanged.connect(lambda *_a: self._picked())

    def start(self) -> None:
        """Chooses the first method; called once `chosen` can work."""
        self._fill()

    def _filter(self, anything: str, field: str, tooltip: str) -> Any:
        values = sorted({value for method in self.methods.values() for value in getattr(method, field)})
        combo = qt.QComboBox()
        widgets.set_combo(combo, [(anything, ""), *((value, value) for value in values)], "")
        combo.setToolTip(tooltip)
        return combo

    def shown(self) -> list[MethodSpec]:
        """The methods that pass the filters."""
        words = self.search.property("text").lower().split()
        modality, part = widgets.combo_data(self.modality), widgets.combo_data(self.body_part)
        found = []
        for method in self.methods.values():
            text = " ".join((method.title, method.summary, method.id, *method.modalities, *method.body_parts)).lower()
            fits = all(word in text for word in words)
            if fits and (not modality or modality in method.modalities) and (not part or part in method.body_parts):
                found.append(method)
        return found

    def _fill(self) -> None:
        shown = self.shown()
        current = self.current.id if self.current else ""
        widgets.set_combo(self.list, [(m.title, m.id) for m in shown], current)
        if not shown:
            self.list.addItem(_("No method fits: clear the search"), "")
        self.list.setEnabled(bool(shown))
        self._picked()

    def _picked(self) -> None:
        method = self.methods.get(widgets.combo_data(self.list) or "")
        if method is not None and method is not self.current:
            self.current = method
            self.summary.setText(method.summary)
            self._chosen(method)

    def choose(self, method_id: str) -> None:
        """Chooses by id and clears the filters if they hide the method; an unknown id changes nothing."""
        if method_id not in self.methods or (self.current and self.current.id == method_id):
            return
        if self.methods[method_id] not in self.shown():
            self.search.setText("")
            self.modality.setCurrentIndex(0)
            self.body_part.setCurrentIndex(0)
        for index in range(self.list.property("count")):
            if self.list.itemData(index) == method_id:
                self.list.setCurrentIndex(index)

    def ask_for_model(self) -> None:
        import_dialog.show(self.add)

    def add(self, method: MethodSpec) -> None:
        """Takes a method in, or its new version, and chooses it."""
        self.methods[method.id] = method
        self._fill()
        self.choose(method.id)

    def show_card(self) -> None:
        if self.current is not None:
            model_card.show(self.current)
