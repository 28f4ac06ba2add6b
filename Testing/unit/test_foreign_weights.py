"""Weights of another method, as a user may choose them: one sentence, whatever the method."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from safetensors.torch import save_file

from medgen.catalogue import find_method, load_run
from medgen.errors import BadInput
from medgen.method import Context

VOLUME = sitk.GetImageFromArray(np.arange(16**3, dtype=np.float32).reshape(16, 16, 16))
FRAME = sitk.GetImageFromArray(np.random.default_rng(0).integers(0, 255, (64, 64)).astype(np.uint8))
INPUTS = {
    "multiplanar_unet": {"image": VOLUME},
    "frequency_mr_to_ct": {"mr": VOLUME},
    "pseudo_spr": {"t1": VOLUME},
    "pix2pix_mr_to_ct": {"mr": VOLUME},
    "us_inpainting": {"frames": [FRAME], "mask": sitk.Cast(FRAME > 250, sitk.sitkUInt8)},
    "us_style_transfer": {"frames": [FRAME]},
    "descargan": {"image": VOLUME},
    "diffusion_anomaly": {"FLAIR": VOLUME},
    "diffusion_segmentation": {"FLAIR": VOLUME},
    "brain_stylegan": {},
    "brain_stylegan_training_set": {},
}


@pytest.mark.parametrize("method", INPUTS)
def test_weights_of_another_method_are_refused(method: str, tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    save_file({"head.weight": torch.zeros(1, 4, 1, 1)}, path)
    spec = find_method(method)
    with pytest.raises(BadInput, match=r"other\.safetensors"):
        load_run(spec)(dict(INPUTS[method]), spec.check_parameters({}), Context(weights=path))
