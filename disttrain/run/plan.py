"""The subcommand `plan`: what each worker of a run would read, how many steps it has, about how long it takes."""

from __future__ import annotations

from collections.abc import Mapping

from disttrain.config import PlanConfig
from disttrain.config.loading import Command
from disttrain.terminal import native_messages_held

DESCRIPTION = """Says what a training would do on so many workers, without training: shards, byte ranges, steps, memory
and requests of each worker, and about how long it takes. Takes all options of a training, too."""


def plan(config: PlanConfig, environ: Mapping[str, str]) -> None:
    """Prints the plan; raises what opening the data raises."""
    from disttrain.run.plan_report import report
    from disttrain.run.planning import plan_run
    from disttrain.run.trial import measure
    from disttrain.storage.store_calls import give_up_within

    give_up_within(config.timeout)
    planned = plan_run(config, environ)
    measured = None
    if config.rate is None:
        with native_messages_held("TF_CPP_MIN_LOG_LEVEL" in environ):
            measured = measure(config, environ, planned)
    report(config, planned, measured)


COMMAND = Command("disttrain plan", PlanConfig, DESCRIPTION, plan)
