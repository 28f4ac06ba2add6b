"""The card of a method: what it is for, where it comes from, what its weights were trained on, where it fails."""

from __future__ import annotations

import html
from typing import Any, Optional

import qt
import slicer
from slicer.i18n import tr as _

from medgen import weights
from medgen.errors import BadInput
from medgen.spec import MethodSpec

_open: list[Any] = []  # keeps the dialog alive in PythonQt


def card_of(method: MethodSpec) -> Optional[dict[str, Any]]:
    """The card.json of the method's starter weights, None if it has none."""
    for folder in weights.weights_folders(method.weights_id):
        try:
            return weights.load_card(folder)
        except BadInput:
            continue
    return None


def card_html(method: MethodSpec) -> str:
    e = html.escape
    parts = [f"<h2>{e(method.title)}</h2><p>{e(method.summary)}</p>"]
    parts.append(f"<h3>{_('Intended use')}</h3><p>{e(method.intended_use)}</p>")
    if method.warnings:
        items = "".join(f"<li>{e(w)}</li>" for w in method.warnings)
        parts.append(f"<h3>{_('Warnings')}</h3><ul>{items}</ul>")
    citation = e(method.paper.citation)
    if method.paper.doi:
        citation += f' <a href="https://doi.org/{e(method.paper.doi)}">{_("Open the paper")}</a>'
    parts.append(f"<h3>{_('Paper')}</h3><p>{citation}</p>")
    parts.append(f"<h3>{_('Licence')}</h3><p>{e(method.licence)}</p>")
    card = card_of(method)
    if card:
        parts.append(_weights_html(card))
    elif method.weights:
        parts.append(f"<h3>{_('Weights')}</h3><p>{_('The weights of this method are not installed.')}</p>")
    parts.append(f"<p><small>{e(method.id)}, {_('version')} {e(method.version)}</small></p>")
    return "".join(parts)


def _weights_html(card: dict[str, Any]) -> str:
    e = html.escape
    rows = [
        (_("Trained on"), str(card.get("training_data", ""))),
        (_("Licence of the weights"), str(card.get("licence", ""))),
        (_("Figures on held-out data"), _figures(card.get("figures"))),
        (
            _("Trained with"),
            f"{card.get('command', '')} ({_('seed')} {card.get('seed', '?')}, {card.get('device', '')})",
        ),
    ]
    text = "".join(f"<tr><td><b>{e(name)}&nbsp;</b></td><td>{e(value)}</td></tr>" for name, value in rows if value)
    failures = "".join(f"<li>{e(str(f))}</li>" for f in card.get("known_failures", []))
    parts = [f"<h3>{_('Weights')}</h3><table>{text}</table>"]
    if failures:
        parts.append(f"<h3>{_('Known failures')}</h3><ul>{failures}</ul>")
    return "".join(parts)


def _figures(figures: Any) -> str:
    if isinstance(figures, dict):
        return "; ".join(f"{name}: {_figures(value)}" for name, value in figures.items())
    return f"{figures:.3g}" if isinstance(figures, float) else str(figures or "")


def make_dialog(method: MethodSpec) -> Any:
    dialog = qt.QDialog(slicer.util.mainWindow())
    dialog.setWindowTitle(method.title)
    dialog.resize(520, 560)
    layout = qt.QVBoxLayout(dialog)
    browser = qt.QTextBrowser()
    browser.setOpenExternalLinks(True)
    browser.setHtml(card_html(method))
    layout.addWidget(browser)
    close = qt.QPushButton(_("Close"))
    close.clicked.connect(lambda *_a: dialog.close())
    layout.addWidget(close)
    return dialog


def show(method: MethodSpec) -> None:
    _open[:] = [make_dialog(method)]
    _open[0].show()
