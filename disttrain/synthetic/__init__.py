"""Regression data to order, written as CSV."""
