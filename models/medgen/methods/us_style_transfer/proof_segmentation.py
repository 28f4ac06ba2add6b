"""Does a segmenter learn from restyled pictures? On simulated frames of two machines, and on real muscle of two screens
with the masks that their authors drew."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from medgen.imaging.phantoms.bmode import CYST, VESSEL, Machine, Scene, image_scene, random_scene
from medgen.methods.us_style_transfer.infer import Prepared, prepared_frame, restyle, styles_around
from medgen.methods.us_style_transfer.style import Styler
from medgen.metrics.overlap import dice
from medgen.nets.unet2d import UNet2d
from medgen.training.ultrasound_frames import masked_muscle, resized

Picture = npt.NDArray[np.float32]
SIDE, LABELLED, OTHERS, TESTED = 64, 10, 100, 50  # pixels, frames of look B, of look A, of B to test on
STEPS, BATCH, WIDTH = 160, 12, 8
# two machines on the same kind of scenes: A, a phantom's look, sharp, bright and clean; B blurred, dark and noisy
LOOK_A = Machine(axial_mm=0.3, lateral_mm=0.6, dynamic_range_db=65, gain_db=-8, grey=0.9, noise_db=-70)
LOOK_B = Machine(axial_mm=0.55, lateral_mm=1.3, dynamic_range_db=45, gain_db=-18, grey=1.2, noise_db=-48,
                 tgc_error_db=-8)  # fmt: skip
REAL_LABELLED = 3
REAL_TARGET = "dltrack 512x431"


@dataclass
class Labelled:
    images: list[Picture]
    masks: list[npt.NDArray[np.bool_]]


def _scene(rng: np.random.Generator) -> Scene:
    """With at least one vessel or cyst, which are what is segmented; solid lesions look alike."""
    while True:
        scene = random_scene(rng, 40.0, needle=False, artefacts=False)
        if any(e.label in (VESSEL, CYST) for e in scene.ellipses):
            return scene


def simulated(machine: Machine, count: int, key: tuple[int, ...]) -> Labelled:
    rng = np.random.default_rng(key)
    found = [image_scene(_scene(rng), machine, rng, (SIDE, SIDE)) for _ in range(count)]
    return Labelled([f.image for f in found], [np.isin(f.labels, (VESSEL, CYST)) for f in found])


def _prepared(picture: Picture) -> Prepared:
    return prepared_frame(picture, np.ones(picture.shape, bool), max(picture.shape))


def restyled(styler: Styler, source: Labelled, styles: Sequence[Picture], seed: int, temperature: float) -> Labelled:
    """Every picture in the look of a random one of `styles`, drawn around it where the network has latents."""
    generator = torch.Generator().manual_seed(seed)
    looks = [_prepared(picture) for picture in styles]
    images = []
    for picture in source.images:
        look = looks[int(torch.randint(len(looks), (), generator=generator))]
        vector = styles_around(styler, look, 2, temperature, generator)[1]
        images.append(restyle(styler, _prepared(picture), vector, 1.0, True))
    return Labelled(images, source.masks)


def segmentation_dice(target: Labelled, others: Labelled | None, test: Labelled, seed: int) -> float:
    """Mean Dice on the test pictures after training on the target's and, half of every batch, the others'."""
    torch.manual_seed(seed)
    network = UNet2d(1, WIDTH, 3)
    optimiser = torch.optim.Adam(network.parameters(), 2e-3)
    rng = np.random.default_rng((seed, 5))
    sets = [target] if others is None else [target, others]
    for step in range(STEPS):
        for group in optimiser.param_groups:
            group["lr"] = 2e-3 * (0.52 + 0.48 * np.cos(np.pi * step / STEPS))
        images, masks = _batch(sets, rng)
        logits = network(images)
        overlap = (2 * (logits.sigmoid() * masks).sum() + 1) / (logits.sigmoid().sum() + masks.sum() + 1)
        loss = F.binary_cross_entropy_with_logits(logits, masks) + 1 - overlap
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    network.eval()
    with torch.no_grad():
        found = network(torch.from_numpy(np.stack(test.images)[:, None]))[:, 0].numpy() > 0
    return float(np.mean([dice(a, b) for a, b in zip(found, test.masks, strict=True)]))


def _batch(sets: Sequence[Labelled], rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """The same number from every set; mirrored, gamma 0.7 to 1.4, gain 0.8 to 1.25."""
    images, masks = [], []
    for number in range(BATCH):
        chosen = sets[number % len(sets)]
        pick, flip = int(rng.integers(len(chosen.images))), rng.random() < 0.5
        image = chosen.images[pick] ** np.exp(rng.uniform(-0.35, 0.35)) * np.exp(rng.uniform(-0.22, 0.22))
        images.append(image[:, ::-1] if flip else image)
        masks.append(chosen.masks[pick][:, ::-1] if flip else chosen.masks[pick])
    return (
        torch.from_numpy(np.stack(images)[:, None].clip(0, 1).astype(np.float32)),
        torch.from_numpy(np.stack(masks)[:, None].astype(np.float32)),
    )


def augmentation_dice(stylers: dict[str, Styler], seed: int) -> dict[str, float]:
    """Dice by what was trained on: 'target' (10 of B), 'raw' (and 100 of A as they are), and for each styler 100 of A
    in B's look. The 10 frames differ from seed to seed, the tested ones do not."""
    target, others = simulated(LOOK_B, LABELLED, (seed, 1)), simulated(LOOK_A, OTHERS, (2,))
    test = simulated(LOOK_B, TESTED, (3,))
    sets = {name: restyled(styler, others, target.images, seed, 1.0) for name, styler in stylers.items()}
    arms = {"target": None, "raw": others, **sets}
    return {name: segmentation_dice(target, arm, test, seed) for name, arm in arms.items()}


# -------------------------------------------------------------------------------------------------------- real masks


def muscle(of_target: bool) -> Labelled:
    """Real frames with the aponeuroses, 64 x 64 pixels: of one screen layout, or of all others; empty without the
    shared data. The style network has seen most of these frames, never a mask."""
    found = [(f, mask) for f, mask in masked_muscle() if (f.group == REAL_TARGET) == of_target]
    size = (SIDE, SIDE)
    masks = [resized(mask.astype(np.float32), size) > 0.3 for _frame, mask in found]  # thin lines must not vanish
    return Labelled([resized(frame.grey, size) for frame, _mask in found], masks)


def real_mask_dice(stylers: dict[str, Styler], seed: int) -> dict[str, float]:
    """Mean Dice of aponeuroses on the target layout's frames, by what was trained on: 'target' (three of its frames,
    which the seed chooses; the others are tested on), 'raw' (and all frames of other layouts as they are), and for each
    styler those in the looks of the three. Raises ValueError without the shared data."""
    whole, others = muscle(True), muscle(False)
    if not whole.images:
        raise ValueError("the shared data is not on this machine")
    order = np.random.default_rng((seed, 6)).permutation(len(whole.images))
    target, test = (
        Labelled([whole.images[i] for i in part], [whole.masks[i] for i in part])
        for part in (order[:REAL_LABELLED], order[REAL_LABELLED:])
    )
    sets = {name: restyled(styler, others, target.images, seed, 1.0) for name, styler in stylers.items()}
    arms = {"target": None, "raw": others, **sets}
    return {name: segmentation_dice(target, arm, test, seed) for name, arm in arms.items()}
