"""Ultrasound style transfer: exact facts of its parts, and what a user gets from a run."""

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from torch.distributions import Normal, kl_divergence

from medgen.errors import BadInput, Cancelled
from medgen.method import Context, SilentProgress
from medgen.methods.us_style_transfer import infer, loss, net, style
from medgen.methods.us_style_transfer.spec import STYLE_TRANSFER
from medgen.nets import vgg
from medgen.training.export import export_weights

WIDTHS = (4, 4, 8, 8, 8)


def small(kind="variational", position="skip"):
    torch.manual_seed(0)
    return net.StyleTransfer(net.Architecture(WIDTHS, kind, position)).eval()


def speckle(seed, size=(96, 120), mean=0.25):
    return np.random.default_rng(seed).rayleigh(mean, size).clip(0.05, 1).astype(np.float32)


def frame(seed, size=(96, 120), mean=0.25):
    image = sitk.GetImageFromArray(np.rint(speckle(seed, size, mean) * 255).astype(np.uint8)[None])
    image.SetSpacing((0.1, 0.2, 1.0))
    image.SetOrigin((3.0, -4.0, 5.0))
    return image


@pytest.fixture(scope="module", params=["variational", "adain"])
def weights(request, tmp_path_factory):
    network = small(request.param)
    codes = torch.stack([style.to_vector(network.style_of(torch.rand(1, 1, 64, 64) ** p)) for p in (0.5, 1, 2, 3, 4)])
    card = dict.fromkeys(
        ("title", "training_data", "command", "seed", "steps", "device", "commit", "licence", "intended_use"), ""
    )
    card |= {"figures": {}, "known_failures": [], "trained_on_rendered": True}
    folder = tmp_path_factory.mktemp("weights")
    state = {**network.state_dict(), **style.StyleMap.of(codes).state()}
    export_weights(state, folder, "b_mode.safetensors", card)
    return folder / "b_mode.safetensors"


def run(weights, inputs, seed=0, progress=None, **parameters):
    context = Context(progress or SilentProgress(), seed=seed, weights=weights)
    checked = STYLE_TRANSFER.check_parameters({"size": "256", "samples": 1, "style": "sampled", **parameters})
    return infer.run(inputs, checked, context)


# ---------------------------------------------------------------------------------------------------------- exact facts


def test_what_the_working_size_cannot_hold_comes_from_the_frame_in_the_new_contrast():
    picture = speckle(0, (192, 240))
    content = infer.prepared_frame(picture, np.ones(picture.shape, bool), 96)
    height, width = content.size
    seen = content.values[..., :height, :width]
    back = infer._resized(seen[0, 0], picture.shape)[0, 0].numpy()
    assert style.edge_correlation(picture, back, content.fan) < 0.8
    assert np.allclose(back + infer.fine_detail(content, seen), picture, atol=1e-5)  # nothing restyled, nothing lost
    darker = infer.fine_detail(content, seen / 2)
    assert np.allclose(darker, (picture - back) / 2, atol=1e-5)


def test_the_content_distance_does_not_see_brightness_and_contrast():
    distances = loss.Distances(vgg.VGGFeatures(vgg._random_kernels(), True, "random"), torch.rand(4, 1, 32, 32))
    features = [torch.rand(2, 4, 8, 8) for _ in range(5)]
    changed = [3 * f + torch.rand(2, 4, 1, 1) for f in features]
    assert float(distances.content(changed, features).max()) < 1e-3
    assert float(distances.content([f.flip(0) for f in features], features).min()) > 0.5


def test_adain_gives_the_features_the_moments_of_the_style():
    features, other = torch.randn(3, 5, 16, 12) * 3 + 2, torch.rand(3, 5, 8, 8)
    changed = net.moments(net.adain(features, net.moments(other)))
    wanted = net.moments(other)
    torch.testing.assert_close(changed.mean, wanted.mean, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(changed.std, wanted.std, atol=1e-4, rtol=1e-3)


def test_adain_with_its_own_moments_or_without_strength_changes_nothing():
    features = torch.randn(2, 4, 8, 8)
    torch.testing.assert_close(net.adain(features, net.moments(features)), features, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(net.adain(features, net.moments(torch.rand(2, 4, 8, 8)), strength=0.0), features)


def test_moments_do_not_see_what_lies_outside_the_fan():
    features, inside = torch.randn(1, 3, 16, 16), torch.zeros(1, 1, 16, 16)
    inside[..., :8] = 1
    found = net.moments(features, inside)
    torch.testing.assert_close(found.mean, features[..., :8].mean((2, 3), keepdim=True))
    features[..., 8:] = 1e4
    torch.testing.assert_close(net.moments(features, inside).std, found.std)


def test_kl_is_the_true_divergence_and_the_printed_one_is_not():
    mu, sigma = torch.randn(2, 3, 4, 4), torch.rand(2, 3, 4, 4) * 0.9 + 0.05
    posterior = [net.Posterior(mu, sigma), net.Posterior(mu * 0.5, sigma)]
    true = sum(kl_divergence(Normal(q.mu, q.sigma), Normal(0.0, 1.0)).mean() for q in posterior)
    torch.testing.assert_close(loss.kl_to_normal(posterior), true, atol=1e-5, rtol=1e-5)
    assert abs(loss.kl_to_normal(posterior, as_printed=True) - true) > 0.1


@pytest.mark.parametrize("kind", net.KINDS)
@pytest.mark.parametrize("position", net.POSITIONS)
def test_any_multiple_of_sixteen_comes_out_in_its_own_size_and_range(kind, position):
    network = small(kind, position)
    with torch.no_grad():
        made = network(torch.rand(1, 1, 48, 80), network.style_of(torch.rand(1, 1, 32, 64)))
    assert made.shape == (1, 1, 48, 80) and made.min() >= 0 and made.max() <= 1
    again = net.network_from_state(network.state_dict())
    assert again.architecture == network.architecture


def test_latents_drawn_for_each_channel_move_the_style_more_than_independent_noise():
    """AdaIN keeps moments over positions, in which independent noise averages out."""

    def spread(shared):
        means = []
        for seed in range(12):
            z = net.prior_latents((64,), (64, 64), torch.Generator().manual_seed(seed), shared)[0]
            assert abs(float(z.std()) - 1) < 0.35
            means.append(z.mean((2, 3)))
        return float(torch.cat(means).std(0).mean())

    assert spread(0.5) > 20 * spread(0.0)


def test_style_vectors_and_map_give_back_what_they_were_given():
    network = small()
    with torch.no_grad():
        own = network.style_of(torch.rand(1, 1, 32, 32))
    back = style.from_vector(style.to_vector(own), WIDTHS)
    assert all(torch.equal(a.mean, b.mean) and torch.equal(a.std, b.std) for a, b in zip(own, back, strict=True))
    codes = torch.randn(20, 30)
    chart = style.StyleMap.of(codes)
    torch.testing.assert_close(chart.at(*chart.place(codes[7])), codes[7], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(chart.places().std(0), torch.ones(2), atol=1e-4, rtol=1e-4)


def test_edge_correlation():
    picture, inside = speckle(0), np.ones((96, 120), bool)
    assert style.edge_correlation(picture, 0.5 * picture + 0.1, inside) == pytest.approx(1, abs=1e-6)
    assert abs(style.edge_correlation(picture, speckle(1), inside)) < 0.1
    assert style.edge_correlation(picture, np.zeros_like(picture), inside) == 0


# ----------------------------------------------------------------------------------------------------- what a run gives


def values(image):
    return sitk.GetArrayFromImage(image)


def test_a_cine_comes_back_frame_by_frame_on_its_grid_with_its_labels(weights):
    labels = sitk.Image((120, 96, 1), sitk.sitkUInt8)
    made = run(weights, {"frames": [frame(1), frame(2), frame(3)], "labels": labels}, samples=2)
    assert len(made["restyled"]) == 3 and len(made["samples"]) == 2
    for image in [*made["restyled"], *made["samples"]]:
        assert image.GetPixelID() == sitk.sitkUInt8 and image.GetSize() == (120, 96, 1)
        assert image.GetSpacing() == (0.1, 0.2, 1.0) and image.GetOrigin() == (3.0, -4.0, 5.0)
    assert np.array_equal(values(made["restyled"][0]), values(made["samples"][0]))
    assert not np.array_equal(values(made["restyled"][0]), values(frame(1)))
    assert made["labels"] is labels
    assert made["styles"]["sample"] == [1, 2]


def test_frames_outside_the_range_stay_and_the_chosen_sample_is_used(weights):
    cine = [frame(n) for n in range(4)]
    made = run(weights, {"frames": cine}, frames="range", first=2, last=3, samples=3, sample=2)
    changed = [not np.array_equal(values(a), values(b)) for a, b in zip(made["restyled"], cine, strict=True)]
    assert changed == [False, True, True, False]
    assert np.array_equal(values(made["restyled"][1]), values(made["samples"][1]))
    with pytest.raises(BadInput, match="4 frames"):
        run(weights, {"frames": cine}, frames="range", first=5)
    with pytest.raises(BadInput, match="no sample 2"):
        run(weights, {"frames": cine}, sample=2)


def test_one_seed_is_one_result_and_one_style_for_every_frame(weights):
    first, second, other = (run(weights, {"frames": [frame(1)]}, seed=s) for s in (4, 4, 5))
    assert np.array_equal(values(first["restyled"][0]), values(second["restyled"][0]))
    assert first["style_code"] == second["style_code"] != other["style_code"]
    assert run(weights, {"frames": [frame(2, (80, 96))]}, seed=4)["style_code"] == first["style_code"]


def test_a_saved_style_is_the_style_of_its_image(weights):
    inputs = {"frames": [frame(1)], "style_image": [frame(9, mean=0.5)]}
    made = run(weights, inputs, style="image")
    again = run(weights, {"frames": [frame(1)], "style_code": made["style_code"]}, style="code")
    assert np.array_equal(values(made["restyled"][0]), values(again["restyled"][0]))


def test_interpolation_starts_and_ends_at_its_styles(weights):
    inputs = {"frames": [frame(1)], "style_image": [frame(8, mean=0.1)], "second_image": [frame(9, mean=0.5)]}
    strip = run(weights, inputs, style="interpolated", samples=3)["samples"]
    ends = [
        run(weights, {**inputs, "style_image": inputs[name]}, style="image") for name in ("style_image", "second_image")
    ]
    assert np.array_equal(values(strip[0]), values(ends[0]["restyled"][0]))
    assert abs(values(strip[2]).astype(int) - values(ends[1]["restyled"][0])).max() <= 1


def test_a_place_on_the_map_gives_a_style(weights):
    near, far = (run(weights, {"frames": [frame(1)]}, style="map", map_x=x)["styles"] for x in (-1.0, 1.5))
    assert near["map_x"] < far["map_x"]


def test_what_lies_outside_the_fan_is_kept(weights):
    picture = np.zeros((1, 160, 180), np.uint8)
    picture[0, 40:136, 30:150] = values(frame(1))[0]
    picture[0, 5:15, 5:40] = 255  # a line of text
    outside = np.ones(picture.shape, bool)
    outside[0, 37:139, 27:153] = False
    kept = values(run(weights, {"frames": [sitk.GetImageFromArray(picture)]})["restyled"][0])
    assert np.array_equal(kept[outside], picture[outside])
    assert not np.array_equal(kept[0, 60:100, 60:120], picture[0, 60:100, 60:120])


@pytest.mark.parametrize(
    ("inputs", "parameters", "words"),
    [
        ({"frames": [frame(1)]}, {"style": "image"}, "style image"),
        ({"frames": [frame(1)]}, {"style": "code"}, "saved style"),
        ({"frames": [frame(1)]}, {"style": "interpolated"}, "saved style or a style image"),
        ({"frames": [frame(1)], "style_code": b"rubbish"}, {"style": "code"}, "none of these weights"),
        ({"frames": [sitk.Image((64, 64, 1), sitk.sitkUInt8)]}, {}, "no ultrasound picture"),
    ],
)
def test_what_cannot_be_used_is_refused_in_one_sentence(weights, inputs, parameters, words):
    with pytest.raises(BadInput, match=words):
        run(weights, inputs, **parameters)


def test_colour_doppler_is_refused(weights):
    colour = np.stack([values(frame(1))[0]] * 3, -1)
    colour[30:60, 30:60] = (255, 0, 0)
    with pytest.raises(BadInput, match="Doppler"):
        run(weights, {"frames": [sitk.GetImageFromArray(colour, isVector=True)]})


def test_a_style_of_other_weights_is_refused(weights):
    code = run(weights, {"frames": [frame(1)]})["style_code"]
    changed = code.replace(style.file_sha256(weights).encode(), b"0" * 64)
    with pytest.raises(BadInput, match="other weights"):
        run(weights, {"frames": [frame(1)], "style_code": changed}, style="code")


def test_cancel_stops_a_cine(weights):
    class Cancelling(SilentProgress):
        frames = 0

        def raise_if_cancelled(self):
            self.frames += 1
            if self.frames > 2:
                raise Cancelled("Cancelled.")

    progress = Cancelling()
    with pytest.raises(Cancelled):
        run(weights, {"frames": [frame(1)] * 30}, progress=progress)
    assert progress.frames == 3
