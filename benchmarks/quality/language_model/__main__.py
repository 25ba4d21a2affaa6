"""`python -m benchmarks.quality.language_model`."""

import sys

from benchmarks.quality.language_model.run import main

main(sys.argv[1:])
