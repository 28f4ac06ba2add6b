"""First masks of artefacts: burned-in text, reverberations, shadows; and the frames that training shares."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk
from PIL import Image, ImageDraw

from medgen.errors import BadInput
from medgen.imaging.phantoms import bmode
from medgen.imaging.ultrasound_artefacts import find_reverberation, find_shadows, find_text
from medgen.method import Context
from medgen.methods.us_inpainting.artefacts import run
from medgen.methods.us_inpainting.spec import ARTEFACT_MASKS
from medgen.training.ultrasound_frames import (
    TEST_GROUPS,
    UltrasoundFrame,
    cropped_frame,
    random_patch,
    real_frames,
    simulated_frame,
)

PLAIN = (bmode.Layer(bmode.SKIN, 1.5), bmode.Layer(bmode.ORGAN, 100.0))
MACHINE = bmode.Machine(gain_db=-22)


def frame(scene: bmode.Scene, seed: int = 0) -> bmode.Frame:
    return bmode.image_scene(scene, MACHINE, np.random.default_rng(seed))


def written(grey: np.ndarray, level: int = 255) -> tuple[np.ndarray, np.ndarray]:
    """The frame with a label and a calliper on it, and where."""
    image, ink = Image.fromarray(np.rint(255 * grey).astype(np.uint8)), Image.new("1", grey.shape[::-1])
    for canvas, colour in ((image, level), (ink, 1)):
        pen = ImageDraw.Draw(canvas)
        pen.fontmode = "1"
        pen.text((90, 60), "LT CCA 3", fill=colour)
        pen.line((150, 180, 158, 180), fill=colour)
        pen.line((154, 176, 154, 184), fill=colour)
    return np.asarray(image, np.float32) / 255, np.asarray(ink)


def test_white_glyphs_are_found_in_a_still_and_tissue_is_not() -> None:
    seen = frame(bmode.Scene(PLAIN))
    grey, ink = written(seen.image)
    found = find_text([grey], seen.inside)
    assert (found & ink).sum() > 0.8 * ink.sum()
    assert found.sum() < 6 * ink.sum()
    assert find_text([seen.image], seen.inside).sum() < 0.002 * seen.inside.sum()


def test_grey_glyphs_are_found_where_a_cine_moves_under_them() -> None:
    scene = bmode.Scene(PLAIN)
    cine = [written(frame(scene, seed).image, 200) for seed in range(6)]
    inside = frame(scene).inside
    still, moving = find_text([cine[0][0]], inside), find_text([grey for grey, _ in cine], inside)
    ink = cine[0][1]
    assert (moving & ink).sum() > 0.8 * ink.sum()
    assert (moving & ink).sum() > (still & ink).sum()


def test_shadow_below_bone_is_found_and_plain_tissue_has_none() -> None:
    seen = frame(bmode.Scene(PLAIN, (bmode.Ellipse(bmode.BONE, -5, 12, 4, 2),)))
    truth, found = seen.artefacts == bmode.SHADOW, find_shadows(seen.image, seen.inside)
    assert 2 * (truth & found).sum() / (truth.sum() + found.sum()) > 0.7
    assert not find_shadows(frame(bmode.Scene(PLAIN)).image, seen.inside).any()


def test_needle_reverberation_is_found_and_plain_tissue_has_none() -> None:
    needle = bmode.Needle((-19, 6), (6, 22), amplitude=40, spacing_mm=1.1, repeats=6, decay=0.85)
    seen = frame(bmode.Scene(PLAIN, needle=needle))
    truth, found = seen.artefacts == bmode.REVERBERATION, find_reverberation(seen.image, seen.inside)
    assert (truth & found).sum() > 0.5 * truth.sum()
    assert (truth & found).sum() > 0.6 * found.sum()
    assert find_reverberation(frame(bmode.Scene(PLAIN)).image, seen.inside).mean() < 0.01


def test_method_gives_segments_on_the_frames_grid_and_obeys_its_switches() -> None:
    seen = frame(bmode.Scene(PLAIN, (bmode.Ellipse(bmode.BONE, -5, 12, 4, 2),)))
    image = sitk.GetImageFromArray(np.rint(255 * written(seen.image)[0]).astype(np.uint8)[None])
    image.SetSpacing((0.3, 0.3, 1))
    found = run({"frames": [image]}, ARTEFACT_MASKS.check_parameters({}), Context())
    labels = sitk.GetArrayFromImage(found["artefacts"])
    assert found["artefacts"].GetSpacing() == image.GetSpacing()
    assert {1, 3} <= set(np.unique(labels)) <= {0, 1, 2, 3}
    only = run({"frames": [image]}, ARTEFACT_MASKS.check_parameters({"shadow": False}), Context())
    assert not (sitk.GetArrayFromImage(only["artefacts"]) == 3).any()
    assert only["found"]["share_of_fan"][2] == 0


def test_method_refuses_colour_doppler() -> None:
    flow = np.zeros((96, 96, 3), np.uint8)
    flow[30:60, 30:60, 0] = 220
    with pytest.raises(BadInput, match="Doppler"):
        run({"frames": [sitk.GetImageFromArray(flow, isVector=True)]}, ARTEFACT_MASKS.check_parameters({}), Context())


# ------------------------------------------------------------------------------------------------------- shared frames


def test_no_group_is_both_learnt_from_and_tested_on() -> None:
    tested = real_frames("test")  # at least pydicom's
    assert {f.group for f in tested} <= TEST_GROUPS
    assert "pydicom SonoSite cine" in {f.group for f in tested}
    assert all(f.grey.shape == f.inside.shape and f.grey.dtype == np.float32 for f in tested)


def test_patches_come_from_the_fan_and_every_group_is_as_likely() -> None:
    rng = np.random.default_rng(0)
    inside = np.ones((100, 100), bool)
    many = [UltrasoundFrame(np.full((100, 100), 0.2, np.float32), inside, "s", "a", "") for _ in range(9)]
    one = UltrasoundFrame(np.full((100, 100), 0.8, np.float32), inside, "s", "b", "")
    means = [random_patch([*many, one], rng, 32).mean() for _ in range(200)]
    assert 0.35 < np.mean(np.array(means) > 0.5) < 0.65
    half = simulated_frame(rng, needle=False)
    patch = random_patch([half], rng, 48)
    assert patch.shape == (48, 48) and patch.dtype == np.float32


def test_a_screen_without_a_fan_gives_no_frame() -> None:
    assert cropped_frame(np.zeros((200, 200), np.float32), "own", "own", "x") is None
