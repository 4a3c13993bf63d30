"""AT+IAT on digits as a LightningModule, which logs accuracy and ECE, clean and under PGD.

python examples/recipes/with_lightning.py
"""

import argparse
import functools
import warnings

import lightning
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from advcal import attacks, metrics, trainers

pgd = functools.partial(attacks.pgd, eps=0.1, steps=5)
iaa = functools.partial(attacks.iaa, eps=0.1, steps=5, random_start=True)


class Robust(lightning.LightningModule):
    """A classifier trained with an objective of advcal."""

    def __init__(self) -> None:
        super().__init__()
        self.network = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))
        self.objective = trainers.mixed(trainers.adversarial(pgd), trainers.adversarial(iaa))

    def forward(self, inputs: Tensor) -> Tensor:
        logits: Tensor = self.network(inputs)
        return logits

    def training_step(self, batch: tuple[Tensor, Tensor], _: int) -> Tensor:
        loss = self.objective(self, batch)
        self.log("loss", loss)
        return loss

    def on_validation_epoch_start(self) -> None:
        self.tables: dict[str, metrics.ReliabilityBins[Tensor]] = {}

    def validation_step(self, batch: tuple[Tensor, Tensor], _: int) -> None:
        inputs, labels = batch
        with torch.enable_grad(), torch.inference_mode(False):  # an attack needs gradients
            inputs = inputs.clone()
            crafted = {"clean": inputs, "PGD": pgd(self, inputs, labels)}
        for name, points in crafted.items():
            table = metrics.reliability_bins(self(points), labels, from_logits=True)
            self.tables[name] = self.tables[name] + table if name in self.tables else table

    def on_validation_epoch_end(self) -> None:
        for name, table in self.tables.items():  # tables add: figures of all the data
            self.log(f"accuracy, {name}", float(table.accuracy))
            self.log(f"ECE, {name}", float(table.ece), prog_bar=True)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=1e-2)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=10)
    args = parser.parse_args()
    warnings.filterwarnings("ignore", module="lightning")  # advice on workers and on devices

    images, digits = load_digits(return_X_y=True)
    inputs, labels = torch.tensor(images / 16).float(), torch.tensor(digits)
    train = TensorDataset(inputs[:1000], labels[:1000])
    test = TensorDataset(inputs[1000:], labels[1000:])

    torch.manual_seed(0)
    model = Robust()
    trainer = lightning.Trainer(
        max_epochs=args.epochs,
        accelerator="auto",
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(model, DataLoader(train, batch_size=50, shuffle=True))
    trainer.validate(model, DataLoader(test, batch_size=200), verbose=False)
    found = {name: float(value) for name, value in trainer.callback_metrics.items()}
    print("  ".join(f"{name}: {found[name]:.3f}" for name in sorted(found)))


if __name__ == "__main__":
    main()
