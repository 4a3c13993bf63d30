"""The study models: their sizes, shapes and gradients."""

import models
import pytest
import torch

SIZES = {
    models.published_cnn: 783_370,
    models.small_cnn: 2_340_810,
    models.resnet18: 11_173_962,
    models.resnet10: 308_826,
    models.mobilenet: 543_050,
    models.fastnet: 1_972_792,
    models.fastnet_quarter: 127_096,
}


@pytest.mark.parametrize("build", SIZES)
def test_parameter_count(build):
    assert sum(p.numel() for p in build().parameters()) == SIZES[build]


@pytest.mark.parametrize("n_classes", [2, 10])
@pytest.mark.parametrize("build", SIZES)
def test_maps_images_to_unnormalised_logits(build, n_classes):
    torch.manual_seed(0)
    logits = build(n_classes).eval()(torch.rand(3, 3, 32, 32))
    assert logits.shape == (3, n_classes)
    assert logits.isfinite().all()
    assert not torch.allclose(logits.sum(1), torch.ones(3))


@pytest.mark.parametrize("build", SIZES)
def test_every_parameter_and_the_input_get_a_gradient(build):
    torch.manual_seed(0)
    model, inputs = build(), torch.rand(4, 3, 32, 32, requires_grad=True)
    model(inputs).square().sum().backward()
    assert inputs.grad.abs().sum() > 0
    learnt = [p for p in model.parameters() if p.requires_grad]
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in learnt)


@pytest.mark.parametrize("build", SIZES)
def test_examples_are_independent_in_eval_mode(build):
    torch.manual_seed(0)
    model, inputs = build().eval(), torch.rand(3, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(model(inputs)[1:2], model(inputs[1:2]), atol=1e-5, rtol=1e-4)


def test_only_the_newer_ones_normalise_batches():
    def normalises(model):
        return any(isinstance(layer, torch.nn.BatchNorm2d) for layer in model.modules())

    assert [normalises(build()) for build in SIZES] == [False, False, *[True] * 5]


def test_every_network_is_named():
    assert {build.__name__ for build in SIZES} == set(models.NAMES)


def test_fastnet_whitens_the_images_it_is_given():
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(200, 1, 32, 32, generator=generator)  # grey, so that channels go together
    images = (128 + 30 * noise + 10 * torch.randn(200, 3, 32, 32, generator=generator)).clamp(
        0, 255
    )
    model = models.fastnet(images=images.to(torch.uint8)).eval()
    responses = model[:2](images / 255)[:, :12].transpose(0, 1).flatten(1)
    torch.testing.assert_close(responses.cov(), torch.eye(12), atol=0.06, rtol=0)
    assert torch.equal(model[1].weight[12:], -model[1].weight[:12])
    assert not model[1].weight.requires_grad
