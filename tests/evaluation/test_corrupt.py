"""Corruptions made here."""

import functools
import inspect
import io
import itertools
import math

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage
from sklearn.datasets import load_sample_image
from torch.nn import functional

from advcal import evaluation
from advcal.evaluation import corrupt, corruptions
from advcal.evaluation._corrupt import CORRUPTIONS
from advcal.evaluation._filters import filtered, moved, transformed
from advcal.evaluation._jpeg import compressed

RANDOM = {
    "gaussian_noise", "shot_noise", "impulse_noise", "speckle_noise", "glass_blur", "motion_blur",
    "fog", "snow", "spatter", "elastic_transform",
}  # fmt: skip
# What leaves a grey image as it is, up to rounding.
NOTHING_TO_GREY = set(CORRUPTIONS) - {
    "gaussian_noise", "shot_noise", "impulse_noise", "speckle_noise", "fog", "snow", "spatter",
    "brightness",
}  # fmt: skip
every_corruption = pytest.mark.parametrize("name", CORRUPTIONS)


def images(n=3, side=32, seed=0, channels=3):
    """Draw smooth images with a slanted edge."""
    rng = np.random.default_rng(seed)
    smooth = ndimage.gaussian_filter(rng.normal(size=(n, channels, side, side)), (0, 0, 2, 2))
    smooth = smooth / np.abs(smooth).max() / 2 + 0.5
    rows, columns = np.indices((side, side))
    smooth[:, :, rows + 0.6 * columns > 0.8 * side] *= 0.3
    return torch.tensor(smooth).float()


@functools.cache
def photographs(side=32):
    """Cut two photographs into pieces of 128 pixels and shrink these to the side."""
    pixels = np.stack([load_sample_image(name) for name in ("china.jpg", "flower.jpg")])
    whole = torch.tensor(pixels[:, :384, :640]).permute(0, 3, 1, 2).float() / 255
    pieces = whole.unfold(2, 128, 128).unfold(3, 128, 128).permute(0, 2, 3, 1, 4, 5)
    return functional.adaptive_avg_pool2d(pieces.reshape(30, 3, 128, 128), side)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@every_corruption
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_what_comes_out(name, dtype):
    inputs = images().to(dtype)
    before, state = inputs.clone(), torch.get_rng_state()
    result = corrupt(inputs, name, severity=5)
    assert (result.shape, result.dtype, result.device) == (inputs.shape, dtype, inputs.device)
    assert result.min() >= 0
    assert result.max() <= 1
    assert result.isfinite().all()
    assert not torch.equal(result, inputs)
    assert torch.equal(inputs, before)
    assert torch.equal(torch.get_rng_state(), state)
    assert result.data_ptr() != inputs.data_ptr()


@every_corruption
def test_it_grows_with_severity(name):
    inputs = images(16)
    apart = [
        float((corrupt(inputs, name, severity=s, generator=seeded()) - inputs).square().mean())
        for s in range(1, 6)
    ]
    assert apart == sorted(apart)
    assert apart[0] > 0
    assert apart[4] > 1.5 * apart[0]


@every_corruption
@pytest.mark.parametrize("side", [8, 9, 16, 32])
def test_on_photographs_it_grows_with_severity_at_every_side(name, side):
    inputs = photographs(side)
    moved = [corrupt(inputs, name, severity=s, generator=seeded()) - inputs for s in range(1, 6)]
    apart = [float(each.flatten(1).norm(dim=1).mean()) for each in moved]
    assert all(less < more for less, more in itertools.pairwise(apart))
    for each in moved:  # also once rounded to 8 bits, but of a piece of plain sky
        assert float((each.flatten(1).abs().amax(dim=1) > 0.5 / 255).float().mean()) > 0.9


@every_corruption
def test_random_numbers_are_the_generators(name):
    inputs = images()
    one, same, other = (
        corrupt(inputs, name, severity=3, generator=seeded(seed)) for seed in (0, 0, 1)
    )
    assert torch.equal(one, same)
    assert torch.equal(one, other) == (name not in RANDOM)


@every_corruption
@pytest.mark.parametrize("shape", [(8, 8), (33, 20), (9, 64)])
def test_any_size_and_layout(name, shape):
    inputs = torch.rand(2, shape[1], shape[0], 3).permute(0, 3, 2, 1)
    assert not inputs.is_contiguous()
    result = corrupt(inputs, name, severity=2, generator=seeded())
    assert result.shape == inputs.shape
    wanted = corrupt(inputs.contiguous(), name, severity=2, generator=seeded())
    torch.testing.assert_close(result, wanted)
    if name != "saturate":
        grey = corrupt(inputs[:1, :1], name, severity=2, generator=seeded())
        assert grey.shape == (1, 1, *shape)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_under_every_grad_mode_and_without_a_graph(mode):
    inputs = images().requires_grad_()
    wanted = corrupt(inputs, "motion_blur", severity=3, generator=seeded())
    assert not wanted.requires_grad
    with mode():
        assert torch.equal(corrupt(inputs, "motion_blur", severity=3, generator=seeded()), wanted)


@pytest.mark.parametrize("name", sorted(NOTHING_TO_GREY))
def test_a_grey_image_has_nothing_to_lose(name):
    grey = torch.full((2, 3, 32, 32), 128 / 255)
    result = corrupt(grey, name, severity=5)
    torch.testing.assert_close(result, grey, atol=1e-5, rtol=0)


# --- each by what it is ----------------------------------------------------------------------


def grey(level, n=8):
    return torch.full((n, 3, 64, 64), level)


def test_noise_has_the_moments_of_its_definition():
    flat = grey(0.5)
    noise = corrupt(flat, "gaussian_noise", severity=1, generator=seeded()) - flat
    assert float(noise.std()) == pytest.approx(0.04, rel=0.02)
    shot = corrupt(flat, "shot_noise", severity=1, generator=seeded())
    assert float(shot.mean()) == pytest.approx(0.5, rel=0.01)
    assert float(shot.var()) == pytest.approx(0.5 / 500, rel=0.03)
    dim = corrupt(grey(0.2), "speckle_noise", severity=1, generator=seeded())
    assert float(dim.std()) == pytest.approx(0.2 * 0.06, rel=0.02)
    impulses = corrupt(flat, "impulse_noise", severity=5, generator=seeded())
    assert float((impulses == 1).double().mean()) == pytest.approx(0.035, rel=0.05)
    assert float((impulses == 0).double().mean()) == pytest.approx(0.035, rel=0.05)
    assert (impulses[(impulses > 0) & (impulses < 1)] == 0.5).all()


def test_gaussian_blur_is_scipys():
    inputs = images(1, side=64)
    got = corrupt(inputs, "gaussian_blur", severity=5)  # a deviation of 1 at 32 pixels is 2 at 64
    wanted = ndimage.gaussian_filter(inputs.numpy(), (0, 0, 2, 2), mode="mirror", truncate=4)
    np.testing.assert_allclose(got.numpy(), wanted, atol=1e-4)


def test_defocus_spreads_a_point_over_a_disc():
    point = torch.zeros(1, 1, 33, 33)
    point[0, 0, 16, 16] = 1
    disc = corrupt(point, "defocus_blur", severity=5)[0, 0]
    radius = 2.0 * 33 / 32
    rows, columns = np.indices((33, 33)) - 16.0
    distance = np.hypot(rows, columns)
    assert float(disc.sum()) == pytest.approx(1, abs=1e-5)
    assert (disc.numpy()[distance > radius + 0.75] == 0).all()
    inside = disc.numpy()[distance < radius - 0.75]
    np.testing.assert_allclose(inside, 1 / (np.pi * radius**2), rtol=0.03)


def test_motion_blurs_along_a_line():
    point = torch.zeros(1, 1, 65, 65)
    point[0, 0, 32, 32] = 1
    streak = corrupt(point, "motion_blur", severity=5, generator=seeded())[0, 0].double().numpy()
    places = (np.indices((65, 65)) - 32.0).reshape(2, -1)
    spread = (places * streak.ravel()) @ places.T / streak.sum()
    across, along = np.linalg.eigvalsh(spread)
    assert along == pytest.approx((2.2 * 65 / 32) ** 2, rel=0.1)
    assert across < 0.3


@pytest.mark.parametrize("shape", [(2, 3, 32, 32), (3, 1, 9, 40), (2, 2, 96, 64)])
@pytest.mark.parametrize("severity", [1, 5])
def test_motion_is_the_weighted_sum_of_moved_images(shape, severity):
    inputs = torch.rand(shape, generator=seeded(1))
    got = corrupt(inputs, "motion_blur", severity=severity, generator=seeded())
    angle = math.pi * torch.rand(len(inputs), 1, 1, generator=seeded())
    deviation = max((0.6, 2.2)[severity > 1] * min(shape[2:]) / 32, 0.2)
    reach = math.ceil(8 * deviation)
    steps = [i / 2 for i in range(-reach, reach + 1)]
    weights = [math.exp(-(step**2) / (2 * deviation**2)) for step in steps]
    images = [moved(inputs, step * angle.sin(), step * angle.cos()) for step in steps]
    wanted = sum(map(torch.mul, map(torch.tensor, weights), images)) / sum(weights)
    torch.testing.assert_close(got, wanted, atol=5e-6, rtol=0)


@pytest.mark.parametrize("side", [64, 96])
def test_a_wide_disc_is_the_same_by_fourier_transforms(side):
    inputs = torch.rand(2, 3, side, side + 7)
    kernel = torch.rand(2 * (side // 8) + 1, 2 * (side // 8) + 1)
    got = transformed(inputs, kernel[None] / kernel.sum())
    torch.testing.assert_close(got, filtered(inputs, kernel / kernel.sum()), atol=2e-6, rtol=0)
    blurred = corrupt(inputs, "defocus_blur", severity=5)
    turned = corrupt(inputs.rot90(1, (2, 3)), "defocus_blur", severity=5)
    torch.testing.assert_close(turned, blurred.rot90(1, (2, 3)), atol=5e-6, rtol=0)


def test_glass_takes_pixels_from_nearby():
    ramp = torch.arange(64.0).div(63).expand(1, 3, 64, 64).contiguous()
    moved = (corrupt(ramp, "glass_blur", severity=5, generator=seeded()) - ramp) * 63
    assert 0.2 < float(moved[..., 8:-8].std()) < 3.2
    assert float(moved[..., 8:-8].abs().max()) <= 2 * 1.6 + 1


def test_zoom_leaves_the_centre_and_what_turns_around_it():
    inputs = torch.rand(1, 3, 33, 33)
    blurred = corrupt(inputs, "zoom_blur", severity=5)
    torch.testing.assert_close(blurred[..., 16, 16], inputs[..., 16, 16])
    turned = corrupt(inputs.rot90(1, (2, 3)), "zoom_blur", severity=5)
    torch.testing.assert_close(turned, blurred.rot90(1, (2, 3)), atol=1e-5, rtol=0)


def test_colours_by_hand():
    pixel = torch.tensor([0.5, 0.4, 0.2]).view(1, 3, 1, 1).expand(1, 3, 8, 8)
    brighter = corrupt(pixel, "brightness", severity=5)[0, :, 0, 0]
    torch.testing.assert_close(brighter, torch.tensor([0.9, 0.72, 0.36]))  # value .9, same hue
    stronger = corrupt(pixel, "saturate", severity=1)[0, :, 0, 0]  # saturation .6 to .9
    torch.testing.assert_close(stronger, torch.tensor([0.5, 0.35, 0.05]))
    black = corrupt(torch.zeros(1, 3, 8, 8), "brightness", severity=1)
    torch.testing.assert_close(black, torch.full_like(black, 0.1))
    inputs = images()
    faded = corrupt(inputs, "contrast", severity=2)
    mean = inputs.mean(dim=(2, 3), keepdim=True)
    torch.testing.assert_close(faded - mean, (inputs - mean) / 2)


def test_pixelate_has_few_values():
    result = corrupt(torch.rand(1, 1, 16, 16), "pixelate", severity=4)
    assert len(result.unique()) == 8 * 8
    assert torch.equal(result[..., ::2, ::2], result[..., 1::2, 1::2])


def test_fog_has_structure_and_keeps_the_range():
    flat = grey(0.5, n=4)
    misty = corrupt(flat, "fog", severity=3, generator=seeded())
    assert torch.equal(misty[:, 0], misty[:, 1])
    beside = (misty[..., 1:] - misty[..., :-1]).square().mean()
    far = (misty[..., 32:] - misty[..., :32]).square().mean()
    assert far > 3 * beside
    assert float(misty.max()) <= 0.5 + 1e-6
    assert not torch.equal(misty[0], misty[1])


def test_spatter_covers_its_share_with_blobs_of_its_own_in_each_image():
    flat = grey(0.5, n=4)
    for severity, share in enumerate((0.04, 0.07, 0.10, 0.24, 0.34), start=1):
        spattered = corrupt(flat, "spatter", severity=severity, generator=seeded())
        wet = (spattered != flat).any(dim=1).float()
        torch.testing.assert_close(wet.mean(dim=(1, 2)), torch.full((4,), share), atol=1e-3, rtol=0)
        beside = (wet[..., 1:] * wet[..., :-1]).mean()
        assert beside > 0.5 * share  # of neighbours that knew nothing of each other, share ** 2
        assert len(wet.flatten(1).unique(dim=0)) == 4


def test_drops_grow_with_the_image():
    def runs(side):
        flat = torch.full((8, 1, side, side), 0.5)
        wet = corrupt(flat, "spatter", severity=3, generator=seeded()) != flat
        return float(wet.float().mean() / (wet[..., 1:] & ~wet[..., :-1]).float().mean())

    assert runs(128) == pytest.approx(4 * runs(32), rel=0.3)


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 7])
def test_water_is_pale_and_mud_is_brown_or_a_dark_grey(channels):
    middle = torch.full((4, channels, 64, 64), 0.5)
    water, mud = (
        corrupt(middle, "spatter", severity=severity, generator=seeded()) - middle
        for severity in (3, 5)
    )
    assert torch.equal(water, water[:, :1].expand_as(water))
    assert float(water[water != 0].mean()) > 0.1
    assert float((water[water != 0] < -0.05).float().mean()) > 0.03  # away from the light
    of_channel = [float(part[part != 0].mean()) for part in mud.unbind(dim=1)]
    assert max(of_channel) < -0.1
    if channels == 3:
        assert of_channel == sorted(of_channel, reverse=True)
        assert of_channel[0] - of_channel[2] > 0.1
    else:
        assert torch.equal(mud, mud[:, :1].expand_as(mud))


@pytest.mark.parametrize("quality", [8, 20, 50, 80])
@pytest.mark.parametrize("channels", [1, 3])
def test_jpeg_is_nearly_pillows(quality, channels):
    inputs = (images(1, side=40, channels=channels) * 255).round() / 255
    pixels = (inputs[0].permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels.squeeze()).save(file, "JPEG", quality=quality, subsampling="4:2:0")
    wanted = np.asarray(Image.open(file), dtype=np.float64).reshape(pixels.shape)
    got = compressed(inputs, quality)[0].permute(1, 2, 0).numpy() * 255
    lost = np.abs(wanted - pixels).mean()
    assert np.abs(got - wanted).mean() < max(0.25 * lost, 0.3)


# --- sets ------------------------------------------------------------------------------------


def test_sets_are_named_in_order_and_the_same_each_time():
    batches = [(images(4), torch.arange(4), "more"), (images(2, seed=1), torch.arange(2))]
    sets = corruptions(batches, kinds=["fog", "contrast"], severity=[5, 1])
    assert list(sets) == ["fog 5", "fog 1", "contrast 5", "contrast 1"]
    first, again = list(sets["fog 5"]), list(sets["fog 5"])
    assert [len(batch) for batch in first] == [3, 2]
    for batch, same, clean in zip(first, again, batches, strict=True):
        assert torch.equal(batch[0], same[0])
        assert not torch.equal(batch[0], clean[0])
        assert batch[1] is clean[1]
    assert len(corruptions(batches)) == 5 * len(CORRUPTIONS)
    other = corruptions(batches, kinds=["fog"], severity=[5], generator=seeded(1))
    assert not torch.equal(next(iter(other["fog 5"]))[0], first[0][0])


def test_batches_are_corrupted_differently():
    batches = [(images(2), torch.arange(2))] * 2
    one, other = corruptions(batches, kinds=["gaussian_noise"])["gaussian_noise 1"]
    assert not torch.equal(one[0], other[0])


class Counted:
    """Batches without a length."""

    def __iter__(self):
        return iter([(images(2), torch.arange(2))])


def test_sets_have_the_length_of_the_batches_and_show_them():
    batches = [(images(2), torch.arange(2))] * 3
    seen = []
    sets = corruptions(
        batches,
        kinds=["contrast"],
        severity=[1],
        progress=lambda items: (
            seen.append((len(items), i)) or each for i, each in enumerate(items)
        ),
    )
    plain = corruptions(batches, kinds=["contrast"], severity=[1])
    for one in (sets, plain):
        assert len(one["contrast 1"]) == 3
        assert len(list(one["contrast 1"])) == 3
    assert seen == [(3, 0), (3, 1), (3, 2)]
    unsized = corruptions(Counted(), kinds=["contrast"], severity=[1])["contrast 1"]
    assert len(list(unsized)) == 1
    with pytest.raises(TypeError, match=r"has no len\(\)"):
        len(unsized)
    with pytest.raises(TypeError, match="expected progress as a callable, got int"):
        corruptions(batches, progress=3)


@pytest.mark.parametrize(
    ("channels", "words", "left_out"),
    [
        (1, "'saturate', which cannot be done on grey images", {"saturate"}),
        (4, "'saturate', 'jpeg_compression', .* images of 4 channels", {"saturate", "jpeg_comp"}),
        (2, "'saturate', 'jpeg_compression', .* images of 2 channels", {"saturate", "jpeg_comp"}),
    ],
)
def test_what_the_channels_do_not_allow_is_left_out_with_one_warning(channels, words, left_out):
    batches = [(images(2, channels=channels), torch.arange(2))]
    with pytest.warns(UserWarning, match=f"left out {words}") as told:
        sets = corruptions(batches, severity=[1, 5])
    assert len(told) == 1
    assert len(sets) == 2 * (len(CORRUPTIONS) - len(left_out))
    whole = corruptions([(images(2), torch.arange(2))], severity=[1, 5])
    assert [name for name in whole if not name.startswith(tuple(left_out))] == list(sets)
    for shifted in sets.values():
        assert next(iter(shifted))[0].shape == (2, channels, 32, 32)
        assert shifted.seed == whole[f"{shifted.name} {shifted.severity}"].seed
    with pytest.raises(ValueError, match=f"corrupted by 'saturate', got {channels} channels"):
        corruptions(batches, kinds=["saturate"])


def test_a_look_at_the_first_batch_draws_nothing():
    loader = torch.utils.data.DataLoader(list(zip(images(4), range(4), strict=True)), shuffle=True)
    before = torch.get_rng_state()
    corruptions(loader)
    assert torch.equal(torch.get_rng_state(), before)


# --- bad input -------------------------------------------------------------------------------

GOOD = {"inputs": torch.rand(1, 3, 8, 8), "corruption": "fog", "severity": 1}
BAD = {
    "array": ({"inputs": np.zeros((1, 3, 8, 8))}, TypeError, "inputs as a torch.Tensor, got"),
    "uint8": ({"inputs": torch.zeros(1, 3, 8, 8).byte()}, TypeError, "inputs of a floating dtype"),
    "flat": ({"inputs": torch.rand(1, 64)}, ValueError, r"inputs of shape \(n, channels, height"),
    "tiny": ({"inputs": torch.rand(1, 3, 8, 7)}, ValueError, "width >= 8"),
    "empty": ({"inputs": torch.rand(0, 3, 8, 8)}, ValueError, "inputs of shape"),
    "range": ({"inputs": torch.rand(1, 3, 8, 8) * 255}, ValueError, r"inputs in \[0, 1\], got"),
    "rounding": (
        {"inputs": torch.full((1, 3, 8, 8), 1 + 1e-6)},
        ValueError,
        r"to 1\.00000\d+; take the rounding off by inputs\.clamp\(0, 1\)",
    ),
    "NaN": ({"inputs": torch.full((1, 3, 8, 8), torch.nan)}, ValueError, "inputs in .*nan"),
    "name": ({"corruption": "frost"}, ValueError, "corruption to be one of .* got 'frost'"),
    "severity 0": ({"severity": 0}, ValueError, "severity >= 1, got 0"),
    "severity 6": ({"severity": 6}, ValueError, "severity from 1 to 5, got 6"),
    "half": ({"severity": 1.5}, TypeError, "severity as an int, got float"),
    "generator": ({"generator": 3}, TypeError, "generator as a torch.Generator or None, got int"),
    "grey": (
        {"inputs": torch.rand(1, 1, 8, 8), "corruption": "saturate"},
        ValueError,
        "inputs of 3 channels to saturate",
    ),
    "four": (
        {"inputs": torch.rand(1, 4, 8, 8), "corruption": "jpeg_compression"},
        ValueError,
        "inputs of 1 or 3 channels",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_arguments_are_refused(case):
    options, error, match = BAD[case]
    with pytest.raises(error, match=f"expected .*{match}"):
        corrupt(**GOOD | options)


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"batches": iter([])}, TypeError, "batches that can be read again"),
        ({"batches": 3}, TypeError, "batches as an iterable, got int"),
        ({"kinds": "fog"}, TypeError, "kinds as a list or tuple, got str"),
        ({"kinds": ["frost"]}, ValueError, "kinds to be one of"),
        ({"kinds": []}, ValueError, "one or more in kinds, got none"),
        ({"kinds": ["fog", "fog"]}, ValueError, "each only once in kinds"),
        ({"severity": 3}, TypeError, "severity as a list or tuple, got int"),
        ({"severity": [0]}, ValueError, "severity >= 1, got 0"),
        ({"generator": 3}, TypeError, "generator as a torch.Generator"),
    ],
    ids=lambda each: str(each).partition(" object at 0x")[0],
)
def test_bad_sets_are_refused(options, error, match):
    with pytest.raises(error, match=f"expected {match}"):
        corruptions(**{"batches": []} | options)


def test_nothing_here_is_called_by_the_benchmarks_name():
    for name in ("corrupt", "corruptions"):
        assert "not CIFAR-10-C" in inspect.getdoc(getattr(evaluation, name)).splitlines()[0]
