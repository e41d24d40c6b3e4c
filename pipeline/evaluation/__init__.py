"""Prequential evaluation and its metrics."""
