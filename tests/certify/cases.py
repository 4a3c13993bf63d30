"""Small models of which the smoothed classifier is known in closed form."""

from itertools import pairwise

import torch
from scipy import integrate, special, stats
from torch import nn


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


class Line(nn.Module):
    """Two classes, told apart by `w x + b` of log-odds."""

    def __init__(self, weight, bias=0.0):
        super().__init__()
        self.register_buffer("weight", torch.tensor(weight, dtype=torch.float64))
        self.bias = bias

    def forward(self, inputs):
        odds = inputs.flatten(1).double() @ self.weight + self.bias
        return torch.stack([odds / 2, -odds / 2], dim=1)


def mean_sigmoid(odds, deviation):
    """Return the mean of the sigmoid of normal log-odds, by quadrature."""
    value, _ = integrate.quad(
        lambda z: special.expit(odds + deviation * z) * stats.norm.pdf(z), -12, 12, limit=200
    )
    return value


def perceptron(seed=0, sizes=(6, 12, 12, 4), gain=4.0, dtype=torch.float32):
    """A small ReLU network with confidences all over the range."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers = [nn.Flatten()]
        for wide, narrow in pairwise(sizes):
            layers += [nn.Linear(wide, narrow), nn.ReLU()]
        model = nn.Sequential(*layers[:-1]).to(dtype)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(gain)
            # Bends and classes lie about the middle of the inputs.
            layers[1].bias.copy_(-0.5 * layers[1].weight.sum(dim=1))
            layers[-2].bias.sub_(model(torch.full((1, sizes[0]), 0.5, dtype=dtype))[0])
        return model


def points(n, size=6, seed=0, dtype=torch.float32):
    return torch.rand(n, size, generator=seeded(seed), dtype=torch.float64).to(dtype)
