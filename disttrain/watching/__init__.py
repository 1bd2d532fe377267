"""Watching the ranks of a run: who hangs is found, named and ended."""
