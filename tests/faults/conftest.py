"""The forms that docs/data.md documents, from the tests of data, are what the fuzz of data begins with."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "data"))
