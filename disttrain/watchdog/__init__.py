"""Finds the worker that hangs or is lost, and ends the others with its name."""
