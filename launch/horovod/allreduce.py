"""Asserts, in each of two processes, that Horovod sums over both."""

import horovod.tensorflow as hvd
import tensorflow as tf

hvd.init()
mine = tf.constant([1.0, 10.0]) * (hvd.rank() + 1)
total = hvd.allreduce(mine, op=hvd.Sum).numpy().tolist()
if hvd.size() != 2 or total != [3.0, 30.0]:
    raise SystemExit(f"expected [3.0, 30.0] from 2 processes, found {total} from {hvd.size()}")
hvd.shutdown()
