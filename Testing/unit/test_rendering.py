"""Pictures show the patient as radiologists look at them, however the image is stored."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from medgen.rendering import surface_view, three_planes, volumes_ml
from medgen.spec import Label

RED, GREEN = Label(1, "Left lump", (255, 0, 0)), Label(2, "Head", (0, 255, 0))
Image = tuple[sitk.Image, sitk.Image]


def head() -> Image:
    """A ball in LPS order, 2 x 2 x 3 mm, with a lump at its left, anterior, superior side."""
    z, y, x = np.indices((40, 60, 60)) * np.array([3.0, 2, 2])[:, None, None, None] - 60
    marks = np.where(x**2 + y**2 + z**2 < 45**2, 2, 0)
    marks[(x - 20) ** 2 + (y + 20) ** 2 + (z - 20) ** 2 < 12**2] = 1
    images = [sitk.GetImageFromArray(array) for array in ((marks > 0) * np.int16(100), marks.astype(np.uint8))]
    for image in images:
        image.SetSpacing((2, 2, 3))
    return images[0], images[1]


def drawn(pair: Image, folder: Path) -> np.ndarray:
    path = folder / "planes.png"
    three_planes(*pair, (RED, GREEN), path, "Title", "Note")
    return sitk.GetArrayFromImage(sitk.ReadImage(str(path))).astype(int)


def test_left_is_right_and_front_is_up(tmp_path: Path) -> None:
    picture = drawn(head(), tmp_path)
    height, width = picture.shape[:2]
    overlay = slice(height * 45 // 100, height * 85 // 100)  # the lower row; legend and note lie below it
    reddish = picture[overlay, :, 0] - picture[overlay, :, 1] > 60
    greenish = picture[overlay, :, 1] - picture[overlay, :, 0] > 60
    for number, sides in enumerate(((1, -1), (1, -1), (-1, -1))):  # axial, coronal: to the right; sagittal: to the left
        panel = (slice(None), slice(width * number // 3 + 10, width * (number + 1) // 3 - 10))
        lump, rest = (np.argwhere(mask[panel]).mean(0) for mask in (reddish, greenish))
        assert np.sign(lump[1] - rest[1]) == sides[0] and np.sign(lump[0] - rest[0]) == sides[1], number


@pytest.mark.parametrize("code", ["RAS", "PIR", "SLA"])
def test_the_way_an_image_is_stored_does_not_matter(code: str, tmp_path: Path) -> None:
    image, marks = head()
    stored = (sitk.DICOMOrient(image, code), sitk.DICOMOrient(marks, code))
    assert stored[0].GetDirection() != image.GetDirection()
    assert (drawn(stored, tmp_path) == drawn((image, marks), tmp_path)).all()


def test_volumes_count_voxels_in_millilitres() -> None:
    _, marks = head()
    count = np.count_nonzero(sitk.GetArrayFromImage(marks) == 1)
    assert volumes_ml(marks, (RED, GREEN, Label(3, "None", (0, 0, 0))))[1] == pytest.approx(count * 0.012)
    assert volumes_ml(marks, (Label(3, "None", (0, 0, 0)),)) == {3: 0.0}


def test_surfaces_show_the_given_labels_only(tmp_path: Path) -> None:
    def colours(labels: tuple[Label, ...]) -> np.ndarray:
        path = tmp_path / "surfaces.png"
        if not surface_view(head()[1], labels, path, "Title", "Note"):
            pytest.skip("this machine cannot draw 3D")
        picture = sitk.GetArrayFromImage(sitk.ReadImage(str(path))).astype(int)[:, :, :3]
        picture = picture[: picture.shape[0] * 85 // 100]  # without the legend
        return np.array(
            [(picture[..., 0] - picture[..., 1] > 60).sum(), (picture[..., 1] - picture[..., 0] > 60).sum()]
        )

    both, alone = colours((RED, GREEN)), colours((RED,))
    assert (both > 1000).all()
    assert alone[0] > both[0] and alone[1] == 0
