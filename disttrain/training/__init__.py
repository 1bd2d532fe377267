"""The model and its steps, epoch after epoch."""
