"""PGD adversarial training on digits with the Trainer of Hugging Face's transformers.

python examples/recipes/with_transformers.py
"""

import argparse
import functools
import tempfile
from typing import Any

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from transformers import Trainer, TrainingArguments
from transformers.modeling_outputs import SequenceClassifierOutput

from advcal import attacks, evaluation, metrics, trainers

pgd = functools.partial(attacks.pgd, eps=0.1, steps=5)


class Network(nn.Module):
    """A classifier with the outputs of transformers: an object that holds the logits."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))

    def forward(self, inputs: Tensor, labels: Tensor | None = None) -> SequenceClassifierOutput:
        logits = self.layers(inputs)
        loss = None if labels is None else nn.functional.cross_entropy(logits, labels)
        return SequenceClassifierOutput(loss=loss, logits=logits)


class Logits(nn.Module):
    """What advcal attacks: inputs to a tensor of logits."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, inputs: Tensor) -> Tensor:
        logits: Tensor = self.network(inputs).logits
        return logits


class Robust(Trainer):
    """A Trainer whose loss is an objective of advcal."""

    objective = trainers.adversarial(pgd)

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        if not model.training:  # the pass of `evaluate`
            return super().compute_loss(model, inputs, return_outputs)
        return self.objective(Logits(model), (inputs["inputs"], inputs["labels"]))


def figures(prediction: Any) -> dict[str, float]:
    """Give the Trainer accuracy and calibration: metrics take NumPy arrays as they are."""
    logits, labels = prediction
    scores = {"accuracy": metrics.accuracy, "ece": metrics.ece, "nll": metrics.nll}
    found = {name: score(logits, labels, from_logits=True) for name, score in scores.items()}
    return {name: float(value) for name, value in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=10)
    args = parser.parse_args()

    images, digits = load_digits(return_X_y=True)
    inputs, labels = torch.tensor(images / 16).float(), torch.tensor(digits)
    rows = [{"inputs": x, "labels": y} for x, y in zip(inputs, labels, strict=True)]

    torch.manual_seed(0)
    model = Network()
    with tempfile.TemporaryDirectory() as folder:
        trainer = Robust(
            model,
            TrainingArguments(
                folder,
                num_train_epochs=args.epochs,
                per_device_train_batch_size=50,
                learning_rate=1e-2,
                report_to=[],
                save_strategy="no",
                disable_tqdm=True,
            ),
            train_dataset=rows[:1000],
            eval_dataset=rows[1000:],
            compute_metrics=figures,
        )
        trainer.train()
        found = trainer.evaluate()
    print("  ".join(f"{name}: {found[f'eval_{name}']:.3f}" for name in ("accuracy", "ece", "nll")))
    device = next(model.parameters()).device
    batches = [(inputs[1000:].to(device), labels[1000:].to(device))]
    record = evaluation.evaluate(Logits(model), batches, pgd)
    print(f"accuracy {record.clean_accuracy:.3f}, under PGD {record.accuracy:.3f}")


if __name__ == "__main__":
    main()
