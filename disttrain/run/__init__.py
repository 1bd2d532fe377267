"""A training run from its options to its results: files, sessions, resuming, and what is printed and written."""
