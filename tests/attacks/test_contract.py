"""What holds for every attack, one table over all of them."""

import contextlib
import copy
import inspect
import random
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from advcal import attacks
from advcal.attacks import (
    ace,
    adversarial_distance,
    apgd,
    autoattack,
    batched,
    cw_l2,
    ddn,
    deepfool,
    fgsm,
    fmn,
    foot,
    generalised_ace,
    hopskipjump,
    iaa,
    minimum_norm,
    mma,
    n_fgsm,
    oca,
    pgd,
    pgd_conf,
    rca,
    square,
    uca,
    uniform_noise,
    worst_case,
)
from tests.attacks.cases import (
    CALLING,
    DETERMINISTIC,
    DEVICES,
    IN_A_BALL,
    N_CLASSES,
    ROWS,
    SHAPE,
    UNIFORM,
    VARYING,
    Counted,
    N,
    delicate,
    each_cross_entropy,
    every_row,
    examples,
    linear,
    mlp,
    rows,
    seeded,
    state,
)

ATTACKS = {
    "ace": ace,
    "apgd": apgd,
    "autoattack": autoattack,
    "cw_l2": cw_l2,
    "ddn": ddn,
    "deepfool": deepfool,
    "fgsm": fgsm,
    "fmn": fmn,
    "foot": foot,
    "generalised_ace": generalised_ace,
    "hopskipjump": hopskipjump,
    "iaa": iaa,
    "minimum_norm": minimum_norm,
    "mma": mma,
    "n_fgsm": n_fgsm,
    "oca": oca,
    "pgd": pgd,
    "pgd_conf": pgd_conf,
    "rca": rca,
    "square": square,
    "uca": uca,
    "uniform_noise": uniform_noise,
}
COMBINED = ["autocast", "batched", "cascade", "worst_case"]
NO_ATTACKS = [
    "Attack",
    "Ball",
    "adversarial_distance",
    "alongside",
    "expectation",
    "l1",
    "l2",
    "linf",
    "through",
    "two_columns",
    *COMBINED,
]
ULP = 2**-23

every_device = pytest.mark.parametrize("device", DEVICES)
every_mode = pytest.mark.parametrize(
    "mode", [contextlib.nullcontext, torch.no_grad, torch.inference_mode]
)


def test_every_attack_is_in_the_table():
    assert sorted([*ATTACKS, *NO_ATTACKS]) == sorted(attacks.__all__)
    assert {name.split("-")[0] for name in ROWS} == {*ATTACKS, *COMBINED}
    for attack in ATTACKS.values():
        positional, keywords = inspect.getfullargspec(attack)[0], inspect.signature(attack)
        assert positional == ["model", "inputs", "labels"]
        assert keywords.parameters["bounds"].default == (0.0, 1.0)


# --- nothing but the result comes of an attack -----------------------------------------------


@every_row
@every_mode
@every_device
def test_the_model_stays_as_it_was(row, mode, device):
    model = delicate(device)
    before = state(model)
    with mode():
        row.make()(model, *examples(device=device))
    assert state(model) == before
    assert 0 < model.calls <= row.forwards if row.fewer else model.calls == row.forwards


@rows(CALLING)
@pytest.mark.parametrize(
    ("fail_at", "mode"),
    [(1, contextlib.nullcontext), (2, torch.no_grad), (3, torch.inference_mode)],
)
def test_the_model_stays_as_it_was_when_it_fails(row, fail_at, mode):
    model = delicate(fail_at=fail_at)
    before = state(model)
    fails = pytest.raises(InterruptedError, match="the model failed")
    if row.fewer and fail_at > 1:
        fails = contextlib.suppress(InterruptedError)
    with mode(), fails if row.forwards >= fail_at else contextlib.nullcontext():
        row.make()(model, *examples())
    assert state(model) == before


@every_row
def test_the_model_stays_as_it_was_when_it_is_in_eval_mode(row):
    model = delicate().eval().requires_grad_(False)
    before = state(model)
    row.make()(model, *examples())
    assert state(model) == before


@every_row
def test_the_model_is_attacked_in_eval_mode(row):
    training = delicate()
    evaluated = delicate().eval()
    inputs, labels = examples()
    wanted = row.make(generator=seeded())(evaluated, inputs, labels)
    assert torch.equal(row.make(generator=seeded())(training, inputs, labels), wanted)


@every_row
@pytest.mark.parametrize("requires_grad", [False, True])
def test_inputs_and_labels_are_not_modified(row, requires_grad):
    inputs, labels = examples()
    before = inputs.clone(), labels.clone()
    versions = inputs._version, labels._version
    inputs.requires_grad_(requires_grad)
    row.make()(mlp(), inputs, labels)
    assert torch.equal(inputs, before[0])
    assert torch.equal(labels, before[1])
    assert (inputs._version, labels._version) == versions
    assert inputs.grad is None
    assert inputs.requires_grad == requires_grad


@every_row
def test_global_random_states_are_untouched(row):
    def states():
        cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
        legacy = np.random.get_state()  # noqa: NPY002
        kinds = [torch.get_rng_state(), *cuda]
        return [s.tolist() for s in kinds], str(legacy), random.getstate()

    before = states()
    row.make()(delicate(), *examples())
    assert states() == before


@every_row
@every_mode
def test_grad_mode_is_left_as_it_was(row, mode):
    model = mlp()
    with mode():
        before = torch.is_grad_enabled(), torch.is_inference_mode_enabled()
        row.make()(model, *examples())
        assert (torch.is_grad_enabled(), torch.is_inference_mode_enabled()) == before


# --- what comes back -------------------------------------------------------------------------


@every_row
@every_device
@pytest.mark.parametrize(
    ("dtype", "eps"),
    [
        (torch.float64, 0.1),
        (torch.float32, 0.1),
        (torch.float32, 0),
        (torch.bfloat16, 0.1),
        (torch.float16, 0.1),
    ],
)
def test_the_output_is_like_the_inputs(row, device, dtype, eps):
    inputs, labels = examples(dtype=dtype, device=device)
    model = mlp(dtype=dtype).to(device)
    found = row.make(eps=eps)(model, inputs.requires_grad_(), labels)
    assert (found.shape, found.dtype, found.device) == (inputs.shape, dtype, inputs.device)
    assert not found.requires_grad
    assert found.grad_fn is None
    assert found.isfinite().all()
    assert found.untyped_storage().data_ptr() != inputs.untyped_storage().data_ptr()


@every_row
@every_mode
def test_the_result_is_the_same_in_every_grad_mode(row, mode):
    model = mlp()
    wanted = row.make(generator=seeded())(model, *examples())
    with mode():
        found = row.make(generator=seeded())(model, *examples())
        assert torch.equal(found, wanted)


@every_row
def test_layout_and_label_dtype_do_not_matter(row):
    model = mlp(dtype=torch.float64)
    inputs, labels = examples(dtype=torch.float64)
    wanted = row.make(generator=seeded())(model, inputs, labels)
    strided = inputs.transpose(0, 2).contiguous().transpose(0, 2)
    for integers in (torch.uint8, torch.int8, torch.int32):
        found = row.make(generator=seeded())(model, strided, labels.to(integers))
        torch.testing.assert_close(found, wanted)


@every_row
def test_the_memory_format_stays(row):
    model = mlp(shape=SHAPE)
    inputs, labels = examples()
    inputs = inputs.contiguous(memory_format=torch.channels_last)
    found = row.make(generator=seeded())(model, inputs, labels)
    assert found.is_contiguous(memory_format=torch.channels_last)


@every_row
def test_inputs_that_share_memory_among_themselves(row):
    inputs, labels = examples(n=1)
    found = row.make(generator=seeded())(mlp(), inputs.expand(3, *SHAPE), labels.expand(3))
    wanted = row.make(generator=seeded())(mlp(), inputs.repeat(3, 1, 1, 1), labels.repeat(3))
    assert torch.equal(found, wanted)


class Marked(torch.Tensor):
    """A subclass that computes as any tensor, and takes over what it is computed with."""


@every_row
def test_subclasses_of_labels_and_logits_do_not_take_over_the_result(row):
    inputs, labels = examples()
    found = row.make(generator=seeded())(
        lambda points: mlp()(points).as_subclass(Marked), inputs, labels.as_subclass(Marked)
    )
    assert type(found) is torch.Tensor
    assert torch.equal(found, row.make(generator=seeded())(mlp(), inputs, labels))


@rows(name for name in CALLING if ROWS[name].backwards and name != "autocast")
def test_weights_made_in_inference_mode_are_refused(row):
    with torch.inference_mode():
        model = mlp()
    inputs, labels = examples()
    attack = row.make(generator=seeded())
    with pytest.raises(ValueError, match=r"inference_mode; outside of it, pass copy\.deepcopy"):
        attack(model, inputs, labels)
    found = row.make(generator=seeded())(copy.deepcopy(model), inputs, labels)
    assert torch.equal(found, row.make(generator=seeded())(mlp(), inputs, labels))


@every_row
def test_any_shape_of_inputs(row):
    for shape in [(1,), (5,), (2, 3), (1, 2, 2, 2)]:
        inputs, labels = examples(n=2, shape=shape)
        assert row.make()(mlp(shape=shape), inputs, labels).shape == inputs.shape


# --- feasible --------------------------------------------------------------------------------

no_doubts = pytest.mark.filterwarnings("ignore:expected a model that an attack can follow")
FEASIBLE = settings(max_examples=10, deadline=None, derandomize=True)
problems = st.fixed_dictionaries(
    {
        "eps": st.floats(1e-4, 2) | st.sampled_from([0, 1e-4, 8 / 255, 2]),
        "bounds": st.sampled_from([(0, 1), (-1, 1), (0, 255), (-0.5, 0.25)]),
        "shape": st.sampled_from([(1,), (7,), (3, 2, 2)]),
        "seed": st.integers(0, 2**20),
        "gain": st.sampled_from([0.0, 1.0, 30.0]),
    }
)


def assert_feasible(found, inputs, norm, eps, bounds):
    assert found.isfinite().all()
    low, high = bounds
    assert low <= found.min()
    assert found.max() <= high
    offset = (found.double() - inputs.double()).flatten(1)
    if norm is not None:
        order = {"linf": torch.inf, "l2": 2, "l1": 1}[norm]
        length = torch.linalg.vector_norm(offset, order, dim=1)
        assert length.max() <= eps * (1 + ULP)


@no_doubts
@every_row
@settings(parent=FEASIBLE)
@given(problem=problems)
def test_feasible(row, problem):
    check_feasible(row, problem, torch.float32)


@no_doubts
@every_row
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
@settings(parent=FEASIBLE, max_examples=3)
@given(problem=problems)
def test_feasible_in_other_precisions(row, dtype, problem):
    check_feasible(row, problem, dtype)


def check_feasible(row, problem, dtype):
    eps, bounds, shape, seed = (problem[key] for key in ("eps", "bounds", "shape", "seed"))
    inputs, labels = examples(4, shape, seed, dtype, bounds=bounds)
    model = mlp(seed, shape, dtype=dtype, gain=problem["gain"])
    attack = row.make(eps=eps, bounds=bounds, generator=seeded(seed))
    assert_feasible(attack(model, inputs, labels), inputs, row.norm, eps, bounds)


@no_doubts
@every_row
@pytest.mark.parametrize(
    "model",
    [
        lambda x: torch.where(x.flatten(1).sum(dim=1, keepdim=True) > 7, torch.inf, x[:, 0, 0, :3]),
        lambda x: (x.flatten(1)[:, :3] * 0).sqrt(),
        lambda x: x.flatten(1)[:, :3] * 1e38,
        lambda x: x.flatten(1)[:, :3] * 1e-38,
        lambda x: x.flatten(1)[:, :3] * 0,
        lambda x: x.flatten(1)[:, :3] * 0 - torch.inf,
    ],
    ids=["infinite logits", "infinite gradient", "huge", "tiny", "constant", "all masked"],
)
def test_feasible_whatever_the_model_does(row, model):
    inputs, labels = examples(n=6)
    found = row.make(generator=seeded())(model, inputs, labels)
    assert_feasible(found, inputs, row.norm, 0.1, (0, 1))


# --- each example on its own -----------------------------------------------------------------


@rows(DETERMINISTIC)
def test_an_example_alone(row):
    model, (inputs, labels) = mlp(dtype=torch.float64), examples(7, dtype=torch.float64)
    together = row.make()(model, inputs, labels)
    for i in range(0, 7, 2):
        alone = row.make()(model, inputs[i : i + 1], labels[i : i + 1])
        torch.testing.assert_close(together[i : i + 1], alone, rtol=0, atol=1e-9)


@rows(DETERMINISTIC)
def test_a_permuted_batch(row):
    model, (inputs, labels) = mlp(dtype=torch.float64), examples(7, dtype=torch.float64)
    order = torch.randperm(7, generator=seeded())
    wanted = row.make()(model, inputs, labels)[order]
    found = row.make()(model, inputs[order], labels[order])
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-9)


@rows(DETERMINISTIC)
@pytest.mark.parametrize("factor", [0.0, 1e30, torch.inf])
def test_extreme_neighbours_do_not_matter(row, factor):
    """Half of the batch has vanishing, huge or infinite logits."""

    def model(inputs):
        marked = inputs[:, 0, 0, :1] > 0.6
        return classifier(inputs) * torch.where(marked, factor, 1.0)

    classifier, (inputs, labels) = mlp(dtype=torch.float64), examples(6, dtype=torch.float64)
    inputs[:, 0, 0, 0] = torch.tensor([0.2, 1.0, 0.2, 1.0, 0.2, 1.0])
    calm = slice(0, None, 2)
    together = row.make()(model, inputs, labels)[calm]
    alone = row.make()(model, inputs[calm], labels[calm])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-9)
    assert not torch.equal(alone, inputs[calm])


# --- random numbers --------------------------------------------------------------------------


@every_row
@every_device
def test_the_same_generator_state_gives_the_same_result(row, device):
    model, (inputs, labels) = mlp().to(device), examples(device=device)
    first = row.make(generator=seeded(3, device))(model, inputs, labels)
    second = row.make(generator=seeded(3, device))(model, inputs, labels)
    assert torch.equal(first, second)
    assert torch.equal(row.make()(model, inputs, labels), row.make()(model, inputs, labels))


@rows(VARYING)
def test_another_generator_state_gives_another_result(row):
    inputs, labels = examples()
    generator = seeded()
    attack = row.make(generator=generator)
    first, second = (attack(mlp(), inputs, labels) for _ in range(2))
    assert not torch.equal(first, second)
    assert not torch.equal(first, row.make(generator=seeded(1))(mlp(), inputs, labels))


# Without a generator every part of a batch starts from the global state again.
@rows([name for name in VARYING if name != "batched-random"])
def test_the_global_seed_stands_in_for_a_generator(row):
    inputs, labels = examples()
    wanted = row.make(generator=seeded(5))(mlp(), inputs, labels)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        assert torch.equal(row.make()(mlp(), inputs, labels), wanted)
        torch.manual_seed(6)
        assert not torch.equal(row.make()(mlp(), inputs, labels), wanted)


@rows(DETERMINISTIC)
def test_the_generator_does_not_matter_to_the_others(row):
    generator = seeded()
    before = generator.get_state()
    row.make(generator=generator)(mlp(), *examples())
    assert torch.equal(generator.get_state(), before)


# --- bad input -------------------------------------------------------------------------------

INPUTS, LABELS = examples(bounds=(0.25, 0.75))
WITH_NAN, WITH_INF = INPUTS.clone(), INPUTS.clone()
WITH_NAN[1, 0, 2, 2], WITH_INF[1, 0, 2, 2] = torch.nan, torch.inf

BAD_EXAMPLES = {
    "8-bit inputs": ((INPUTS * 255).byte(), LABELS, TypeError, "floating dtype, got .*uint8"),
    "boolean inputs": (INPUTS > 0.5, LABELS, TypeError, "floating dtype, got .*bool"),
    "complex inputs": (INPUTS + 0j, LABELS, TypeError, "floating dtype, got .*complex"),
    "1-d inputs": (INPUTS[:, 0, 0, 0], LABELS, ValueError, r"inputs of shape .*, got .*\(3,\)"),
    "no inputs": (INPUTS[:0], LABELS[:0], ValueError, r"inputs of shape .*, got .*\(0, 1"),
    "empty inputs": (INPUTS[..., :0], LABELS, ValueError, r"inputs of shape .*, got .*, 0\)"),
    "array": (INPUTS.numpy(), LABELS, TypeError, "inputs as a torch.Tensor, got an array"),
    "list": (INPUTS.tolist(), LABELS, TypeError, "inputs as a torch.Tensor, got list"),
    "too bright": (INPUTS + 0.5, LABELS, ValueError, r"bounds \(0, 1\), got .* to 1\.2"),
    "too dark": (INPUTS - 0.5, LABELS, ValueError, r"bounds \(0, 1\), got .* from -0\.2"),
    "NaN inputs": (WITH_NAN, LABELS, ValueError, r"(within bounds|finite inputs).*, got"),
    "infinite inputs": (
        WITH_INF,
        LABELS,
        ValueError,
        r"(within bounds \(0, 1\)|finite inputs), got .*inf",
    ),
    "floating labels": (INPUTS, LABELS.float(), TypeError, "integer dtype, got .*float32"),
    "boolean labels": (INPUTS, LABELS > 0, TypeError, "integer dtype, got .*bool"),
    "too few labels": (INPUTS, LABELS[:-1], ValueError, r"labels of shape \(3,\), got .*\(2,\)"),
    "2-d labels": (INPUTS, LABELS[:, None], ValueError, r"shape \(3,\), got .*\(3, 1\)"),
    "list of labels": (INPUTS, LABELS.tolist(), TypeError, "labels .*, got list"),
    "array of labels": (INPUTS, LABELS.numpy(), TypeError, "labels .*, got an array"),
    "labels elsewhere": (INPUTS, LABELS.to("meta"), ValueError, "labels on cpu .*, got meta"),
}


@pytest.mark.parametrize("name", ROWS)
@pytest.mark.parametrize("case", BAD_EXAMPLES)
def test_bad_examples_are_refused(name, case):
    inputs, labels, error, match = BAD_EXAMPLES[case]
    model = Counted(mlp())
    with pytest.raises(error, match=f"expected .*{match}"):
        ROWS[name].make()(model, inputs, labels)
    assert model.forwards <= name.startswith(
        ("worst_case", "cascade")
    )  # which try the inputs first


@rows(CALLING)
@pytest.mark.parametrize("wrong", [-1, N_CLASSES, 2**40])
def test_labels_out_of_range_are_refused(row, wrong):
    labels = LABELS.clone()
    labels[1] = wrong
    with pytest.raises(ValueError, match=f"expected labels from 0 to 2, got {wrong}"):
        row.make()(mlp(), INPUTS, labels)


def with_nan(inputs):
    return torch.stack([inputs[:, 0, 0, 0], inputs[:, 0, 0, 1]], dim=1).index_fill(
        0, torch.tensor([1]), torch.nan
    )


BAD_MODELS = {
    "NaN": (with_nan, ValueError, "logits without NaN, got NaN at example 1"),
    "1-d": (lambda x: x[:, 0, 0, 0], ValueError, r"logits of shape .*, got .*\(\d,\)"),
    "3-d": (lambda x: x[:, 0], ValueError, r"logits of shape .*, got .* 4, 4\)"),
    "one class": (lambda x: x[:, 0, 0, :1], ValueError, r"logits of shape .*, got .* 1\)"),
    "fewer": (lambda x: x[1:, 0, 0], ValueError, r"logits of shape .*, got .* 4\)"),
    "integers": (lambda x: x[:, 0, 0].long(), TypeError, "floating dtype, got .*int64"),
    "tuple": (lambda x: (x[:, 0, 0],), TypeError, "a tensor of logits, got tuple"),
    "array": (lambda x: np.zeros((len(x), 3)), TypeError, "a tensor of logits, got an array"),
    "None": (lambda x: None, TypeError, "a tensor of logits, got NoneType"),
    "sparse": (lambda x: x[:, 0, 0].to_sparse(), TypeError, "logits as a dense .*sparse_coo"),
}


@rows(CALLING)
@pytest.mark.parametrize("case", BAD_MODELS)
def test_bad_logits_are_refused(row, case):
    model, error, match = BAD_MODELS[case]
    with pytest.raises(error, match=f"expected .*{match}"):
        row.make()(model, INPUTS, LABELS)


@every_row
def test_a_model_that_is_not_callable_is_refused(row):
    with pytest.raises(TypeError, match="expected model as a callable, got NoneType"):
        row.make()(None, INPUTS, LABELS)


BAD_OPTIONS = {
    "eps": [
        -0.1,
        float("nan"),
        float("inf"),
        "0.1",
        True,
        None,
        (0.1,),
        torch.tensor(0.1),
        torch.ones(2),
        *[1e19, torch.tensor([0.1, 0.1, 1e30])],
    ],
    "step_size": [0, -0.1, float("nan"), float("inf"), "0.1", True],
    "lam": [-1, float("nan"), float("inf"), "5", True, None],
    "kappa": [-1, float("nan"), float("inf"), "0", True, None],
    "initial_c": [0, -1, float("nan"), float("inf"), "1", True, None],
    "initial_eps": [0, -1, float("nan"), float("inf"), "1", True, None],
    "gamma": [0, -1, 1.1, float("nan"), float("inf"), "0.1", True, None],
    "overshoot": [-1, float("nan"), float("inf"), "0", True, None],
    "candidates": [0, -1, 1.5, True, "3", None],
    "steps": [0, -1, 1.5, True, "3", None],
    "restarts": [0, -1, 1.5, True, "3", None],
    "schedule_steps": [0, -1, 1.5, True, "3"],
    "search_steps": [0, -1, 1.5, True, "3", None],
    "rho": [-0.1, 1.1, float("nan"), "0.5", True, None],
    "n_targets": [-1, 1.5, True, "3", None],
    "queries": [-1, 1.5, True, "3", None],
    "initial_p": [0, -0.1, 1.1, float("nan"), "0.5", True, None],
    "noise": [-1, float("nan"), float("inf"), "2", True, None],
    "momentum": [-1, float("nan"), float("inf"), "1", True, None],
    "norm": ["l3", "Linf", "inf", 2, None, ["l2"], float("inf")],
    "loss": ["ce", "CrossEntropy", None, 3, ["margin"]],
    "tol": [-1, float("nan"), float("inf"), "0.1", True, None],
    "eta": [0, float("nan"), float("inf"), "1", True, None],
    "omega": [
        *[None, [0.5, 0.5], torch.tensor([0, 1, 0]), torch.full((3,), 0.5), torch.ones(1)],
        *[torch.eye(2), torch.tensor([2.0, -1.0, 0.0]), torch.tensor([torch.nan, 1.0, 0.0])],
    ],
    "method": ["square", None, 0, True],
    "label": ["clean", "True", None, True, 0],
    "variant": ["paper", None, 0, True],
    "bounds": [
        *[(1, 0), (0, 0), (float("inf"), 1), (float("nan"), 1), ("0", "1"), (False, True)],
        *[(0,), (0, 1, 2), 1, "01", (None, 1), (torch.ones(5), 2), (torch.tensor(torch.nan), 1)],
        *[(torch.ones(4), torch.zeros(4)), (torch.zeros(4, dtype=torch.bool), 1)],
    ],
    "targeted": ["no", "yes", None, 0, 1],
    "random_start": ["no", "yes", None, 0, 1],
    "start": [
        *[0, "input", np.zeros((3, 1, 4, 4)), torch.zeros(3, 16), torch.zeros(1, 1, 4, 4)],
        *[torch.zeros(3, 1, 4, 4).long(), torch.full((3, 1, 4, 4), torch.nan)],
        torch.full((3, 1, 4, 4), torch.inf),
    ],
    "stop_early": ["no", "yes", None, 0, 1],
    "levels": [0, 1, -256, 1.5, True, "256"],
    "progress": [0, True, "bar"],
    "generator": [0, 1, "seed", torch.manual_seed, np.random.default_rng(0)],
}


BAD_USES = [
    pytest.param(
        attack, option, value, id=f"{name}-{option}-{str(value).partition(' at 0x')[0]}"[:60]
    )
    for name, attack in ATTACKS.items()
    for option, values in BAD_OPTIONS.items()
    if option in inspect.signature(attack).parameters
    for value in values
]


@pytest.mark.parametrize(("attack", "option", "value"), BAD_USES)
def test_bad_options_are_refused(attack, option, value):
    needed = {"eps": 0.1, "eta": 1.0, "omega": UNIFORM}
    given_eps = {k: v for k, v in needed.items() if k in inspect.signature(attack).parameters}
    with pytest.raises((TypeError, ValueError), match=f"expected {option}.*, got"):
        attack(mlp(), INPUTS, LABELS, **{**given_eps, option: value})


def test_every_option_is_in_the_table_of_bad_ones():
    taken = {
        option for attack in ATTACKS.values() for option in inspect.signature(attack).parameters
    }
    assert taken - {"model", "inputs", "labels"} == set(BAD_OPTIONS)


@pytest.mark.parametrize("attack", [fgsm, partial(pgd, steps=2)], ids=["fgsm", "pgd"])
@pytest.mark.parametrize(
    "loss",
    [
        lambda logits, labels: torch.nn.functional.cross_entropy(logits, labels),
        lambda logits, labels: each_cross_entropy(logits, labels)[:, None],
        lambda logits, labels: 1.0,
    ],
    ids=["scalar", "2-d", "float"],
)
def test_a_loss_that_is_not_per_example_is_refused(attack, loss):
    with pytest.raises(ValueError, match=r"expected the loss .*, got .*reduction='none'"):
        attack(mlp(), INPUTS, LABELS, eps=0.1, loss=loss)


def test_a_builtin_without_a_signature_is_a_loss():
    builtin = torch._C._nn.cross_entropy_loss  # of one value per example
    attack = partial(fgsm, mlp(), INPUTS, LABELS, eps=0.1)
    assert torch.equal(attack(loss=builtin), attack(loss=each_cross_entropy))


def test_restarts_without_a_random_start_are_refused():
    with pytest.raises(ValueError, match=r"expected random_start .*, got restarts=2"):
        pgd(mlp(), INPUTS, LABELS, eps=0.1, restarts=2, random_start=False)


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)
def test_options_are_keywords(attack):
    with pytest.raises(TypeError, match="positional"):
        attack(mlp(), INPUTS, LABELS, 0.1)


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda: worst_case(), ValueError),
        (lambda: worst_case("pgd"), TypeError),
        (lambda: worst_case([fgsm]), TypeError),
        (lambda: batched("pgd", 2), TypeError),
        (lambda: batched(fgsm, 0), ValueError),
        (lambda: batched(fgsm, 1.5), TypeError),
        (lambda: batched(fgsm, True), TypeError),
        (lambda: adversarial_distance(mlp(), INPUTS, attack="cw_l2"), ValueError),
        (lambda: adversarial_distance(mlp(), INPUTS, attack=3), TypeError),
        (lambda: adversarial_distance(mlp(), INPUTS, bounds=(1, 0)), ValueError),
        (lambda: adversarial_distance(mlp(), INPUTS.numpy()), TypeError),
        (lambda: adversarial_distance(mlp(), INPUTS[:0]), ValueError),
        (lambda: adversarial_distance(mlp(), INPUTS + 0.5), ValueError),
        (lambda: adversarial_distance(with_nan, INPUTS), ValueError),
    ],
)
def test_bad_use_of_what_is_not_an_attack_is_refused(make, error):
    with pytest.raises(error, match=r"expected .*, got"):
        make()


FOREIGN = {
    "None": (lambda *_: None, TypeError, "return a torch.Tensor, got NoneType"),
    "array": (lambda m, x, y: x.numpy(), TypeError, "return a torch.Tensor, got an array"),
    "dtype": (lambda m, x, y: x.double(), ValueError, "return .*float32.*, got .*float64"),
    "shape": (lambda m, x, y: x[:1], ValueError, r"return .*\(3, .*, got .*\(1, "),
}


@pytest.mark.parametrize("case", FOREIGN)
def test_a_foreign_attack_that_returns_something_else_is_refused(case):
    attack, error, match = FOREIGN[case]
    for use in (worst_case(attack), partial(adversarial_distance, attack=attack)):
        arguments = (mlp(), INPUTS, LABELS)[: 2 if isinstance(use, partial) else 3]
        with pytest.raises(error, match=f"expected the attack to {match}"):
            use(*arguments)


def test_a_foreign_attack_may_modify_what_it_is_given():
    inputs, labels = examples()
    before = inputs.clone()
    found = worst_case(lambda m, x, y: x.zero_())(linear(), inputs, labels)
    assert torch.equal(inputs, before)
    assert found.shape == inputs.shape


@pytest.mark.parametrize("wrap", [worst_case, partial(batched, size=2)], ids=["worst", "batched"])
def test_foreign_attacks_that_keep_a_graph_are_detached(wrap):
    attack = wrap(lambda m, x, y: x * torch.ones(1, requires_grad=True))
    assert not attack(linear(), *examples()).requires_grad


def test_rows_that_must_be_in_a_ball():
    free = {name.split("-")[0] for name in set(ROWS) - set(IN_A_BALL)}
    assert free == {
        *("cw_l2", "ddn", "deepfool", "fmn", "foot", "hopskipjump", "minimum_norm", "n_fgsm"),
    }
    assert N == 3
