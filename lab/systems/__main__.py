"""Show what one of the systems is for: prints its claim and the numbers, and exits with 1 where it does not hold.

python -m lab.systems NAME [--short]
"""

from __future__ import annotations

import argparse
import importlib
import sys
import time
from pathlib import Path
from pkgutil import iter_modules

from lab.experiment import RESULTS, on_one_thread, write
from lab.systems.shown import Shown


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m lab.systems", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", choices=names(), metavar="NAME", help=", ".join(names()))
    parser.add_argument("--short", action="store_true", help="everything in miniature; the claim need not hold")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the results")
    parser.add_argument("--commit", help="where git cannot tell")
    given = parser.parse_args()
    environment = on_one_thread(given.commit)
    begun = time.perf_counter()
    shown: Shown = importlib.import_module(f"lab.systems.{given.name}").show(short=given.short)
    record = {"environment": environment, "seconds": round(time.perf_counter() - begun), "short": given.short}
    record |= {"claim": shown.claim, "holds": shown.holds, **shown.numbers}
    given.out.mkdir(parents=True, exist_ok=True)
    name = f"systems-{given.name}-short" if given.short else f"systems-{given.name}"
    write(given.out / f"{name}.json", record, shown.as_text())
    sys.exit(0 if shown.holds else 1)


def names() -> list[str]:
    """The systems: all modules of this folder that are not its frame."""
    frame = {"__main__", "comparison", "shown"}
    return sorted(module.name for module in iter_modules([str(Path(__file__).parent)]) if module.name not in frame)


if __name__ == "__main__":
    main()
