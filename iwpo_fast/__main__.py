"""`python -m iwpo_fast` and `torchrun -m iwpo_fast`."""

import sys

from iwpo_fast.cli import main

sys.exit(main())
