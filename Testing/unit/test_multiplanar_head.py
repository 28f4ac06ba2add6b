"""Starter weights of the multiplanar U-Net: rendering, training, labelling a head on its own grid."""

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from safetensors.torch import load_file, save_file

from medgen.catalogue import find_method
from medgen.errors import BadInput, Cancelled
from medgen.imaging.geometry import Grid, from_array, to_array
from medgen.imaging.head_labels import CLASSES, LABELS
from medgen.imaging.head_segmentation import probabilities
from medgen.imaging.phantoms import analytic_head, render_mr
from medgen.method import Context, SilentProgress
from medgen.methods.multiplanar_unet import infer
from medgen.methods.multiplanar_unet.proof import prove
from medgen.methods.multiplanar_unet.render import CLASS_OF_TISSUE, prepare_head, read_label_map, render_batch
from medgen.methods.multiplanar_unet.train import one_cycle, segmentation_loss, train
from medgen.nets.unet2d import UNet2d
from medgen.spec import ImageFacts
from medgen.weights import checked_weights

SPEC = find_method("multiplanar_unet")
ALL = {"structures": "all"}


@pytest.fixture(scope="module")
def head():
    return analytic_head(np.random.default_rng(0), spacing_mm=3.0)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    network = UNet2d(CLASSES, width=2, pools=2)
    save_file(
        {name: value.half() if value.is_floating_point() else value for name, value in network.state_dict().items()},
        path,
    )
    return path


def _scan(size=(40, 34, 30), spacing=(3.0, 3.0, 3.0), direction=(1.0, 0, 0, 0, 1, 0, 0, 0, 1)):
    array = np.random.default_rng(0).integers(0, 40, size=tuple(reversed(size))).astype(np.int16)
    array[6:-6, 6:-6, 6:-6] += 300
    return from_array(array, Grid(size, spacing, (10.0, -30.0, 5.0), tuple(float(v) for v in direction)))


@pytest.mark.parametrize(
    "scan",
    [
        _scan(),
        _scan((30, 28, 12), (2.0, 2.5, 6.0), (0, 0, -1, 0.6, 0.8, 0, 0.8, -0.6, 0)),
        _scan((40, 30, 1), (3.0, 3.0, 5.0)),
    ],
    ids=["plain", "oblique, anisotropic", "one slice"],
)
def test_result_lies_on_the_images_own_grid(scan, weights):
    for orientations in ("1", "3"):
        result = infer.run({"image": scan}, {**ALL, "orientations": orientations}, Context(weights=weights))
        for name in ("segmentation", "uncertainty"):
            assert Grid.of(result[name]) == Grid.of(scan)
        assert to_array(result["segmentation"]).max() < CLASSES
        unsure = to_array(result["uncertainty"])
        assert unsure.min() >= 0 and unsure.max() <= 1
    assert set(result) == {port.name for port in SPEC.outputs} - {"bone_air"}


def test_permuted_and_flipped_copy_gives_the_same_answer_in_the_world(weights):
    scan = _scan(spacing=(1.0, 1.0, 1.0))
    other = sitk.Flip(sitk.PermuteAxes(scan, (2, 0, 1)), (True, False, True))
    answers = [
        infer.run({"image": i}, {**ALL, "orientations": "3"}, Context(weights=weights))["segmentation"]
        for i in (scan, other)
    ]
    back = sitk.Resample(answers[1], scan, sitk.Transform(), sitk.sitkNearestNeighbor)
    np.testing.assert_array_equal(to_array(back), to_array(answers[0]))


def test_bone_and_air_alone(weights):
    scan = _scan()
    (name, found), *others = infer.run(
        {"image": scan}, {"orientations": "1", "structures": "bone_air"}, Context(weights=weights)
    ).items()
    assert name == "bone_air" and not others and Grid.of(found) == Grid.of(scan)
    labels = np.zeros((12, 12, 12), np.uint8)
    labels[2:10, 2:10, 2:10] = 23
    labels[3:9, 3:9, 3] = 19
    labels[3:9, 3:9, 4] = 20
    labels[5:7, 5:7, 6:8] = 0  # a cavity
    labels[8, 8, 8] = 0  # a speck of 27 mm3
    labels[4, 4, 6:10] = 0  # one that opens to the outside along one axis, closed in the planes across it
    expected = np.zeros_like(labels)
    expected[3:9, 3:9, 3:5] = 1
    expected[5:7, 5:7, 6:8] = expected[4, 4, 6:10] = 2
    np.testing.assert_array_equal(to_array(infer.bone_and_air(from_array(labels, Grid.of(_scan((12,) * 3))))), expected)


def test_volumes_table_counts_what_was_found():
    scan = _scan((10, 10, 10), (2.0, 1.0, 1.0))
    labels = np.zeros((10, 10, 10), np.uint8)
    labels[:5] = 6
    table = infer.volumes_table(from_array(labels, scan))
    assert table == {"structure": ["Thalamus"], "volume_ml": [1.0]}


def test_cancel_ends_the_labelling(weights):
    class Cancel(SilentProgress):
        def raise_if_cancelled(self):
            raise Cancelled("cancelled")

    with pytest.raises(Cancelled):
        infer.run({"image": _scan()}, {**ALL, "orientations": "3"}, Context(weights=weights, progress=Cancel()))


def test_every_label_has_a_code_a_colour_and_its_own_name():
    assert [label.value for label in LABELS] == list(range(1, CLASSES))
    assert len({label.name for label in LABELS}) == len({label.colour for label in LABELS}) == len(LABELS)
    assert all(label.terminology.type.scheme in {"SCT", "DCM"} for label in LABELS)


@pytest.mark.parametrize(
    ("facts", "word"),
    [
        (ImageFacts((256, 256, 30), (1, 1, 5.0), 0, 1000, (0, 100, 900)), "5.0 mm apart"),
        (ImageFacts((256, 256, 180), (1, 1, 1), -1024, 2000, (-1000, -900, 900)), "CT"),
        (ImageFacts((256, 256, 1), (1, 1, 1), 0, 1000, (0, 100, 900)), "covered"),
        (ImageFacts((512, 512, 600), (1, 1, 1), 0, 1000, (0, 100, 900)), "larger than a head"),
    ],
)
def test_unfit_images_are_warned_of(facts, word):
    assert any(word in warning.sentence for warning in SPEC.fitness({"image": facts}))
    good = ImageFacts((256, 256, 180), (1, 1, 1), 0, 1000, (0, 100, 900))
    assert SPEC.fitness({"image": good}) == []


def _write_maps(folder, head, numbers):
    fine = sitk.Resample(head, [64, 72, 64], sitk.Transform(), sitk.sitkNearestNeighbor, head.GetOrigin(), [3.0] * 3)
    fine.SetSpacing([1.0] * 3)
    for number in numbers:
        sitk.WriteImage(fine, str(folder / f"map_{number:02d}.nii.gz"))


def test_rendered_slices_repeat_with_the_seed_and_carry_their_classes(head, tmp_path):
    _write_maps(tmp_path, head, [1])
    heads = [prepare_head(read_label_map(tmp_path / "map_01.nii.gz"))]
    images, classes = render_batch(heads, (0, 7), 6, 64)
    again, _ = render_batch(heads, (0, 7), 6, 64)
    assert torch.equal(images, again)
    assert not torch.equal(images, render_batch(heads, (0, 8), 6, 64)[0])
    assert images.min() >= 0 and images.max() <= 2 and torch.isfinite(images).all()
    assert classes.max() < CLASSES and len(classes.unique()) > 5
    assert images[classes[:, None] > 0].mean() > 2 * images[classes[:, None] == 0].mean()


def test_every_structure_of_a_head_comes_up_in_the_slices(head, tmp_path):
    _write_maps(tmp_path, head, [1])
    prepared = prepare_head(read_label_map(tmp_path / "map_01.nii.gz"))
    there = np.unique(CLASS_OF_TISSUE[prepared.tissue])
    drawn = np.unique(render_batch([prepared], (0, 0), 80, 32)[1])
    assert len(there) > 15 and set(there) == set(drawn)


def test_the_precision_of_this_machine_changes_no_probability_by_much(weights):
    torch.manual_seed(0)
    planes, network = torch.rand(3, 20, 24), infer.load_network(Context(weights=weights))
    with torch.no_grad():
        exact = network(planes[:, None]).softmax(1)
    found = probabilities(planes, network, "cpu")
    assert found.dtype == torch.float16
    assert (found - exact).abs().max() < 0.02


def test_training_writes_weights_with_a_card_that_load(head, tmp_path):
    _write_maps(tmp_path, head, [1, 15])
    path = train(tmp_path, tmp_path / "out", "smoke", device="cpu")
    assert checked_weights("multiplanar_unet", str(path))[0] == path
    image = render_mr(head, "T1", np.random.default_rng(0))
    result = infer.run({"image": image}, {**ALL, "orientations": "1"}, Context(weights=path))
    assert Grid.of(result["segmentation"]) == Grid.of(image)
    assert all(torch.isfinite(value).all() for value in load_file(path).values())


def test_training_without_label_maps_is_bad_input(tmp_path):
    with pytest.raises(BadInput, match="label maps"):
        train(tmp_path, tmp_path / "out", "smoke")
    with pytest.raises(BadInput, match="configuration"):
        train(tmp_path, tmp_path / "out", "huge")


def test_loss_falls_as_the_right_class_grows_likelier():
    classes = torch.randint(0, 3, (2, 16, 16))
    right = torch.nn.functional.one_hot(classes, 3).movedim(-1, 1).float()
    losses = [float(segmentation_loss(right * gain, classes)) for gain in (0.0, 2.0, 20.0)]
    assert losses[0] > losses[1] > losses[2] and losses[2] < 0.01
    assert one_cycle(0, 100) < one_cycle(5, 100) == 1 and one_cycle(99, 100) < 0.01


@pytest.mark.slow
def test_the_quick_proof_holds():
    report = prove("quick")
    assert [check["name"] for check in report["checks"] if not check["passed"]] == []
    assert len(report["checks"]) >= 6
