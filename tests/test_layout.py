"""The architecture, read from the source: who imports whom, what things are called and say."""

import ast
import dataclasses
import importlib
import inspect
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import advcal
from advcal._values import Value

PACKAGE = Path(advcal.__file__).parent
ROOT = PACKAGE.parent
FILES = sorted(PACKAGE.rglob("*.py"))
EXAMPLES = sorted((ROOT / "examples").rglob("*.py"))
SUBMODULES = [
    *("attacks", "calibrators", "certify", "evaluation"),
    *("losses", "metrics", "plots", "trainers"),
]

# Imports run downward only. Private modules of the root are open to all submodules.
MAY_IMPORT = {
    "losses": set(),
    "metrics": set(),
    "calibrators": set(),
    "attacks": {"losses"},
    "certify": {"metrics"},
    "trainers": {"losses", "attacks", "metrics"},
    "evaluation": {"attacks", "metrics", "certify"},
    "plots": {"metrics"},
}
# The most basic submodules take these from the root, and no more.
BASIC_ROOT = {
    "_checks", "_files", "_logits", "_markup", "_probs",
    "_processes", "_random", "_sums", "_typing",
}  # fmt: skip
DEPENDENCIES = {"torch", "numpy", "scipy"}
OPTIONAL = {  # imported as they are used
    "matplotlib": {"plots"},
    "PIL": {"evaluation"},
    "torchmetrics": {"metrics"},
}

# Where an argument may be passed by position; every other one is keyword-only.
POSITIONAL = {
    "accuracy", "attack", "attacks", "audits", "backward", "batch", "batches", "bins",
    "calibrator", "confidence", "corruption", "count", "crafted", "curves", "distances", "eps",
    "figure", "forward", "generator", "gradient", "in_batches", "inputs", "labels", "levels",
    "logits", "member", "metric", "model", "models", "n_classes", "objective", "optimizer",
    "others", "out_batches", "path", "points", "probs", "reach", "records", "rows", "run", "runs",
    "score", "scores", "seeds", "sets", "settings", "size", "smoothing", "sources", "state",
    "targets", "temperature", "train", "validation", "values",
}  # fmt: skip
# One word for one thing: what a keyword-only argument may be called.
KEYWORDS = {
    "accumulate", "across", "affine", "against", "all_reduce", "alpha", "attack", "attacked",
    "attacks", "autocast", "average", "ax", "axes", "backward", "band", "bandwidth", "baseline",
    "batch_sizes", "best", "beta", "binning", "bounds", "by", "candidates", "certified",
    "changed", "channels_last", "checkpoint", "clean", "columns", "costs", "coverage", "delta",
    "denominator", "device", "digits", "dtype", "eps", "eta", "every", "figure", "figures",
    "format", "forward", "from_logits", "gamma", "generator", "held_out", "ignore_index",
    "initial_c", "initial_eps", "initial_p", "interval", "intervals", "joint", "kappa", "kinds",
    "l2_bias", "l2_off_diagonal", "label", "lam", "level", "levels", "loss", "map", "margin",
    "max_norm", "maximise", "method", "minimise", "momentum", "n", "n_bins", "n_free", "n_levels",
    "n_pilot", "n_targets", "names", "noise", "norm", "omega", "others", "out_batches", "over",
    "overshoot", "path", "penalty", "percent", "positive", "prior", "progress", "queries",
    "random_start", "records", "reduction", "reference", "resamples", "restarts", "rho", "runs",
    "schedule", "schedule_steps", "score", "search_steps", "severity", "side", "sigma", "size",
    "sources", "stacked", "start", "state", "statistic", "step_size", "steps", "stop_early",
    "strength", "targeted", "targets", "threshold", "title", "tol", "tpr", "variant", "votes",
    "weights",
}  # fmt: skip
VARIADIC = {"attacks", "objectives", "others"}


def dotted(path):
    """Return the module name of a file, relative to the package: `metrics._bins`."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


def room(path):
    """Return the submodule that a file belongs to; a private root module is its own."""
    return dotted(path).split(".")[0]


def imports(path):
    """Yield `(module, node, inside a function, for type checkers only)` of every import."""

    def visit(node, inside, typing):
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                yield from ((alias.name, child, inside, typing) for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                assert child.level == 0, f"{path}: a relative import"
                if child.module == "advcal":
                    names = (f"advcal.{alias.name}" for alias in child.names)
                    yield from ((name, child, inside, typing) for name in names)
                else:
                    yield child.module, child, inside, typing
            function = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            checking = isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)
            yield from visit(child, inside or function, typing or checking)

    yield from visit(ast.parse(path.read_text(encoding="utf-8")), False, False)


def public(submodule):
    module = importlib.import_module(f"advcal.{submodule}")
    return {name: getattr(module, name) for name in module.__all__}


# What users annotate their own functions with, from `advcal._typing`.
TYPES = {"Attack", "Batch", "Loss", "Objective"}
PUBLIC = {
    f"{s}.{name}": value
    for s in SUBMODULES
    for name, value in public(s).items()
    if name not in TYPES
}
CLASSES = {name: value for name, value in PUBLIC.items() if inspect.isclass(value)}
# Configured things are classes that are called like functions, and described like them.
VALUES = {name: cls for name, cls in CLASSES.items() if issubclass(cls, Value)}
METHODS = {
    f"{owner}.{name}": value
    for owner, cls in CLASSES.items()
    for name, value in vars(cls).items()
    if not name.startswith("_") and inspect.isfunction(value)
}
FUNCTIONS = {name: value for name, value in PUBLIC.items() if inspect.isfunction(value)}
FUNCTIONS |= METHODS | VALUES
CLASSES = {
    name: value for name, value in PUBLIC.items() if inspect.isclass(value) and name not in VALUES
}


# --- imports ---------------------------------------------------------------------------------


def test_the_submodules_are_known():
    found = {room(path) for path in FILES if not room(path).startswith("_")} - {""}
    assert found == set(SUBMODULES) == set(MAY_IMPORT)
    assert advcal.__all__ == SUBMODULES
    assert set(SUBMODULES) <= set(dir(advcal))
    for name in SUBMODULES:
        assert inspect.ismodule(getattr(advcal, name))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        advcal.nothing  # noqa: B018


@pytest.mark.parametrize("path", FILES, ids=dotted)
def test_imports_run_downward(path):
    own = room(path)
    for module, node, _, typing in imports(path):
        parts = module.split(".")
        if parts[0] != "advcal" or (own == "" and typing):
            continue
        where = f"{path.name}, line {node.lineno}: {module}"
        assert len(parts) > 1, f"{where} is the whole package"
        other = parts[1]
        if other == own:
            continue
        if other.startswith("_"):
            assert own not in ("losses", "metrics", "calibrators") or other in BASIC_ROOT, where
        else:
            assert other in MAY_IMPORT.get(own, set()), where


@pytest.mark.parametrize("path", FILES, ids=dotted)
def test_nothing_else_is_imported(path):
    for module, node, inside, typing in imports(path):
        package = module.split(".")[0]
        if package in sys.stdlib_module_names or package in {"advcal", *DEPENDENCIES}:
            continue
        where = f"{path.name}, line {node.lineno}: {module}"
        assert room(path) in OPTIONAL.get(package, ()), where
        if path.stem == package == "torchmetrics":  # loaded by those who import it by name
            continue
        assert room(path) in OPTIONAL.get(package, ()), where
        assert inside or typing, f"{where} outside a function"


@pytest.mark.parametrize("path", FILES, ids=dotted)
def test_every_import_comes_first_but_optional_ones(path):
    for module, node, inside, _ in imports(path):
        where = f"{path.name}, line {node.lineno}: {module}"
        assert not inside or module.split(".")[0] in OPTIONAL, where


LOADED = """
import importlib, json, sys
names, found = sys.argv[1:], {}
for name in names:
    for module in [each for each in sys.modules if each.split(".")[0] == "advcal"]:
        del sys.modules[module]
    importlib.import_module(name)
    found[name] = [*sys.modules]
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def loaded():
    """What is loaded once the package, and then each submodule alone, is imported."""
    names = ["advcal", *(f"advcal.{submodule}" for submodule in SUBMODULES)]
    command = [sys.executable, "-c", LOADED, *names]
    result = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    return {name: set(modules) for name, modules in json.loads(result.stdout).items()}


def test_importing_the_package_loads_nothing_of_it(loaded):
    found = loaded["advcal"]
    assert {name for name in found if name.startswith("advcal")} == {"advcal"}
    assert not found & {"torch", "numpy", "scipy", "matplotlib", "sklearn"}


@pytest.mark.parametrize("submodule", SUBMODULES)
def test_importing_a_submodule_loads_what_it_may_import_alone(submodule, loaded):
    found = loaded[f"advcal.{submodule}"]
    ours = {name.split(".")[1] for name in found if name.startswith("advcal.")}
    allowed, todo = set(), [submodule]
    while todo:
        allowed.add(name := todo.pop())
        todo += MAY_IMPORT[name] - allowed
    assert {name for name in ours if not name.startswith("_")} <= allowed
    assert not found & {"matplotlib", "sklearn", "torchmetrics"}


# --- names -----------------------------------------------------------------------------------


@pytest.mark.parametrize("submodule", SUBMODULES)
def test_all_lists_every_public_name_in_order(submodule):
    module = importlib.import_module(f"advcal.{submodule}")
    assert module.__all__ == sorted(set(module.__all__))
    ours = {
        name
        for name, value in vars(module).items()
        if not name.startswith("_")
        and (inspect.isfunction(value) or inspect.isclass(value))
        and value.__module__.split(".")[:2] == ["advcal", submodule]
    }
    assert ours == set(module.__all__) - TYPES


@pytest.mark.parametrize("submodule", SUBMODULES)
def test_every_submodule_has_its_page_of_the_documentation(submodule):
    pages = ROOT / "docs" / "api"
    page = (pages / f"{submodule}.md").read_text(encoding="utf-8")
    assert re.search(rf"^\.\. automodule:: advcal\.{submodule}$", page, re.MULTILINE)
    assert f"# advcal.{submodule}\n" in page
    # autodoc then documents `__all__`: with :members:, and nothing taken out of it.
    assert ":exclude-members:" not in page
    assert ":members: " not in page


def test_no_page_is_left_over_or_out_of_the_index():
    pages = ROOT / "docs" / "api"
    assert {path.stem for path in pages.glob("*.md")} == {*SUBMODULES, "index"}
    index = (pages / "index.md").read_text(encoding="utf-8")
    tree = re.search(r"```\{toctree\}\n(.*?)```", index, re.DOTALL)[1]
    entries = [line for line in tree.splitlines() if line and not line.startswith(":")]
    assert sorted(entries) == SUBMODULES


@pytest.mark.parametrize("name", FUNCTIONS)
def test_arguments_have_the_names_of_the_design(name):
    for argument in inspect.signature(FUNCTIONS[name]).parameters.values():
        where = f"{name}({argument})"
        if argument.kind is argument.VAR_POSITIONAL:
            assert argument.name in VARIADIC, where
        elif argument.kind is argument.KEYWORD_ONLY:
            assert argument.name in KEYWORDS, where
        elif argument.name != "self":
            assert argument.kind is argument.POSITIONAL_OR_KEYWORD, where
            assert argument.name in POSITIONAL, where


def test_every_name_of_the_vocabulary_is_in_use():
    used = {"positional": set(), "keyword": set()}
    for function in FUNCTIONS.values():
        for argument in inspect.signature(function).parameters.values():
            keyword = argument.kind is argument.KEYWORD_ONLY
            used["keyword" if keyword else "positional"].add(argument.name)
    unused = (KEYWORDS - used["keyword"]) | (POSITIONAL - used["positional"])
    assert not unused


def test_one_default_for_one_thing():
    shared = {"bounds", "generator", "lam", "levels", "n_bins", "norm", "reduction", "targeted"}
    defaults = {}
    for name, function in FUNCTIONS.items():
        for argument in inspect.signature(function).parameters.values():
            if argument.name in shared and argument.default is not argument.empty:
                defaults.setdefault(argument.name, {})[name] = argument.default
    for argument, of in defaults.items():
        assert len(set(of.values())) == 1, (argument, of)
    assert set(defaults["bounds"].values()) == {(0.0, 1.0)}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_everything_public_is_typed(name):
    signature = inspect.signature(FUNCTIONS[name])
    assert name in VALUES or signature.return_annotation is not signature.empty
    for argument in signature.parameters.values():
        assert argument.name == "self" or argument.annotation is not argument.empty, argument


# --- docstrings ------------------------------------------------------------------------------

SECTIONS = ("Args", "Attributes", "Returns", "Yields", "Raises", "Example", "References")


def sections(value):
    """Split a docstring in Google style: section title to text, the summary under ''."""
    doc = inspect.getdoc(value) or ""
    parts = re.split(rf"^({'|'.join(SECTIONS)}):\n", doc, flags=re.MULTILINE)
    titles = parts[1::2]
    assert len(set(titles)) == len(titles), f"a section twice: {titles}"
    assert titles == sorted(titles, key=SECTIONS.index), f"sections out of order: {titles}"
    return {"": parts[0], **dict(zip(titles, parts[2::2], strict=True))}


def entries(section):
    return re.findall(r"^    (\*?\w+): ", section, flags=re.MULTILINE)


@pytest.mark.parametrize("name", PUBLIC | METHODS)
def test_docstrings_begin_with_a_sentence(name):
    doc = sections((PUBLIC | METHODS)[name])
    summary = doc[""].splitlines()[0]
    assert summary[0].isupper() or summary[0] in "$`"
    assert summary.endswith((".", ":", "$")) or doc[""].split("\n\n")[0].rstrip().endswith(".")


@pytest.mark.parametrize("name", FUNCTIONS)
def test_docstrings_of_functions_are_complete(name):
    function = FUNCTIONS[name]
    doc = sections(function)
    arguments = [
        f"*{p.name}" if p.kind is p.VAR_POSITIONAL else p.name
        for p in inspect.signature(function).parameters.values()
        if p.name != "self"
    ]
    assert entries(doc.get("Args", "")) == arguments
    if name in METHODS:
        assert "Returns" in doc or (not arguments and doc[""].startswith("Return "))
        return
    assert ("Returns" in doc) != ("Yields" in doc)
    assert ">>> " in doc.get("Example", "")
    assert "Raises" in doc
    raised = entries(doc["Raises"])
    assert raised == [error for error in raised if error.endswith("Error")]
    assert raised


@pytest.mark.parametrize("name", CLASSES)
def test_docstrings_of_classes_list_their_fields(name):
    cls = CLASSES[name]
    public = [each for each in cls.__annotations__ if not each.startswith("_")]
    assert entries(sections(cls)["Attributes"]) == public
    for attribute, value in vars(cls).items():
        if isinstance(value, property) and not attribute.startswith("_"):
            assert inspect.getdoc(value), attribute


@pytest.mark.parametrize("path", FILES, ids=dotted)
def test_every_file_says_what_it_is(path):
    assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))


@pytest.mark.parametrize("name", VALUES)
def test_configured_values_are_frozen_and_called(name):
    value = VALUES[name]
    assert dataclasses.is_dataclass(value)
    assert value.__dataclass_params__.frozen
    assert any("__call__" in vars(base) for base in value.__mro__)


# --- rooms that stay tidy --------------------------------------------------------------------

# Imports of another submodule's private files, each for a reason:
PRIVATE_IMPORTS = {
    # TRADES' own attack is a climb from a start of its own that keeps the last point.
    ("trainers._trades", "advcal.attacks._gradient"),
    ("trainers._trades", "advcal.attacks._pgd"),
}
TREES = {path: ast.parse(path.read_text(encoding="utf-8")) for path in [*FILES, *EXAMPLES]}


def test_no_submodule_reads_the_private_files_of_another():
    found = {
        (dotted(path), module)
        for path in FILES
        for module, *_ in imports(path)
        if re.fullmatch(r"advcal\.[a-z]\w*\._\w+", module) and module.split(".")[1] != room(path)
    }
    assert found == PRIVATE_IMPORTS


def enclosed(code):
    """Yield the name and the free variables of every closure in a code object."""
    for const in code.co_consts:
        if inspect.iscode(const):
            if not const.co_name.startswith("<"):
                yield const.co_qualname, const.co_freevars
            yield from enclosed(const)


@pytest.mark.parametrize("path", [*FILES, *EXAMPLES], ids=lambda path: path.stem)
def test_closures_enclose_five_variables_at_most(path):
    code = compile(path.read_text(encoding="utf-8"), path.name, "exec")
    assert {name: free for name, free in enclosed(code) if len(free) > 5} == {}


def length(function):
    """Count the lines of a body without its docstring."""
    documented = ast.get_docstring(function) and len(function.body) > 1
    return function.end_lineno - function.body[1 if documented else 0].lineno + 1


@pytest.mark.parametrize("path", [*FILES, *EXAMPLES], ids=lambda path: path.stem)
def test_bodies_are_of_fifty_lines_at_most(path):
    found = [node for node in ast.walk(TREES[path]) if isinstance(node, ast.FunctionDef)]
    assert {node.name: length(node) for node in found if length(node) > 50} == {}


@pytest.mark.parametrize("path", FILES, ids=dotted)
def test_no_call_unpacks_a_tuple_packed_for_it(path):
    """Arguments that always travel together are fields of a value, not a tuple to unpack."""
    for function in ast.walk(TREES[path]):
        if not isinstance(function, ast.FunctionDef):
            continue
        packed = {
            target.id
            for node in ast.walk(function)
            if isinstance(node, ast.Assign) and isinstance(node.value, ast.Tuple)
            for target in node.targets
            if isinstance(target, ast.Name) and len(node.value.elts) > 2
        }
        for call in ast.walk(function):
            for argument in call.args if isinstance(call, ast.Call) else ():
                if isinstance(argument, ast.Starred):
                    where = f"{path.name}, line {argument.lineno}: {ast.unparse(argument)}"
                    assert not isinstance(argument.value, ast.Tuple), where
                    assert getattr(argument.value, "id", None) not in packed, where
