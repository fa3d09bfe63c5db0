"""The layout, held by `ast`: who may import whom, and how long a file and a function may be.

LAYERS is the one list of layers. A module may import only from layers above its own, wherever in the file the import
stands; two modules of one layer do not know each other. Patterns are tried from the top, the first that fits counts.
"""

import ast
import fnmatch
from pathlib import Path

PACKAGE = Path(__file__).parent.parent / "hfxfer"

LAYERS = (
    "errors", "console", "machine", "optional", "shipped", "doctor",
    "values", "recipe", "run", "tables_out",
    "images", "tables", "folders", "sources", "columns", "labels", "rowcheck", "splits", "rows", "inputs", "datareport",
    "data",
    "metrics._calibration", "metrics._counts", "metrics._placements", "metrics._probabilities", "metrics._probability_blocks",
    "metrics._regression", "metrics._resampling",
    "metrics._*", "metrics.*", "metrics", "intervals", "figures",
    "tasks._task", "tasks._image", "tasks._text", "tasks._classification", "tasks.*", "tasks", "differences", "paired", "comparison",
    "leaks", "licences", "card._text", "card._facts", "card._usage", "card._results", "card._training", "card._metadata", "card._merge", "card.rules", "card",
    "network", "fetching", "checkpoints", "dropout", "models", "blocks", "rates", "losses", "averaging", "methods", "batches", "mixing", "probabilities", "folding", "parallel", "evaluation", "calibration", "serving",
    "boundary", "shards", "features", "probe", "plan", "frozen", "adapters", "stopping", "staging",
    "publishing", "spaces", "repository", "remote_card", "hub", "recording", "scripted", "publisher", "trainer", "fitting", "preflight", "training", "rungs", "climbing", "quickstart",
    "demo.words", "demo.events", "demo.refusals", "demo.limits", "demo.door", "demo.thumbnails", "demo.trust", "demo.together", "demo.child", "demo.served", "demo.answers", "demo.facts", "demo.flags", "demo.inputs", "demo.why", "demo.*_tab", "demo",
    "__init__", "flags", "reporting", "publish_command", "check_command", "demo_command", "cli", "__main__",
)
FORBIDDEN_NAMES = {"utils", "util", "helpers", "helper", "common", "misc"}
MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 40


# --- what is true of hfxfer ------------------------------------------------------------------------------------------

def test_every_module_has_a_layer():
    homeless = [f"{path_of(name)} is in no layer: add {name!r} to LAYERS in tests/test_layers.py"
                for name in MODULES if layer(name) is None]
    assert not homeless, "\n".join(homeless)


def test_modules_import_only_from_layers_above():
    faults = [fault for name, tree in MODULES.items() for fault in import_faults(name, tree, set(MODULES))]
    assert not faults, "\n".join(faults)


def test_no_module_is_named_after_nothing():
    named = [path_of(name) for name in MODULES if FORBIDDEN_NAMES & {part.strip("_") for part in name.split(".")}]
    assert not named, f"name what is in it, not that it is shared: {named}"


def test_no_file_is_too_long():
    long = [f"{path_of(name)}: {count} lines, at most {MAX_FILE_LINES}" for name in MODULES
            if (count := len(source_of(name).splitlines())) > MAX_FILE_LINES]
    assert not long, "\n".join(long)


def test_no_function_is_too_long():
    long = [f"{path_of(name)}:{line} {function}: {count} lines of code, at most {MAX_FUNCTION_LINES}"
            for name in MODULES for function, line, count in function_lengths(source_of(name))
            if count > MAX_FUNCTION_LINES]
    assert not long, "\n".join(long)


def test_only_console_prints():
    prints = [f"{path_of(name)}:{line} print(): use hfxfer.console" for name, tree in MODULES.items()
              if name != "console" for line in calls_of_print(tree)]
    assert not prints, "\n".join(prints)


def test_no_error_is_swallowed():
    swallowed = [f"{path_of(name)}:{line} swallows every error: name the class, or say what happened"
                 for name, tree in MODULES.items() for line in swallowed_errors(tree)]
    assert not swallowed, "\n".join(swallowed)


# --- that these tests see what they should ---------------------------------------------------------------------------

def test_an_import_from_below_is_a_fault_at_any_depth():
    tree = ast.parse("def late():\n    if True:\n        from hfxfer.training import train\n")
    assert import_faults("recipe", tree, {"recipe", "training"}) == [
        "hfxfer/recipe.py:3 imports hfxfer.training, which stands below it"]


def test_an_import_of_a_module_that_does_not_exist_is_a_fault():
    assert import_faults("recipe", ast.parse("from hfxfer.gone import it"), {"recipe", "__init__"}) == [
        "hfxfer/recipe.py:1 imports hfxfer.gone, which does not exist"]


def test_an_import_from_the_same_layer_is_a_fault():
    tree = ast.parse("from hfxfer.tasks import text_classification")
    assert import_faults("tasks.image_classification", tree,
                         {"tasks", "tasks.image_classification", "tasks.text_classification"}) == [
        "hfxfer/tasks/image_classification.py:1 imports hfxfer.tasks.text_classification, "
        "which stands in the same layer"]


def test_imports_are_seen_in_every_form():
    modules = {"__init__", "run", "tasks", "tasks._task"}
    for line, wanted in {
        "import hfxfer.run": "run",
        "import hfxfer.run as r": "run",
        "from hfxfer import run": "run",
        "from hfxfer import run, tasks": "run tasks",
        "from hfxfer.gone import it": "gone",
        "from hfxfer import train": "__init__",
        "import hfxfer": "__init__",
        "from hfxfer.tasks import _task": "tasks._task",
        "from hfxfer.tasks import get": "tasks",
        "from hfxfer.tasks._task import Task": "tasks._task",
        "from ._task import Task": "tasks._task",
        "from ..run import Run": "run",
        "from .. import run": "run",
        "importlib.import_module('hfxfer.run')": "run",
        "require('hfxfer.run')": "run",
    }.items():
        assert [name for _, name in imports("tasks.x", ast.parse(line), modules)] == wanted.split(), line


def test_imports_from_above_and_from_elsewhere_are_no_faults():
    tree = ast.parse("import torch\nfrom hfxfer.errors import DataError\nfrom hfxferx import y")
    assert import_faults("recipe", tree, {"recipe", "errors"}) == []


def test_a_function_is_measured_without_docstring_blanks_and_comments():
    source = 'def f(x):\n    """One.\n\n    Two."""\n    # why\n\n    y = x\n    return y\n'
    assert function_lengths(source) == [("f", 1, 3)]


def test_prints_and_swallowed_errors_are_seen():
    source = ("try:\n    print(1)\nexcept Exception:\n    pass\ntry:\n    f()\nexcept:\n    ...\n"
              "try:\n    f()\nexcept OSError:\n    pass\nwith contextlib.suppress(Exception):\n    f()\n")
    assert calls_of_print(ast.parse(source)) == [2]
    assert swallowed_errors(ast.parse(source)) == [3, 7, 13]


# --- how ------------------------------------------------------------------------------------------------------------

def path_of(name):
    """tasks._task → hfxfer/tasks/_task.py; a package is named like its `__init__.py`."""
    path = PACKAGE.joinpath(*name.split("."))
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return path.relative_to(PACKAGE.parent).as_posix()


def source_of(name):
    return (PACKAGE.parent / path_of(name)).read_text(encoding="utf-8")


def module_names():
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        yield ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


def layer(name):
    return next((place for place, pattern in enumerate(LAYERS) if fnmatch.fnmatchcase(name, pattern)), None)


def imports(name, tree, modules):
    """(line, module) of all that `name` imports from hfxfer, at any depth; `hfxfer` itself is `__init__`.

    A module that does not exist is named as the import names it.
    """
    is_package = PACKAGE.joinpath(*name.split(".")).is_dir()
    package = ["hfxfer", *name.split(".")[:None if is_package else -1]]
    found = set()
    for node in ast.walk(tree):
        targets = []  # (module, name in it or None)
        if isinstance(node, ast.Import):
            targets = [(alias.name, None) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            start = package[:len(package) + 1 - node.level] if node.level else []
            targets = [(".".join([*start, *filter(None, [node.module])]), alias.name) for alias in node.names]
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            targets = [(str(node.args[0].value), None)] if called in ("import_module", "require") else []
        for module, inner in targets:
            root, _, inside = module.partition(".")
            if root == "hfxfer":
                longer = ".".join(filter(None, (inside, inner)))
                gone = inner if inner and "__init__" not in modules else "__init__"
                found.add((node.lineno, longer if longer in modules else inside or gone))
    return sorted(found)


def import_faults(name, tree, modules):
    own, faults = layer(name), []
    for line, other in imports(name, tree, modules):
        where = f"{path_of(name)}:{line} imports hfxfer{'' if other == '__init__' else '.' + other}, which"
        if other not in modules:
            faults.append(f"{where} does not exist")
        elif other != name and None not in (own, layer(other)) and layer(other) >= own:
            faults.append(f"{where} stands {'below it' if layer(other) > own else 'in the same layer'}")
    return faults


def function_lengths(source):
    """(name, line, lines of code) of each function: without docstrings, blank lines and comments."""
    rows, tree = source.splitlines(), ast.parse(source)
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    silent = {line for line, text in enumerate(rows, 1) if not text.strip() or text.strip().startswith("#")}
    for node in ast.walk(tree):
        if isinstance(node, (*kinds, ast.ClassDef)) and ast.get_docstring(node, clean=False) is not None:
            silent |= set(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    return [(node.name, node.lineno, len(set(range(node.lineno, node.end_lineno + 1)) - silent))
            for node in ast.walk(tree) if isinstance(node, kinds)]


def calls_of_print(tree):
    return [node.lineno for node in ast.walk(tree)
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"]


def swallowed_errors(tree):
    """Lines of `except Exception: pass` in all its forms."""
    return [node.lineno for node in ast.walk(tree) if is_silent_handler(node) or is_blanket_suppress(node)]


def is_silent_handler(node):
    if not isinstance(node, ast.ExceptHandler):
        return False
    silent = all(isinstance(line, ast.Pass) or isinstance(line, ast.Expr) and isinstance(line.value, ast.Constant)
                 for line in node.body)
    return silent and (node.type is None or names_every_error(node.type))


def is_blanket_suppress(node):
    return (isinstance(node, ast.Call) and any(map(names_every_error, node.args))
            and "suppress" in (getattr(node.func, "attr", ""), getattr(node.func, "id", "")))


def names_every_error(node):
    parts = node.elts if isinstance(node, ast.Tuple) else [node]
    return any(isinstance(part, ast.Name) and part.id in ("Exception", "BaseException") for part in parts)


MODULES = {name: ast.parse(source_of(name)) for name in module_names()}
