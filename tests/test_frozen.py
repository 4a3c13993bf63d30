"""What guards a model: threads, Ctrl-C, modules of all kinds, and modes that are meant."""

import contextlib
import sys
import threading
import warnings
from functools import partial

import pytest
import torch
from torch import nn

from advcal import _answers, _frozen
from advcal._frozen import frozen
from advcal.attacks import expectation, fgsm, iaa, pgd, square
from advcal.evaluation import diagnose, evaluate
from advcal.trainers import ensemble, predict
from tests.attacks.cases import delicate, examples, state

ATTACK = partial(fgsm, eps=0.1)


def network():
    torch.manual_seed(0)
    layers = [nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 3)]
    return nn.Sequential(*layers)


def data(n=6):
    torch.manual_seed(1)
    return torch.rand(n, 4), torch.arange(n) % 3


def modes(model):
    return [module.training for module in model.modules()]


def empty():
    return not (_frozen._parts or _frozen._switched or _frozen._lock._is_owned())


# --- threads ---------------------------------------------------------------------------------


def in_threads(*works):
    """Run functions at once and raise what one of them raised."""
    errors = []

    def run(work):
        try:
            work()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for error in errors:
        raise error


class Meeting(nn.Module):
    """A network whose every pass waits until all threads are in theirs."""

    def __init__(self, barrier):
        super().__init__()
        self.network, self.barrier = network(), barrier

    def forward(self, inputs):
        with contextlib.suppress(threading.BrokenBarrierError):
            self.barrier.wait(timeout=5)
        assert not self.training
        return self.network(inputs)


def test_three_threads_attack_one_model_in_train_mode():
    model, (inputs, labels) = Meeting(threading.Barrier(1)).train(), data()
    before, buffers = modes(model), [buffer.clone() for buffer in model.buffers()]
    attack = partial(pgd, eps=0.1, steps=3, random_start=False)
    wanted = attack(model, inputs, labels)
    for _ in range(40):
        model.barrier, found = threading.Barrier(3), []
        works = [lambda found=found: found.append(attack(model, inputs, labels))] * 3
        in_threads(*works)
        assert modes(model) == before
        assert all(parameter.requires_grad for parameter in model.parameters())
        assert all(map(torch.equal, buffers, model.buffers()))
        assert len(found) == 3
        assert all(torch.equal(each, wanted) for each in found)
    assert empty()


def test_the_last_one_out_restores():
    model = network().train()
    inside, first_out = threading.Event(), threading.Event()

    def first():
        with frozen(model, grad=True):
            inside.wait()
        first_out.set()

    def second():
        with frozen(model, grad=True):
            inside.set()
            first_out.wait()
            assert not any(modes(model))
            assert not any(parameter.requires_grad for parameter in model.parameters())
            model[1].running_mean.add_(1)

    in_threads(first, second)
    assert all(modes(model))
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert model[1].running_mean.eq(0).all()
    assert empty()


def test_models_that_share_parts_wait_for_each_other():
    member = network().train()
    whole = ensemble([member, network()])
    outside, inner = frozen(whole, grad=True), frozen(member, grad=True)
    outside.__enter__()
    inner.__enter__()
    outside.__exit__(None, None, None)
    assert not any(modes(member))
    assert not any(parameter.requires_grad for parameter in member.parameters())
    assert all(modes(whole.models[1]))
    inner.__exit__(None, None, None)
    assert all(modes(member))
    assert all(parameter.requires_grad for parameter in whole.parameters())
    assert empty()


def test_an_evaluation_in_the_background_leaves_training_alone():
    model, (inputs, labels) = network().train(), data()
    begun, done = threading.Event(), threading.Event()

    def batches():
        begun.set()
        done.wait()
        yield inputs, labels

    def train():
        begun.wait()
        nn.functional.cross_entropy(model(inputs), labels).backward()
        done.set()

    in_threads(lambda: evaluate(model, batches()), train)
    assert all(modes(model))
    assert model[0].weight.grad is not None
    assert all(parameter.requires_grad for parameter in model.parameters())


# --- Ctrl-C ----------------------------------------------------------------------------------


def interrupted(number, work):
    """Raise KeyboardInterrupt at one line of the guard; tell whether there was such a line."""
    count = 0

    def trace(frame, event, _):
        nonlocal count
        if frame.f_code.co_filename not in (_frozen.__file__, _answers.__file__):
            return trace if event == "call" else None
        if event == "line":
            count += 1
            if count == number:
                raise KeyboardInterrupt
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        work()
    except KeyboardInterrupt:
        pass
    finally:
        sys.settrace(before)
    return count >= number


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("grad", [True, False])
def test_ctrl_c_at_any_line_leaves_the_model_as_it_was(grad, training):
    model = network().train(training)
    model[0].bias.requires_grad_(False)

    def work():
        with frozen(model, grad=grad), frozen(model, grad=True):
            model[1].running_mean.add_(1)
            model[1].num_batches_tracked = torch.tensor(7)

    number = 0
    while interrupted(number := number + 1, work):
        assert modes(model) == [training] * 6, number
        flags = [parameter.requires_grad for parameter in model.parameters()]
        assert flags == [True, False, True, True, True, True], number
        assert model[1].running_mean.eq(0).all(), number
        assert model[1].num_batches_tracked == 0, number
        assert torch.is_grad_enabled(), number
        assert empty(), number
    assert number > 100


def test_ctrl_c_in_one_thread_leaves_the_others_their_model():
    model = network().train()
    with frozen(model, grad=True):
        number = 0

        def work():
            with frozen(model, grad=True):
                pass

        while interrupted(number := number + 1, work):
            assert not any(modes(model))
            assert not any(parameter.requires_grad for parameter in model.parameters())
    assert all(modes(model))
    assert empty()


# --- modules of all kinds --------------------------------------------------------------------


def exported():
    inputs = data(2)[0]
    shapes = ({0: torch.export.Dim("n")},)
    return torch.export.export(network().eval(), (inputs,), dynamic_shapes=shapes).module()


def quantised():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.ao.quantization.quantize_dynamic(network().eval(), {nn.Linear})


def jit(make):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return make()


KINDS = {
    "scripted": lambda: jit(lambda: torch.jit.script(network().eval())),
    "scripted in train mode": lambda: jit(lambda: torch.jit.script(network().train())),
    "traced": lambda: jit(lambda: torch.jit.trace(network().eval(), data()[0])),
    "frozen": lambda: jit(lambda: torch.jit.freeze(torch.jit.script(network().eval()))),
    "exported": exported,
    "around an exported one": lambda: nn.Sequential(nn.Identity(), exported(), nn.Dropout(0.5)),
    "quantised": quantised,
    "DataParallel": lambda: nn.DataParallel(network()),
    "compiled": lambda: torch.compile(network(), backend="eager"),
    "parametrised": lambda: nn.utils.parametrizations.weight_norm(network()[0]),
}
USES = {
    "fgsm": ATTACK,
    "pgd": partial(pgd, eps=0.1, steps=2, random_start=False),
    "iaa": partial(iaa, eps=0.1),
    "square": partial(square, eps=0.1),
    "evaluate": lambda model, x, y: evaluate(model, [(x, y)], ATTACK),
    "predict": lambda model, x, y: predict(model, [(x, y)]),
    "diagnose": lambda model, x, y: diagnose(model, [(x, y)], eps=0.1, steps=3),
}


@pytest.mark.filterwarnings("ignore:quantized")
@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("kind", KINDS)
def test_modules_of_all_kinds(kind, use):
    model, (inputs, labels) = KINDS[kind](), data()
    labels = labels % model(inputs).shape[1]
    before = [getattr(module, "training", None) for module in model.modules()]
    if kind == "quantised" and use not in ("square", "predict", "diagnose"):
        return  # no gradient: attacks that need one say so
    USES[use](model, inputs, labels)
    assert [getattr(module, "training", None) for module in model.modules()] == before
    assert empty()


# --- modes that are meant --------------------------------------------------------------------


def sampling():
    model = network().eval()
    model[3].train()
    return model


def test_dropout_of_a_model_in_eval_mode_samples_through_wrappers():
    inputs = torch.rand(1, 4).expand(200, 4)
    model = sampling()
    for each in (model, expectation(model, n=8), ensemble([model, network().eval()])):
        logits = predict(each, [(inputs,)]).logits
        assert logits.std(dim=0).min() > 0
    once = predict(model, [(inputs,)]).logits.softmax(dim=1).std(dim=0)
    mean = predict(expectation(model, n=8), [(inputs,)]).logits.exp().std(dim=0)
    assert (mean < 0.6 * once).all()


def test_the_root_decides():
    model = sampling().train()
    for each in (model, expectation(model), ensemble([model])):
        with frozen(each, grad=False):
            assert not any(modes(model))
    for each in (model.eval(), expectation(model), ensemble([model])):
        model[3].train()
        with frozen(each, grad=False):
            assert modes(model) == [False, False, False, False, True, False]
        model[3].eval()
    assert not any(modes(model))


def test_wrappers_follow_the_mode_of_what_they_wrap():
    model = network()
    average, together = expectation(model), ensemble([model, network().eval()])
    assert average.training
    assert together.training
    model.eval()
    assert not average.training
    assert not together.training
    average.train()
    assert model.training


def test_recurrent_nets_in_train_mode_within_a_model_in_eval_mode_are_attacked_so():
    class Recurrent(nn.Module):
        def __init__(self):
            super().__init__()
            self.net, self.last = nn.LSTM(4, 5, batch_first=True), nn.Linear(5, 3)

        def forward(self, inputs):
            assert self.net.training
            return self.last(self.net(inputs[:, None])[0][:, -1])

    model, (inputs, labels) = Recurrent().eval(), data()
    model.net.train()
    ATTACK(model, inputs, labels)
    found = diagnose(model, [(inputs, labels)], eps=0.1, steps=3)["train mode"]
    assert found.verdict == "pass"
    assert found.numbers["layers"] == ["net (LSTM)"]


def test_diagnose_names_the_layers_that_train():
    model, batch = sampling(), data()
    found = diagnose(model, [batch], eps=0.1, steps=3)
    assert found["train mode"].verdict == "warn"
    assert "3 (Dropout); the model is in eval mode itself" in found["train mode"].evidence
    assert found["random outputs"].verdict == "fail"
    found = diagnose(model.train(), [batch], eps=0.1, steps=3)["train mode"]
    assert found.numbers["layers"] == ["1 (BatchNorm1d)", "3 (Dropout)"]


# --- as before -------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [contextlib.nullcontext, torch.no_grad, torch.inference_mode])
def test_grad_mode_and_model_are_as_before(mode):
    model = delicate()
    before = state(model)
    with mode():
        grad, inference = torch.is_grad_enabled(), torch.is_inference_mode_enabled()
        for inside in (True, False):
            with frozen(model, grad=inside):
                assert torch.is_grad_enabled() == inside
                assert not torch.is_inference_mode_enabled()
                model(examples()[0])
            assert (torch.is_grad_enabled(), torch.is_inference_mode_enabled()) == (grad, inference)
    assert state(model) == before
