"""Parts of the page, one file each, in the order in which they stand there.

Each has a `TITLE`, the stage that it `NEEDS` and a function `body`, which is called once that stage is done.
"""

from __future__ import annotations

from typing import Protocol

from iwpo_fast.report.html import Html
from iwpo_fast.report.run_files import RunFiles
from iwpo_fast.report.sections import (
    arms,
    calibration,
    clusters,
    data,
    held_out,
    making,
    pairs,
    rewards,
    samples,
    training,
    weights,
)


class Section(Protocol):
    @property
    def TITLE(self) -> str: ...

    @property
    def NEEDS(self) -> str: ...

    def body(self, run: RunFiles) -> Html:
        """What stands under the title."""


SECTIONS: dict[str, Section] = {
    "held-out": held_out,
    "arms": arms,
    "data": data,
    "rewards": rewards,
    "calibration": calibration,
    "clusters": clusters,
    "weights": weights,
    "pairs": pairs,
    "training": training,
    "samples": samples,
    "making": making,
}
"""By the ids that links name."""
