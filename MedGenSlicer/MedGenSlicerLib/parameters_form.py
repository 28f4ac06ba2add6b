"""The parameters of a method as a form: units, ranges, help; the rest under Advanced; Reset."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Optional

import qt
from slicer.i18n import tr as _

from medgen import spec
from medgen.spec import MethodSpec
from MedGenSlicerLib import widgets
from MedGenSlicerLib.panel_state import PanelState

WIDEST = 1e9


class Field:
    """One parameter: `widget`, `show(value)`, `read()`."""

    def __init__(self, parameter: spec.Parameter, changed: Callable[[], None]) -> None:
        self.parameter = parameter
        self.widget = self._make(changed)
        self.widget.setToolTip(tooltip(parameter))

    def _make(self, changed: Callable[[], None]) -> Any:
        p = self.parameter
        if isinstance(p, spec.Bool):
            box = qt.QCheckBox(p.title)
            box.toggled.connect(lambda *_a: changed())
            return box
        if isinstance(p, spec.Choice):
            box = qt.QComboBox()
            widgets.set_combo(box, [(title, value) for value, title in p.options.items()], p.default)
            box.currentIndexChanged.connect(lambda *_a: changed())
            return box
        if isinstance(p, spec.Float):
            return self._number(qt.QDoubleSpinBox(), changed)
        if isinstance(p, spec.Int):
            return self._number(qt.QSpinBox(), changed)
        line = qt.QLineEdit()
        line.editingFinished.connect(lambda *_a: changed())
        return line

    def _number(self, box: Any, changed: Callable[[], None]) -> Any:
        p = self.parameter
        if isinstance(p, spec.Float):
            box.setDecimals(min(6, max(0, math.ceil(-math.log10(p.step)))) if p.step < 1 else 1)
        box.setRange(max(p.minimum, -WIDEST), min(p.maximum, WIDEST))
        box.setSingleStep(p.step)
        box.setKeyboardTracking(False)
        if p.unit:
            box.setSuffix(f" {p.unit}")
        box.valueChanged.connect(lambda *_a: changed())
        return box

    def show(self, value: Any) -> None:
        self.widget.blockSignals(True)
        if isinstance(self.parameter, spec.Bool):
            self.widget.setChecked(value)
        elif isinstance(self.parameter, spec.Choice):
            self.widget.setCurrentIndex(list(self.parameter.options).index(value))
        elif isinstance(self.parameter, (spec.Float, spec.Int)):
            self.widget.setValue(value)
        elif self.widget.property("text") != value:
            self.widget.setText(value)
        self.widget.blockSignals(False)

    def read(self) -> Any:
        if isinstance(self.parameter, spec.Bool):
            return self.widget.isChecked()
        if isinstance(self.parameter, spec.Choice):
            return widgets.combo_data(self.widget)
        return self.widget.property("value" if isinstance(self.parameter, (spec.Float, spec.Int)) else "text")


def tooltip(p: spec.Parameter) -> str:
    text = p.help or p.title
    if isinstance(p, (spec.Float, spec.Int)) and abs(p.minimum) < WIDEST and abs(p.maximum) < WIDEST:
        unit = f" {p.unit}" if p.unit else ""
        text += "\n" + _("From {low:g} to {high:g}{unit}; {default:g} unless changed.").format(
            low=p.minimum, high=p.maximum, unit=unit, default=p.default
        )
    return text


class ParametersForm:
    """Two forms, common and advanced. `changed` is called after the user changed a value."""

    def __init__(self, layout: Any, advanced_layout: Any, changed: Callable[[], None]) -> None:
        self._layouts = {False: layout, True: advanced_layout}
        self._changed = changed
        self.fields: dict[str, Field] = {}
        self.method: Optional[MethodSpec] = None
        self.state: Optional[PanelState] = None

    def build(self, method: MethodSpec, without: Sequence[str] = ()) -> None:
        """without: parameters that another widget of the panel sets."""
        self.method, self.fields = method, {}
        for advanced, layout in self._layouts.items():
            widgets.clear_layout(layout)
            form = qt.QFormLayout()
            form.setFieldGrowthPolicy(qt.QFormLayout.AllNonFixedFieldsGrow)
            form.setContentsMargins(0, 0, 0, 0)
            layout.addLayout(form)
            for parameter in method.parameters:
                if parameter.advanced == advanced and parameter.name not in without:
                    self._add(form, parameter)

    def _add(self, form: Any, parameter: spec.Parameter) -> None:
        field = Field(parameter, lambda: self._edited(parameter.name))
        self.fields[parameter.name] = field
        if isinstance(parameter, spec.Bool):
            form.addRow(field.widget)
        else:
            label = qt.QLabel(parameter.title)
            label.setToolTip(tooltip(parameter))
            form.addRow(label, field.widget)

    def _edited(self, name: str) -> None:
        if self.state is not None and self.method is not None:
            self.state.set_value(self.method, name, self.fields[name].read())
            self._changed()

    def update(self, state: PanelState) -> None:
        self.state = state
        if self.method is not None:
            for name, field in self.fields.items():
                field.show(state.value(self.method, name))
