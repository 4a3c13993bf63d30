"""Training for the studies: stopped and started again, it comes to the same."""

import cifar10_data
import common
import models
import pytest
import torch
import training
from torch import nn

from advcal import trainers


def run(path, n, watch=dict):
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (8, 3, 4, 4), dtype=torch.uint8, generator=generator)
    labels = torch.tensor([0, 1] * 4)
    batches = cifar10_data.Batches(images, labels, batch_size=4, shuffle=True, augment=True)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 2))
    optimizer, schedule = training.fast_optimizer(model, n * len(batches), peak=0.01)
    done = training.train(
        "tiny",
        model,
        batches,
        trainers.standard(),
        optimizer,
        n=n,
        schedule=schedule,
        checkpoint=path,
        watch=watch,
    )
    return model, done


def test_a_stopped_training_goes_on_to_the_same_weights(tmp_path):
    whole, expected = run(tmp_path / "whole", 3)
    calls = iter(range(3))

    def stop_in_the_second_epoch():
        if next(calls) == 1:
            raise KeyboardInterrupt
        return {}

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "stopped", 3, stop_in_the_second_epoch)
    resumed, found = run(tmp_path / "stopped", 3)
    assert found.curve == expected.curve
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name])


def test_a_finished_training_gives_its_curve_and_its_seconds_back(tmp_path):
    _, first = run(tmp_path / "run", 2)
    _, again = run(tmp_path / "run", 2)
    assert again.curve == first.curve
    assert [point["epoch"] for point in again.curve] == [1, 2]
    assert again.seconds > 0


def test_the_clock_goes_on_from_where_it_stood():
    clock = training.Clock()
    clock.load_state_dict({"seconds": 1000.0})
    assert 1000 <= clock.seconds < 1100


def test_only_shifts_without_scales_learn_faster_and_only_matrices_decay():
    model = models.fastnet()
    optimizer, schedule = training.fast_optimizer(model, 100, peak=0.1)
    decaying, plain, shifts = optimizer.param_groups
    assert {p.ndim for p in decaying["params"]} == {2, 4}
    assert decaying["weight_decay"] > 0 == plain["weight_decay"] == shifts["weight_decay"]
    assert len(shifts["params"]) == 6
    assert shifts["initial_lr"] == 16 * decaying["initial_lr"]
    chosen = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert sorted(chosen) == sorted(id(p) for p in model.parameters() if p.requires_grad)
    rates = []
    for _ in range(100):
        rates.append(decaying["lr"])
        optimizer.step()
        schedule.step()
    assert max(rates) == rates[20] == pytest.approx(0.1)
    assert 0 < rates[-1] < 0.002
    assert decaying["lr"] == 0


def test_a_network_with_scales_learns_at_one_rate():
    optimizer, _ = training.fast_optimizer(models.mobilenet(), 10)
    assert {group["initial_lr"] for group in optimizer.param_groups if group["params"]} == {0.4}


def test_a_mirrored_network_says_the_same_of_mirror_images():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(48, 3))
    images = torch.rand(5, 3, 4, 4)
    both = training.mirrored(model)
    wanted = (model(images).softmax(1) + model(images.flip(3)).softmax(1)) / 2
    torch.testing.assert_close(both(images).exp(), wanted)
    torch.testing.assert_close(both(images), both(images.flip(3)))
    assert not torch.allclose(model(images), model(images.flip(3)))


def test_json_is_read_back_and_nothing_where_there_is_none(tmp_path):
    path = tmp_path / "a.json"
    assert common.read_json(path) == {}
    common.write_json(path, {"a": [1]})
    assert common.read_json(path) == {"a": [1]}
    assert [each.name for each in tmp_path.iterdir()] == ["a.json"]
