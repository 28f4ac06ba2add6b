"""Images of a head label map: MR of any contrast, CT, Dixon, stopping power. Same seed, same image.

The chain of an MR image: tissue means of a contrast -> texture within the tissue -> point spread -> thick slices ->
receive-coil bias -> Rician noise. A contrast is one of SEQUENCES by its signal equation, or drawn at random (domain
randomisation, Billot et al., SynthSeg, Med Image Anal 2023;86:102789).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk
from scipy import ndimage

from medgen.errors import BadInput
from medgen.imaging.phantoms.anatomy import like, smooth_field, spacing_zyx
from medgen.imaging.phantoms.tissue import TISSUE_OF_LABEL, TISSUES, TOP_LABEL, Tissue
from medgen.imaging.water_path import spr_from_hu

Array = npt.NDArray[Any]
SIGMA_OF_FWHM = 1 / 2.3548


@dataclass(frozen=True)
class Scan:
    """How an image is taken. Lengths in mm; `noise` is the Rician sigma as a share of the brightest tissue (a share of
    white matter's would jump with the contrast); slice_mm 0: as the label map's grid; slice_axis 0, 1, 2: z, y, x."""

    psf_fwhm_mm: float = 1.0
    slice_mm: float = 0.0
    slice_axis: int = 0
    bias: float = 0.12
    bias_scale_mm: float = 90.0
    texture: float = 0.05
    texture_scale_mm: float = 1.6
    noise: float = 0.012


def random_scan(rng: np.random.Generator) -> Scan:
    """From a sharp research volume to thick clinical slices, from clean to noisy."""
    thick = float(rng.uniform(2.0, 6.0)) if rng.random() < 0.35 else 0.0
    return Scan(
        psf_fwhm_mm=float(rng.uniform(0.5, 2.2)),
        slice_mm=thick,
        slice_axis=int(rng.integers(3)),
        bias=float(rng.uniform(0.0, 0.35)),
        bias_scale_mm=float(rng.uniform(60.0, 140.0)),
        texture=float(rng.uniform(0.0, 0.12)),
        texture_scale_mm=float(rng.uniform(1.0, 4.0)),
        noise=float(rng.uniform(0.002, 0.05)),
    )


@dataclass(frozen=True)
class Sequence:
    """A spin echo (ti_ms 0) or an inversion recovery with its times in ms; contrast: after gadolinium."""

    tr_ms: float
    te_ms: float
    ti_ms: float = 0.0
    contrast: bool = False

    def signal(self, tissue: Tissue) -> float:
        """S = PD (1 - e^(-TR/T1)) e^(-TE/T2), or with inversion PD |1 - 2 e^(-TI/T1) + e^(-TR/T1)| e^(-TE/T2)."""
        t1 = tissue.t1_contrast_ms if self.contrast and tissue.t1_contrast_ms else tissue.t1_ms
        if self.ti_ms:
            recovered = abs(1 - 2 * np.exp(-self.ti_ms / t1) + np.exp(-self.tr_ms / t1))
        else:
            recovered = 1 - np.exp(-self.tr_ms / t1)
        return float(tissue.proton_density * recovered * np.exp(-self.te_ms / tissue.t2_ms))


SEQUENCES = {
    "T1": Sequence(2300, 3, 1050),  # MPRAGE
    "T1c": Sequence(2300, 3, 1050, contrast=True),
    "T1se": Sequence(550, 11),
    "T2": Sequence(5000, 95),
    "PD": Sequence(3500, 15),
    "FLAIR": Sequence(9000, 110, 2650),
}


def sequence_contrast(sequence: Sequence) -> Array:
    """float32 [labels]: the signal of every label, the brightest tissue without lesions 1."""
    signals = np.array([sequence.signal(tissue) for tissue in TISSUES], np.float32)
    return (signals / signals.max())[TISSUE_OF_LABEL]


def random_contrast(rng: np.random.Generator) -> Array:
    """float32 [labels], 0 to 1: half of the time a real sequence with its times and tissues jittered, else any mean for
    any tissue. Structures of one tissue differ by a few percent, left and right do not."""
    if rng.random() < 0.5:
        sequence = list(SEQUENCES.values())[int(rng.integers(len(SEQUENCES)))]
        times = [t * float(np.exp(rng.normal(0, 0.15))) for t in (sequence.tr_ms, sequence.te_ms, sequence.ti_ms)]
        jittered = Sequence(times[0], times[1], times[2], sequence.contrast)
        means = np.array([jittered.signal(tissue) for tissue in TISSUES]) * np.exp(rng.normal(0, 0.1, len(TISSUES)))
    else:
        means = rng.uniform(0.0, 1.0, len(TISSUES))
        means[0] = 0.0 if rng.random() < 0.8 else means[0] * 0.3  # air is dark in nearly every image
    means = np.clip(means / max(means.max(), 1e-6), 0, 1)
    return means.astype(np.float32)[TISSUE_OF_LABEL]


def contrast_by_name(contrast: str, rng: np.random.Generator) -> Array:
    """float32 [labels] of a name in SEQUENCES, or of 'random'."""
    if contrast == "random":
        return random_contrast(rng)
    if contrast not in SEQUENCES:
        raise BadInput(f"There is no MR contrast '{contrast}'; choose one of {', '.join([*SEQUENCES, 'random'])}.")
    return sequence_contrast(SEQUENCES[contrast])


def render_mr(labels: sitk.Image, contrast: str | Array, rng: np.random.Generator, scan: Scan = Scan()) -> sitk.Image:
    """MR magnitude, float32, about 0 to 1 (the brightest tissue's mean is 1), on the grid of the labels.

    contrast: 'T1', 'T1c', 'T1se', 'T2', 'PD', 'FLAIR', 'random', or the mean of each label (float32 [1024]). Lesions of
    `insert_lesions` are labels too and show in every contrast.
    """
    means = contrast_by_name(contrast, rng) if isinstance(contrast, str) else contrast
    numbers = _array(labels)
    signal = _textured(means[numbers], labels, scan, rng)
    signal = _blurred(signal, labels, scan)
    if scan.bias:
        bias = scan.bias * smooth_field(signal.shape, spacing_zyx(labels), scan.bias_scale_mm, rng)
        signal *= np.exp(bias, out=bias)
    return like(_rician(signal, scan.noise, rng), labels)


def _array(labels: sitk.Image) -> Array:
    numbers = sitk.GetArrayViewFromImage(labels)
    if labels.GetDimension() != 3 or numbers.dtype.kind not in "ui":
        raise BadInput("A label map to render must be a 3D image of whole numbers.")
    if numbers.size == 0 or numbers.min() < 0 or numbers.max() >= TOP_LABEL:
        raise BadInput(f"A label map to render must hold labels from 0 to {TOP_LABEL - 1}.")
    return numbers


def _textured(signal: Array, labels: sitk.Image, scan: Scan, rng: np.random.Generator) -> Array:
    if scan.texture:
        texture = smooth_field(signal.shape, spacing_zyx(labels), scan.texture_scale_mm, rng)
        texture *= scan.texture
        texture += 1
        signal *= np.maximum(texture, 0, out=texture)
    return signal


def _blurred(signal: Array, labels: sitk.Image, scan: Scan) -> Array:
    """The point spread of every axis; thick slices are taken (mean over the slice) and put back by linear steps."""
    spacing = spacing_zyx(labels)
    for axis in range(3):
        sigma = scan.psf_fwhm_mm * SIGMA_OF_FWHM / spacing[axis]
        if sigma > 0.15:
            signal = ndimage.gaussian_filter1d(signal, sigma, axis, truncate=3.0)
    thickness = scan.slice_mm / spacing[scan.slice_axis]
    if thickness > 1.5:
        signal = _thick_slices(signal, thickness, scan.slice_axis)
    return signal


def _thick_slices(signal: Array, thickness: float, axis: int) -> Array:
    size = signal.shape[axis]
    centres = np.arange(0.5 * (thickness - 1), size, thickness)
    if len(centres) < 2:
        return signal
    positions = np.arange(size)
    profile = np.exp(-0.5 * ((positions - centres[:, None]) / (thickness * SIGMA_OF_FWHM)) ** 2)
    taken = profile / profile.sum(1, keepdims=True)  # [slices, size]
    back = np.maximum(0, 1 - np.abs(np.clip(positions, centres[0], centres[-1])[:, None] - centres) / thickness)
    both = (back @ taken).astype(np.float32)  # [size, size]
    return np.ascontiguousarray(np.moveaxis(np.tensordot(signal, both, axes=(axis, 1)), -1, axis))


def _rician(signal: Array, sigma: float, rng: np.random.Generator) -> Array:
    if not sigma:
        return signal
    real = signal + sigma * rng.standard_normal(signal.shape, np.float32)
    imaginary = sigma * rng.standard_normal(signal.shape, np.float32)
    return np.hypot(real, imaginary)


def render_ct(
    labels: sitk.Image, rng: np.random.Generator, noise_hu: float = 8.0, psf_fwhm_mm: float = 0.9
) -> sitk.Image:
    """CT in HU, float32, -1024 to 3071: tissue means, texture of each tissue's own spread, point spread, noise."""
    hu = _clean_ct(labels, rng, psf_fwhm_mm)
    if noise_hu:
        noise = rng.standard_normal(hu.shape, np.float32)
        # The reconstruction kernel correlates the noise over neighbouring voxels of a slice.
        noise = ndimage.gaussian_filter(noise, (0, 0.6, 0.6), truncate=3.0)
        hu += noise * np.float32(noise_hu / noise.std())
    return like(np.clip(hu, -1024, 3071), labels)


def _clean_ct(labels: sitk.Image, rng: np.random.Generator, psf_fwhm_mm: float) -> Array:
    numbers = _array(labels)
    means = np.array([tissue.hu for tissue in TISSUES], np.float32)[TISSUE_OF_LABEL]
    spreads = np.array([tissue.hu_sd for tissue in TISSUES], np.float32)[TISSUE_OF_LABEL]
    hu = means[numbers] + spreads[numbers] * smooth_field(numbers.shape, spacing_zyx(labels), 2.0, rng)
    return _blurred(hu, labels, Scan(psf_fwhm_mm=psf_fwhm_mm))


def render_spr(labels: sitk.Image, rng: np.random.Generator) -> sitk.Image:
    """Proton stopping power relative to water, float32. With the generator state of `render_ct(..., noise_hu=0)`, it is
    the SPR of that very CT."""
    return like(spr_from_hu(np.clip(_clean_ct(labels, rng, 0.9), -1024, 3071)), labels)


def render_dixon(labels: sitk.Image, rng: np.random.Generator, scan: Scan = Scan()) -> tuple[sitk.Image, sitk.Image]:
    """(water, fat) images, float32, about 0 to 1. Bone and air are dark in both; texture and bias are shared."""
    numbers = _array(labels)
    texture = _textured(np.ones(numbers.shape, np.float32), labels, scan, rng)
    bias = np.exp(scan.bias * smooth_field(numbers.shape, spacing_zyx(labels), scan.bias_scale_mm, rng))
    images = []
    for means in ([tissue.water for tissue in TISSUES], [tissue.fat for tissue in TISSUES]):
        signal = np.array(means, np.float32)[TISSUE_OF_LABEL][numbers] * texture
        images.append(like(_rician(_blurred(signal, labels, scan) * bias, scan.noise, rng), labels))
    return images[0], images[1]
