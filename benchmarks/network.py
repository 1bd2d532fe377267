"""Measures what a slow network between two hosts costs, and what --sync-every gains; each host has one worker.

    python -m benchmarks.network
    python -m benchmarks.network --rates 1gbit 100mbit --sync-every 1 256 --launcher mpi.sh --json network.json

The hosts are network namespaces of this machine (so it needs Linux, root, iproute2 and openssh-server), with the data
on an S3 server in a third one. tbf limits the rate of the second host's link; the delay is not changed. Each run is
`launch/horovod.sh -H a:1,b:1` or `mpi.sh`; its rate is that of its last epoch, whose rows come from the cache. A turn
runs every setting once, one after the other; the table has the medians over the turns.
"""

import argparse
import csv
import itertools
import os
import statistics
import sys
import tempfile
from pathlib import Path

from benchmarks.measure import ROOT, print_table, write_json
from disttrain.synthetic.regression import Recipe, make_data

sys.path.insert(0, str(ROOT / "tests"))  # the module of the tests that makes the hosts
from namespaces import SSH_PORT, Network, why_not

UNLIMITED = "none"
WORKERS, BATCH_SIZE, STEPS = 2, 250, 64
PATIENCE_S = 600


def main():
    options = parse_options()
    if reason := why_not():
        sys.exit(f"network is left out: {reason}")
    rates = {setting: [] for setting in itertools.product(options.rates, options.sync_every)}
    with tempfile.TemporaryDirectory(prefix="disttrain-benchmark-") as scratch:
        place = Path(scratch)
        rows = WORKERS * BATCH_SIZE * STEPS
        make_data(str(place / "data.csv"), Recipe(rows, num_features=options.features, noise=0.1))
        network = Network(place / "network", place / "data.csv")
        try:
            for _ in range(options.turns):
                for (rate, sync_every), found in rates.items():
                    found.append(run(network, rate, sync_every, options, place))
                    print(f"{rate}, sync every {sync_every}: {found[-1]:,.0f} rows/s", file=sys.stderr, flush=True)
        finally:
            network.close()
    report({setting: statistics.median(found) for setting, found in rates.items()}, options)
    if options.json:
        named = {f"{rate}, sync every {sync_every}": found for (rate, sync_every), found in rates.items()}
        write_json(options.json, {"rows_per_s": named, "hidden": options.hidden, "launcher": options.launcher})


def parse_options():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    rates = [UNLIMITED, "100mbit", "10mbit"]
    parser.add_argument("--rates", nargs="+", default=rates, help=f"of the link, as tc takes them [{' '.join(rates)}]")
    parser.add_argument("--sync-every", nargs="+", type=int, default=[1, 16, 64], help="[1 16 64]")
    parser.add_argument("--features", type=int, default=30, help="columns of a row that are no target [30]")
    parser.add_argument("--hidden", default="512,256", help="units of the network's hidden layers [512,256]")
    parser.add_argument("--launcher", choices=["horovod.sh", "mpi.sh"], default="horovod.sh")
    parser.add_argument("--turns", type=int, default=3, help="runs of each setting [3]")
    parser.add_argument("--json", help="write results, machine and versions to this file")
    return parser.parse_args()


def run(network, rate, sync_every, options, place):
    """Returns the rows per second of one run with a link of this rate."""
    output = Path(tempfile.mkdtemp(dir=place))
    words = [ROOT / "launch" / options.launcher, "-H", "a:1,b:1", "--network-interface", "eth0"]
    words += ["--ssh-port", SSH_PORT, "--ssh-key", network.place / "key", "--", "--data", "s3://rows/data.csv"]
    words += ["--epochs", 3, "--batch-size", BATCH_SIZE, "--hidden", options.hidden, "--sync-every", sync_every]
    words += ["--checkpoint-every", "never", "--cache", place / "rows", "--output", output / "run"]
    environ = {**os.environ, "PYTHON": sys.executable, "DISTTRAIN_CACHE_DIR": str(place / "cache")}
    if rate != UNLIMITED:
        network.b.limit(rate)
    try:
        process = network.a.popen(*words, directory=place, log=output / "log", environ=environ)
        code = process.wait(PATIENCE_S)
    finally:
        if rate != UNLIMITED:
            network.b.limit(None)
    if code != 0:
        sys.exit(f"{' '.join(map(str, words))} ended with {code}:\n{(output / 'log').read_text()[-2000:]}")
    with (output / "run" / "history.csv").open(encoding="utf-8", newline="") as file:
        last = list(csv.DictReader(file))[-1]
    return int(last["rows"]) / float(last["seconds"])


def report(medians, options):
    least, most = options.sync_every[0], options.sync_every[-1]
    titles = ["link", *(f"sync every {n}, rows/s" for n in options.sync_every), f"{most} over {least}"]
    table = []
    for rate in options.rates:
        found = [medians[rate, sync_every] for sync_every in options.sync_every]
        table.append([rate, *(f"{rows_per_s:,.0f}" for rows_per_s in found), f"{found[-1] / found[0]:.1f}"])
    print_table(titles, table)


if __name__ == "__main__":
    main()
