"""PGD adversarial training on digits, on as many processes as torchrun starts, one GPU each if any.

    torchrun --standalone --nproc-per-node 2 examples/recipes/torchrun.py --checkpoint run.pt

Started again after it was stopped, it goes on from its checkpoint.
"""

import argparse
import functools
import os

import torch
from sklearn.datasets import load_digits
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.data.distributed import DistributedSampler

from advcal import attacks, evaluation, trainers


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--checkpoint")
    args = parser.parse_args()
    cuda = torch.cuda.is_available()
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    distributed.init_process_group("nccl" if cuda else "gloo")
    rank = distributed.get_rank()

    images, digits = load_digits(return_X_y=True)
    rows = TensorDataset(torch.tensor(images / 16).float(), torch.tensor(digits))
    train = torch.utils.data.Subset(rows, range(1000))
    batches = DataLoader(train, batch_size=50, sampler=DistributedSampler(train))

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10)).to(device)
    parallel = DistributedDataParallel(model)
    starts = torch.Generator(device).manual_seed(rank)  # other random starts in each process
    objective = trainers.adversarial(
        functools.partial(attacks.pgd, eps=0.1, steps=5, generator=starts)
    )
    optimizer = torch.optim.Adam(parallel.parameters(), lr=1e-2)
    options = {"checkpoint": args.checkpoint, "state": {"starts": starts}}
    for epoch in trainers.epochs(parallel, batches, objective, optimizer, n=args.epochs, **options):
        if rank == 0:
            print(f"epoch {epoch.epoch}: loss {epoch.loss:.3f} over {epoch.n} examples")
    if rank == 0:
        test = DataLoader(torch.utils.data.Subset(rows, range(1000, 1797)), batch_size=500)
        record = evaluation.evaluate(model, test, functools.partial(attacks.pgd, eps=0.1))
        print(f"accuracy {record.clean_accuracy:.3f}, under PGD {record.accuracy:.3f}")
    distributed.barrier()  # one that ends while another still evaluates may abort
    distributed.destroy_process_group()


if __name__ == "__main__":
    main()
