"""Ultrasound frames: grey values, geometry, the fan, colour."""

import numpy as np
import pytest
import SimpleITK as sitk

from medgen.errors import BadInput
from medgen.imaging.ultrasound import bounding_box, coloured_share, fan_mask, frame_like, full_scale, grey_frame


def screen(rng, top=40, left=60, height=120, width=150):
    """A grey screen with a rectangle of speckle on it and a line of text above."""
    picture = np.full((200, 260), 60, np.uint8)
    picture[top : top + height, left : left + width] = rng.rayleigh(40, (height, width)).clip(8, 255)
    picture[10:16, 20:60:6] = 255
    return picture


def test_fan_is_the_textured_region_of_a_screen():
    fan = fan_mask(screen(np.random.default_rng(0)).astype(np.float32) / 255)
    rows, columns = bounding_box(fan)
    assert abs(rows.start - 40) <= 4 and abs(rows.stop - 160) <= 4
    assert abs(columns.start - 60) <= 4 and abs(columns.stop - 210) <= 4


def test_fan_reaches_the_frames_border_where_the_picture_does():
    grey = np.random.default_rng(0).rayleigh(0.2, (100, 140)).clip(0.03, 1).astype(np.float32)
    assert fan_mask(grey).mean() > 0.97


def test_dark_tissue_at_the_rim_belongs_to_the_fan_and_text_beside_it_does_not():
    picture = screen(np.random.default_rng(0))
    picture[picture == 60] = 0
    picture[90:102, 60:90] = 0  # dark, and open to the black beside the fan
    picture[24:32, 62:208:6] = 255  # a line of text, a narrow black strip above the fan
    fan = fan_mask(picture.astype(np.float32) / 255)
    assert fan[92:100, 66:].sum() > 0.9 * 8 * 144
    assert not fan[:34].any()


def test_a_flat_frame_has_no_fan():
    assert not fan_mask(np.full((64, 64), 0.4, np.float32)).any()


@pytest.mark.parametrize("three_d", [False, True])
def test_a_frame_comes_back_on_its_grid_with_its_values(three_d):
    values = np.random.default_rng(1).integers(0, 256, (20, 30), np.uint8)
    image = sitk.GetImageFromArray(values[None] if three_d else values)
    image.SetSpacing((0.2, 0.3, 4)[: image.GetDimension()])
    image.SetOrigin((5, -7, 11)[: image.GetDimension()])
    back = frame_like(grey_frame(image), image)
    assert back.GetPixelID() == sitk.sitkUInt8
    assert (back.GetSpacing(), back.GetOrigin()) == (image.GetSpacing(), image.GetOrigin())
    np.testing.assert_array_equal(sitk.GetArrayFromImage(back), sitk.GetArrayFromImage(image))


def test_colour_becomes_luminance_and_flow_is_noticed_but_a_tint_is_not():
    grey = np.full((10, 10), 100, np.uint8)
    tinted = sitk.GetImageFromArray(np.stack([grey, grey + 10, grey + 40], -1), isVector=True)
    assert coloured_share(tinted) == 0
    assert grey_frame(tinted)[0, 0] * 255 == pytest.approx(0.299 * 100 + 0.587 * 110 + 0.114 * 140, abs=0.01)
    flow = np.stack([grey, grey, grey], -1)
    flow[:5, :, 0], flow[:5, :, 1:] = 250, 0
    assert coloured_share(sitk.GetImageFromArray(flow, isVector=True)) == pytest.approx(0.5)


def test_sixteen_bits_and_fractions_are_scaled_by_what_they_hold():
    assert full_scale(sitk.GetImageFromArray(np.array([[0, 700]], np.uint16))) == 700
    assert full_scale(sitk.GetImageFromArray(np.array([[0, 0.5]], np.float32))) == 1


def test_a_volume_is_no_frame():
    with pytest.raises(BadInput, match="4 slices"):
        grey_frame(sitk.Image((8, 8, 4), sitk.sitkUInt8))
