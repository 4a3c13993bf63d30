"""What the loop costs beside one written by hand: both in turn in one process, processor time.

python tests/benchmarks/loop_overhead.py --repeats 15
"""

import argparse
import statistics
import time
from functools import partial

import torch
from torch import nn

from advcal import trainers
from advcal.attacks import fgsm


def mlp():
    return nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 10)), (64,)


def cnn():
    layers = [nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 32, 3, stride=2), nn.ReLU()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(32 * 49, 10)), (3, 16, 16)


def by_hand(model, batches, objective, optimizer):
    model.train()
    total = n = 0
    for inputs, labels in batches:
        optimizer.zero_grad()
        loss = objective(model, (inputs, labels))
        loss.backward()
        optimizer.step()
        total, n = total + loss.item() * len(inputs), n + len(inputs)
    return total / n


def ours(model, batches, objective, optimizer):
    return trainers.fit(model, batches, objective, optimizer, n=1)[0].loss


def timed(loop, *arguments):
    start = time.process_time()
    loop(*arguments)
    return time.process_time() - start


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=15)
    args = parser.parse_args()
    torch.set_num_threads(1)
    objectives = {
        "standard": trainers.standard(),
        "FGSM": trainers.adversarial(partial(fgsm, eps=0.1)),
    }
    for make, size, count in ((mlp, 128, 200), (cnn, 64, 20)):
        for name, objective in objectives.items():
            model, shape = make()
            optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
            batches = [(torch.rand(size, *shape), torch.randint(10, (size,)))] * count
            arguments = model, batches, objective, optimizer
            times = {by_hand: [], ours: []}
            for loop in (by_hand, ours) * args.repeats:
                times[loop].append(timed(loop, *arguments))
            hand, own = (min(times[loop]) for loop in (by_hand, ours))
            print(
                f"{make.__name__} {name:8}  by hand {1e3 * hand / count:7.3f} ms a step  "
                f"ratio of the best {own / hand:.3f}, of the medians "
                f"{statistics.median(times[ours]) / statistics.median(times[by_hand]):.3f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
