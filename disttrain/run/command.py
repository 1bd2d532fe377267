"""The subcommand `train`, which is also what runs without the name of one."""

from __future__ import annotations

from collections.abc import Mapping

from disttrain.config import TrainConfig
from disttrain.config.loading import Command
from disttrain.distributed.launched import launched_rank
from disttrain.run.importing import import_run_training
from disttrain.storage.listing import list_files
from disttrain.storage.local import local_path
from disttrain.storage.open import stat
from disttrain.terminal import native_messages_held
from disttrain.watchdog.start_timer import start_timer

DESCRIPTION = "Trains a Keras model on a CSV, one worker or many: horovodrun -np 4 python -m disttrain --data FILE"
EPILOG = """Every option is also read from the environment as DISTTRAIN_NAME (DISTTRAIN_BATCH_SIZE=500)
and from the TOML file of --config (batch_size = 500). The command line wins over the environment,
and the environment over the file.

Exit codes: 2 usage, 3 data, 4 storage, 5 non-finite loss, 6 another worker failed,
7 a worker hung, 75 stopped by a signal with a checkpoint written (the same command
goes on from there), 130 interrupted, 143 terminated.

disttrain inspect FILE says what its columns hold and what a training does to each;
disttrain plan FILE what a run would do, disttrain simulate FILE how it would read;
disttrain evaluate MODEL FILE and disttrain predict MODEL FILE use the model of a run;
disttrain make-data FILE writes data to train on. All have a --help of their own."""


def train(config: TrainConfig, environ: Mapping[str, str]) -> None:
    """Trains as `config` says; raises what `run_training` raises."""
    if launched_rank(environ) is None:  # several workers check the files together, later
        for place in (*config.data, *config.validation_data):
            if local_path(place) is not None:
                stat(list_files([place])[0])
    with start_timer(config.timeout, environ) as timer:
        with native_messages_held("TF_CPP_MIN_LOG_LEVEL" in environ):
            run_training = import_run_training()
        run_training(config, environ, timer.stop)


COMMAND = Command("disttrain", TrainConfig, DESCRIPTION, train, EPILOG)
