"""Importance-weighted preference optimisation of language models, fast and in little memory."""

from iwpo_fast.versions import version_of

__version__ = version_of("iwpo-fast")
