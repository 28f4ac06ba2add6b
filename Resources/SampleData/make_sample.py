"""Draws the sample head: `python Resources/SampleData/make_sample.py`. An analytic head, 2 mm voxels, rendered as
T1."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import SimpleITK as sitk

from medgen.imaging.phantoms.analytic import analytic_head
from medgen.imaging.phantoms.render import render_mr

HERE = Path(__file__).resolve().parent


def main() -> None:
    rng = np.random.default_rng(7)
    image = sitk.Cast(sitk.RescaleIntensity(render_mr(analytic_head(rng, 2.0), "T1", rng), 0, 250), sitk.sitkUInt8)
    sitk.WriteImage(image, str(HERE / "MedGenHead.nrrd"), useCompression=True)
    slice_ = sitk.GetArrayViewFromImage(image)[image.GetSize()[2] // 2, ::-1, :]
    thumbnail = sitk.GetImageFromArray(np.kron(slice_, np.ones((2, 2), np.uint8)))
    sitk.WriteImage(thumbnail, str(HERE / "MedGenHead.png"))


if __name__ == "__main__":
    main()
