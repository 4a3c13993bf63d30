"""The top label: as `argmax` says over few and many classes, ties included, whatever the kind."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from advcal.metrics import accuracy, confidence
from advcal.metrics._bins import uniform_bin, uniform_edges


def draw(seed, n, n_classes, grid):
    """Draw probabilities in `grid`-ths of one, with many ties, and labels that are often right."""
    rng = np.random.default_rng(seed)
    probs = rng.multinomial(grid, rng.dirichlet(np.ones(n_classes), n)) / grid
    wrong = rng.integers(0, n_classes, n)
    return probs, np.where(rng.random(n) < 0.6, probs.argmax(axis=1), wrong)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    st.integers(0, 10**6),
    st.sampled_from([2, 3, 63, 64, 65, 100]),
    st.sampled_from([1, 2, 4, 64]),
    st.sampled_from([torch.float64, torch.float32, torch.bfloat16]),
)
def test_the_first_of_equal_classes_is_the_prediction(seed, n_classes, grid, dtype):
    probs, labels = draw(seed, 40, n_classes, grid)
    tensors = torch.from_numpy(probs).to(dtype), torch.from_numpy(labels)
    right = accuracy(*tensors, reduction="none")
    assert right.tolist() == (probs.argmax(axis=1) == labels).tolist()
    assert confidence(*tensors, reduction="none").tolist() == probs.max(axis=1).tolist()


@pytest.mark.parametrize("n_bins", [1, 2, 3, 7, 10, 15, 49, 100, 12345])
def test_a_bin_is_what_a_search_of_the_edges_finds(n_bins):
    edges = uniform_edges(n_bins, torch.device("cpu"))
    assert edges.tolist() == [i / n_bins for i in range(n_bins + 1)]
    near = [edges, edges.nextafter(edges + 1), edges.nextafter(edges - 1).clamp(min=0)]
    single = torch.rand(5000, generator=torch.Generator().manual_seed(0))
    values = torch.cat([*near, edges.float().double(), single.double(), torch.tensor([1.001])])
    wanted = torch.bucketize(values, edges[1:-1])
    assert uniform_bin(values, n_bins).tolist() == wanted.tolist()
