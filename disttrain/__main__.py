"""`python -m disttrain`."""

from disttrain.cli import main

main()
