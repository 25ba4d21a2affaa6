"""Benchmarks against the libraries one would otherwise use; `python benchmarks/run.py` runs the whole table."""
