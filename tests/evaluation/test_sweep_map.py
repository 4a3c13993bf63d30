"""Sweeps on other threads, processes and machines make the file of a run in turn."""

import multiprocessing
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial

import pytest
import torch

from advcal.attacks import pgd, worst_case
from advcal.evaluation import (
    evaluate,
    sweep,
)
from tests.evaluation.test_sweep import ATTACKS, DATA, EPS, MODELS, PGD, Stop, counting, stopping


def submitted(executor):
    def apply(function, items):
        return [executor.submit(function, item) for item in items]

    return apply


def other_seed():
    torch.manual_seed(6)


def backwards(function, items):
    return (function(item) for item in reversed(list(items)))


@pytest.mark.parametrize("kind", ["threads", "futures", "backwards", "builtin"])
def test_any_map_makes_the_same_file(tmp_path, kind):
    attacks = ATTACKS | {
        "random": pgd,
        "drawing": partial(pgd, steps=2, generator=torch.Generator().manual_seed(3)),
    }
    in_turn, file = tmp_path / "in_turn.jsonl", tmp_path / "mapped.jsonl"
    wanted = sweep(MODELS, DATA, attacks, in_turn, eps=EPS)
    seen = []
    with ThreadPoolExecutor(3) as executor:
        one = {
            "threads": executor.map,
            "futures": submitted(executor),
            "backwards": backwards,
            "builtin": map,
        }[kind]
        options = {"eps": EPS, "map": one, "progress": counting(seen)}
        assert sweep(MODELS, DATA, attacks, file, **options) == wanted
        assert sweep(MODELS, DATA, attacks, file, **options) == wanted
    assert file.read_bytes() == in_turn.read_bytes()
    assert seen == [len(wanted), 0]


def test_a_process_pool_makes_the_same_file(tmp_path):
    torch.manual_seed(5)
    attacks = {"none": None, "random": partial(pgd, steps=2), "PGD": PGD}
    attacks["drawing"] = partial(pgd, steps=2, generator=torch.Generator().manual_seed(3))
    in_turn, file = tmp_path / "in_turn.jsonl", tmp_path / "mapped.jsonl"
    wanted = sweep(MODELS, DATA, attacks, in_turn, eps=[0.1])
    start = {"initializer": other_seed}  # of no influence
    # A fork of a process whose threads have computed may wait for them forever.
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn"), **start) as pool:
        assert sweep(MODELS, DATA, attacks, file, eps=[0.1], map=pool.map) == wanted
    assert file.read_bytes() == in_turn.read_bytes()


def test_dask_makes_the_same_file(tmp_path):
    distributed = pytest.importorskip("dask.distributed")
    in_turn, file = tmp_path / "in_turn.jsonl", tmp_path / "mapped.jsonl"
    attacks = ATTACKS | {"drawing": partial(PGD, generator=torch.Generator().manual_seed(3))}
    wanted = sweep(MODELS, DATA, attacks, in_turn, eps=EPS)
    with (
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as own,
        distributed.Client(own) as client,
    ):
        assert sweep(MODELS, DATA, attacks, file, eps=EPS, map=client.map) == wanted
    assert file.read_bytes() == in_turn.read_bytes()


def test_what_is_done_before_another_process_fails_is_kept(tmp_path):
    file = tmp_path / "sweep.jsonl"

    def failing(function, items):
        for i, item in enumerate(items):
            if i == 3:
                raise KeyboardInterrupt
            yield function(item)

    with pytest.raises(KeyboardInterrupt):
        sweep(MODELS, DATA, ATTACKS, file, eps=EPS, map=failing)
    assert len(file.read_bytes().splitlines()) == 3
    assert sweep(MODELS, DATA, ATTACKS, file, eps=EPS) == sweep(MODELS, DATA, ATTACKS, eps=EPS)


def test_futures_that_have_not_begun_are_cancelled():
    class Future:
        def __init__(self, value):
            self.value, self.cancelled = value, False

        def done(self):
            return self.value is not None

        def result(self):
            return self.value

        def cancel(self):
            self.cancelled = True

    futures = []

    def one(function, items):
        futures.extend(Future(function(each) if i == 1 else None) for i, each in enumerate(items))
        return futures

    def stop(items):
        next(iter(items))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sweep(MODELS, DATA, {"none": None}, map=one, progress=stop)
    assert [each.cancelled for each in futures] == [True, False, True, True]


@pytest.mark.parametrize(
    ("one", "error", "match"),
    [
        (3, TypeError, "map as a callable, got int"),
        (lambda f, items: [], ValueError, "4 records from map, got 0"),
        (lambda f, items: [3], TypeError, "map to return what the function did, got int"),
        (lambda f, items: [f(items[0])] * 2, ValueError, "each record once from map"),
    ],
)
def test_what_is_no_map_is_refused(one, error, match):
    with pytest.raises(error, match=f"expected {match}"):
        sweep(MODELS, DATA, {"none": None}, map=one)


def test_a_map_and_processes_that_share_the_data_are_two_ways():
    with pytest.raises(ValueError, match="expected map=None with all_reduce=True"):
        sweep(MODELS, DATA, ATTACKS, eps=EPS, map=map, all_reduce=True)


def test_draws_are_those_of_the_call_for_each_record(tmp_path):
    generator = torch.Generator().manual_seed(1)
    attack = worst_case(partial(pgd, eps=0.2, steps=1, generator=generator))
    before = generator.get_state()
    file = tmp_path / "sweep.jsonl"
    arguments = MODELS, DATA, {"x": attack, "y": attack}, file
    with pytest.raises(Stop):
        sweep(*arguments, progress=stopping(4))
    records = sweep(*arguments)
    assert torch.equal(generator.get_state(), before)
    alone = evaluate(MODELS["linear"], DATA["b"], attack)
    assert [r["nll"] for r in records if (r["model"], r["data"]) == ("linear", "b")] == [
        alone.nll
    ] * 2
