"""AdaLS and AR-AdaLS: label smoothing that validation data steer, as an objective."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from advcal import _answers, _checks, losses
from advcal._logits import finite
from advcal._pass import Way, again
from advcal._sums import exact
from advcal._typing import Attack, Batch, Loss, Model, Progress
from advcal._values import shown
from advcal.attacks import adversarial_distance
from advcal.metrics import robustness_levels
from advcal.trainers._crafting import examples, logits_at, scalar
from advcal.trainers._splits import Split

Source = TypeVar("Source", bound=Iterable[Batch])
_LEVELS = ("levels", "validation_levels")


class AdaptiveSmoothing:
    r"""An objective with soft labels, and the validation split that steers them.

    Made by `adaptive_smoothing`. Call it as an objective, `smoothing(model, batch)`; in the body of
    the loop call `update` once per epoch and, to rank on the fly, `rank`. It remembers digests of
    both splits, by which `unseen` refuses a report on data that were spent.

    Attributes:
        state: The smoothing of each level, an immutable `losses.SmoothingState`.
        levels: The level of each training example, int64, shape `(n_train,)`; all 0 until ranked.
        validation_levels: The level of each validation example, likewise.
    """

    state: losses.SmoothingState
    levels: Tensor
    validation_levels: Tensor

    def __init__(
        self,
        train: Iterable[Batch],
        validation: Iterable[Batch],
        state: losses.SmoothingState,
        *,
        variant: str,
        loss: Loss,
        way: Way,
    ) -> None:
        self.state, self._variant, self._loss, self._way = state, variant, loss, way
        many, self._shapes = state.n_levels > 1, set[tuple[int, ...]]()
        self._train = Split("train", train, self._shapes, indexed=many)
        self._validation = Split("validation", validation, self._shapes, indexed=many)
        self._splits = self._train, self._validation
        both, first = self._train.shared(self._validation.digests)
        if both:
            raise ValueError(
                "expected validation data that are not trained on, got "
                f"{both} of {len(set(self._validation.digests))} inputs in both (validation "
                f"example {first} is the first)"
            )
        for split in self._splits:
            if len(split) < state.n_levels:
                raise ValueError(
                    f"expected {split.name} of {state.n_levels} examples or more, got {len(split)}"
                )
        self.levels, self.validation_levels = (
            torch.zeros(len(split), dtype=torch.int64, device="cpu") for split in self._splits
        )
        self._ranked = not many

    def __repr__(self) -> str:
        """Print the settings, by which a checkpoint knows the run."""
        state, words = self.state, [f"variant={self._variant!r}", f"loss={shown(self._loss)}"]
        words = [f"n_levels={state.n_levels}", f"step_size={state.step_size}", *words]
        return f"adaptive_smoothing({state.n_classes} classes, {', '.join(words)})"

    def __call__(self, model: Model, batch: Batch) -> Tensor:
        """Return the loss of a batch `(inputs, labels, indices)` against its soft labels."""
        _checks.arguments(model=model)
        inputs, labels = examples(batch)
        rest, levels = batch[2:], None
        if self.state.n_levels > 1:
            indices = self._train.indices(rest, len(inputs), len(self._train))
            levels = self.levels[indices.cpu()].to(labels.device)
        logits = logits_at(model, inputs)
        self._check_classes(logits)
        targets = self.state.targets(labels, levels, logits)
        return scalar("loss", self._loss(finite(logits), targets.to(logits.device)))

    def rank(
        self,
        model: Model,
        *,
        attack: Attack | Literal["linear", "quick", "fast", "precise"] = "linear",
        bounds: tuple[float, float] = (0.0, 1.0),
    ) -> None:
        """Cut both splits into levels by their distance to the model's decision boundary.

        With a plainly trained model, once, before training, it is the source's pre-computing; with
        the model in training, in the body of the loop, it is on the fly. `"linear"` costs somewhat
        more than an epoch of plain training, so do it every second epoch or more rarely; `"quick"`,
        nearer to a full budget if `"linear"` is rough, takes three times that.

        Args:
            model: Inputs `(n, ...)` to logits `(n, classes)`; left as it was found.
            attack: As `adversarial_distance` takes it.
            bounds: The lowest and the highest valid value of an input.

        Returns:
            Nothing.

        Raises:
            TypeError: If an argument or a batch is of the wrong kind.
            ValueError: If a shape or value is wrong, or an example is missing or comes twice.
        """
        measured = []
        for split in self._splits:
            with split.passing(model, self._way) as parts:
                distances = torch.full((len(split),), torch.nan, dtype=torch.float64, device="cpu")
                for part, indices in parts:
                    with part.casting():
                        points = part.floats.detach().clone()
                        found = adversarial_distance(model, points, attack=attack, bounds=bounds)
                    distances[indices] = found.cpu().double()
            measured.append(distances)
        self.rank_by(*measured)

    def rank_by(self, distances: Tensor, validation: Tensor) -> None:
        """Cut both splits into levels by distances, or whatever else is to be ranked, from outside.

        Args:
            distances: One number per training example, in the order of the indices, shape
                `(n_train,)`.
            validation: One per validation example, shape `(n_validation,)`.

        Returns:
            Nothing.

        Raises:
            TypeError: If an argument is not a tensor of numbers.
            ValueError: If a shape is wrong or a distance is NaN.
        """
        levels, given = [], {"distances": distances, "validation": validation}
        for (name, each), n in zip(given.items(), map(len, self._splits), strict=True):
            if not isinstance(each, Tensor) or each.is_meta:
                raise TypeError(f"expected {name} as a torch.Tensor, got {_checks.kind(each)}")
            if each.shape != (n,):
                raise ValueError(
                    f"expected {name} of shape ({n},), one per example, got {_checks.kind(each)}"
                )
            levels.append(robustness_levels(each.detach().cpu(), n_levels=self.state.n_levels))
        self.levels, self.validation_levels = levels
        self._ranked = True

    def update(self, model: Model) -> Tensor:
        """Measure confidence and accuracy per level on the validation split, and step.

        Args:
            model: Inputs `(n, ...)` to logits; left as it was found. For AR-AdaLS of an ensemble it
                is the ensemble, whose logits are the logarithm of the mean probabilities.

        Returns:
            Confidence minus accuracy of each level, as measured, float64, shape `(n_levels,)`.

        Raises:
            TypeError: If a batch is of the wrong kind.
            ValueError: If there are no levels yet, a shape or value is wrong, or an example is
                missing or comes twice.
        """
        if not self._ranked:
            raise ValueError(
                f"expected {self.state.n_levels} levels, got no ranks yet; call rank(model) or "
                "rank_by(distances, validation) first"
            )
        with self._validation.passing(model, self._way) as parts:
            sums = torch.zeros(3, self.state.n_levels, dtype=torch.float64, device="cpu")
            for part, indices in parts:
                logits = exact(part.logits(model))
                self._check_classes(logits)
                labels = part.labels.to(logits.device)
                _checks.label_range(labels, self.state.n_classes)
                confidence, predicted = logits.softmax(dim=1).max(dim=1)
                right = (predicted == labels).double()
                counted = torch.stack([confidence, right, torch.ones_like(right)]).cpu()
                sums.index_add_(1, self.validation_levels[indices], counted)
        confidence, accuracy = (sums[:2] / sums[2]).clamp(0, 1).unbind()
        gap: Tensor = confidence - accuracy
        sizes = sums[2].long() if self._variant == "shrunk" else None
        self.state = self.state.update(confidence, accuracy, n=sizes)
        return gap

    def unseen(self, batches: Source) -> Source:
        """Return batches after a check that none of their inputs has trained or steered the model.

        For whatever is fitted or reported: temperature scaling, early stopping, the final figures.
        The check compares values in float32, as `check_disjoint` does; an input that was augmented
        or corrupted is another input.

        Args:
            batches: An iterable of `(inputs, ...)` that can be gone through again.

        Returns:
            `batches`.

        Raises:
            TypeError: If `batches` or a batch is of the wrong kind.
            ValueError: If there are none, or an input is in the training or the validation data.
        """
        found = Split("batches", batches, self._shapes.copy(), indexed=False)
        for split in self._splits:
            both, first = split.shared(found.digests)
            if both:
                raise ValueError(
                    f"expected data apart from train and validation, got {both} inputs of "
                    f"{split.name} (example {first} is the first)"
                )
        return batches

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint needs: tensors that `torch.load(weights_only=True)` reads."""
        levels = {name: getattr(self, name).clone() for name in _LEVELS}
        return {"label_probs": self.state.label_probs.clone(), **levels, "ranked": self._ranked}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` gave, for the same splits and the same number of levels.

        Args:
            state: The result of `state_dict`.

        Returns:
            Nothing.

        Raises:
            TypeError: If `state` is not a dict of these tensors.
            ValueError: If a key is missing, or a shape or value does not fit.
        """
        keys = ("label_probs", *_LEVELS, "ranked")
        if not isinstance(state, dict):
            raise TypeError(f"expected state as a dict, got {_checks.kind(state)}")
        if set(state) != set(keys):
            raise ValueError(f"expected state with the keys {', '.join(keys)}, got {list(state)}")
        _checks.arguments(ranked=state["ranked"])
        probs = state["label_probs"]
        if not isinstance(probs, Tensor) or not probs.is_floating_point():
            raise TypeError(f"expected label_probs as a tensor, got {_checks.kind(probs)}")
        if probs.shape != self.state.label_probs.shape:
            raise ValueError(
                f"expected label_probs of {self.state.n_levels} levels, got {_checks.kind(probs)}"
            )
        least = 1 / self.state.n_classes
        if not bool(((probs > least) & (probs <= 1)).all()):
            raise ValueError(f"expected label_probs in (1/{self.state.n_classes}, 1], got {probs}")
        levels, validation = (
            _checks.labels(state[name], len(split), self.state.n_levels, name=name).cpu().clone()
            for name, split in zip(_LEVELS, self._splits, strict=True)
        )
        self.levels, self.validation_levels, self._ranked = levels, validation, state["ranked"]
        self.state = replace(self.state, label_probs=probs.detach().cpu().double().clone())

    def _check_classes(self, logits: Tensor) -> None:
        _answers.answer(logits)
        if logits.ndim != 2 or logits.shape[1] != self.state.n_classes:
            raise ValueError(
                f"expected logits of {self.state.n_classes} classes, got {_checks.kind(logits)}"
            )


def adaptive_smoothing(
    train: Iterable[Batch],
    validation: Iterable[Batch],
    n_classes: int,
    *,
    n_levels: int = 10,
    step_size: float = 0.02,
    variant: Literal["shrunk", "published"] = "shrunk",
    loss: Loss = cross_entropy,
    autocast: torch.dtype | None = None,
    channels_last: bool = False,
    device: torch.device | str | None = None,
    progress: Progress | None = None,
) -> AdaptiveSmoothing:
    r"""Pair an objective of soft labels with the validation split that steers them (AR-AdaLS).

    The labels of level $r$ get the probability $p_r$, at first 1, which needs no ranks
    yet, and each `update` moves it against the gap $g_r$ between confidence and accuracy of the
    validation data of level $r$. A level is a rank of the distance to the decision boundary, which
    `rank` measures in both splits. One level is AdaLS, and needs neither ranks nor indices.

    On few examples per level $g_r$ is mostly noise, the same noise each epoch, and the authors'
    rule, `"published"`, sums it up until $p_r$ is anywhere. `"shrunk"`, this library's own, shrinks
    the gaps as `losses.SmoothingState.update` does by the sizes of the levels, so that levels that
    cannot be told apart move together, as in AdaLS.

    The validation data are spent: `unseen` refuses them, and the training data, for a report.

    Args:
        train: An iterable of `(inputs, labels, indices)` that can be gone through again, such as a
            `DataLoader` of a `TensorDataset(inputs, labels, torch.arange(n))`; every example once.
            If training augments, the same examples without.
        validation: The same of other examples, with indices of their own from 0.
        n_classes: The number of classes.
        n_levels: The number of levels; 1 is AdaLS.
        step_size: $\alpha$, the share of a gap that one update takes off. The authors publish none.
            Many epochs want a small one; ten may want 0.1.
        variant: `"shrunk"` or `"published"`.
        loss: `(logits, soft labels) -> scalar`.
        autocast: `torch.bfloat16` to rank and to validate in mixed precision.
        channels_last: Whether to lay out four-dimensional inputs channels last there.
        device: The device to compute on there; that of the model if None.
        progress: A wrapper of an iterable that shows progress there, such as `tqdm.tqdm`.

    Returns:
        An objective with `rank`, `rank_by`, `update`, `unseen`, `state_dict`, `load_state_dict`.

    Raises:
        TypeError: If an argument or a batch is of the wrong kind.
        ValueError: If a value is wrong, an index is missing or comes twice, or an input is in both
            splits.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> inputs, labels, n = torch.rand(60, 2), torch.arange(60) % 2, torch.arange(60)
        >>> train = [(inputs[:40], labels[:40], n[:40])]
        >>> validation = [(inputs[40:], labels[40:], n[:20])]
        >>> smoothing = adaptive_smoothing(train, validation, 2, n_levels=2)
        >>> model = torch.nn.Linear(2, 2)
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> from advcal.trainers import epochs
        >>> for epoch in epochs(model, train, smoothing, optimizer, n=4):
        ...     if epoch.epoch % 2:
        ...         smoothing.rank(model)
        ...     _ = smoothing.update(model)
        >>> smoothing.unseen([(torch.rand(5, 2), torch.arange(5) % 2)])[0][0].shape
        torch.Size([5, 2])

    References:
        Qin et al., Improving Calibration through the Relationship with Adversarial Robustness,
        NeurIPS 2021, algorithm 1; for the shrinkage, Efron & Morris, Data Analysis Using Stein's
        Estimator and its Generalizations, JASA 1975.
    """
    state = losses.adaptive_smoothing(n_classes, n_levels=n_levels, step_size=step_size)
    _checks.choice("variant", variant, ("shrunk", "published"))
    _checks.arguments(loss=loss)
    for batches in (train, validation):
        again(batches)
    way = Way(autocast, channels_last, device, progress=progress)
    return AdaptiveSmoothing(train, validation, state, variant=variant, loss=loss, way=way)
