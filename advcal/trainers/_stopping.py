"""Early stopping: the best weights so far, by a score of the user's."""

import copy
import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from advcal import _checks
from advcal._weights import put_weights, weights


@dataclasses.dataclass(eq=False)
class EarlyStopping:
    """The best weights so far, by a score that is better when higher, and how long ago they were.

    For robust early stopping the score is the accuracy under attack on validation data. It has
    `state_dict` and `load_state_dict`, so that it can be part of a checkpoint.

    Attributes:
        patience: The number of scores in a row that may be no better than the best; no end of
            them if None.
        score: The best score so far.
        epoch: Which of the scores it was, from 1; 0 before the first.
        waited: The number of scores since.
        weights: A copy of the model's `state_dict` of then.

    Example:
        >>> model = nn.Linear(2, 2)
        >>> stopping = EarlyStopping(patience=2)
        >>> [stopping.update(model, score) for score in (0.3, 0.5, 0.5, 0.4)]
        [False, False, False, True]
        >>> stopping.score, stopping.epoch
        (0.5, 2)
        >>> stopping.restore(model)

    References:
        Rice et al., Overfitting in Adversarially Robust Deep Learning, ICML 2020.
    """

    patience: int | None = None
    score: float = dataclasses.field(default=-math.inf, init=False)
    epoch: int = dataclasses.field(default=0, init=False)
    waited: int = dataclasses.field(default=0, init=False)
    weights: dict[str, Any] | None = dataclasses.field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.patience is not None:
            self.patience = _checks.count("patience", self.patience)

    def update(self, model: nn.Module, score: float | Tensor) -> bool:
        """Take the score of an epoch, and the weights if it is the best.

        Args:
            model: The model that has the score.
            score: A finite number; higher is better.

        Returns:
            Whether patience has run out.
        """
        if not isinstance(model, nn.Module):
            raise TypeError(f"expected model as a torch.nn.Module, got {_checks.kind(model)}")
        if isinstance(score, Tensor) and score.ndim == 0:
            score = score.item()
        score = _checks.number("score", score)
        self.waited += 1
        if score > self.score:
            self.score, self.epoch, self.waited = score, self.epoch + self.waited, 0
            self.weights = copy.deepcopy(weights(model))
        return self.patience is not None and self.waited >= self.patience

    def restore(self, model: nn.Module) -> None:
        """Put the best weights back into the model.

        Args:
            model: The model.

        Returns:
            Nothing.

        Raises:
            TypeError: If `model` is not an `nn.Module`.
            ValueError: If there are no weights yet, or they are those of another model, of which
                none is put into this one.
        """
        if not isinstance(model, nn.Module):
            raise TypeError(f"expected model as a torch.nn.Module, got {_checks.kind(model)}")
        if self.weights is None:
            raise ValueError("expected a score before weights are restored, got none")
        put_weights(model, self.weights)

    def state_dict(self) -> dict[str, Any]:
        """Return what `load_state_dict` takes."""
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if not f.init}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state.

        Args:
            state: What `state_dict` returned. The patience is not part of it.

        Returns:
            Nothing.

        Raises:
            TypeError: If a part of the state is of the wrong kind.
            ValueError: If one is missing or out of range.
        """
        names = [field.name for field in dataclasses.fields(self) if not field.init]
        if not isinstance(state, Mapping):
            raise TypeError(f"expected state as a dict, got {_checks.kind(state)}")
        if state.keys() != set(names):
            raise ValueError(f"expected state with {', '.join(names)}, got {list(state)}")
        if state["score"] != -math.inf:
            _checks.number("score", state["score"])
        for name in ("epoch", "waited"):
            _checks.count(name, state[name], least=0)
        if not isinstance(state["weights"], (Mapping, type(None))):
            raise TypeError(f"expected weights as a dict, got {_checks.kind(state['weights'])}")
        for name in names:
            setattr(self, name, state[name])
