"""The subcommand `simulate`: an epoch's reads of all workers against a store of given bandwidth and latency."""

from __future__ import annotations

import json
from collections.abc import Mapping

from disttrain.config import SimulateConfig
from disttrain.config.loading import Command
from disttrain.terminal import native_messages_held

DESCRIPTION = """Simulates how all workers read an epoch from a store, and train on it in step: how long it takes, how
long the training waits for bytes, and what limits it. Takes all options of disttrain plan, too."""


def simulate(config: SimulateConfig, environ: Mapping[str, str]) -> None:
    """Prints what came of the simulated epoch; raises what opening the data raises."""
    from disttrain.data.read_simulation import StoreModel, simulate_reads
    from disttrain.run.plan_report import simulation_as_json, tell_simulation
    from disttrain.run.planning import plan_run
    from disttrain.run.trial import measure
    from disttrain.storage.store_calls import give_up_within

    give_up_within(config.timeout)
    planned = plan_run(config, environ)
    with native_messages_held("TF_CPP_MIN_LOG_LEVEL" in environ):
        rate = config.rate or measure(config, environ, planned).rows_per_s
    store = StoreModel(config.bandwidth, config.worker_bandwidth or config.bandwidth, config.latency)
    found = simulate_reads(planned.reads, planned.ahead, store, rate * planned.bytes_per_row)
    if config.json_:
        print(json.dumps(simulation_as_json(planned, rate, found), indent=2))
    else:
        tell_simulation(config, planned, rate, found)


COMMAND = Command("disttrain simulate", SimulateConfig, DESCRIPTION, simulate)
