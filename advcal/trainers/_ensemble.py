"""Ensembles: several models as one, whose prediction is the mean of theirs."""

from collections.abc import Sequence

from torch import Tensor, nn

from advcal import _checks
from advcal._frozen import Around, logits_of
from advcal._logits import log_mean_probs


def ensemble(models: Sequence[nn.Module]) -> nn.Module:
    r"""Make one model of several: $f(x) = \log \frac1M \sum_m \mathrm{softmax}(f_m(x))$.

    Its logits are the logarithms of the mean probabilities, so a softmax gives the mean back, and
    an attack on it is an attack on the averaged prediction, finite even when the members are sure.
    It is a module that holds the members: modes, devices, parameters and saving are those of any
    module. A forward pass costs one of each member.

    Args:
        models: The members, one or more, of the same classes; not copied.

    Returns:
        Inputs to the logarithm of the mean probabilities, in float32 or wider.

    Raises:
        TypeError: If `models` is not a sequence of `nn.Module`.
        ValueError: If it is empty; when called, if the members differ in their classes.

    Example:
        A deep ensemble is a loop over members that start apart:

        >>> import torch
        >>> from advcal.trainers import fit, standard
        >>> batches, members = [(torch.eye(2), torch.tensor([0, 1]))], []
        >>> for seed in range(3):
        ...     _ = torch.manual_seed(seed)
        ...     member = nn.Linear(2, 2)
        ...     optimizer = torch.optim.SGD(member.parameters(), lr=1.0)
        ...     _ = fit(member, batches, standard(), optimizer, n=5)
        ...     members.append(member)
        >>> ensemble(members)(torch.eye(2)).exp().argmax(dim=1)
        tensor([0, 1])

    References:
        Lakshminarayanan et al., Simple and Scalable Predictive Uncertainty Estimation using Deep
        Ensembles, NeurIPS 2017, section 2.4.
    """
    if not isinstance(models, Sequence | nn.ModuleList):
        raise TypeError(f"expected models as a sequence of modules, got {_checks.kind(models)}")
    if len(models) == 0:
        raise ValueError("expected one model or more, got none")
    for model in models:
        if not isinstance(model, nn.Module):
            raise TypeError(f"expected models as torch.nn.Modules, got {_checks.kind(model)}")
    return _Ensemble(models)


class _Ensemble(Around):
    def __init__(self, models: Sequence[nn.Module]) -> None:
        super().__init__()
        self.models = nn.ModuleList(models)
        self._around = tuple(self.models)

    def forward(self, inputs: Tensor) -> Tensor:
        # Copies, since a member may write into what it gets.
        outputs = [logits_of(model, inputs.clone()) for model in self.models]
        if len({output.shape for output in outputs}) > 1:
            found = ", ".join(str(output.shape[1]) for output in outputs)
            raise ValueError(f"expected members of the same classes, got logits of {found}")
        return log_mean_probs(outputs)
