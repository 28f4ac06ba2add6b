"""Small pictures of volumes for a panel, from numpy to Qt by way of PNG (PythonQt has no other)."""

from __future__ import annotations

import struct
import zlib
from typing import Any, Optional

import numpy as np
import qt
import SimpleITK as sitk

DARK = "#14181d"


def png(picture: np.ndarray) -> bytes:
    """uint8 [rows, columns] (grey) or [rows, columns, 3] (RGB) as a PNG file."""
    rows, columns = picture.shape[:2]
    lines = np.ascontiguousarray(picture).reshape(rows, -1)
    raw = np.hstack([np.zeros((rows, 1), np.uint8), lines]).tobytes()  # each line: no filter

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", columns, rows, 8, 2 if picture.ndim == 3 else 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(raw, 1)) + chunk(b"IEND", b"")


def pixmap(picture: np.ndarray) -> Any:
    made = qt.QPixmap()
    made.loadFromData(png(picture))
    return made


def window(image: sitk.Image) -> tuple[float, float]:
    """Lowest and highest intensity to show: from the darkest to the 99.5th percentile."""
    values = sitk.GetArrayViewFromImage(image)
    sample = values[:: max(1, values.shape[0] // 32)]
    low, high = float(values.min()), float(np.percentile(sample, 99.5))
    return low, max(high, low + 1e-6)


def grey(plane: np.ndarray, low: float, high: float) -> np.ndarray:
    return np.clip(np.rint((plane.astype(np.float32) - low) * (255 / (high - low))), 0, 255).astype(np.uint8)


def axial(image: sitk.Image, limits: Optional[tuple[float, float]] = None) -> np.ndarray:
    """The middle axial slice as radiologists look at it, uint8."""
    upright = _upright(image)
    values = sitk.GetArrayViewFromImage(upright)
    return grey(values[values.shape[0] // 2], *(limits or window(image)))


def three_planes(image: sitk.Image, limits: Optional[tuple[float, float]] = None) -> np.ndarray:
    """The middle axial, coronal and sagittal slices beside each other, uint8, of one voxel size."""
    upright = _upright(image)  # the view below needs it to stay
    values = sitk.GetArrayViewFromImage(upright)
    k, j, i = (n // 2 for n in values.shape)
    planes = [values[k], values[::-1, j], values[::-1, :, i]]
    height = max(plane.shape[0] for plane in planes)
    limits = limits or window(image)
    padded = []
    for plane in planes:
        above = (height - plane.shape[0]) // 2
        padded.append(np.pad(grey(plane, *limits), ((above, height - plane.shape[0] - above), (1, 1))))
    return np.hstack(padded)


def _upright(image: sitk.Image) -> sitk.Image:
    """Axes towards left, posterior, superior; a single slice stays as it is."""
    return sitk.DICOMOrient(image, "LPS") if image.GetDimension() == 3 and min(image.GetSize()) > 1 else image


class Picture(qt.QWidget):
    """A picture, as large as its place allows, or a sentence, on black."""

    def __init__(self, height: int, tooltip: str) -> None:
        qt.QWidget.__init__(self)
        self.setFixedHeight(height)
        self.setToolTip(tooltip)
        self.sentence = ""
        self.shape = (1, 1)
        self._drawn: Any = None

    def show_array(self, picture: np.ndarray) -> None:
        self._drawn, self.shape, self.sentence = pixmap(picture), picture.shape[:2], ""
        self.update()

    def say(self, sentence: str) -> None:
        self._drawn, self.sentence = None, sentence
        self.update()

    def empty(self) -> bool:
        return self._drawn is None

    def paintEvent(self, _event: Any) -> None:
        width, height = self.property("width"), self.property("height")
        painter = qt.QPainter(self)
        painter.fillRect(0, 0, width, height, qt.QColor(DARK))
        if self._drawn is not None:
            painter.setRenderHint(qt.QPainter.SmoothPixmapTransform)
            scale = min(width / self.shape[1], height / self.shape[0])
            across, down = max(1, round(self.shape[1] * scale)), max(1, round(self.shape[0] * scale))
            painter.drawPixmap((width - across) // 2, (height - down) // 2, across, down, self._drawn)
        else:
            painter.setPen(qt.QColor("#c9d2da"))
            flags = int(qt.Qt.AlignCenter) | int(qt.Qt.TextWordWrap)
            painter.drawText(8, 0, max(1, width - 16), height, flags, self.sentence)
        painter.end()
