"""What a pipeline says of the rows of a training that the training cannot know."""

from __future__ import annotations

from typing import NamedTuple


class About(NamedTuple):
    """For the plan and the card of the model.

    Attributes:
        rows: a paragraph on how the rows were made; empty where nobody made them.
        held_out: what stands of held-out pairs where the training is given none.
    """

    rows: str = ""
    held_out: str = "0 held out"
