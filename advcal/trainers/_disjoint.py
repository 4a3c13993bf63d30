"""Whether data to choose by are among the data to train on."""

from collections.abc import Iterable

from advcal import _digest
from advcal._typing import Batch


def check_disjoint(batches: Iterable[Batch], validation: Iterable[Batch]) -> None:
    """Check that no input of the validation data is among the training data.

    Inputs are compared by their values in float32, through a hash, so that it finds copies and not
    images that are merely alike. Pass both as they are before augmentation, in the same units, and
    in a fixed order, or the numbers of the examples say nothing.

    Args:
        batches: The training data, an iterable of `(inputs,)` or `(inputs, labels, *rest)`.
        validation: The validation data, of inputs of the same shape.

    Returns:
        Nothing.

    Raises:
        TypeError: If an argument or a batch is of the wrong kind.
        ValueError: If inputs are in both; it says how many, and the numbers of the first ten in
            the order in which they come, from 0. Also if there are no inputs, or the shapes differ.

    Example:
        >>> import torch
        >>> images, labels = torch.arange(8.0).reshape(4, 2), torch.zeros(4).long()
        >>> check_disjoint([(images[:2], labels[:2])], [(images[2:], labels[2:])])
        >>> check_disjoint([(images[:3], labels[:3])], [(images[2:], labels[2:])])
        Traceback (most recent call last):
        ValueError: expected no validation input among the training inputs, got 1 of 2: 0 is 2
    """
    shapes: set[tuple[int, ...]] = set()
    training, chosen = (
        [key for _, keys in _digest.examples(name, each, shapes) for key in keys]
        for name, each in (("batches", batches), ("validation", validation))
    )
    if not training or not chosen:
        raise ValueError(f"expected inputs in both, got {len(training)} and {len(chosen)}")
    first = {key: i for i, key in reversed([*enumerate(training)])}
    pairs = [f"{i} is {first[key]}" for i, key in enumerate(chosen) if key in first]
    if pairs:
        raise ValueError(
            "expected no validation input among the training inputs, got "
            f"{len(pairs)} of {len(chosen)}: {', '.join(pairs[:10])}{', ...' if pairs[10:] else ''}"
        )
