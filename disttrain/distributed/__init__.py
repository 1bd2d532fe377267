"""The workers of a run: how they were started, the backends that average over them, and links between them."""
