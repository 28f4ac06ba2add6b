"""What the starter weights do on rendered heads that no training saw and on real scans."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk
from scipy import ndimage

from medgen.imaging.geometry import canonical, to_array
from medgen.imaging.phantoms import TEST_HEADS, Scan, crop_to_head, load_head, render_ct, render_mr
from medgen.imaging.phantoms.tissue import TISSUE_OF_LABEL, TISSUES, Tissue
from medgen.imaging.resampling import resample_labels
from medgen.method import Context, Progress, SilentProgress
from medgen.methods.frequency_mr_to_ct.infer import run
from medgen.methods.frequency_mr_to_ct.spec import FREQUENCY
from medgen.metrics.overlap import assd_mm, dice
from medgen.metrics.synthetic_ct import bone_dice
from medgen.proofs import check
from medgen.shared_data import shared_folder
from medgen.weights import checked_weights

Checks = list[dict[str, Any]]
Array = npt.NDArray[Any]


class _Inner(SilentProgress):
    """Lets a cancel through, keeps the bar of each single run to itself."""

    def __init__(self, outer: Progress) -> None:
        self.outer = outer

    def raise_if_cancelled(self) -> None:
        self.outer.raise_if_cancelled()


def synthetic(mr: sitk.Image, progress: Progress, **parameters: Any) -> dict[str, Any]:
    """The starter weights' answer to one MR."""
    context = Context(progress=_Inner(progress), weights=checked_weights(FREQUENCY.id, FREQUENCY.weights[0])[0])
    return run({"mr": mr}, FREQUENCY.check_parameters(parameters), context)


# ------------------------------------------------------------------------------------------------------ rendered heads


def spoiled(tr_ms: float, te_ms: float, degrees: float) -> Array:
    """float32 [labels]: a spoiled gradient echo (Ernst), a kind of sequence that the training does not draw."""
    angle = np.radians(degrees)

    def signal(tissue: Tissue) -> float:
        e1 = np.exp(-tr_ms / tissue.t1_ms)
        recovered = np.sin(angle) * (1 - e1) / (1 - e1 * np.cos(angle))
        return float(tissue.proton_density * recovered * np.exp(-te_ms / tissue.t2_ms))

    means = np.array([signal(tissue) for tissue in TISSUES], np.float32)
    return (means / means.max())[TISSUE_OF_LABEL]


UNSEEN: dict[int, tuple[str, Any, Scan]] = {
    17: ("spoiled gradient echo, T1", spoiled(15, 4, 25), Scan(psf_fwhm_mm=1.2, noise=0.02)),
    18: ("MPRAGE, strong bias", "T1", Scan(bias=0.3, noise=0.015)),
    19: ("spoiled gradient echo, PD", spoiled(30, 4, 6), Scan(noise=0.01)),
    20: ("T2, slices of 3 mm", "T2", Scan(slice_mm=3.0, noise=0.02)),
}


def starter_heads(progress: Progress, structures: bool = True) -> Checks:
    """Heads 17 to 20, each in another contrast: the issue's bars on their means. structures: as users run it, with HU
    fitted to the head's structures; else the CT network alone."""
    maes, dices, surfaces = [], [], []
    for number in TEST_HEADS:
        _name, contrast, scan = UNSEEN[number]
        rng = np.random.default_rng(number)
        labels = crop_to_head(load_head(number))
        found = synthetic(render_mr(labels, contrast, rng, scan), progress, structures=structures)
        truth: Array = to_array(render_ct(labels, rng, noise_hu=0))
        hu, numbers = to_array(found["ct"]).astype(np.float32), to_array(labels)
        body = np.stack([ndimage.binary_fill_holes(plane) for plane in numbers != 0])
        maes.append(float(np.abs(hu - truth)[body].mean()))
        dices.append(bone_dice(hu, truth, body))
        surfaces.append(assd_mm(to_array(found["outline"]) != 0, body, (1.0, 1.0, 1.0)))
    shown = ", ".join(
        f"{n}: {m:.0f} HU, {d:.3f}, {s:.2f} mm" for n, m, d, s in zip(UNSEEN, maes, dices, surfaces, strict=True)
    )
    progress.log(f"Heads: MAE in the body, bone Dice, distance of the skin: {shown}")
    return [
        check(f"{told(structures)}, heads 17 to 20, unseen contrasts: MAE in the body, HU (bar 90)",
              float(np.mean(maes)), 90, 0, higher=False),
        check("the same: bone Dice above 250 HU (bar 0.80)", float(np.mean(dices)), 0.80, 0),
        check("the same: mean distance of the skin, voxels (bar 1)", float(np.mean(surfaces)), 1.0, 0, higher=False),
    ]  # fmt: skip


def told(structures: bool) -> str:
    return "Starter weights" if structures else "The CT network alone"


# --------------------------------------------------------------------------------------------------------- real scans


def scans(progress: Progress, structures: bool = True) -> Checks:
    """Two real T1 with skull, and one with a skull that was segmented in CT. structures: as in `starter_heads`."""
    folder = shared_folder()
    assert folder is not None
    checks: Checks = []
    for name in ("studyforrest_T1w_1mm", "colin27_ch2_T1_1mm"):
        mr = canonical(sitk.ReadImage(str(folder / "mr_heads" / f"{name}.nii.gz")))[0]
        found = synthetic(mr, progress, structures=structures)
        checks += plausible(f"{told(structures)}, {name.split('_')[0]}", found)
    mr, skull = (
        canonical(sitk.ReadImage(str(folder / "mr_ctskull_seg3d" / f"{name}.nii.gz")))[0]
        for name in ("MR_T1", "Skull_mask")
    )
    truth = to_array(resample_labels(sitk.Cast(skull > 0, sitk.sitkUInt8), mr)) != 0
    ct = to_array(synthetic(mr, progress, structures=structures)["ct"]).astype(np.float32)
    bone = (ct > 300) & skull_part(truth)
    distance = assd_mm(bone, truth, tuple(reversed(mr.GetSpacing())))
    name = f"{told(structures)}, mr_ctskull_seg3d: Dice of bone above 300 HU with the CT's skull"
    checks.append(check(name, dice(bone, truth), 0.70, 0))
    checks.append(check("the same: mean surface distance, mm (bar 2)", distance, 2.0, 0, higher=False))
    return checks


def skull_part(truth: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """The planes that the skull's mask covers: it ends above the face and neck, whose bones it does not hold."""
    planes = np.flatnonzero(truth.any((1, 2)))
    found = np.zeros(truth.shape, bool)
    found[planes[0] : planes[-1] + 1] = True
    return found


def plausible(name: str, found: dict[str, Any]) -> Checks:
    """No CT to compare with: tissue must lie where tissue can lie. Brain: what the closed skull encloses, deeper than
    5 mm; cortical bone: the densest half of what lies above 250 HU."""
    hu, body = to_array(found["ct"]).astype(np.float32), to_array(found["outline"]) != 0
    brain, closed = enclosed(hu, body)
    bone = np.sort(hu[(hu > 250) & body])
    outside = float(np.abs(hu[~body] + 1000).max()) if (~body).any() else 0.0
    within = float(((hu[brain] >= 0) & (hu[brain] <= 80)).mean()) if brain.any() else 0.0
    return [
        check(f"{name}: share of the brain within 0 to 80 HU (bar 0.95)", within, 0.95, 0),
        check(
            f"{name}: median of the denser half of bone, HU (bar 500)", float(np.median(bone[len(bone) // 2 :])), 500, 0
        ),
        check(f"{name}: largest departure from -1000 HU outside the body", outside, 0, 0, higher=False),
        check(f"{name}: share of the brain's top half under closed bone (bar 0.99)", closed, 0.99, 0),
    ]


def enclosed(hu: Array, body: npt.NDArray[np.bool_]) -> tuple[npt.NDArray[np.bool_], float]:
    """(the inside of the skull less 5 mm, the share of rays up and sideways from its top half that meet bone). hu and
    body on 1 mm.

    What hangs on it by bridges less than 24 mm wide is not the brain: through a skull base drawn too thin, 5 mm alone
    took the face along.
    """
    depth = ndimage.distance_transform_edt(body & (hu > -150) & (hu < 200))
    pieces, count = ndimage.label(depth > 12)
    if count == 0:
        return pieces != 0, 0.0
    middle_of_brain = pieces == 1 + np.argmax(np.bincount(pieces.ravel())[1:])
    brain = (ndimage.distance_transform_edt(~middle_of_brain) < 12 - 5) & (depth > 5)
    z = np.flatnonzero(brain.any((1, 2)))
    middle = z[len(z) * 2 // 3] if len(z) else 0
    top = brain.copy()
    top[:middle] = False
    bone = hu > 200
    above = np.flip(np.maximum.accumulate(np.flip(bone, 0), 0), 0)
    beside = [
        np.maximum.accumulate(bone, axis) & np.flip(np.maximum.accumulate(np.flip(bone, axis), axis), axis)
        for axis in (1, 2)
    ]
    met = above & beside[0] & beside[1]
    return brain, float(met[top].mean()) if top.any() else 0.0
