"""`python -m benchmarks.training --pairs PAIRS --commit SHA`; see `run`."""

from __future__ import annotations

from benchmarks.training.run import main

if __name__ == "__main__":
    main()
