"""Runs whose data, checkpoints and results lie in a store: all stores alike, through a proxy that answers wrongly."""

import csv
import gzip
import itertools
import json
import os
import random
import signal
import time

import numpy as np
import pytest
from command import disttrain, history, trained
from fault_proxy import Proxy
from faults import Run, assert_same_end, run, timeless_history
from stores import STORES
from tables import write_table

from disttrain.storage.remote import REMOTE_BLOCK_BYTES

ROWS, PARTS = 1200, 3
TIMEOUT_S = 18  # compiling on a busy machine takes half of it
BAD = {5: "torn", 411: "1,2", 1100: ',,"'}
STEPS = ("--num-shards", 4, "--batch-size", 20, "--epochs", 3, "--steps-per-execution", 5)
ASKED = (
    "--features", "city,zip,age,income,when", "--targets", "price", "--missing", "indicator",
    "--kinds", "zip=category,when=time:hour", "--weight", "weight", "--on-bad-row", "skip", "--max-bad-fraction", 0.1,
    "--validation-split", 0.1, "--shuffle", "global", "--checkpoint-every", 5, "--callbacks", "counting:slow", *STEPS,
)  # fmt: skip
NUM_TRIED = int(os.environ.get("NUM_STORES", "3"))  # of all five, drawn anew each time: each takes most of a minute
DRAWN = random.Random(time.time_ns()).sample(list(STORES), len(STORES))
MILD = ("429", "500", "reset", "truncated", "of wrong length")  # survived by asking again, and soon


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Three compressed parts with text, gaps, dates and bad rows, and a run on them that nothing disturbed."""
    directory = tmp_path_factory.mktemp("stores")
    write_table(directory / "whole.csv", ROWS)
    header, *lines = (directory / "whole.csv").read_text().splitlines()
    lines = [BAD.get(number, line) for number, line in enumerate(lines)]
    (directory / "parts").mkdir()
    for number in range(PARTS):
        own = lines[number * ROWS // PARTS : (number + 1) * ROWS // PARTS]
        part = "\n".join([header, *own, ""]).encode()
        (directory / "parts" / f"{number}.csv.gz").write_bytes(gzip.compress(part))
    run(directory, "--data", "parts", *ASKED, "--output", "undisturbed", processes=2)
    return directory


def put_parts(store, place, name):
    """Puts the parts into a store; returns what --data names: web servers have no directories."""
    for number in range(PARTS):
        store.put(f"{name}/parts/{number}.csv.gz", (place / "parts" / f"{number}.csv.gz").read_bytes())
    if store.is_writable:
        return lambda port: [store.url(f"{name}/parts/", port)]
    return lambda port: [store.url(f"{name}/parts/{number}.csv.gz", port) for number in range(PARTS)]


def reads(asked, store):
    """Whether a request reads a part of a file or, from a server that gives no parts, the file."""
    gives_parts = store.name != "python"
    return asked.is_read if gives_parts else asked.method == "GET" and asked.path.endswith(".gz") and not asked.span


@pytest.mark.slow
@pytest.mark.parametrize("number", range(NUM_TRIED))
def test_a_killed_run_on_a_faulty_store_ends_as_one_that_nothing_disturbed(place, stores, number):
    name = DRAWN[number]
    store, output = stores(name), f"{name}-run"
    data_at, draw = put_parts(store, place, output), random.Random()
    seed = draw.randrange(1 << 30)
    draw.seed(seed)
    with Proxy(store.port) as proxy:
        turns = itertools.cycle([True, *[False] * 5])
        proxy.plan = lambda asked: draw.choice(MILD) if reads(asked, store) and next(turns) else None
        environ = store.environ_at(proxy.port)
        options = ["--data", *data_at(proxy.port), *ASKED, "--cache", f"{name}-rows", "--output", output]
        if store.is_writable:
            options += ["--checkpoint-dir", store.url(f"{output}/kept"), "--publish", store.url(f"{output}/results")]
        options += ["--cache-dir", f"{name}-cache"]
        victim = Run(place, *options, processes=2, HOLD_AT="trains 2", **environ)
        victim.wait_for("held)", times=2)
        for pid in [*victim.workers(), victim.process.pid]:
            os.kill(pid, signal.SIGKILL)
        victim.close()
        told = Run(place, *options, processes=2, **environ).finish()
        assert "Going on" in told, (seed, told)
        assert any(request.fault for request in proxy.requests), seed
    if store.is_writable:
        store.fetch(f"{output}/kept", place / output / "checkpoints")
        store.fetch(f"{output}/results", place / f"{name}-published")
        assert f"Published the results in {store.url(f'{output}/results')}" in told
        assert timeless_history(place / f"{name}-published") == timeless_history(place / output)
        for result in ("model.keras", "bad-rows.csv"):
            assert (place / f"{name}-published" / result).read_bytes() == (place / output / result).read_bytes()
    else:
        assert ("the server gives no parts of a file: read from a copy" in victim.text()) == (name == "python")
    assert_same_end(place / output, place / "undisturbed")
    with (place / output / "bad-rows.csv").open(newline="") as stream:
        named = {(row["file"].rpartition("/")[2], int(row["line"])) for row in csv.DictReader(stream)}
    of_part = ROWS // PARTS
    assert named == {(f"{number // of_part}.csv.gz", number % of_part + 2) for number in BAD}
    assert (place / output / "bad-rows.csv").read_text().count("\n") == len(BAD) + 1


@pytest.mark.slow
def test_a_worker_fetches_its_shard_and_no_more_than_a_block_on_each_side(tmp_path, stores):
    """And says so; what the index needs was fetched before."""
    store = stores("s3")
    content = b"x,y\n" + b"".join(b"%07d.123456789,%d\n" % (row, row % 7) for row in range(1_000_000))
    store.put("fetched/a.csv", content)
    options = ("--data", store.url("fetched/a.csv"), "--epochs", 2, "--batch-size", 4096, "--scale", "none")
    run = trained(tmp_path, "fetched", *options, processes=2, **store.environ)
    alone = trained(tmp_path, "alone", *options, "--num-shards", 2, **store.environ)
    np.testing.assert_allclose(history(run)["loss"], history(alone)["loss"], rtol=1e-5)
    events = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    fetched = [event for event in events if event["event"] == "fetched"]
    asked = ("--world-size", 2, "--rate", "1e6", "--request-price", 0.4, "--json")
    planned = disttrain(tmp_path, "plan", *options[1:], *asked, **store.environ)
    assert planned.returncode == 0, planned.stderr
    plan = json.loads(planned.stdout)
    assert plan["requests_cost"] == pytest.approx(plan["requests"] / 1000 * 0.4)
    assert [event["epoch"] for event in fetched] == [1, 2]
    for event in fetched:
        np.testing.assert_allclose(event["bytes"], plan["workers"]["num_bytes"], atol=1 << 20)
        np.testing.assert_allclose(event["requests"], plan["workers"]["requests"], atol=10)
        for own in event["bytes"]:
            assert len(content) / 2 - 100 < own < len(content) / 2 + REMOTE_BLOCK_BYTES


@pytest.mark.slow
def test_other_columns_in_the_same_directory_are_refused(place):
    """The checkpoint knows what was done to each column."""
    options = ["--data", "parts", *ASKED, "--output", "undisturbed", "--missing", "median", "--epochs", 4]
    refused = run(place, *options, code=2)
    assert "what is done to the columns" in refused
    assert "'age': " in refused


@pytest.mark.slow
def test_a_store_that_stalls_in_a_later_epoch_ends_the_run_on_every_rank_within_the_timeout(place, stores):
    store = stores("s3")
    store.put("stalls/a.csv", (place / "whole.csv").read_bytes())
    with Proxy(store.port) as proxy:
        options = ["--data", store.url("stalls/a.csv"), *ASKED, "--output", "stalls", "--epochs", 100_000]
        going = Run(place, *options, "--timeout", f"{TIMEOUT_S}s", processes=2, **store.environ_at(proxy.port))
        going.wait_for("epoch 2/")
        proxy.faults("stalled", lambda asked: asked.is_read)
        begun_s = time.monotonic()
        told = going.finish(1)
    assert time.monotonic() - begun_s < 2 * TIMEOUT_S
    (said,) = [line for line in told.splitlines() if "disttrain: rank" in line and "did not give bytes" in line][:1]
    assert f"{store.url('stalls/a.csv')}: the store" in said
    assert "Timeout" in said
    assert "asking again in" in told


@pytest.fixture
def plain(tmp_path):
    """Two plain files, the first with a row that cannot be read."""
    rows = "".join(f"{number},{number / 2}\n" for number in range(200))
    (tmp_path / "bad.csv").write_text(f"x,y\n{rows}oops,1\n")
    (tmp_path / "good.csv").write_text(f"x,y\n{rows}")
    return tmp_path


@pytest.mark.slow
def test_a_store_that_takes_no_checkpoint_is_given_up_before_the_watchdog_ends_the_run(plain, stores):
    store = stores("s3")
    with Proxy(store.port) as proxy:
        proxy.faults("500", lambda asked: asked.method in ("PUT", "POST") and ".ckpt" in asked.path)
        options = ["--data", "good.csv", "--checkpoint-every", 1, "--checkpoint-dir", store.url("stalls/kept")]
        told = run(plain, *options, "--epochs", 3, "--timeout", f"{TIMEOUT_S}s", **store.environ_at(proxy.port))
    for epoch in (1, 3):
        assert (
            f"A checkpoint was not written: {store.url('stalls/kept')}: the store did not take epoch-0000{epoch}"
            in told
        )


def test_a_place_for_results_that_never_answers_is_given_up_soon(plain, stores):
    begun_s = time.monotonic()
    told = run(plain, "--data", "good.csv", "--publish", "s3://nowhere/results", code=4, **stores("s3").environ_at(1))
    assert time.monotonic() - begun_s < 30
    assert "the store did not take config.json" in told
    assert "5 attempts in" in told


def test_published_results_of_an_earlier_run_are_replaced_by_those_of_this_one(plain):
    common = ["--epochs", 1, "--publish", "results"]
    run(plain, "--data", "bad.csv", *common, "--on-bad-row", "skip", "--output", "first")
    assert (plain / "results" / "bad-rows.csv").exists()
    run(plain, "--data", "good.csv", *common, "--output", "second")
    published = {path.name: path.read_bytes() for path in (plain / "results").iterdir()}
    assert published == {name: (plain / "second" / name).read_bytes() for name in published}
    assert "bad-rows.csv" not in published
