"""The world in which a trained model is used: workers, a model that all of them have, and the rows of their parts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from disttrain.config import EvaluateSettings, ScoreSettings, default_cache_dir
from disttrain.data.csv.source import Source
from disttrain.distributed.backend import Backend, BackendOptions, together
from disttrain.distributed.launched import launched_rank
from disttrain.errors import UsageError
from disttrain.run.console import open_console
from disttrain.run.context import FilesContext
from disttrain.run.watched_world import watched_world
from disttrain.scoring.forward import Forward
from disttrain.scoring.rows import open_rows
from disttrain.scoring.saved import Trained, model_file
from disttrain.storage.store_calls import give_up_within
from disttrain.training.inputs import Inputs


@dataclass(frozen=True)
class Scored:
    """A trained model and the rows that it is used on.

    Attributes:
        context: the workers, and where the leader prints.
        trained: the model.
        source: the rows, encoded for it.
        forward: the model on this worker's devices.
        inputs: what the columns of a row are to it.
    """

    context: FilesContext
    trained: Trained
    source: Source
    forward: Forward
    inputs: Inputs


@contextmanager
def open_world(
    config: ScoreSettings,
    environ: Mapping[str, str],
    *,
    with_targets: bool,
    trained: Trained | None = None,
    on_start: Callable[[], None] = lambda: None,
) -> Iterator[Scored]:
    """Meets the other workers, and opens model and rows on all of them; raises what opening these raises.

    `trained` is the model, if the program has it already. Calls `on_start` once the workers have met.
    """
    give_up_within(config.timeout)
    options = BackendOptions(config.devices, config.threads, False, config.timeout)
    with watched_world(config, environ, options, on_start) as (backend, stack):
        plain = False if launched_rank(environ) is not None else None
        is_quiet = not backend.world.is_leader or (isinstance(config, EvaluateSettings) and config.json_)
        console = open_console(is_quiet=is_quiet, is_terminal=plain)
        context = FilesContext(config, backend, config.cache_dir or default_cache_dir(environ), console, stack)
        trained = trained or _opened_alike(config, backend)
        source = open_rows(context, trained.description, config.model, with_targets=with_targets)
        by_name = source.table.features if trained.description.by_name and source.table is not None else None
        inputs = Inputs(len(source.feature_names), len(source.target_names), source.is_weighted, by_name)
        yield Scored(context, trained, source, Forward(trained.core, backend.replicas, inputs), inputs)


def _opened_alike(config: ScoreSettings, backend: Backend) -> Trained:
    """Opens the model on all workers, which have to see the same one; a collective."""
    with ExitStack() as lent:
        file = together(backend, lambda: lent.enter_context(model_file(config.model)))
        found = backend.gather(together(backend, file.digest))
        together(backend, lambda: _check_same(config.model, found))
        with backend.replicas.scope():
            return together(backend, lambda: file.open(trust=config.trust_model))


def _check_same(model: str, digests: Sequence[str]) -> None:
    if len(set(digests)) > 1:
        raise UsageError(f"{model}: the workers see different models under this name; give all of them the same one")
