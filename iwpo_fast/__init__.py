"""Importance-weighted preference optimisation of language models, fast and in little memory."""

from importlib.metadata import version

__version__ = version("iwpo-fast")
