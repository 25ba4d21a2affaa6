"""Benchmarks against the libraries one would otherwise use; `python -m benchmarks` runs the table of the operators."""
