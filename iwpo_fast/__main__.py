"""`iwpo`, `python -m iwpo_fast` and `torchrun -m iwpo_fast`."""

import sys
from typing import NoReturn

from iwpo_fast import signals


def run() -> NoReturn:
    """The command: everything else is imported where Ctrl-C and the signals of a queue are handled already."""
    with signals.handled():
        try:
            from iwpo_fast.cli import main

            code = main()
        except BaseException as error:
            if not signals.asked():
                raise
            stopped = signals.stopped(error)
            print(f"iwpo: {stopped}", file=sys.stderr, flush=True)
            code = stopped.code
        signals.leave(code)


if __name__ == "__main__":
    run()
