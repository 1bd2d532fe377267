"""Fixtures that several test modules share: folders for indexes and caches, and the servers of stores."""

import fcntl
import signal
from contextlib import ExitStack

import pytest
from stores import running

from disttrain.data.csv.source import Source

# Modules whose tests start several processes that must answer each other in time.
ONE_AT_A_TIME = {
    "test_elastic_training",
    "test_hangs",
    "test_kubernetes_runs",
    "test_multihost",
    "test_supervise",
}

# Files that take minutes: they come first, so that no process of pytest-xdist is left with one at the end.
LONGEST = (
    "test_container",
    "test_scoring",
    "test_training",
    "test_faults",
    "test_resume",
    "test_backends",
    "test_export",
)


def pytest_collection_modifyitems(items):
    """Puts the LONGEST files first, and those of ONE_AT_A_TIME evenly among the others: they seldom wait then."""
    files = {}
    for item in items:
        files.setdefault(item.path, []).append(item)
    alone = [path for path in files if path.stem in ONE_AT_A_TIME]
    others = [path for path in files if path.stem not in ONE_AT_A_TIME]
    others.sort(key=lambda path: path.stem not in LONGEST)
    apart = -(-len(others) // max(len(alone), 1))
    for number, path in enumerate(alone):
        others.insert(number * (apart + 1), path)
    items[:] = [item for path in others for item in files[path]]


@pytest.fixture(autouse=True)
def one_at_a_time(request, tmp_path_factory):
    """Keeps tests of ONE_AT_A_TIME from running at the same time under pytest-xdist."""
    if request.path.stem not in ONE_AT_A_TIME:
        yield
        return
    with open(tmp_path_factory.getbasetemp().parent / "one-at-a-time", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@pytest.fixture(scope="session", autouse=True)
def interruptible():
    """Restores the handling of Ctrl-C: a shell's background job ignores it, and so would the commands it starts."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def cache_dir(tmp_path):
    return tmp_path / "cache"


@pytest.fixture
def kept(tmp_path):
    """The folder of an epoch cache."""
    return tmp_path / "kept"


@pytest.fixture
def open_csv(tmp_path, cache_dir):
    opened = []

    def make(content, name="a.csv", **options):
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        opened.append(Source.open(str(path), cache_dir=cache_dir, **options))
        return opened[-1]

    yield make
    for source in opened:
        source.close()


@pytest.fixture(scope="session")
def stores(tmp_path_factory):
    """Returns the store of a name, whose server is started when it is first asked for."""
    started = {}
    with ExitStack() as stack:

        def start(name):
            if name not in started:
                started[name] = stack.enter_context(running(name, tmp_path_factory.mktemp(name)))
            return started[name]

        yield start


@pytest.fixture
def s3(stores, monkeypatch):
    """The bucket of S3, which this process finds by its environment."""
    store = stores("s3")
    for name, value in store.environ.items():
        monkeypatch.setenv(name, value)
    return store
