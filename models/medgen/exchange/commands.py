"""`medgen export ...`, `medgen import ...`: the clinic's formats and other people's models, from the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console

from medgen.errors import BadInput
from medgen.spec import Label

if TYPE_CHECKING:  # heavy, and every command of medgen loads this file
    import SimpleITK as sitk

    from medgen.exchange.reading import Series

export_app = typer.Typer(help="Write results as DICOM: SEG, RTSTRUCT, CT series, parametric map, ultrasound.")
Result = Annotated[Path, typer.Argument(help="What a method made: NIfTI, NRRD, .seg.nrrd or PNG.")]
Reference = Annotated[Path, typer.Option("--reference", "-r", help="The DICOM folder of the source image.")]
Out = Annotated[Path, typer.Option("--out", "-o", help="The file to write; a folder for a CT series.")]
Provenance = Annotated[
    Path | None, typer.Option(help="JSON that a run wrote beside its outputs: who made this and how.")
]
Edited = Annotated[bool, typer.Option(help="The segments were corrected by hand: marked SEMIAUTOMATIC.")]
Names = Annotated[bool, typer.Option("--tg263", help="Name the segments as AAPM TG-263 suggests.")]


def _reference(folder: Path, image: sitk.Image) -> Series:
    """The series of the folder that the image was made from: the only one, or the only one with its grid."""
    from medgen.exchange.reading import read_dicom_folder

    found = read_dicom_folder(folder)
    if len(found) > 1:
        same = [s for s in found if s.stack is not None and s.stack.size == image.GetSize()]
        if len(same) != 1:
            names = ", ".join(f"'{s.description or s.uid}'" for s in found[:6])
            raise BadInput(f"'{folder}' holds {len(found)} images ({names}); give a folder with the source alone.")
        found = same
    return found[0]


def _provenance(path: Path | None, result: Path) -> dict[str, Any]:
    path = path or result.parent / "provenance.json"
    if not path.is_file():
        return {}
    try:
        return dict(json.loads(path.read_text("utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise BadInput(f"'{path}' is no provenance file.") from error


def _warn(kind: Any, image: sitk.Image, reference: Series, labels: tuple[Label, ...] = ()) -> None:
    from medgen.exchange import preflight

    console = Console(stderr=True)
    for finding in preflight.check(kind, image, reference, labels):
        if finding.level == preflight.DOUBTFUL:
            console.print(f"Doubtful: {finding.sentence} {finding.fix}", markup=False)


def _segments(mask: Path, names: bool) -> tuple[sitk.Image, tuple[Label, ...]]:
    from dataclasses import replace

    from medgen.exchange.roi_names import suggest_all
    from medgen.exchange.segmentation_file import read_segmentation

    image, labels = read_segmentation(mask)
    if names:
        labels = tuple(replace(x, name=name) for x, name in zip(labels, suggest_all(list(labels)), strict=True))
    return image, labels


@export_app.command()
def seg(
    mask: Result, reference: Reference, out: Out, provenance: Provenance = None, edited: Edited = False,
    tg263: Names = False,
) -> None:  # fmt: skip
    """A DICOM Segmentation with coded segments."""
    from medgen.exchange.seg import export_seg

    image, labels = _segments(mask, tg263)
    series = _reference(reference, image)
    if series.stack is None and image.GetDimension() == 3 and image.GetSize()[2] == 1:
        image = image[:, :, 0]  # of a picture, which has no place in the patient
    _warn("seg", image, series, labels)
    print(export_seg(image, labels, series, out, _provenance(provenance, mask), edited=edited))


@export_app.command()
def rtstruct(
    mask: Result, reference: Reference, out: Out, provenance: Provenance = None, edited: Edited = False,
    tg263: Names = False,
) -> None:  # fmt: skip
    """An RT Structure Set for planning: contours on axial slices."""
    from medgen.exchange.rtstruct import export_rtstruct

    image, labels = _segments(mask, tg263)
    series = _reference(reference, image)
    _warn("rtstruct", image, series, labels)
    for sentence in export_rtstruct(image, labels, series, out, _provenance(provenance, mask), edited=edited):
        Console(stderr=True).print(sentence, markup=False)
    print(out)


@export_app.command()
def ct(
    volume: Result,
    reference: Reference,
    out: Out,
    provenance: Provenance = None,
    unit: Annotated[Literal["HU", "SPR"], typer.Option(help="What the values are.")] = "HU",
    scale: Annotated[
        Literal["spr", "times", "relative"],
        typer.Option(help="How SPR is written: as it is (water 1), 1000 x SPR, or 1000 x (SPR - 1)."),
    ] = "spr",
    axial: Annotated[bool, typer.Option(help="Resample to axial slices first.")] = False,
    new_frame: Annotated[bool, typer.Option(help="Give a new frame of reference.")] = False,
) -> None:
    """A synthetic CT as a CT series."""
    from medgen.exchange.series import export_ct

    if any(out.glob("*.dcm")):  # the slices of two series in one folder are read as two, or as a mixture
        raise BadInput(f"'{out}' holds DICOM files already; choose another folder.")
    image = _volume(volume)
    series = _reference(reference, image)
    _warn("ct" if unit == "HU" else "map", image, series)
    facts = _provenance(provenance, volume)
    files = export_ct(image, series, out, facts, unit=unit, scale=scale, axial=axial, new_frame_of_reference=new_frame)
    print(f"{out} ({len(files)} slices)")


@export_app.command("map")
def parametric_map(volume: Result, reference: Reference, out: Out, provenance: Provenance = None) -> None:
    """Stopping power as a DICOM Parametric Map."""
    from medgen.exchange.series import export_parametric_map

    image = _volume(volume)
    series = _reference(reference, image)
    _warn("map", image, series)
    print(export_parametric_map(image, series, out, _provenance(provenance, volume)))


@export_app.command()
def picture(
    image: Result,
    reference: Reference,
    out: Out,
    provenance: Provenance = None,
    description: Annotated[
        str, typer.Option(help="What was done: 'inpainted', 'restyled'; put before the source's.")
    ] = "",
) -> None:
    """A generated picture or cine, as ultrasound or secondary capture."""
    from medgen.exchange.series import export_picture

    value = _volume(image)
    series = _reference(reference, value)
    frames = [value[:, :, k] for k in range(value.GetSize()[2])] if value.GetDimension() == 3 else value
    if isinstance(frames, list) and not isinstance(series.image, list):
        frames = frames[0]  # a still, saved as a volume of one slice
    words = f"{description} {series.description}".strip() if description else ""
    print(export_picture(frames, series, out, _provenance(provenance, image), description=words))


@export_app.command("training-set")
def training_set(
    batch: Annotated[Path, typer.Argument(help="What `medgen batch` wrote for labelled frames.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder to write the pairs and manifest.csv into.")],
    sources: Annotated[
        Path | None, typer.Option(help="The table of the batch: DICOM sources give derived DICOM and SEG.")
    ] = None,
) -> None:
    """Generated pictures with their labels, as pairs with a manifest."""
    from medgen.exchange.training_set import write_training_set

    print(write_training_set(batch, out, sources))


def _volume(path: Path) -> sitk.Image:
    import SimpleITK as sitk

    try:
        return sitk.ReadImage(str(path))
    except RuntimeError as error:
        raise BadInput(f"'{path}' cannot be read as an image.") from error


# ---------------------------------------------------------------------------------------------------------- import

import_app = typer.Typer(help="Add a trained model of other people to the catalogue: nnU-Net v2, MONAI bundles.")


@import_app.command()
def nnunet(
    folder: Annotated[
        Path, typer.Argument(help="A results folder: dataset.json, plans.json, fold_*/checkpoint_*.pth.")
    ],
) -> None:
    """An nnU-Net v2 results folder becomes a method; its checkpoints are read as plain tensors."""
    from medgen.exchange.nnunet_import import import_nnunet

    print(import_nnunet(folder).id)


@import_app.command()
def monai(
    bundle: Annotated[Path, typer.Argument(help="A bundle: a folder, or a zip.")],
    agree: Annotated[
        str | None, typer.Option(help="The bundle's hash: you trust the code in its configuration.")
    ] = None,
) -> None:
    """A MONAI bundle becomes a method, once you have agreed to exactly this bundle."""
    from medgen.exchange.monai_import import import_monai

    print(import_monai(bundle, agree).id)
