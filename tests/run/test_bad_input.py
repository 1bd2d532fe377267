"""Bad input ends a run with one clear line and the right exit code: no traceback, no hang, no half-written output."""

import re
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from command import LAUNCHER, Finished, disttrain, finished

USAGE, DATA = 2, 3
LIMIT_S = 120  # for a run from start to end on a loaded machine; one alone takes 0.2 s, or 4 s with TensorFlow
AT_A_TIME = 2

GOOD = "x,y\n" + "".join(f"{i / 100},{i / 50}\n" for i in range(100))
MODELS = """
import keras

def compiled():
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.compile(loss="mse")
    return model

def nothing():
    pass

def picky(num_rows):
    pass

constant = 3
"""


def rows(line, at, of=100):
    """Returns a good file of `of` rows in which `line` replaces row `at` (counted from 0)."""
    lines = [f"{i / 100},{i / 50}" for i in range(of)]
    lines[at] = line
    return "x,y\n" + "\n".join(lines) + "\n"


@dataclass
class Case:
    arguments: str
    code: int
    words: tuple[str, ...]  # what the message must hold
    files: dict[str, str] = field(default_factory=dict)
    keeps: bool = False  # whether the results of training before the fault are kept


def data(text, code, *words, options="", name="data.csv"):
    return Case(f"--data {name} {options}", code, words, {name: text})


def good(options, code, *words, keeps=False, **files):
    return Case(f"--data data.csv {options}", code, words, {"data.csv": GOOD, "models.py": MODELS, **files}, keeps)


# Told from the options alone, before TensorFlow is imported.
CASES_OF_OPTIONS = {
    "a batch size of 0": good("--batch-size 0", USAGE, "--batch-size", "'0'", "greater than or equal to 1"),
    "an unknown flag": good("--epoch 3", USAGE, "--epoch", "--help"),
    "an unknown command": Case("make-dta x.csv", USAGE, ("make-dta",)),
    "a file of options that is no TOML": Case("--config a.toml", USAGE, ("a.toml", "TOML"), {"a.toml": "epochs: 3"}),
    "an unknown key in a file of options": Case(
        "--config a.toml", USAGE, ("a.toml", "batchsize", "batch_size"), {"a.toml": "batchsize = 3"}
    ),
    "no file of options": Case("--config nowhere.toml", USAGE, ("nowhere.toml", "No such file")),
    "data to make in no directory": Case("make-data a.csv/b.csv", USAGE, ("a.csv",), {"a.csv": GOOD}),
    "data to make where there is some": Case("make-data a.csv", USAGE, ("a.csv", "--overwrite"), {"a.csv": GOOD}),
    "data to make in a store": Case("make-data s3://bucket/a.csv", USAGE, ("s3://bucket/a.csv",)),
    "no rows to make": Case("make-data a.csv --rows 0", USAGE, ("--rows", "'0'")),
}

# Told from the files, the columns and the model, before the first step.
CASES_BEFORE_TRAINING = {
    "a missing file": Case("--data nowhere.csv", USAGE, ("nowhere.csv", "no such file")),
    "a directory without files": Case("--data .", USAGE, ("is a directory without files", "name files")),
    "an unknown protocol": Case("--data foo://a/b.csv", USAGE, ("foo://a/b.csv", "foo")),
    "an unknown column": good("--features z", USAGE, "data.csv", "'z'", "x, y"),
    "an unknown target": good("--targets z", USAGE, "data.csv", "'z'", "x, y"),
    "no feature column left": data("x\n1\n", USAGE, "data.csv", "feature", "x"),
    "an empty file": data("", DATA, "data.csv", "is empty"),
    "blank lines alone": data("\n \n\r\n", DATA, "data.csv", "is empty"),
    "a header alone": data("x,y\n", DATA, "data.csv", "header", "no rows"),
    "a first line of both kinds": data("x,1\n", DATA, "data.csv, line 1", "'x'", "'1'", "--header yes"),
    "fewer rows than shards": data("x,y\n1,2\n3,4\n", DATA, "found 2", "3 shards", options="--num-shards 3"),
    "fewer rows than workers": data(
        "x,y\n1,2\n", DATA, "a row for each of 2 shards", "found 1", "fewer workers", options="--num-shards 2"
    ),
    "a missing validation file": good("--validation-data nowhere.csv", USAGE, "nowhere.csv", "no such file"),
    "validation without a column": good(
        "--validation-data v.csv", USAGE, "v.csv", "'x'", "a, y", **{"v.csv": "a,y\n1,2\n"}
    ),
    "a model that does not import": good("--model nowhere:build", USAGE, "nowhere", "cannot be imported"),
    "a model whose module is broken": good(
        "--model broken:build", USAGE, "broken.py, line 1", "SyntaxError", **{"broken.py": "def build(:\n    pass\n"}
    ),
    "a model whose module fails": good(
        "--model broken:build",
        USAGE,
        "broken.py, line 2",
        "NameError",
        "'nmupy'",
        **{"broken.py": "\nnmupy.array(3)\n"},
    ),
    "a model that does not exist": good("--model models:build", USAGE, "models", "build", "compiled, nothing, picky"),
    "a model that is no function": good("--model models:constant", USAGE, "models", "constant"),
    "a model that is none": good("--model models:nothing", USAGE, "models:nothing", "NoneType", "keras.Model"),
    "a model that asks for more": good("--model models:picky", USAGE, "models:picky", "num_rows"),
    "a compiled model and a loss": good("--model models:compiled --loss mae", USAGE, "models:compiled", "--loss"),
    "an unknown loss": good("--loss mea", USAGE, "--loss", "mea"),
    "an unknown metric": good("--metrics mse,mea", USAGE, "--metrics", "mea"),
    "callbacks that do not exist": good("--callbacks models:nowhere", USAGE, "--callbacks", "models", "nowhere"),
    "an output below a file": good("--output data.csv/run", USAGE, "--output data.csv/run", "Not a directory"),
    "an output that cannot be made": good("--output /proc/run", USAGE, "--output /proc/run", "cannot be written"),
    "an output that holds a run": good(
        "--output run", USAGE, "--output run", "model.keras", "--overwrite", **{"run/model.keras": "kept"}
    ),
}

# Told by a row that cannot be used, in the first epoch.
CASES_OF_ROWS = {
    "too few fields": data(rows("1", 3), DATA, "data.csv, line 5", "1 field", "2"),
    "too many fields": data(rows("1,2,3", 3), DATA, "data.csv, line 5", "3 fields", "2"),
    "text in a number column": data(rows("0.5,abc", 40), DATA, "data.csv, line 42", "'y'", "'abc'", "number"),
    "text in the last line": data(rows("0.5,abc", 99), DATA, "data.csv, line 101", "'y'", "'abc'"),
    "an empty field": data(rows("0.5,", 40), DATA, "data.csv, line 42", "'y'"),
    "text in the validation file": good(
        "--validation-data v.csv",
        DATA,
        "v.csv, line 1502",
        "'y'",
        "'abc'",
        keeps=True,
        **{"v.csv": rows("0.5,abc", 1500, of=4000)},
    ),  # the first thousand are looked at before the training
    "text in the first rows of the validation file": good(
        "--validation-data v.csv", DATA, "v.csv, line 4", "'y'", "'abc'", **{"v.csv": rows("0.5,abc", 2)}
    ),
}

CASES = CASES_OF_OPTIONS | CASES_BEFORE_TRAINING | CASES_OF_ROWS
QUICK = [*CASES_OF_OPTIONS, "text in a number column"]


def prepare(directory, case):
    for name, text in case.files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode())


def run(place, name, case, processes=None):
    """Runs a case in a directory of its own; returns how it ended, and the files that it has created."""
    directory = place / re.sub(r"\W+", "-", f"{name} {processes or 'alone'}")
    directory.mkdir()
    prepare(directory, case)
    before = files(directory)
    begun = time.monotonic()
    done = disttrain(directory, *case.arguments.split(), processes=processes, DISTTRAIN_CACHE_DIR=str(place / "cache"))
    assert time.monotonic() - begun < LIMIT_S
    return done, files(directory) ^ before


def files(directory):
    caches = {"__pycache__"}  # of the user's own module
    return {path for path in directory.rglob("*") if not caches & set(path.parts)}


def check(case, done, left_behind, where=""):
    assert done.returncode == case.code, done.stdout + done.stderr
    assert len(done.complaints) == 1, done.stderr
    (said,) = done.complaints
    assert [word for word in case.words if word not in said] == [], said
    assert said.startswith(f"disttrain:{where} "), said
    assert str(Path(__file__).parents[2]) not in said, said
    assert any(path.suffix == ".ckpt" for path in left_behind) == case.keeps
    assert case.keeps or not left_behind


@pytest.fixture(scope="module")
def ended(request, tmp_path_factory):
    """Runs the selected cases, some at a time; returns their results by (name, processes)."""
    place = tmp_path_factory.mktemp("bad")
    pool = ThreadPoolExecutor(AT_A_TIME)
    asked = {}
    for item in request.session.items:
        if item.module is request.module and "ended" in item.fixturenames:
            name, processes = item.callspec.params["name"], item.callspec.params["processes"]
            asked[name, processes] = pool.submit(run, place, name, CASES[name], processes)
    yield asked
    pool.shutdown(cancel_futures=True)


def quick_or_slow(name):
    return pytest.param(name, marks=() if name in QUICK else pytest.mark.slow)


@pytest.mark.parametrize("processes", [None])
@pytest.mark.parametrize("name", [quick_or_slow(name) for name in CASES])
def test_alone(ended, name, processes):
    done, left_behind = ended[name, processes].result()
    check(CASES[name], done, left_behind)
    assert "Traceback" not in done.stderr
    assert done.stderr.count("\n") == 1, done.stderr


# name of the case, which rank reports it ("" for a mistake in the options, found before any rank has started)
LAUNCHED = {
    "a batch size of 0": "",
    "a missing file": " rank 0:",
    "an unknown column": " rank 0:",
    "a header alone": " rank 0:",
    "fewer rows than workers": " rank 0:",
    "an output below a file": " rank 0:",
    "a model that does not import": " rank 0:",
    "too few fields": " rank 0:",  # in the first half of the file; in the second: tests/distributed/test_backends.py
    "text in the validation file": " rank 0:",
}


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2])
@pytest.mark.parametrize("name", LAUNCHED)
def test_under_horovodrun_one_rank_says_it_and_all_end(ended, name, processes):
    done, left_behind = ended[name, processes].result()
    check_launched(CASES[name], done, left_behind, LAUNCHED[name])


# what stands in the two workers' files, who says so
OWN_FILES = {
    "a file that one worker cannot see": (GOOD, None, Case("", USAGE, ("data.csv", "no such file")), " rank 1:"),
    "a row that one worker cannot use": (*[rows("1", 30)] * 2, Case("", DATA, ("data.csv, line 32",)), " rank 0:"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", OWN_FILES)
def test_one_worker_says_it_and_all_end_also_where_the_launcher_is_slow_to_end_them(tmp_path, name):
    """This launcher does not end them: it learns a worker's exit code only when all workers have ended."""
    *texts, case, where = OWN_FILES[name]
    for rank, text in enumerate(texts):
        (tmp_path / f"rank{rank}").mkdir()
        if text is not None:
            (tmp_path / f"rank{rank}" / "data.csv").write_text(text)
    script = tmp_path / "start.sh"
    script.write_text(
        f"cd rank$HOROVOD_RANK; {sys.executable} -m disttrain --data data.csv\n"
        "code=$?; echo $code >../code$HOROVOD_RANK\n"
        "until [ -s ../code0 ] && [ -s ../code1 ]; do sleep 0.1; done; exit $code\n"
    )
    before = files(tmp_path)
    done = finished(tmp_path, [*LAUNCHER, "-np", "2", "sh", str(script)])
    assert [(tmp_path / f"code{rank}").read_text() for rank in (0, 1)] == [f"{case.code}\n"] * 2, done.stderr
    left_behind = {path for path in files(tmp_path) - before if "cache" not in path.parts}
    check_launched(case, done, {path for path in left_behind if not path.name.startswith("code")}, where)


def check_launched(case, done, left_behind, where):
    """Checks the same as for one process, but the launcher has its own exit code and prints its own traceback."""
    assert done.returncode != 0
    launchers = done.stderr.count("Traceback") - done.stderr.count("<stderr>:Traceback")
    assert launchers <= 1, done.stderr
    assert "<stderr>:Traceback" not in done.stderr, done.stderr
    check(case, Finished(case.code, done.stdout, done.stderr), left_behind, where)
    assert f"exit code: {case.code}" in done.stderr.replace("Exit code", "exit code"), done.stderr
