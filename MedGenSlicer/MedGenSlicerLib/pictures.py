"""Flat results, stills and cines, as files: 8-bit frames, and the area that was filled in beside them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Optional

import numpy as np
import SimpleITK as sitk
import slicer

from MedGenSlicerLib import frames, node_bridge, provenance, steps


def is_picture(node: Any) -> bool:
    """A flat image that MedGen made."""
    data = node.GetImageData()
    return data is not None and data.GetDimensions()[2] == 1 and provenance.made_by_medgen(node)


def frame_images(node: Any) -> list[sitk.Image]:
    """Every frame of a cine, or the still, in its own coordinates."""
    return steps.finish(node_bridge.sequence_steps(node))


def whole_image(node: Any) -> sitk.Image:
    """All frames of a cine as the slices of one image, 1 mm apart; any other volume as it is shown."""
    if frames.frame_count(node) < 2 or node.GetImageData().GetDimensions()[2] > 1:
        return node_bridge.volume_image(node)
    found = frame_images(node)
    joined = sitk.JoinSeries([image[:, :, 0] for image in found])
    joined.SetOrigin(found[0].GetOrigin())
    joined.SetDirection(found[0].GetDirection())
    return joined


def eight_bits(image: sitk.Image) -> sitk.Image:
    """The flat image [w, h], uint8; fractions up to 1 become 0 to 255."""
    values = sitk.GetArrayViewFromImage(image)[0].astype(np.float32)
    scale = 255.0 if values.max(initial=0) <= 1 else 1.0
    made = sitk.GetImageFromArray(np.clip(np.rint(values * scale), 0, 255).astype(np.uint8), isVector=values.ndim == 3)
    made.SetSpacing(image.GetSpacing()[:2])
    return made


def stack(node: Any) -> sitk.Image:
    """Frames [w, h, n], uint8, as `medgen export picture` takes them."""
    return sitk.JoinSeries([eight_bits(image) for image in frame_images(node)])


def filled_of(node: Any) -> Optional[Any]:
    """The segmentation of what the same run filled in; None for a run that filled nothing."""
    time = node.GetAttribute(provenance.PREFIX + "time")
    for each in slicer.util.getNodesByClass("vtkMRMLSegmentationNode"):
        same = each.GetAttribute(provenance.PREFIX + "time") == time
        if time and same and each.GetAttribute(provenance.PREFIX + "output") == "filled":
            return each
    return None


def filled_mask(node: Any) -> Optional[np.ndarray]:
    """bool [h, w] on the frame's pixels."""
    filled = filled_of(node)
    if filled is None or filled is node:
        return None
    return sitk.GetArrayFromImage(node_bridge.label_image(filled, node))[0] > 0


def filled_words(node: Any) -> str:
    """How much was filled in, and where, for the header of what is exported."""
    mask = filled_mask(node) if node.IsA("vtkMRMLScalarVolumeNode") and is_picture(node) else None
    if mask is None or not mask.any():
        return ""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    box = f"rows {rows[0] + 1} to {rows[-1] + 1}, columns {columns[0] + 1} to {columns[-1] + 1}"
    return f"{int(mask.sum())} pixels invented ({100 * mask.mean():.1f} % of the frame), {box}"


def write_mask(node: Any, path: Path) -> None:
    """The filled area as a PNG, 255 where something was invented; nothing where the run filled nothing."""
    mask = filled_mask(node)
    if mask is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        sitk.WriteImage(sitk.GetImageFromArray(mask.astype(np.uint8) * 255), str(path))


def write_pngs(node: Any, folder: Path) -> None:
    """frame_0001.png and on, and filled.png."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, image in enumerate(frame_images(node)):
        sitk.WriteImage(eight_bits(image), str(folder / f"frame_{number + 1:04d}.png"))
    write_mask(node, folder / "filled.png")
