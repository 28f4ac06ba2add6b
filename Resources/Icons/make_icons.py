"""Draws every icon of the extension: `python Resources/Icons/make_icons.py` (needs PySide6)."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
from PySide6 import QtCore, QtGui, QtWidgets

ROOT = Path(__file__).resolve().parents[2]
MODULES = ROOT / "MedGenSlicer"
SMALL = MODULES / "MedGenSlicerLib" / "Resources" / "Icons"
INK, BLUE, TEAL, AMBER, PALE = "#2b4257", "#2f6f9f", "#2a9d8f", "#e9a23b", "#dfeaf2"
Painter = QtGui.QPainter


def pen(painter: Painter, colour: str, width: float) -> None:
    painter.setPen(
        QtGui.QPen(QtGui.QColor(colour), width, QtCore.Qt.SolidLine, QtCore.Qt.RoundCap, QtCore.Qt.RoundJoin)
    )


def fill(painter: Painter, colour: str) -> None:
    painter.setPen(QtCore.Qt.NoPen)
    painter.setBrush(QtGui.QColor(colour))


def draw(path: Path, size: int, work: Callable[[Painter], None]) -> None:
    """`work` paints in a square of 128 units."""
    image = QtGui.QImage(size, size, QtGui.QImage.Format_ARGB32)
    image.fill(QtCore.Qt.transparent)
    painter = Painter(image)
    painter.setRenderHint(Painter.Antialiasing)
    painter.scale(size / 128, size / 128)
    work(painter)
    painter.end()
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(str(path))


def tile(p: Painter, colour: str = BLUE) -> None:
    """The rounded square behind every module's icon."""
    shade = QtGui.QLinearGradient(0, 0, 0, 128)
    shade.setColorAt(0, QtGui.QColor(colour).lighter(125))
    shade.setColorAt(1, QtGui.QColor(colour).darker(115))
    p.setPen(QtCore.Qt.NoPen)
    p.setBrush(shade)
    p.drawRoundedRect(QtCore.QRectF(4, 4, 120, 120), 24, 24)


def head(p: Painter) -> None:
    """An axial slice of a head: skull, brain, midline."""
    fill(p, "#ffffff")
    p.drawEllipse(QtCore.QRectF(30, 20, 68, 88))
    fill(p, "#9db8cc")
    p.drawEllipse(QtCore.QRectF(37, 27, 54, 74))


def extension(p: Painter) -> None:
    tile(p)
    head(p)
    p.save()
    p.setClipRect(QtCore.QRectF(64, 0, 64, 128))
    fill(p, AMBER)
    p.drawEllipse(QtCore.QRectF(37, 27, 54, 74))
    p.restore()
    pen(p, "#ffffff", 4)
    p.drawLine(64, 22, 64, 106)


def segment(p: Painter) -> None:
    tile(p)
    head(p)
    fill(p, TEAL)
    p.drawEllipse(QtCore.QRectF(42, 38, 20, 40))
    fill(p, AMBER)
    p.drawEllipse(QtCore.QRectF(66, 38, 20, 40))
    pen(p, "#ffffff", 3)
    p.setBrush(QtCore.Qt.NoBrush)
    p.drawEllipse(QtCore.QRectF(42, 38, 20, 40))
    p.drawEllipse(QtCore.QRectF(66, 38, 20, 40))


def synthetic_ct(p: Painter) -> None:
    """MR on the left, with bright fat and dark skull, becomes CT on the right."""
    tile(p, "#54488f")
    for left, rings in (
        (True, ("#ffffff", "#20243a", "#b9c6d6", "#8496ab")),
        (False, ("#8f9bab", "#ffffff", "#7d8896", "#6d7887")),
    ):
        p.save()
        p.setClipRect(QtCore.QRectF(0 if left else 66, 0, 62, 128))
        for inset, colour in zip((0, 5, 12, 26), rings):
            fill(p, colour)
            p.drawEllipse(QtCore.QRectF(26 + inset, 16 + inset, 76 - 2 * inset, 96 - 2 * inset))
        p.restore()
    pen(p, AMBER, 4)
    p.drawLine(64, 14, 64, 114)


def ultrasound(p: Painter) -> None:
    """A fan with echoes, and a piece of it filled in."""
    tile(p, "#1f6f78")
    fan = QtGui.QPainterPath()
    fan.moveTo(50, 24)
    fan.lineTo(78, 24)
    fan.lineTo(112, 92)
    fan.quadTo(64, 118, 16, 92)
    fan.closeSubpath()
    fill(p, "#0f2e36")
    p.drawPath(fan)
    p.save()
    p.setClipPath(fan)
    for depth, colour in ((44, "#cfe3e6"), (64, "#8fb4ba"), (84, "#cfe3e6"), (102, "#6f979e")):
        pen(p, colour, 5)
        p.drawArc(QtCore.QRectF(64 - depth, 24 - depth / 2, 2 * depth, 1.5 * depth), 200 * 16, 140 * 16)
    p.restore()
    fill(p, AMBER)
    p.drawEllipse(QtCore.QRectF(52, 56, 26, 22))
    pen(p, "#ffffff", 3)
    p.setBrush(QtCore.Qt.NoBrush)
    p.drawEllipse(QtCore.QRectF(52, 56, 26, 22))


def brain_style(p: Painter) -> None:
    """The outline of one brain, the folds of another."""
    tile(p, "#7a4a86")
    for left, colour in ((True, "#ffffff"), (False, AMBER)):
        p.save()
        p.setClipRect(QtCore.QRectF(0 if left else 64, 0, 64, 128))
        fill(p, colour)
        p.drawEllipse(QtCore.QRectF(28, 20, 72, 88))
        p.restore()
    pen(p, "#7a4a86", 5)
    p.setBrush(QtCore.Qt.NoBrush)
    for x, y, start in ((36, 34, 40), (40, 58, 60), (38, 80, 20), (70, 34, 60), (68, 58, 40), (70, 80, 80)):
        p.drawArc(QtCore.QRectF(x, y, 22, 18), start * 16, 200 * 16)
    pen(p, "#7a4a86", 4)
    p.drawLine(64, 20, 64, 108)


def job_list(p: Painter) -> None:
    tile(p, INK)
    for y, done, colour in ((30, 68, TEAL), (56, 46, AMBER), (82, 18, PALE)):
        fill(p, "#5d7488")
        p.drawRoundedRect(QtCore.QRectF(30, y, 68, 15), 7, 7)
        fill(p, colour)
        p.drawRoundedRect(QtCore.QRectF(30, y, done, 15), 7, 7)


def stack(p: Painter) -> None:
    tile(p, INK)
    for offset, colour in ((0, "#5d7488"), (13, TEAL), (26, PALE)):
        fill(p, colour)
        p.drawRoundedRect(QtCore.QRectF(26 + offset, 26 + offset, 50, 50), 8, 8)


def eye(p: Painter, open_: bool) -> None:
    pen(p, INK if open_ else "#9aa7b2", 9)
    shape = QtGui.QPainterPath(QtCore.QPointF(12, 64))
    shape.quadTo(64, 6 if open_ else 116, 116, 64)
    if open_:
        shape.quadTo(64, 122, 12, 64)
    p.setBrush(QtCore.Qt.NoBrush)
    p.drawPath(shape)
    if open_:
        fill(p, BLUE)
        p.drawEllipse(QtCore.QPointF(64, 64), 19, 19)


def letter(p: Painter, colour: str, text: str) -> None:
    fill(p, colour)
    p.drawEllipse(QtCore.QRectF(10, 10, 108, 108))
    font = QtGui.QFont("DejaVu Sans")
    font.setPixelSize(80)
    font.setBold(True)
    p.setFont(font)
    p.setPen(QtGui.QColor("#ffffff"))
    p.drawText(QtCore.QRectF(0, 0, 128, 124), QtCore.Qt.AlignCenter, text)


def warning(p: Painter, colour: str = AMBER) -> None:
    fill(p, colour)
    pen(p, colour, 12)
    p.drawPolygon([QtCore.QPointF(64, 16), QtCore.QPointF(116, 112), QtCore.QPointF(12, 112)])
    pen(p, INK, 12)
    p.drawLine(64, 48, 64, 76)
    p.drawPoint(64, 98)


def synthetic(p: Painter) -> None:
    warning(p, "#d1495b")


def sign(p: Painter, plus: bool) -> None:
    pen(p, TEAL if plus else "#8895a0", 16)
    p.drawLine(28, 64, 100, 64)
    if plus:
        p.drawLine(64, 28, 64, 100)


def cube(p: Painter) -> None:
    pen(p, INK, 8)
    p.setBrush(QtGui.QColor("#b9d3e4"))
    front = [(64, 12), (110, 36), (110, 92), (64, 116), (18, 92), (18, 36)]
    p.drawPolygon([QtCore.QPointF(x, y) for x, y in front])
    p.drawPolyline([QtCore.QPointF(x, y) for x, y in ((18, 36), (64, 60), (110, 36))])
    p.drawLine(64, 60, 64, 116)


def main() -> None:
    _app = QtWidgets.QApplication([])
    draw(ROOT / "Resources" / "Icons" / "MedGenSlicer.png", 128, extension)
    modules = {
        "Segment": segment,
        "SyntheticCT": synthetic_ct,
        "Ultrasound": ultrasound,
        "BrainStyle": brain_style,
        "Jobs": job_list,
        "Batch": stack,
    }
    for module, work in ((f"MedGen{name}", work) for name, work in modules.items()):
        draw(MODULES / module / "Resources" / "Icons" / f"{module}.png", 128, work)
    small = {
        "eye_on": lambda p: eye(p, True),
        "eye_off": lambda p: eye(p, False),
        "info": lambda p: letter(p, BLUE, "i"),
        "warning": warning,
        "synthetic": synthetic,
        "add": lambda p: sign(p, True),
        "remove": lambda p: sign(p, False),
        "cube": cube,
    }
    for name, work in small.items():
        draw(SMALL / f"{name}.png", 48, work)


if __name__ == "__main__":
    main()
