"""The linear model of logits: on a linear network it ends as the network itself."""

import pytest
import torch

from advcal.attacks._tangent import Tangent


@pytest.mark.parametrize("n_classes", [2, 4])
def test_a_linear_network_is_known_after_as_many_slopes_as_it_has_other_classes(n_classes):
    draw = torch.Generator().manual_seed(0)
    weight = torch.randn(n_classes, 6, generator=draw, dtype=torch.float64)
    points = torch.randn(3, 6, generator=draw, dtype=torch.float64)
    labels = (points @ weight.T).argmax(dim=1)
    tangent = Tangent(points, points @ weight.T, labels)
    for rival in range(n_classes):
        slope = torch.zeros(3, n_classes, dtype=torch.float64)
        slope[:, rival] = 1
        slope.scatter_add_(1, labels[:, None], -torch.ones_like(slope[:, :1]))
        tangent.learn(points, points @ weight.T, slope, slope @ weight)
        points = points + torch.randn(3, 6, generator=draw, dtype=torch.float64)
        tangent.jump()  # so that moves teach nothing
    order = torch.full((3,), 1.01, dtype=torch.float64)
    tangent.raise_entropy(order, torch.zeros(3))
    points = points.requires_grad_()
    logits = points @ weight.T
    kept = logits.argmax(dim=1) == labels
    p = logits.softmax(dim=1)
    (entropy,) = torch.autograd.grad(p.pow(1.01).sum(dim=1).log().div(-0.01).sum(), points)
    found = tangent.descent_at(points.detach())
    assert kept.any()
    cosine = torch.cosine_similarity(found, entropy)[kept]
    torch.testing.assert_close(cosine, torch.ones_like(cosine))
