"""Runs whose workers come and go: nothing outside needs to know how a world is made anew."""
