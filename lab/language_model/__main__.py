"""`python -m lab.language_model`."""

import sys

from lab.language_model.run import main

main(sys.argv[1:])
