"""`python -m benchmarks.quality LEVEL ...`: experiments on quality, one module with a `main` for each level."""

from __future__ import annotations

import importlib
import sys

LEVELS = {"exact": "benchmarks.quality.exact.run", "lm": "benchmarks.quality.language_model.run"}


def main(arguments: list[str]) -> None:
    """Hands the arguments after the level to its module."""
    if not arguments or arguments[0] not in LEVELS:
        sys.exit(f"usage: python -m benchmarks.quality {{{','.join(LEVELS)}}} ...")
    importlib.import_module(LEVELS[arguments[0]]).main(arguments[1:])


if __name__ == "__main__":
    main(sys.argv[1:])
