"""Configures TensorFlow's devices and threads, once, before its first operation."""

from __future__ import annotations

import tensorflow as tf

from disttrain.distributed.backend import BackendOptions, World
from disttrain.errors import UsageError
from disttrain.threads import num_cores


def configure_device(world: World, options: BackendOptions) -> None:
    """Pins this worker to the GPU of its local rank, if there are any, and sets its threads."""
    gpus = tf.config.list_physical_devices("GPU")
    if options.num_devices not in (None, 1):
        raise UsageError(f"--devices {options.num_devices}: this backend gives each worker one device; leave it out")
    if gpus:
        _use_gpus([gpus[world.local_rank % len(gpus)]])
    _set_threads(options, sharing=world.local_size)


def configure_devices(options: BackendOptions) -> list[str]:
    """Configures GPUs, by default all, or if there are none logical CPU devices; returns the devices' names.

    Raises:
        UsageError: if there are GPUs, but fewer than asked for.
    """
    gpus = tf.config.list_physical_devices("GPU")
    wanted = options.num_devices or len(gpus) or 1
    if gpus:
        if wanted > len(gpus):
            raise UsageError(f"--devices {wanted}: this machine has {len(gpus)} GPUs")
        _use_gpus(gpus[:wanted])
        _set_threads(options, sharing=1)
        return [f"GPU:{number}" for number in range(wanted)]
    if not _has_begun():
        logical = [tf.config.LogicalDeviceConfiguration()] * wanted
        tf.config.set_logical_device_configuration(tf.config.list_physical_devices("CPU")[0], logical)
        _set_threads(options, sharing=wanted)
    elif (there := len(tf.config.list_logical_devices("CPU"))) < wanted:
        raise UsageError(
            f"devices: TensorFlow has begun with {there} device of the CPU, fewer than {wanted}: pass a function that "
            "makes the model, instead of the model, and use TensorFlow only afterwards"
        )
    return [f"CPU:{number}" for number in range(wanted)]


def num_gpus() -> int:
    """Returns the number of GPUs that this process sees."""
    return len(tf.config.list_physical_devices("GPU"))


def _use_gpus(gpus: list[tf.config.PhysicalDevice]) -> None:
    """Makes only these GPUs visible, and takes no more of their memory than is needed."""
    if _has_begun():  # the program has used TensorFlow: it sees what it sees
        return
    tf.config.set_visible_devices(gpus, "GPU")
    for gpu in gpus:
        tf.config.experimental.set_memory_growth(gpu, True)


def _has_begun() -> bool:
    """Returns whether the program has used TensorFlow, which then has its devices and threads."""
    now = tf.config.threading.get_inter_op_parallelism_threads()
    try:
        tf.config.threading.set_inter_op_parallelism_threads(now + 1)
    except RuntimeError:
        return True
    tf.config.threading.set_inter_op_parallelism_threads(now)
    return False


def _set_threads(options: BackendOptions, *, sharing: int) -> None:
    """Sets the threads of one operation: those asked for, else 1 for a small model, else its share of the cores.

    TensorFlow takes this only before it is used. With one intra-op thread the job's step takes 17 µs instead of 25 µs:
    its operations are too small to split.
    """
    if _has_begun():
        return
    automatic = 1 if options.small_model else num_cores(sharing)
    tf.config.threading.set_intra_op_parallelism_threads(options.threads or automatic)
