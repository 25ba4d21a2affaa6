"""`python tests/faults`: the suite, with what pytest would set for it."""

import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

if __name__ == "__main__":
    os.environ |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "true"}
    sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
    from suite import main

    sys.exit(main())
