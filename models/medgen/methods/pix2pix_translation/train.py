"""Training both directions: `medgen train pix2pix_mr_to_ct --data DIR -o DIR` writes mr_to_ct/ and ct_to_mr/.

DIR holds whole-head label maps (numbered; 1 to 14 are learnt from), from which MR, stand-in and CT are rendered, the
CTs always shown beside other heads' MR; real CTs (.nii.gz) join them from a folder `ct` in it. Or DIR holds no label
maps but the folders mr, standin (same file names, aligned; a bulk-density CT, say) and ct (any patients), .nii.gz.
The baselines `--config pix2pix` and `--config cyclegan` train as `small` does; CycleGAN needs no folder standin.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk
import torch

from medgen.errors import BadInput
from medgen.imaging.bulk_density import BONE_HU, FAT_HU, bulk_density
from medgen.imaging.foreground import foreground_mask
from medgen.imaging.geometry import canonical, crop_to_mask, from_array, pad, to_array
from medgen.imaging.phantoms import (
    TRAIN_HEADS,
    Scan,
    crop_to_head,
    numbered_maps,
    part_fat,
    read_head,
    render_ct,
    render_mr,
)
from medgen.imaging.phantoms import resample_labels as phantom_labels
from medgen.imaging.phantoms.render import SEQUENCES, Sequence, sequence_contrast
from medgen.imaging.phantoms.tissue import BONE, FAT, MARROW
from medgen.imaging.resampling import resample, resample_labels
from medgen.method import Progress, SilentProgress
from medgen.methods.pix2pix_translation.learning import (
    CT_TO_MR,
    LEVELS,
    LOW_HU,
    MR_TO_CT,
    PAPER_RATE,
    SHORT_RATE,
    SPACING_MM,
    WIDTH,
    CycleStep,
    Objective,
    Patient,
    TranslationStep,
    draw_batch,
    held_then_linear,
    with_couch,
)
from medgen.methods.pix2pix_translation.slices import ct_unit, mr_unit, slice_grid
from medgen.training.export import chosen_config, export_weights, made_by
from medgen.training.loop import LoopConfig
from medgen.training.loop import train as train_loop

Array = npt.NDArray[Any]
WEIGHTS = {True: "mr_to_ct", False: "ct_to_mr"}  # folder and file of a direction (to CT or not)
CONTRASTS = 3  # of each rendered head
COUCH_ROOM = 14  # pixels behind a rendered head


@dataclass(frozen=True)
class Config:
    """objective: of `learning.MR_TO_CT` and `CT_TO_MR`; seconds: of one call, for each direction; None for no end."""

    steps: int
    objective: str = "paper"
    levels: int = LEVELS
    width: int = WIDTH
    batch: int = 4
    rate: float = SHORT_RATE
    heads: int = len(TRAIN_HEADS)
    seconds: float | None = None


CONFIGS = {
    "smoke": Config(steps=2, levels=3, width=2, batch=1, heads=2),
    "small": Config(steps=4000),
    "pix2pix": Config(steps=4000, objective="pix2pix"),
    "cyclegan": Config(steps=4000, objective="cyclegan"),
    "paper": Config(steps=650_000, levels=9, width=64, batch=16, rate=PAPER_RATE),
}


# ---------------------------------------------------------------------------------------------------------- slices


def render_patient(labels: sitk.Image, rng: np.random.Generator, contrasts: int = CONTRASTS) -> Patient:
    """A head label map as MR of several contrasts (the first a clean T1), its stand-in and its CT, slices SPACING_MM
    apart."""
    labels = pad(phantom_labels(labels, SPACING_MM), (0, 0, 0), (0, COUCH_ROOM, 0))
    mask = foreground_of_labels(labels)
    inside = to_array(mask)
    mr = []
    for number in range(contrasts):
        scan = Scan() if number == 0 else Scan(float(rng.uniform(0.7, 1.8)), bias=float(rng.uniform(0.02, 0.3)),
                                               noise=float(rng.uniform(0.003, 0.03)))  # fmt: skip
        name = "T1" if number == 0 else ("T1", "T1se", "T1c", "T2", "PD")[int(rng.integers(5))]
        base, spread = SEQUENCES[name], 0.0 if number == 0 else 0.15
        times = [t * float(np.exp(rng.normal(0, spread))) for t in (base.tr_ms, base.te_ms, base.ti_ms)]
        means = sequence_contrast(Sequence(times[0], times[1], times[2], base.contrast))
        mr.append(mr_unit(to_array(render_mr(labels, means, rng, scan)), inside).astype(np.float16))
    ct = ct_unit(to_array(render_ct(labels, rng)))
    standin = ct_unit(to_array(stand_in(labels, mask)))
    couch = with_couch(ct, rng).astype(np.float16)
    return Patient(mr, standin.astype(np.float16), ct.astype(np.float16), couch)


def foreground_of_labels(labels: sitk.Image) -> sitk.Image:
    """The head of a label map without its cavities, as a mask."""
    return foreground_mask(from_array(np.where(to_array(labels) != 0, 0, -1000).astype(np.int16), labels), 1.5)


def stand_in(labels: sitk.Image, body: sitk.Image) -> sitk.Image:
    """What MRCAT would make of a head: fat, soft tissue and one kind of bone, cavities filled, no couch."""
    numbers = to_array(labels)
    masks = [from_array(np.isin(numbers, values), labels) for values in ((FAT,), (BONE, MARROW))]
    return bulk_density(body, zip(masks, (FAT_HU, BONE_HU)))


def _kept(file: Path, labels: Path, number: int, seed: int) -> Patient:
    """A rendered head, from its file once it is there."""
    if not file.is_file():
        head = crop_to_head(part_fat(read_head(labels), np.random.default_rng(number)))
        patient = render_patient(head, np.random.default_rng((seed, number)))
        file.parent.mkdir(parents=True, exist_ok=True)
        partial = file.with_suffix(".partial.npy")
        rest = [part for part in (patient.standin, patient.ct, patient.ct_couch) if part is not None]
        np.save(partial, np.stack([*patient.mr, *rest]))
        partial.replace(file)
    array = np.load(file, mmap_mode="r")
    return Patient(list(array[:-3]), array[-3], array[-2], array[-1])


def _on_slices(path: Path) -> sitk.Image:
    upright, _ = canonical(sitk.ReadImage(str(path), sitk.sitkFloat32))
    return resample(upright, slice_grid(upright))


def read_ct(path: Path) -> Patient:
    """A real CT, with the couch it has and without."""
    image = _on_slices(path)
    body = foreground_mask(image)
    box = crop_to_mask(image, body, margin_mm=20)
    unit = ct_unit(to_array(box))
    bare = np.where(to_array(resample_labels(body, box)) != 0, unit, -1)
    return Patient(ct=bare.astype(np.float16), ct_couch=unit.astype(np.float16))


def read_mr(mr: Path, standin: Path | None) -> Patient:
    """Raises BadInput where the two do not lie in one place."""
    image = _on_slices(mr)
    body = foreground_mask(image)
    box = crop_to_mask(image, body, margin_mm=8)
    unit = mr_unit(to_array(box), to_array(resample_labels(body, box))).astype(np.float16)
    if standin is None:
        return Patient([unit])
    partner = resample(sitk.ReadImage(str(standin), sitk.sitkFloat32), box, fill=LOW_HU)
    if to_array(partner).max() <= LOW_HU:
        raise BadInput(f"{mr.name} and its stand-in do not overlap.")
    return Patient([unit], ct_unit(to_array(partner)).astype(np.float16))


def patients_of(
    data: Path, cache: Path, heads: int, seed: int = 0, progress: Progress | None = None, paired: bool = True
) -> list[Patient]:
    """Everything there is to learn from in a folder; paired: every MR needs its stand-in. Raises BadInput where that
    is not enough."""
    progress = progress or SilentProgress()

    def found() -> Iterator[Patient]:
        for number, path in numbered_maps(data).items():
            if number in TRAIN_HEADS[:heads]:
                progress.raise_if_cancelled()
                progress.report("Rendering heads", 0.0, path.name)
                yield _kept(cache / f"{number:02d}.npy", path, number, seed)
        for path in sorted((data / "mr").glob("*.nii.gz")):
            partner = data / "standin" / path.name
            if paired and not partner.is_file():
                raise BadInput(f"There is no stand-in for {path.name} in {partner.parent}.")
            yield read_mr(path, partner if partner.is_file() else None)
        for path in sorted((data / "ct").glob("*.nii.gz")):
            yield read_ct(path)

    patients = list(found())
    if not any(p.mr for p in patients) or sum(p.ct is not None for p in patients) < 2:
        raise BadInput(f"Not enough to train on in {data}: label maps, or the folders mr, standin and ct, are needed.")
    return patients


# ------------------------------------------------------------------------------------------------------------ training


def train_direction(
    patients: list[Patient], objective: Objective, out: Path, config: Config, seed: int, device: str,
    progress: Progress | None = None,
) -> tuple[torch.nn.Module, int]:  # fmt: skip
    """The averaged generator and the number of steps done. A run in `out` goes on where it stopped."""
    torch.manual_seed(seed)
    loop = LoopConfig(
        steps=config.steps,
        seed=seed,
        device=device,
        precision="bf16-mixed",
        schedule=lambda step: held_then_linear(step, config.steps),
        ema_decay=0.995,
        checkpoint_every=250,
        log_every=50,
        max_seconds=config.seconds,
    )
    outcome = train_loop(
        (CycleStep if objective.cycle else TranslationStep)(objective, config.levels, config.width, rate=config.rate),
        lambda step: draw_batch(patients, objective, (seed + 1, step), config.batch),
        out,
        loop,
        None,
        progress,
    )
    return outcome.networks["generator"], outcome.step


def train(
    data: Path, out: Path, config: str = "small", seed: int = 0, device: str = "auto", progress: Progress | None = None
) -> Path:
    """Trains both directions, or goes on where a run in `out` stopped; returns `out`. Raises BadInput for an unknown
    configuration or a folder without enough to train on."""
    chosen = chosen_config(CONFIGS, config)
    directions = {True: MR_TO_CT[chosen.objective], False: CT_TO_MR[chosen.objective]}
    patients = patients_of(data, out / "slices", chosen.heads, seed, progress, paired=not directions[True].cycle)
    for to_ct, objective in directions.items():
        folder = out / WEIGHTS[to_ct]
        generator, steps = train_direction(patients, objective, folder, chosen, seed, device, progress)
        card = {
            **made_by("pix2pix_mr_to_ct", config, seed, steps, device),
            "title": f"Head {'MR to CT' if to_ct else 'CT to MR'}, {config}",
            "training_data": f"{len(patients)} patients of {data.name}.",
            "intended_use": "Research; synthetic, not validated for treatment.",
            "trained_on_rendered": bool(numbered_maps(data)),
        }
        export_weights(generator.state_dict(), folder, f"{WEIGHTS[to_ct]}.safetensors", card)
    return out
