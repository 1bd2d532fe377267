"""The code's shape: imports go one way, reading knows nothing of training, and nothing grows too large to be read."""

import ast
import functools
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "disttrain"

# The modules at the package's top that every wing may use, and the wings. One imports only from those before it.
COMMON = ["errors", "activity", "threads", "native", "config"]
WINGS = [
    "storage",
    "data",
    "synthetic",
    "checkpoints",
    "distributed",
    "watchdog",
    "training",
    "elastic",
    "run",
    "scoring",
]
ENTRY = ["terminal", "cli", "__main__"]
# What only some modules of a wing may import, besides what their wing may.
COMMANDS = {"run.command", "run.inspect", "run.plan", "run.simulate", "synthetic.command"} | {
    "scoring.evaluate",
    "scoring.predict",
    "scoring.exporting.export",
}  # one for each subcommand
ONLY_FOR = {
    "config.loading": {*COMMANDS, "cli"},
    "terminal": {*COMMANDS, "cli"} - {"run.inspect", "synthetic.command"},
    "cli": {"__main__"},
}
# Other packages, and the wings or modules that may import them; reading data needs no TensorFlow.
ONLY_IN = {
    "tensorflow": {"distributed", "training", "elastic", "run", "scoring"},
    "keras": {"training", "run", "scoring"},
    "pyarrow": {"scoring.formats", "scoring.tables"},
    "horovod": {"distributed.horovod", "distributed.horovod_collective", "elastic"},
    "onnx": {"scoring.exporting.onnx_model", "scoring.exporting.onnx_inputs"},
    "onnxruntime": {"scoring.exporting.onnx_model"},
    "tf2onnx": {"scoring.exporting.onnx_model"},
    "rich": {"run", "synthetic.progress", "scoring.report"},
    "argparse": {"config.loading"},
    "pydantic": {"config"},
    "fsspec": {"storage.store_calls"},
    "numba": {"native", "data", "synthetic"},
    "ctypes": {"elastic.reexec", "distributed.compiled", "distributed.horovod", "distributed.nccl"},
}
# Modules that nobody else imports: they are called by name, or by those named here.
ONLY_BY = {
    "distributed.registry": {"run.watched_world", "run.elastic_worlds"},
    "distributed.local": {"distributed.mirrored"},
    "distributed.mirrored": {"distributed.multiworker"},
    "distributed.multiworker": set(),
    "distributed.horovod": {"elastic.membership"},
    "elastic.membership": set(),
    "run.worlds": {"run.importing", "run.fitting"},
    "run.importing": {"run.command", "run.trial"},
    **{command: set() for command in COMMANDS},
}
MAX_ENTRIES = 20  # at the package's first level
MAX_IMPORTS = 14  # of our own modules in one
MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60
NAMES_OF_NOTHING = {"utils", "util", "common", "helpers", "misc"}


def module_name(path):
    name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
    return name.removesuffix("__init__").rstrip(".") or "disttrain"


MODULES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}
SOURCES = sorted(
    path for place in ("disttrain", "tests", "benchmarks", "examples") for path in (ROOT / place).rglob("*.py")
)


@functools.cache
def imports(path):
    """Returns the full names that a file imports anywhere, also in functions, except those only for type checkers."""
    tree = ast.parse(path.read_text())
    for_checkers = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    found = []
    for node in ast.walk(tree):
        if node in for_checkers:
            continue
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}:{node.lineno}: a relative import"
            found += [f"{node.module}.{alias.name}" for alias in node.names]
    return found


def own_module(name):
    """The module of this package that an imported name means, or None for another's."""
    if name.split(".")[0] != "disttrain":
        return None
    parts = name.split(".")[1:]
    while parts and ".".join(parts) not in MODULES:
        parts.pop()
    return ".".join(parts) or "disttrain"


@functools.cache
def own_imports(module):
    return frozenset({own_module(name) for name in imports(MODULES[module])} - {None})


def wing_of(module):
    """The wing, or the module at the top, to which a module belongs."""
    return module.split(".")[0]


def test_the_package_has_these_wings_and_few_entries():
    assert {wing_of(module) for module in MODULES} == {"disttrain", *COMMON, *WINGS, *ENTRY}
    assert len([path for path in PACKAGE.iterdir() if path.name != "__pycache__"]) <= MAX_ENTRIES


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_only_from_wings_before_its_own(module):
    order = ["disttrain", *COMMON, *WINGS, *ENTRY]
    before = set(order[: order.index(wing_of(module)) + 1])
    allowed = before | {entry for entry, users in ONLY_FOR.items() if module in users}
    assert {wing_of(other) for other in own_imports(module)} - allowed == set()


@pytest.mark.parametrize("module", MODULES)
def test_no_module_imports_itself_by_way_of_others(module):
    seen, ahead = set(), set(own_imports(module) - {module})
    while ahead:
        seen |= ahead
        ahead = set().union(*(own_imports(other) for other in ahead)) - seen
    assert module not in seen


@pytest.mark.parametrize("module", MODULES)
def test_a_module_knows_few_others(module):
    assert len(own_imports(module) - {module}) <= MAX_IMPORTS


def test_rows_of_data_know_nothing_of_their_format():
    """Streaming, shuffling and caching ask a RowSource; only the public generator opens a CSV."""
    modules = {module for module in MODULES if module.startswith("data.") and not module.startswith("data.csv")}
    assert {m for m in modules if any(o.startswith("data.csv") for o in own_imports(m))} == {"data.batches"}


@pytest.mark.parametrize("module", sorted({*ONLY_BY, *ONLY_FOR}))
def test_what_chooses_and_prints_is_imported_where_it_belongs(module):
    users = {other for other in MODULES if module in own_imports(other)} - {module}
    assert users <= ONLY_BY.get(module, set()) | ONLY_FOR.get(module, set())


@pytest.mark.parametrize("package", ONLY_IN)
def test_a_foreign_package_is_imported_where_it_belongs(package):
    users = {name for name, path in MODULES.items() if package in {found.split(".")[0] for found in imports(path)}}
    assert {name for name in users if not {name, wing_of(name)} & ONLY_IN[package]} == set()


READERS = {
    "cli",
    "terminal",
    "data.batches",
    "distributed.horovod",
    "distributed.multiworker",
    "training.small_network",
    "run.dataset",
    "run.fitting",
    "scoring.calls",
}


def test_the_environment_is_read_in_few_places():
    """Elsewhere it is a mapping that is passed in. What users call from Python has no caller of ours."""
    readers = {name for name, path in MODULES.items() if "os.environ" in path.read_text()}
    assert readers <= READERS


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_file_and_no_function_is_too_long(path):
    text = path.read_text()
    assert len(text.splitlines()) <= MAX_FILE_LINES
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            assert node.end_lineno - node.lineno < MAX_FUNCTION_LINES, f"{node.name} in line {node.lineno}"


def is_property(function):
    return any(getattr(decorator, "id", "") == "property" for decorator in function.decorator_list)


@pytest.mark.parametrize("module", MODULES)
def test_docstrings_of_functions_say_what_they_do(module):
    """In the third person: they begin with a verb that ends in s."""
    functions = [node for node in ast.walk(ast.parse(MODULES[module].read_text())) if isinstance(node, ast.FunctionDef)]
    called = [node for node in functions if node.name != "__init__" and not is_property(node)]
    first_words = {node.name: (ast.get_docstring(node) or "has").split()[0].rstrip(",.;") for node in called}
    assert {name: word for name, word in first_words.items() if not word.endswith("s")} == {}


def test_no_module_is_named_for_nothing():
    assert [path for path in SOURCES if NAMES_OF_NOTHING & {path.stem, path.parent.name}] == []
