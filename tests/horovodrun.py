"""horovodrun, told that Horovod has Gloo: to see that by itself it imports TensorFlow first, which takes four seconds.

That it has is what test_launch.py asserts; test_launchers.py runs it as it is.
"""

import sys

from horovod.runner import launch

launch.gloo_built = lambda verbose=False: True

if __name__ == "__main__":
    sys.exit(launch.run_commandline())
