"""One call, one report: the figures of the functions, and pages that stand by themselves."""

import json
from functools import partial
from html.parser import HTMLParser

import pytest
import torch

from advcal.attacks import pgd
from advcal.certify import crown, figures
from advcal.evaluation import Audit, audit, compare, confidence_envelope, detection, evaluate
from tests.attacks.cases import delicate, state
from tests.attacks.cases import examples as delicate_examples
from tests.certify.cases import perceptron, points

PGD = partial(pgd, eps=0.05, steps=3, random_start=False)


def setting(n=60, seed=5):
    model, inputs = perceptron(1), points(n, seed=seed)
    with torch.no_grad():
        probs = model(inputs).softmax(dim=1)
    labels = torch.multinomial(probs, 1, generator=torch.Generator().manual_seed(0))[:, 0]
    return model, list(zip(inputs.split(25), labels.split(25), strict=True))


@pytest.fixture(scope="module")
def found():
    model, batches = setting()
    _, held_out = setting(seed=6)
    outside = [(torch.full((20, 6), 0.5),)]
    options = {"certified": crown, "held_out": held_out, "out_batches": outside}
    return audit(model, batches, eps=0.05, attack=PGD, steps=5, **options)


def test_the_figures_are_those_of_the_functions(found):
    model, batches = setting()
    labels = torch.cat([batch[1] for batch in batches])
    for side, attack in (("clean", None), ("attacked", PGD)):
        record = evaluate(model, batches, attack)
        part = found.parts[side]
        assert part["n"] == record.n == 60
        for name in ("accuracy", "ece", "mcs", "nll", "brier"):
            value, low, high = part["figures"][name]
            assert value == pytest.approx(getattr(record, name), abs=1e-9)
            assert low <= high
        assert part["bins"]["counts"] == record.bins.counts.tolist()
        low, high = part["figures"]["accuracy"][1:]
        assert low < record.accuracy < high
    certain = figures(crown(model, torch.cat([b[0] for b in batches]), eps=0.05), labels)
    assert found.parts["certified"]["ece_high"] == pytest.approx(certain.ece_high)
    assert found.robust_accuracy[0] == pytest.approx(certain.accuracy_low)
    assert found.robust_accuracy[0] <= found.robust_accuracy[1]
    envelope = confidence_envelope(model, batches, eps=[0.0125, 0.025, 0.05], steps=5)
    assert found.parts["envelope"]["lowest"] == pytest.approx(list(envelope.lowest), abs=1e-6)
    assert found.parts["detection"]["clean"]["auroc"] == pytest.approx(
        detection(model, batches, [(torch.full((20, 6), 0.5),)]).auroc
    )
    assert found.parts["clean"]["sets"]["n"] == 60
    assert found.verdict in ("pass", "warn", "fail")


def test_the_default_attack_is_strong():
    model, batches = setting()
    record = audit(model, batches, eps=0.05, steps=20)
    plain = evaluate(model, batches, partial(PGD, steps=20))
    assert record.robust_accuracy[1] <= plain.accuracy
    assert record.robust_accuracy[0] == 0
    assert "certified" not in record.parts


# --- reports -----------------------------------------------------------------------------------


def test_a_table_and_plain_numbers(found):
    lines = str(found).splitlines()
    first = [line.split("|")[1].strip() for line in lines]
    assert first[2:] == [
        *("accuracy", "ECE", "MCS", "NLL", "Brier score", "AURC"),
        *("coverage of 90 % sets", "classes in a set", "AUROC of detection"),
    ]
    assert len({len(line) for line in lines}) == 1
    assert "≤ " in str(found)
    latex = found.table(format="latex")
    assert r"\toprule" in latex
    assert r"$\leq$ " in latex
    assert latex.count(r" \\") == len(lines) - 1
    with pytest.raises(ValueError, match="format to be one of"):
        found.table(format="html")
    for shown in (found, found.table()):
        assert shown._repr_html_().count("<tr>") == len(lines) - 1
    plain = found.as_dict()
    assert json.loads(json.dumps(plain)) == plain


class Reader(HTMLParser):
    """Notes every tag, attribute and text, and that tags are closed in order."""

    def __init__(self):
        super().__init__()
        self.tags, self.open, self.attributes, self.text = [], [], [], ""

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in ("meta", "path", "circle"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in ("path", "circle"):
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def test_the_page_stands_by_itself(found):
    reader = Reader()
    reader.feed(found.html())
    assert not reader.open
    assert {"script", "link", "img", "iframe"}.isdisjoint(reader.tags)
    assert not [value for name, value in reader.attributes if name in ("src", "href")]
    assert "http" not in found.html().replace("http-equiv", "")
    assert reader.tags.count("svg") == 3
    assert ("name", "viewport") in reader.attributes
    assert "prefers-color-scheme: dark" in found.html()
    for word in ("accuracy", "certified", "Brier", "Diagnosis", "L∞ radius 0.05"):
        assert word in reader.text


def test_models_side_by_side(found):
    _, batches = setting()
    weak = audit(lambda rows: 0.2 * rows[:, :4], batches, eps=0.05, attack=PGD, steps=3)
    table = compare({"weak <b>": weak, "ours": found})
    first, second = (line.split("|")[1].strip() for line in table.splitlines()[2:])
    assert (first, second) == ("ours", r"weak \<b>")
    assert r"\toprule" in compare({"a": found}, format="latex")
    html = compare({"weak <b>": weak, "ours": found}, format="html")
    reader = Reader()
    reader.feed(html)
    assert "<b>" not in html
    assert "weak <b>" in reader.text
    assert reader.tags.count("svg") == 6


def test_an_attack_that_failed_is_not_believed():
    model, batches = setting()

    def rounded(rows):
        return model((rows * 2).round() / 2)

    record = audit(rounded, batches, eps=0.05, attack=PGD, steps=3)
    assert record.verdict == "fail"
    assert "not to be believed" in str(record)
    assert "not to be believed" in record.html().replace("\n", " ")
    good = audit(model, batches, eps=0.05, attack=PGD, steps=3)
    names = [line.split("|")[1].strip() for line in compare({"r": record, "m": good}).splitlines()]
    assert names[2:] == ["m", "r"]


# --- runs --------------------------------------------------------------------------------------


def test_a_killed_audit_goes_on(tmp_path, found):
    model, batches = setting()
    path, calls = tmp_path / "audit.json", []

    def stopping(parts):
        for i, part in enumerate(parts):
            if i == 2:
                raise KeyboardInterrupt
            calls.append(part)
            yield part

    options = {"eps": 0.05, "attack": PGD, "steps": 3, "path": path}
    with pytest.raises(KeyboardInterrupt):
        audit(model, batches, **options, progress=stopping)
    assert calls == ["clean", "attacked"]
    record = audit(model, batches, **options, progress=lambda parts: calls.extend(parts) or parts)
    assert calls == ["clean", "attacked", "envelope", "diagnosis"]
    again = audit(model, batches, **options, progress=lambda parts: calls.extend(parts) or parts)
    assert again == record
    assert len(calls) == 4
    assert isinstance(again, Audit)
    with pytest.raises(ValueError, match="of another eps"):
        audit(model, batches, **options | {"eps": 0.06})
    with pytest.raises(ValueError, match="of another model"):
        audit(perceptron(2), batches, **options)
    with pytest.raises(ValueError, match="of another data"):
        audit(model, batches[1:], **options)
    path.write_text("no")
    with pytest.raises(ValueError, match="to hold an audit"):
        audit(model, batches, **options)


def test_the_model_is_left_as_it_was():
    model = delicate()
    before = state(model)
    audit(model, [delicate_examples(12)], eps=0.1, steps=2)
    assert state(model) == before


def test_bad_arguments_are_named(found):
    model, batches = setting()
    for options, error, words in [
        ({"eps": 0.0}, ValueError, "eps > 0"),
        ({"norm": "l1"}, ValueError, "norm to be one of"),
        ({"attack": 3}, TypeError, "attack"),
        ({"certified": 3}, TypeError, "certified as a callable"),
        ({"steps": 0}, ValueError, "steps >= 1"),
    ]:
        with pytest.raises(error, match=words):
            audit(model, batches, **{"eps": 0.05} | options)
    with pytest.raises(TypeError, match="read again"):
        audit(model, iter(batches), eps=0.05)
    other = Audit({**found.settings, "eps": 1.0}, found.parts)
    for audits, error, words in [
        ({}, ValueError, "one audit or more"),
        ([found], TypeError, "audits as a mapping"),
        ({"a": 1}, TypeError, "audits of Audit"),
        ({"a": found, "b": other}, ValueError, "audits of one eps"),
    ]:
        with pytest.raises(error, match=words):
            compare(audits)
