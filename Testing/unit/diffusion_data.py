"""A small head and its rendered slices, made once for all tests of the diffusion family."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from medgen.diffusion.training import brain_set
from medgen.imaging.phantoms import analytic_head

_FOLDER = tempfile.TemporaryDirectory(prefix="medgen-test-")


@functools.cache
def small_head() -> sitk.Image:
    return analytic_head(np.random.default_rng(0), spacing_mm=3.0)


@functools.cache
def label_maps() -> Path:
    """A folder with one label map, number 1."""
    folder = Path(_FOLDER.name) / "maps"
    folder.mkdir()
    sitk.WriteImage(small_head(), str(folder / "head_01.nii.gz"))
    return folder


@functools.cache
def rendered_slices() -> Path:
    """A folder with its slices: one variant with a tumour."""
    out = Path(_FOLDER.name) / "rendered"
    brain_set(label_maps(), out, 0, True, None)
    return out / "slices"
