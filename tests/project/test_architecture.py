"""The code's shape: imports go one way, reading knows nothing of training, and nothing grows too large to be read."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "disttrain"

# Every module of the package; one imports only from those before it.
LAYERS = """
    disttrain redaction errors activity config options
    reader store_calls answers remote storage header compiling newlines index sharding
    decimals kernel parsing digits shuffle threads readahead source
    extents cache_room epoch_cache rows stream batches
    remote_files checkpoint checkpoint_store checkpoint_writer resume commits
    formatting makedata
    world
    watching watching.processes watching.starting watching.verdict watching.connections watching.heartbeat
    watching.watchers watching.watchdog
    shared_index replicas totals optimizer small_network bounds steps local_sgd heads building engine
    backends.devices backends.local backends.mirrored backends.meeting backends.multiworker backends.horovod
    backends.sockets backends.rendezvous backends.start_over backends.elastic backends
    user_code model callbacks callback_state plan refusals located labels standing state stopping keeper
    constant findings trainer
    reporting reporting.results reporting.progress reporting.files
    resume_point run_lock inputs
    session native_messages unread run cli __main__
"""
ORDER = LAYERS.split()

# What a package outside this one may be imported by; reading data needs none of them.
TRAINING = set(ORDER[ORDER.index("replicas") :]) - {"backends", "cli", "__main__"}
ONLY_IN = {
    "tensorflow": TRAINING,
    "keras": TRAINING,
    "horovod": {"backends.horovod", "backends.rendezvous", "backends.elastic"},
    "rich": {"reporting.progress", "reporting.files", "inputs", "session"},
    "argparse": {"options"},
    "pydantic": {"config", "options"},
    "fsspec": {"store_calls"},
}
# What a module of this one may be imported by: nobody else chooses, prints or exits.
ONLY_BY = {
    "backends": {"run"},
    "backends.local": {"backends.mirrored"},  # the others by name, through the registry in backends
    "backends.mirrored": {"backends.multiworker"},
    "backends.multiworker": set(),
    "backends.horovod": {"backends.elastic"},
    "backends.elastic": set(),
    "options": {"cli"},
    "run": {"cli"},
    "cli": {"__main__"},
}
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


def imports(path):
    """The full names that a file imports anywhere, also inside functions, but for those for type checkers alone."""
    tree = ast.parse(path.read_text())
    for_checkers = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if node in for_checkers:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}:{node.lineno}: a relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def own_module(name):
    """The module of this package that an imported name means, or None for another's."""
    if name.split(".")[0] != "disttrain":
        return None
    parts = name.split(".")[1:]
    while parts and ".".join(parts) not in MODULES:
        parts.pop()
    return ".".join(parts) or "disttrain"


def own_imports(module):
    return {own_module(name) for name in imports(MODULES[module])} - {None}


def test_every_module_has_its_place_in_the_order():
    assert sorted(ORDER) == sorted(MODULES)


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_only_from_those_before_it(module):
    before = set(ORDER[: ORDER.index(module)])
    assert own_imports(module) - before == set()


@pytest.mark.parametrize("module", ONLY_BY)
def test_what_chooses_and_prints_is_imported_where_it_belongs(module):
    assert {other for other in MODULES if module in own_imports(other)} == ONLY_BY[module]


@pytest.mark.parametrize("package", ONLY_IN)
def test_a_foreign_package_is_imported_where_it_belongs(package):
    users = {name for name, path in MODULES.items() if package in {found.split(".")[0] for found in imports(path)}}
    assert users - ONLY_IN[package] == set()


def test_the_environment_is_read_in_few_places():
    """Elsewhere it is a mapping handed in; `batches` has no caller of ours, Horovod, TensorFlow and XLA read theirs."""
    readers = {name for name, path in MODULES.items() if "os.environ" in path.read_text()}
    assert readers <= {"cli", "batches", "native_messages", "backends.horovod", "backends.multiworker", "small_network"}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_file_and_no_function_is_too_long(path):
    text = path.read_text()
    assert len(text.splitlines()) <= MAX_FILE_LINES
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            assert node.end_lineno - node.lineno < MAX_FUNCTION_LINES, f"{node.name} in line {node.lineno}"


def test_no_module_is_named_for_nothing():
    assert [path for path in SOURCES if NAMES_OF_NOTHING & {path.stem, path.parent.name}] == []
