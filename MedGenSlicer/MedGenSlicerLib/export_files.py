"""What a result can be written as, what speaks against it, and the writing. DICOM is made by `medgen export` in the
worker's Python; the other formats here."""

from __future__ import annotations

import csv
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional

import SimpleITK as sitk
import slicer
from slicer.i18n import tr as _

from medgen.errors import BadInput, MedGenError
from MedGenSlicerLib import correction, densities, frames, node_bridge, pictures, provenance
from MedGenSlicerLib.geometry import FrameChange, set_grid


@dataclass(frozen=True)
class Format:
    """command: of `medgen export` for DICOM, '' for a plain file; ending: of the file, '' for a folder; scale: of a
    stopping-power map, as `medgen export ct --scale` takes it."""

    id: str
    title: str
    ending: str
    command: str = ""
    scale: str = ""


def formats(node: Any) -> list[Format]:
    """Empty if the node has no file format of its own."""
    if node.IsA("vtkMRMLSegmentationNode"):
        return [
            Format("seg", _("DICOM Segmentation (SEG)"), ".dcm", "seg"),
            Format("rtstruct", _("RT structure set for planning (RTSTRUCT)"), ".dcm", "rtstruct"),
            Format("nifti", _("NIfTI label map"), ".nii.gz"),
            Format("segnrrd", _("Segmentation file with names and codes"), ".seg.nrrd"),
        ]
    if node.IsA("vtkMRMLScalarVolumeNode"):
        unit = node.GetAttribute("MedGen.unit") if densities.is_density(node) else None
        dicom = {"HU": [Format("ct", _("DICOM CT series"), "", "ct")], "SPR": _spr_formats()}.get(unit or "", [])
        dicom += _picture_formats() if pictures.is_picture(node) else []
        return [*dicom, Format("nifti", _("NIfTI image"), ".nii.gz"), Format("nrrd", _("NRRD image"), ".nrrd")]
    if node.IsA("vtkMRMLTableNode") or node.IsA("vtkMRMLPlotChartNode"):
        return [Format("csv", _("Table (CSV)"), ".csv")]
    if node.IsA("vtkMRMLMarkupsNode"):
        return [Format("markups", _("Markups file"), ".mrk.json")]
    return []


def _picture_formats() -> list[Format]:
    return [
        Format("picture", _("DICOM ultrasound or secondary capture, derived"), ".dcm", "picture"),
        Format("png", _("PNG pictures, one a frame, and the filled area"), ""),
    ]


def _spr_formats() -> list[Format]:
    """Each planning system wants SPR in its own scale: the user chooses, nothing is guessed."""
    return [
        Format("ct_spr", _("DICOM CT series of SPR (water = 1)"), "", "ct", "spr"),
        Format("ct_times", _("DICOM CT series of 1000 x SPR (water = 1000)"), "", "ct", "times"),
        Format("ct_relative", _("DICOM CT series of 1000 x (SPR - 1) (water = 0)"), "", "ct", "relative"),
        Format("map", _("DICOM Parametric Map of SPR"), ".dcm", "map"),
    ]


def file_name(node: Any, chosen: Format) -> str:
    stem = re.sub(r"[^\w-]+", "_", f"{node.GetName()} {_one_of_several(node)}").strip("_") or "result"
    return f"{stem}_{chosen.id}{chosen.ending}" if chosen.command else stem + chosen.ending


def _one_of_several(node: Any) -> str:
    """Which frame is written; empty where all there is is written, as of a cine."""
    volume = node.IsA("vtkMRMLScalarVolumeNode") and not pictures.is_picture(node)
    return frames.place_words(node) if volume else ""


def dicom_folder(node: Any) -> Optional[Path]:
    """Where the files of the source series lie, if it was loaded from the DICOM database."""
    reference = provenance.reference_of(node)
    uids = (reference.GetAttribute("DICOM.instanceUIDs") or "").split() if reference is not None else []
    database = getattr(slicer, "dicomDatabase", None)
    if not uids or database is None:
        return None
    path = database.fileForInstance(uids[0])
    return Path(path).parent if path else None


def findings(node: Any, chosen: Format, source: Optional[Path]) -> list[tuple[bool, str]]:
    """(stops the export, sentence) of everything that is missing or doubtful."""
    found: list[tuple[bool, str]] = []
    if chosen.command and source is None:
        found.append((True, _("Choose the folder with the DICOM files of the source image.")))
    if node.IsA("vtkMRMLSegmentationNode"):
        found += _segment_findings(node, bool(chosen.command))
    if provenance.is_synthetic(node):
        found.append((False, _("The image is synthetic and will be marked so in every file.")))
        found += [(False, sentence) for sentence in _density_sentences(node, chosen)]
    if _one_of_several(node):
        found.append(
            (False, _("Only the image that is shown is written: {which}.").format(which=_one_of_several(node)))
        )
    if chosen.command and node.IsA("vtkMRMLTransformableNode") and node.GetParentTransformNode() is not None:
        words = _("The transform '{name}' is not written: DICOM files lie where the source series lies.")
        found.append((False, words.format(name=node.GetParentTransformNode().GetName())))
    if not chosen.command and node.IsA("vtkMRMLTransformableNode") and FrameChange(node, None).matrix is None:
        found.append((True, _("The result lies under a deformable transform: harden it first (Transforms module).")))
    return found


def _density_sentences(node: Any, chosen: Format) -> list[str]:
    """What a planner must know of the numbers: their scale, and which of them were set by hand."""
    words = _("'{segment}' ({ml:g} ml) was set to {value:g} {unit} by hand.")
    found = [words.format(**each) for each in densities.overrides(node)]
    if chosen.scale:
        found.append(_("Check that your planning system reads CT numbers as this scale of SPR."))
    if not chosen.command:
        found.append(_("NIfTI and NRRD files cannot carry the mark: keep the word 'synthetic' in the file's name."))
    return found


def _segment_findings(node: Any, dicom: bool) -> list[tuple[bool, str]]:
    segmentation = node.GetSegmentation()
    if segmentation.GetNumberOfSegments() == 0:
        return [(True, _("The segmentation has no segment."))]
    found = []
    tag = slicer.vtkSegment.GetTerminologyEntryTagName()
    empty = _empty_segments(node)
    if dicom and len(empty) == segmentation.GetNumberOfSegments():
        return [(True, _("Every segment is empty."))]
    for segment_id in segmentation.GetSegmentIDs():
        segment = segmentation.GetSegment(segment_id)
        name = segment.GetName()
        if segment_id in empty:
            words = _("'{name}' is empty and will be left out.") if dicom else _("'{name}' is empty.")
            found.append((False, words.format(name=name)))
            continue
        if dicom and len(name) > 64:
            found.append((True, _("The name '{name}' is longer than 64 characters.").format(name=name)))
        if dicom and not (segment.HasTag(tag) if hasattr(segment, "HasTag") else True):
            found.append((False, _("'{name}' has no code: it will be written as tissue.").format(name=name)))
    if correction.edited(node):
        found.append((False, _("Corrected by hand: will be marked semi-automatic.")))
    if dicom and provenance.of_synthetic_image(node):
        found.append(
            (False, _("They belong to a synthetic image, not validated for treatment, and will be marked so."))
        )
    return found


def _empty_segments(node: Any) -> list[str]:
    """Their ids; of a result that nobody corrected as it told when it was made."""
    made = {} if correction.edited(node) else correction.volumes_when_made(node)
    ids = list(node.GetSegmentation().GetSegmentIDs())
    return [i for i in ids if (made[i] if i in made else correction.millilitres(node, i)) == 0]


# ------------------------------------------------------------------------------------------------------------- writing


def write_plain(node: Any, chosen: Format, path: Path) -> None:
    """In world coordinates: a linear parent transform goes into the file. Raises MedGenError."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if chosen.id == "csv":
            _write_csv(node, path)
        elif chosen.id in ("segnrrd", "markups"):
            write_with_storage(node, path)
        elif chosen.id == "png":
            pictures.write_pngs(node, path)
        else:
            segmentation = node.IsA("vtkMRMLSegmentationNode")
            image = node_bridge.label_image(node) if segmentation else pictures.whole_image(node)
            matrix = FrameChange(node, None).matrix
            if matrix is None:
                raise BadInput(_("A result under a deformable transform cannot be written; harden it first."))
            from MedGenSlicerLib.geometry import ijk_to_ras

            set_grid(image, matrix @ ijk_to_ras(image))
            sitk.WriteImage(image, str(path))
    except (OSError, RuntimeError) as error:
        raise MedGenError(_("'{path}' could not be written: {error}").format(path=path, error=error)) from None


def _write_csv(node: Any, path: Path) -> None:
    """A table, or the one that a chart draws."""
    columns = node_bridge.table(
        node.GetNthPlotSeriesNode(0).GetTableNode() if node.IsA("vtkMRMLPlotChartNode") else node
    )
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(zip(*columns.values()))


def write_with_storage(node: Any, path: Path) -> None:
    """With the node's own storage class, without leaving a storage node or a new file name behind."""
    if node.IsA("vtkMRMLSegmentationNode"):  # which need not be in the scene
        storage = slicer.vtkMRMLSegmentationStorageNode()
    else:
        storage = node.CreateDefaultStorageNode()
        storage.UnRegister(None)
    storage.SetFileName(str(path))
    if not storage.WriteData(node):
        raise RuntimeError(_("Slicer refused to write it"))


def provenance_facts(node: Any) -> dict[str, Any]:
    """As the worker gave it, from the node's attributes."""
    facts: dict[str, Any] = {}
    for key in provenance.PLAIN:
        value = node.GetAttribute(provenance.PREFIX + key)
        if value:
            facts[key] = int(value) if key == "seed" else value
    facts["parameters"] = json.loads(node.GetAttribute(provenance.PREFIX + "parameters") or "{}")
    facts["started_utc"] = node.GetAttribute(provenance.PREFIX + "time") or ""
    if densities.overrides(node):  # first: the text in the header may be cut off
        by_hand = [f"{each['segment']} = {each['value']:g} {each['unit']}" for each in densities.overrides(node)]
        facts["parameters"] = {"set by hand": by_hand, **facts["parameters"]}
    if pictures.filled_words(node):
        facts["parameters"] = {"filled area": pictures.filled_words(node), **facts["parameters"]}
    if node.IsA("vtkMRMLSegmentationNode") and provenance.of_synthetic_image(node):
        facts["of_synthetic_image"] = True
    facts["notices"] = provenance.notices(node)
    return facts


def dicom_arguments(node: Any, chosen: Format, source: Path, out: Path, folder: Path) -> list[str]:
    """Writes what `medgen export` needs into `folder` (own frame: that of the source series) and returns its
    arguments."""
    folder.mkdir(parents=True, exist_ok=True)
    if node.IsA("vtkMRMLSegmentationNode"):
        result = folder / "result.seg.nrrd"
        whole = slicer.vtkMRMLSegmentationNode()  # not of the scene
        whole.GetSegmentation().DeepCopy(node.GetSegmentation())
        for segment_id in _empty_segments(node):
            whole.GetSegmentation().RemoveSegment(segment_id)
        write_with_storage(whole, result)
    elif chosen.command == "picture":
        result = folder / "result.nrrd"
        sitk.WriteImage(pictures.stack(node), str(result))
        pictures.write_mask(node, out.with_name(f"{out.stem}_filled.png"))
    else:
        result = folder / "result.nrrd"
        sitk.WriteImage(node_bridge.volume_image(node), str(result))
    facts = folder / "provenance.json"
    facts.write_text(json.dumps(provenance_facts(node)), encoding="utf-8")
    arguments = ["export", chosen.command, str(result), "-r", str(source), "-o", str(out), "--provenance", str(facts)]
    if chosen.command == "picture":
        arguments += ["--description", node.GetAttribute(provenance.PREFIX + "output") or "derived"]
    elif chosen.command == "ct":
        arguments += ["--unit", node.GetAttribute("MedGen.unit") or "HU"]
        arguments += ["--scale", chosen.scale] if chosen.scale else []
    elif node.IsA("vtkMRMLSegmentationNode") and correction.edited(node):
        arguments.append("--edited")
    return arguments
