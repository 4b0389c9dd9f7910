"""Benchmarks beside stock Docker: ``bench.py`` runs them all."""
