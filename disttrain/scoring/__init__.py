"""Uses a trained model: evaluates it on other files, and writes what it predicts for their rows."""
