"""The brain that a job is about, prepared once for several jobs."""

from __future__ import annotations

import hashlib
from typing import Any

import SimpleITK as sitk

from medgen.imaging.brain_study import BRAIN_SEQUENCES, BrainStudy, brain_study
from medgen.method import Context


def study_of(inputs: dict[str, Any], context: Context) -> BrainStudy:
    """`brain_study` of the inputs FLAIR, T2, T1, T1c and brain; the last one stays in the worker's cache."""
    images = {name: inputs[name] for name in (*BRAIN_SEQUENCES, "brain") if name in inputs}
    digest = hashlib.blake2b(digest_size=16)
    for name, image in images.items():
        digest.update(repr((name, image.GetSpacing(), image.GetOrigin(), image.GetDirection())).encode())
        digest.update(sitk.GetArrayViewFromImage(image).tobytes())
    known = context.cache.get("brain study")
    if known is None or known[0] != digest.digest():
        brain = images.pop("brain", None)
        known = context.cache["brain study"] = digest.digest(), brain_study(images, brain)
    study: BrainStudy = known[1]
    return study
