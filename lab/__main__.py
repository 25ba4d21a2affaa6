"""Experiments on quality, one module with a `main` for each level; without a level, both after one another.

python -m lab [exact | lm] [--short] ...
"""

from __future__ import annotations

import importlib
import sys

LEVELS = {"exact": "lab.exact.run", "lm": "lab.language_model.run"}


def main(arguments: list[str]) -> None:
    """Hand the arguments to the module of the level that they begin with, or to both."""
    chosen = arguments[:1] if arguments and arguments[0] in LEVELS else []
    if not chosen and any(argument not in ("--short",) for argument in arguments):
        sys.exit(f"usage: python -m lab [{' | '.join(LEVELS)}] [--short]; with a level, see its --help")
    for level in chosen or LEVELS:
        importlib.import_module(LEVELS[level]).main(arguments[len(chosen) :])


if __name__ == "__main__":
    main(sys.argv[1:])
