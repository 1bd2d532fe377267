"""Writes a trained model in the formats of other programs, each compared with the Keras model first."""
