"""Paths and URLs to bytes, and back: local files, and every store that fsspec opens."""
